"""Massive activations in the sense of Sun et al. 2024 (arXiv 2402.17762), at any thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pytest_maxact.errors import AnalysisError
from pytest_maxact.outcome import hidden
from pytest_maxact.record import MASSIVE_ABS, MASSIVE_RATIO, BaselineSite, Figures, SiteFigures, SunOutcome

Judgement = Literal["passes", "fails", "open"]


@dataclass(frozen=True)
class SunAt:
    """The `hidden` layers of a model where some token x has max|x| > massive_abs and max|x| / median|x| > massive_ratio.

    `open` are the layers of which the figures tell neither; `outcome` is the model's, which passes where any layer does.
    """

    massive_abs: float
    massive_ratio: float
    outcome: Judgement
    passing: tuple[int, ...]
    failing: tuple[int, ...]
    open: tuple[int, ...]


def sun_at(figures: Figures, massive_abs: float = MASSIVE_ABS, massive_ratio: float = MASSIVE_RATIO) -> SunAt:
    """Judge a model by other thresholds than those it was measured with, as far as its figures decide that.

    At the default thresholds they decide it exactly. Elsewhere a layer passes for certain where one of the two tokens that are
    known of it does (the one that holds the largest value, the one of the largest ratio) or where it passed stricter
    thresholds, and fails where its largest value, its largest ratio or the model's Sun margin rules any token out. The margin
    can tell, too, that the model passes without telling in which layer.

    Args:
        figures: the model's. Layers without a finite value are left out.
        massive_abs: what max|x| of a token must exceed, in the activations' own unit.
        massive_ratio: what max|x| / median|x| must exceed.

    Raises:
        AnalysisError: where a threshold is NaN.

    """
    if math.isnan(massive_abs) or math.isnan(massive_ratio):
        raise AnalysisError(f"thresholds {massive_abs} and {massive_ratio}: nothing exceeds NaN, give numbers")
    judged: dict[Judgement, list[int]] = {"passes": [], "fails": [], "open": []}
    for site in hidden(figures.sites):
        if site.layer is not None:
            judged[_judge(site, figures.sun, massive_abs, massive_ratio)].append(site.layer)
    outcome: Judgement = "open"
    margins = (massive_abs / MASSIVE_ABS, massive_ratio / MASSIVE_RATIO)
    if judged["passes"] or (figures.sun is not None and figures.sun.margin > max(margins)):
        outcome = "passes"
    elif judged["fails"] and not judged["open"]:
        outcome = "fails"
    return SunAt(massive_abs, massive_ratio, outcome, *(tuple(judged[word]) for word in ("passes", "fails", "open")))


def _judge(site: SiteFigures | BaselineSite, known: SunOutcome | None, massive_abs: float, massive_ratio: float) -> Judgement:
    if known is not None:
        passed = site.layer in known.layers
        if passed and massive_abs <= MASSIVE_ABS and massive_ratio <= MASSIVE_RATIO:
            return "passes"
        if not passed and massive_abs >= MASSIVE_ABS and massive_ratio >= MASSIVE_RATIO:
            return "fails"
        if known.margin <= min(massive_abs / MASSIVE_ABS, massive_ratio / MASSIVE_RATIO):
            return "fails"
    if site.value <= massive_abs:
        return "fails"
    if site.sun is None:
        return "open"
    if site.sun.max_ratio <= massive_ratio:
        return "fails"
    tokens = [(site.sun.max_ratio_abs, site.sun.max_ratio)]
    # A token that holds a NaN or an infinity is not judged, and may be the one with the site's largest finite value.
    if not (isinstance(site, SiteFigures) and (site.nan or site.inf)):
        tokens.append((site.value, site.sun.peak_token_ratio))
    return "passes" if any(largest > massive_abs and ratio > massive_ratio for largest, ratio in tokens) else "open"
