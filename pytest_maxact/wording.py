"""Figures and tokens in words, for messages and tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_maxact.record import Location


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
    if math.isnan(value):
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


def visible(text: str) -> str:
    r"""Text on one line that does nothing to a terminal: all that is not printable is an escape such as `\x1b`.

    That is line ends, tabs, control characters (and with them escape sequences), bidirectional controls, characters of no
    width, lone surrogates and code points that mean nothing. Names and texts come from strangers, records keep them as they
    are, and whatever is shown goes through here: errors and verdicts where they become text, the summary where its lines are
    made, and what else is told (header, progress, JUnit properties, outcomes of a task) where it is handed to pytest.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
