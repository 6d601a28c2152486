"""What a check is given and what it gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_maxact.errors import SettingsError
from pytest_maxact.formats import FORMATS
from pytest_maxact.record import Baseline, Site, ToleranceOverride
from pytest_maxact.visible import visible

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Tolerance:
    """How much a figure may differ from its baseline.

    rtol: relative tolerance of M, dominance and the Sun margin; 0.10 accepts 1.10 times the baseline. site_rtol: of a single
    site's peak. two_sided: whether a fall beyond the tolerance fails too. ceiling: what M must not exceed, baseline or not, in
    the activations' own unit. formats: names in `formats.FORMATS` that every site must fit. growth: in a series, how many times
    what its own history predicts M or a site may be. growth_total: how many times the series' first value M may be, None for
    any.

    Raises:
        SettingsError: on an unknown format, or a growth factor that is not a number above 1.

    """

    rtol: float = 0.10
    site_rtol: float = 0.50
    two_sided: bool = False
    ceiling: float | None = None
    formats: Sequence[str] = ()
    growth: float = 2.0
    growth_total: float | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown format, and factors that could never be kept or never be exceeded.

        Raises:
            SettingsError: naming it and what there is instead.

        """
        for name, factor in (("growth", self.growth), ("growth_total", self.growth_total)):
            if factor is not None and not 1 < factor < math.inf:
                raise SettingsError(f"{name} is a factor above 1, such as 2, and not {factor:g}")
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown:
            raise SettingsError(f"there is no number format {unknown[0]}: there are {', '.join(FORMATS)}")

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
    """What one check, named as in `CHECKS` or `growth`, says of a measurement.

    `summary` is one line; `details` are further lines of a failure; `value` is the one figure that was judged, where
    there is one: M of `maximum`, the ratio of `dominance`, the margin of `sun`, M over the predecessor's of `growth`.
    Names and texts in summary and details are `visible`, since all of it is there to be shown.
    """

    check: str
    outcome: Outcome
    summary: str
    details: tuple[str, ...] = ()
    value: float | None = None

    def __post_init__(self) -> None:
        """Keep what a corpus or a baseline calls itself from doing anything to a terminal."""
        object.__setattr__(self, "summary", visible(self.summary))
        object.__setattr__(self, "details", tuple(map(visible, self.details)))

    @property
    def failed(self) -> bool:
        """Whether the check failed."""
        return self.outcome == "failed"

    def __str__(self) -> str:
        """What is told of a failure: `assert not verdict.failed, str(verdict)` says it all."""
        return "\n  ".join([self.summary, *self.details])
