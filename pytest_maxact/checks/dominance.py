"""`dominance`: the component that holds M is the baseline's."""

from __future__ import annotations

from pytest_maxact.checks.conditions import shared
from pytest_maxact.checks.verdict import Tolerance, Verdict
from pytest_maxact.record import Baseline, Measurement, SiteFigures
from pytest_maxact.wording import number

NAME = "dominance"
NEEDS_BASELINE = True


def check(measurement: Measurement, baseline: Baseline | None, tolerance: Tolerance) -> Verdict:
    """Pass where the same component holds M, or the two components' peaks lie within the tolerance of each other."""
    assert baseline is not None
    measurement = shared(measurement, baseline)
    if baseline.dominance is None:
        return Verdict(NAME, "skipped", "the baseline does not tell which component holds M")
    if measurement.dominance is None:
        return Verdict(NAME, "failed", "no two components hold finite values")
    now, then = measurement.dominance.component, baseline.dominance.component
    margin = f"hidden holds {number(measurement.dominance.ratio)}x the largest other component"
    if now == then:
        return Verdict(NAME, "passed", f"{now} holds M; {margin}", value=measurement.dominance.ratio)
    mine, rival = _largest(measurement.sites, now), _largest(measurement.sites, then)
    if rival and mine <= rival * (1 + tolerance.for_m(baseline)):
        return Verdict(NAME, "passed", f"{now} holds M, within the tolerance of the baseline's {then}; {margin}")
    details = (f"{now}: {number(mine)}", f"{then}: {number(rival)}", margin)
    return Verdict(NAME, "failed", f"{now} holds M, in the baseline {then} does", details, measurement.dominance.ratio)


def _largest(sites: list[SiteFigures], component: str) -> float:
    return max((site.value for site in sites if site.component == component and site.peak is not None), default=0.0)
