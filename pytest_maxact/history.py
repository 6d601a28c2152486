"""What a series of checkpoints keeps of each one: enough to judge the next, small enough to keep them all."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_maxact.record import Measurement, Site

Key = tuple[str, int | None]
"""Component and layer of a site; the layer is None where a model has the component once."""


@dataclass(frozen=True)
class Point:
    """One checkpoint of a series.

    label: what messages call it. step: optimizer steps of the training run so far, None where unknown. peak: where M is, None
    where nothing was finite. m: M, NaN where nothing was finite. values: max|a| over the finite values of every site, routers
    included, in execution order; NaN where a site has none. unfit: how many NaN and infinities a site holds, only sites that
    are part of M and hold any. massive: the Sun outcome (arXiv 2402.17762), None where no token could be judged.
    """

    label: str
    step: int | None
    peak: Site | None
    m: float
    values: dict[Key, float]
    unfit: dict[Key, int]
    massive: bool | None

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
        )
