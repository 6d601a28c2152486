"""M = max|a| across models: its range, a model's rank, and which component holds it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_maxact.errors import AnalysisError
from pytest_maxact.outcome import times
from pytest_maxact.record import Figures, Site


@dataclass(frozen=True)
class Range:
    """The smallest and the largest M among models, and the ids of the models that hold them; of equals the first given."""

    smallest: float
    smallest_id: str
    largest: float
    largest_id: str

    @property
    def ratio(self) -> float:
        """The largest over the smallest; infinite from 0."""
        return times(self.largest, self.smallest)


@dataclass(frozen=True)
class ResidualDominance:
    """By model id, where `hidden` holds M (`held`), and where another component does (`others`)."""

    held: tuple[str, ...]
    others: tuple[tuple[str, Site], ...]


def maximum(figures: Figures) -> float:
    """M of a model.

    Raises:
        AnalysisError: where no site holds a finite value.

    """
    if figures.peak is None:
        raise AnalysisError(f"{figures.model.id} holds no finite value and has no M: leave it out of the analysis")
    return figures.peak.value


def maxima(models: Sequence[Figures]) -> tuple[float, ...]:
    """M of each model.

    Raises:
        AnalysisError: where one has none, or there is no model.

    """
    if not models:
        raise AnalysisError("there is no model to analyse: give at least one")
    return tuple(maximum(model) for model in models)


def range_of(models: Sequence[Figures]) -> Range:
    """The range of M among models.

    Raises:
        AnalysisError: where one has no M, or there is no model.

    """
    values = maxima(models)
    smallest, largest = values.index(min(values)), values.index(max(values))
    return Range(values[smallest], models[smallest].model.id, values[largest], models[largest].model.id)


def range_by_family(families: Mapping[str, Sequence[Figures]]) -> dict[str, Range]:
    """The range of M within each family.

    Raises:
        AnalysisError: where a model has no M, or a family no model.

    """
    return {family: range_of(models) for family, models in families.items()}


def rank(value: float, others: Iterable[float]) -> int:
    """The place of a figure among others that it is not part of: 1 for the largest; equal ones share the better place.

    Raises:
        AnalysisError: where the figure is NaN.

    """
    if math.isnan(value):
        raise AnalysisError("NaN has no rank: give a figure that is known")
    return 1 + sum(other > value for other in others)


def residual_dominance(models: Iterable[Figures]) -> ResidualDominance:
    """In which models the residual stream holds M: of sites that tie, the one that ran first holds it.

    Raises:
        AnalysisError: where a model has no M.

    """
    held, others = [], []
    for model in models:
        maximum(model)
        assert model.peak is not None
        if model.peak.component == "hidden":
            held.append(model.model.id)
        else:
            others.append((model.model.id, Site(component=model.peak.component, layer=model.peak.layer)))
    return ResidualDominance(tuple(held), tuple(others))
