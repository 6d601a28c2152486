"""`location`: M is where it was. `hidden` layers of one plateau count as one place, and so do ties."""

from __future__ import annotations

from pytest_maxact.checks.conditions import shared
from pytest_maxact.checks.verdict import Tolerance, Verdict
from pytest_maxact.outcome import within_one_step
from pytest_maxact.record import Baseline, Measurement, Site
from pytest_maxact.wording import number, token_in_context

NAME = "location"
NEEDS_BASELINE = True


def check(measurement: Measurement, baseline: Baseline | None, tolerance: Tolerance) -> Verdict:
    """Pass where component and layer of M are the baseline's, up to plateaus and ties within one bfloat16 step."""
    assert baseline is not None
    measurement = shared(measurement, baseline)
    peak = measurement.peak
    if peak is None:
        return Verdict(NAME, "failed", "no site holds a finite value, so there is no M")
    now = Site(component=peak.component, layer=peak.layer)
    then = Site(component=baseline.peak.component, layer=baseline.peak.layer)
    if now == then:
        return Verdict(NAME, "passed", f"M is at {now}, as in the baseline")
    if now.component == then.component == "hidden" and (
        then.layer in peak.plateau or now.layer in (baseline.peak.plateau or [])
    ):
        return Verdict(NAME, "passed", f"M is at {now}, on one plateau with the baseline's {then}")
    before, after = measurement.site(then.component, then.layer), baseline.site(now.component, now.layer)
    if (before is not None and within_one_step(before.value, peak.value)) or (
        after is not None and within_one_step(after.value, baseline.peak.value)
    ):
        return Verdict(NAME, "passed", f"M is at {now}, within one bfloat16 step of the baseline's {then}")
    details = [f"{now} holds {number(peak.value)}, in the baseline {number(after.value) if after else 'nothing'}"]
    details.append(
        f"{then} holds {number(before.value) if before else 'nothing'}, in the baseline {number(baseline.peak.value)}"
    )
    details.append(token_in_context(peak))
    return Verdict(NAME, "failed", f"M moved from {then} to {now}", tuple(details))
