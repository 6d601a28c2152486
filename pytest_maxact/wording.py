"""Figures and tokens in words, for messages and tables."""

from __future__ import annotations

import math

from pytest_maxact.record import Fault, Location, Site
from pytest_maxact.visible import visible


def number(value: float) -> str:
    """A figure for people: up to five significant digits, thousands separated, no exponent before a million."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e7 or (value and abs(value) < 1e-3):
        return f"{value:.4g}"
    digits = 0 if abs(value) >= 1000 else 2 if abs(value) >= 10 else 3
    return f"{value:,.{digits}f}"


def ratio(value: float, reference: float) -> str:
    """How often one figure is the other, as in "1.27x"."""
    if math.isnan(value) or math.isnan(reference):
        return "no ratio"
    if not reference:
        return "from 0"
    times = value / reference
    return f"{times:.2f}x" if abs(times) < 1e6 else f"{times:.3g}x"


def decibels(value: float, approximate: bool) -> str:
    """An SQNR for people."""
    return "unknown" if math.isnan(value) else f"{'about ' if approximate else ''}{value:.1f} dB"


def token_in_context(place: Location) -> str:
    """The token of a place between what stands around it, and the sample it is in."""
    if place.sample is None:
        return "rows of this site cannot be traced to tokens"
    where = f"position {place.position} of sample {visible(place.sample)}"
    if place.token is None:
        return where if place.token_id is None else f"token id {place.token_id} at {where}"
    text = f"{visible(place.before or '')}[{visible(place.token)}]{visible(place.after or '')}"
    return f"token '{visible(place.token)}' at {where}: {text}"


def first_fault(fault: Fault) -> str:
    """The first value that is not finite, its site and token."""
    kind = "NaN" if math.isnan(fault.signed) else str(fault.signed)
    site = str(Site(component=fault.component, layer=fault.layer))
    return f"first {kind}: {site}, feature {fault.feature}, {token_in_context(fault)}"
