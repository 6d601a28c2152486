"""How alike two models' trajectories are: their `hidden` peaks by depth."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from pytest_maxact.histogram import Floats
from pytest_maxact.outcome import hidden, trajectory
from pytest_maxact.record import Figures

Curve = tuple[Floats, Floats]


def distance(figures: Figures, other: Figures) -> float:
    """The root mean square difference of two trajectories over the depth of the models, in decades; NaN where one has no shape.

    A trajectory is log10 of the `hidden` peak after each share (layer + 1) / L of the L layers, straight between layers and
    level before the first; a layer without a finite value other than 0 is left out. How high it lies counts, too.
    """
    curve, another = _curve(figures), _curve(other)
    if curve is None or another is None:
        return math.nan
    depths = np.unique(np.concatenate([[0.0], curve[0], another[0]]))
    apart = np.interp(depths, *curve) - np.interp(depths, *another)
    squares = (apart[:-1] ** 2 + apart[:-1] * apart[1:] + apart[1:] ** 2) / 3  # of a straight line between its ends, the mean
    return math.sqrt(float(np.diff(depths) @ squares))


def nearest(figures: Figures, others: Iterable[Figures]) -> Figures | None:
    """Of other models with the same pattern (`outcome.trajectory`) the one with the least `distance`, of equals the first.

    For 17 of the 27 checkpoints published with arXiv 2605.15572 the nearest of the others is of the same family; it would be 13
    with trajectories relative to their largest peak, and other interpolations give 16 to 18. By distance alone the nearest has
    the same pattern for all 27, but need not where M lies far from all of theirs.

    Returns:
        None where no other has that pattern, or the model has no shape.

    """
    pattern = _pattern(figures)
    apart = [(distance(figures, other), other) for other in others if _pattern(other) == pattern]
    known = [(value, other) for value, other in apart if not math.isnan(value)]
    return min(known, key=lambda pair: pair[0])[1] if known else None


def _pattern(figures: Figures) -> str | None:
    found = trajectory(figures.sites)
    return None if found is None else found.pattern


def _curve(figures: Figures) -> Curve | None:
    """Shares of the layers, up to 1, and log10 of the `hidden` peak there; None where fewer than two layers are known."""
    sites = [(site.layer, site.value) for site in hidden(figures.sites) if site.layer is not None and site.value > 0]
    if len(sites) < 2:
        return None
    layers = 1 + np.array([layer for layer, _ in sites])
    return layers / layers[-1], np.log10([value for _, value in sites])
