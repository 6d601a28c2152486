"""What a check is given and what it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pytest_maxact.record import Baseline, Location, Site, ToleranceOverride

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Tolerance:
    """How much a figure may differ from its baseline.

    rtol: relative tolerance of M, dominance and the Sun margin. site_rtol: of a single site's peak.
    two_sided: whether a fall beyond the tolerance fails too. ceiling: what M must not exceed, baseline or not.
    """

    rtol: float = 0.10
    site_rtol: float = 0.50
    two_sided: bool = False
    ceiling: float | None = None

    def for_m(self, baseline: Baseline) -> float:
        """The tolerance of M, the baseline's override counted in."""
        given = [o.rtol for o in baseline.tolerances if o.component is None and o.rtol is not None]
        return given[-1] if given else self.rtol

    def for_site(self, baseline: Baseline, site: Site) -> float | None:
        """The tolerance of a site's peak, None where the baseline waives it; the most specific override wins."""
        given = [o for o in baseline.tolerances if o.component == site.component and o.layer in (None, site.layer)]
        if not given:
            return self.site_rtol
        chosen: ToleranceOverride = max(given, key=lambda override: override.layer is not None)
        return None if chosen.waived else (chosen.rtol or self.site_rtol)

    def exceeded(self, value: float, reference: float, rtol: float) -> bool:
        """Whether a value has left its reference by more than rtol, upwards or, where asked for, downwards."""
        return value > reference * (1 + rtol) or (self.two_sided and value < reference * (1 - rtol))


@dataclass(frozen=True)
class Verdict:
    """`summary` is one line; `details` are further lines of a failure; `value` is the figure that was judged."""

    check: str
    outcome: Outcome
    summary: str
    details: tuple[str, ...] = ()
    value: float | None = None

    @property
    def failed(self) -> bool:
        """Whether the check failed."""
        return self.outcome == "failed"


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
    if not reference:
        return "from 0"
    times = value / reference
    return f"{times:.2f}x" if abs(times) < 1e6 else f"{times:.3g}x"


def token_in_context(place: Location) -> str:
    """The token of a place between what stands around it, and the sample it is in."""
    if place.sample is None:
        return "rows of this site cannot be traced to tokens"
    where = f"position {place.position} of sample {visible(place.sample)}"
    if place.token is None:
        return f"token id {place.token_id} at {where}"
    text = f"{visible(place.before or '')}[{visible(place.token)}]{visible(place.after or '')}"
    return f"token '{visible(place.token)}' at {where}: {text}"


def visible(text: str) -> str:
    """Text on one line: line ends, tabs and other unprintable characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
