"""What number formats make of a model: the SQNR of INT-8 at the site that holds M, and the narrowest format that holds M."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_maxact.analyses.maxima import maximum
from pytest_maxact.formats import FORMATS
from pytest_maxact.record import Figures, SiteFigures

WIDEST = "bfloat16"  # float32's range in 16 bits: what a model is run in that no narrower format holds


@dataclass(frozen=True)
class Int8:
    """M of a model, and what symmetric INT-8 with one scale makes of the site that holds it.

    crest: that site's peak over its rms. maxabs, p999: SQNR in dB with the scale taken from the largest |a| and from the 99.9%
    quantile of |a|. NaN is what the figures do not tell. approximate: whether the SQNR is, see `SiteFigures`.
    """

    id: str
    maximum: float
    crest: float
    maxabs: float
    p999: float
    approximate: bool = False


def int8(figures: Figures) -> Int8:
    """What INT-8 makes of the site that holds M, as far as the figures tell.

    Raises:
        AnalysisError: where the model has no M.

    """
    value, crest, approximate = maximum(figures), math.nan, False
    assert figures.peak is not None
    site = figures.site(figures.peak.component, figures.peak.layer)
    if isinstance(site, SiteFigures):
        crest, approximate = site.crest, site.approximate
    elif site is not None and site.rms:
        crest = site.value / site.rms
    sqnr = {} if site is None else site.sqnr or {}
    maxabs, p999 = (sqnr.get(key, math.nan) for key in FORMATS["int8"].sqnr_keys)
    return Int8(figures.model.id, value, crest, maxabs, p999, approximate)


def misled_by_m(rows: Iterable[Int8]) -> list[tuple[Int8, Int8]]:
    """The pairs of which M alone says the wrong thing: the first has the lower M, and the lower SQNR at max-abs as well."""
    pairs = itertools.permutations(rows, 2)
    return [(one, other) for one, other in pairs if one.maximum < other.maximum and one.maxabs < other.maxabs]


def tier(figures: Figures) -> str:
    """The deployment tier: the floating-point format of the smallest range that holds M unscaled, of `FORMATS` or bfloat16.

    A model in which a site of M holds infinities has overflowed already: for it no format is narrow enough but the widest.

    Raises:
        AnalysisError: where the model has no M.

    """
    infinite = any(isinstance(site, SiteFigures) and site.part_of_m and site.inf for site in figures.sites)
    value = math.inf if infinite else maximum(figures)
    floating = sorted(
        ((form.floating, name) for name, form in FORMATS.items() if form.floating is not None), key=lambda f: f[0].largest
    )
    return next((name for form, name in floating if not form.overflows(value)), WIDEST)
