"""`maximum`: M, and that of each corpus joined, is at most the baseline's times 1 + rtol; M is at most a ceiling, if given."""

from __future__ import annotations

from pytest_maxact.checks.conditions import shared
from pytest_maxact.checks.verdict import Tolerance, Verdict
from pytest_maxact.record import Baseline, Measurement, Site
from pytest_maxact.wording import number, ratio, token_in_context

NAME = "maximum"
NEEDS_BASELINE = False  # a ceiling needs none


def check(measurement: Measurement, baseline: Baseline | None, tolerance: Tolerance) -> Verdict:
    """Pass where M has not risen beyond the tolerance and the ceiling."""
    peak = measurement.peak
    if peak is None:
        return Verdict(NAME, "failed", "no site holds a finite value, so there is no M")
    site = Site(component=peak.component, layer=peak.layer)
    problems: list[str] = []
    remarks: list[str] = []
    details: list[str] = []
    if tolerance.ceiling is not None:
        remark = f"ceiling {number(tolerance.ceiling)}"
        (problems if peak.value > tolerance.ceiling else remarks).append(remark)
    if baseline is not None:
        whole, peak = peak, shared(measurement, baseline).peak
        if peak is None:
            return Verdict(NAME, "failed", "no site of the baseline holds a finite value")
        if peak.value < whole.value:
            remarks.append(f"{site} holds {number(whole.value)}, of which nothing was published")
            site = Site(component=peak.component, layer=peak.layer)
        rtol = tolerance.for_m(baseline)
        limit = f"tolerance {'±' if tolerance.two_sided else '+'}{rtol * 100:g}%"
        then = Site(component=baseline.peak.component, layer=baseline.peak.layer)
        change = f"{ratio(peak.value, baseline.peak.value)} the baseline {number(baseline.peak.value)} at {then}"
        remark = f"{change}, {limit}"
        (problems if tolerance.exceeded(peak.value, baseline.peak.value, rtol) else remarks).append(remark)
        stored = {part.corpus: part.value for part in baseline.parts}
        for part in measurement.parts:
            reference = stored.get(part.corpus)
            if reference is not None:
                remark = f"{part.corpus} alone {number(part.value)}, {ratio(part.value, reference)} its {number(reference)}"
                if tolerance.exceeded(part.value, reference, rtol):
                    problems.append(f"{remark}, {limit}")
                    token = "" if part.token is None else f"token '{part.token}' "
                    details.append(f"{part.corpus}: {token}at position {part.position} of sample {part.sample}")
                else:
                    remarks.append(remark)
    if not problems and not remarks:
        return Verdict(NAME, "skipped", "needs a baseline or --maxact-ceiling", value=peak.value)
    summary = f"M = {number(peak.value)} at {site}: {'; '.join(problems or remarks)}"
    if not problems:
        return Verdict(NAME, "passed", summary, value=peak.value)
    return Verdict(NAME, "failed", summary, (token_in_context(peak), *details), peak.value)
