"""`finite`: no NaN and no infinity at any site that is part of M. A router's -inf is allowed."""

from __future__ import annotations

from pytest_maxact.checks.verdict import Tolerance, Verdict
from pytest_maxact.record import Baseline, Measurement
from pytest_maxact.wording import first_fault

NAME = "finite"
NEEDS_BASELINE = False


def check(measurement: Measurement, baseline: Baseline | None, tolerance: Tolerance) -> Verdict:
    """Pass where every value of every site that is part of M is finite, under all policies of special tokens that ran."""
    sites = [site for site in measurement.sites if site.part_of_m]
    broken = [site for site in sites if site.nan or site.inf]
    if not broken:
        for policy in measurement.policies[1:]:  # the first one is the measurement's own
            if policy.first_fault is not None:
                where = f"under special tokens {policy.special_tokens}, {first_fault(policy.first_fault)}"
                return Verdict(NAME, "failed", where)
        count = sum(site.count for site in sites)
        elsewhere = "" if measurement.first_fault is None else f"; not part of M, {first_fault(measurement.first_fault)}"
        return Verdict(NAME, "passed", f"all {count:,} values at {len(sites)} sites are finite{elsewhere}")
    fault = measurement.first_fault
    first = f"the first to be run is {broken[0]}" if fault is None else first_fault(fault)  # old records do not tell
    details = [f"{site}: {site.nan:,} NaN and {site.inf:,} infinite of {site.count:,} values" for site in broken[:10]]
    if len(broken) > len(details):
        details.append(f"... and {len(broken) - len(details)} more sites")
    summary = f"{len(broken)} of {len(sites)} sites hold NaN or infinities; {first}"
    return Verdict(NAME, "failed", summary, tuple(details))
