"""Models of one kind beside each other: by size, from one to the next, and layer by layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pytest_maxact.analyses.maxima import maxima, maximum
from pytest_maxact.errors import AnalysisError
from pytest_maxact.outcome import hidden, times
from pytest_maxact.record import Figures

Direction = Literal["rise", "fall", "level", "inverted V", "V", "mixed"]


@dataclass(frozen=True)
class Scaling:
    """How M goes with the number of parameters.

    exponent: b of the least-squares line log M = a + b log parameters; NaN for a single size, or where an M is 0.
    monotone: whether no larger model has a smaller M, or none a larger one.
    """

    exponent: float
    monotone: bool


@dataclass(frozen=True)
class Succession:
    """M from one model to the next: generations of one size, or stages of one training run.

    maxima: M of each. steps: each over the one before it. direction: all up (`rise`), all down, up and then down
    (`inverted V`), down and then up, no change at all, or more turns than one (`mixed`); equal neighbours do not turn it.
    """

    maxima: tuple[float, ...]
    steps: tuple[float, ...]
    direction: Direction

    @property
    def total(self) -> float:
        """The last M over the first."""
        return times(self.maxima[-1], self.maxima[0])

    @property
    def largest_step(self) -> float:
        """The largest growth from one to the next; 1 of a single model."""
        return max(self.steps, default=1.0)

    @property
    def monotone(self) -> bool:
        """Whether M never falls, or never rises."""
        return self.direction in ("rise", "fall", "level")


@dataclass(frozen=True)
class DepthComparison:
    """How a model's `hidden` peaks differ from another's.

    changes: by layer the relative change, 0.1 where the peak is 10% larger; NaN where either holds no finite value.
    """

    changes: tuple[float, ...]

    @property
    def middle(self) -> float:
        """The change in the middle: at layer L // 2 of L."""
        return self.changes[len(self.changes) // 2]

    @property
    def last(self) -> float:
        """The change at the last layer."""
        return self.changes[-1]


def ratio_of_maxima(model: Figures, other: Figures) -> float:
    """M of one model over M of another, as of a dense one over a mixture of experts of its size.

    Raises:
        AnalysisError: where one has no M.

    """
    return times(maximum(model), maximum(other))


def scaling(models: Sequence[tuple[float, Figures]]) -> Scaling:
    """How M goes with size within a family.

    Args:
        models: the number of parameters of each, in any one unit, and its figures; in any order.

    Raises:
        AnalysisError: where a number of parameters is not above 0, a model has no M, or there is no model.

    """
    sizes, values = [size for size, _ in models], maxima([figures for _, figures in models])
    unfit = next((size for size in sizes if not 0 < size < math.inf), None)
    if unfit is not None:
        raise AnalysisError(f"a model cannot have {unfit:g} parameters: give a number above 0")
    exponent = math.nan
    if len(set(sizes)) > 1 and min(values) > 0:
        exponent = float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
    pairs = [
        (first, second)
        for (size, first), (larger, second) in itertools.product(zip(sizes, values, strict=True), repeat=2)
        if size < larger
    ]
    monotone = all(first <= second for first, second in pairs) or all(first >= second for first, second in pairs)
    return Scaling(exponent, monotone)


def succession(models: Sequence[Figures]) -> Succession:
    """How M changes over models in the order given.

    Raises:
        AnalysisError: where a model has no M, or there is no model.

    """
    values = maxima(models)
    pairs = list(itertools.pairwise(values))
    ups = [after > before for before, after in pairs if after != before]
    turns = [up for up, _ in itertools.groupby(ups)]
    names: dict[tuple[bool, ...], Direction] = {
        (): "level",
        (True,): "rise",
        (False,): "fall",
        (True, False): "inverted V",
        (False, True): "V",
    }
    steps = tuple(times(after, before) for before, after in pairs)
    return Succession(values, steps, names.get(tuple(turns), "mixed"))


def by_depth(reference: Figures, other: Figures) -> DepthComparison:
    """How the `hidden` peaks of a model differ, layer by layer, from those of the one it was made from.

    Raises:
        AnalysisError: where the two differ in their number of layers, or have none.

    """
    layers, others = _layers(reference), _layers(other)
    if layers != others or not layers:
        counts = f"{reference.model.id} has {layers} hidden layers and {other.model.id} {others}"
        raise AnalysisError(f"{counts}: compare models of one depth")
    before = {site.layer: site.value for site in hidden(reference.sites)}
    after = {site.layer: site.value for site in hidden(other.sites)}
    return DepthComparison(
        tuple(
            times(after[layer], before[layer]) - 1 if layer in before and layer in after else math.nan
            for layer in range(layers)
        )
    )


def _layers(figures: Figures) -> int:
    """How many `hidden` layers there are by the number of the last one."""
    return 1 + max((site.layer for site in figures.sites if site.component == "hidden" and site.layer is not None), default=-1)
