"""What a series of checkpoints keeps of each one: enough to judge the next, small enough to keep them all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pytest_maxact.errors import MeasurementError
from pytest_maxact.record import Measurement, Site
from pytest_maxact.series import named_step

RECORDS = "maxact"
"""The folder beside checkpoints in which `MaxactCallback` leaves their records."""

Key = tuple[str, int | None]
"""Component and layer of a site; the layer is None where a model has the component once."""


@dataclass(frozen=True)
class Point:
    """One checkpoint of a series.

    label: what messages call it. step: optimizer steps of the training run so far, None where unknown. peak: where M is, None
    where nothing was finite. m: M, NaN where nothing was finite. values: max|a| over the finite values of every site, routers
    included, in execution order; NaN where a site has none. unfit: how many NaN and infinities a site holds, only sites that
    are part of M and hold any. massive: the Sun outcome (arXiv 2402.17762), None where no token could be judged. idle: of each
    router that tells, the experts to which it sent no token.
    """

    label: str
    step: int | None
    peak: Site | None
    m: float
    values: dict[Key, float]
    unfit: dict[Key, int]
    massive: bool | None
    idle: dict[Key, frozenset[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, measurement: Measurement, label: str, step: int | None) -> Point:
        """What is kept of a measurement."""
        peak = measurement.peak
        sites = measurement.sites
        return cls(
            label=label,
            step=step,
            peak=None if peak is None else Site(component=peak.component, layer=peak.layer),
            m=math.nan if peak is None else peak.value,
            values={(site.component, site.layer): site.value for site in sites},
            unfit={
                (site.component, site.layer): site.nan + site.inf for site in sites if site.part_of_m and site.nan + site.inf
            },
            massive=None if measurement.sun is None else measurement.sun.passes,
            idle={
                (site.component, site.layer): frozenset(expert for expert, tokens in enumerate(site.experts) if not tokens)
                for site in sites
                if site.experts is not None
            },
        )


def recorded(folders: Iterable[Path], like: Measurement, before: int) -> list[Point]:
    """What is known from records of checkpoints that may be gone: those of earlier steps, measured as `like` was.

    Args:
        folders: where records lie, named by their checkpoints, as `checkpoint-500.json`.
        like: a record of the series; others count where model shape, dtype, corpus and its limits are the same.
        before: the step of the first checkpoint that is still there.

    """
    found: dict[int, Point] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.json")):
        step = named_step(path.stem)
        if step is None or step >= before or step in found:
            continue
        try:
            record = Measurement.load(path, samples=False)
        except MeasurementError:
            continue  # of another schema, or no record
        if _conditions(record) == _conditions(like):
            found[step] = Point.of(record, path.stem, step)
    return [found[step] for step in sorted(found)]


def _conditions(record: Measurement) -> tuple[object, ...]:
    model, corpus = record.model, record.corpus
    shape = (model.model_type, model.layers, model.hidden_size, model.dtype)
    return (*shape, corpus.digest, corpus.tokens, corpus.max_length, corpus.special_tokens)
