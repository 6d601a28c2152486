"""The analyses of arXiv 2605.15572 as pure functions of measurements and baselines, one's own as well as published ones.

maxima: M across models and families, and which component holds it. comparisons: models of one kind beside each other, by size,
generation, training stage and depth. sun: massive activations at any thresholds. quantization: INT-8, and the number format
that holds M. shape: how alike two models' `hidden` peaks are by depth. No torch, no pytest; the published figures themselves
are in `pytest_maxact.published`.
"""

from __future__ import annotations

from pytest_maxact.analyses.comparisons import (
    DepthComparison,
    Scaling,
    Succession,
    by_depth,
    ratio_of_maxima,
    scaling,
    succession,
)
from pytest_maxact.analyses.maxima import Range, ResidualDominance, maximum, range_by_family, range_of, rank, residual_dominance
from pytest_maxact.analyses.quantization import Int8, int8, misled_by_m, tier
from pytest_maxact.analyses.shape import distance, nearest
from pytest_maxact.analyses.sun import SunAt, sun_at

__all__ = [
    "DepthComparison",
    "Int8",
    "Range",
    "ResidualDominance",
    "Scaling",
    "Succession",
    "SunAt",
    "by_depth",
    "distance",
    "int8",
    "maximum",
    "misled_by_m",
    "nearest",
    "range_by_family",
    "range_of",
    "rank",
    "ratio_of_maxima",
    "residual_dominance",
    "scaling",
    "succession",
    "sun_at",
    "tier",
]
