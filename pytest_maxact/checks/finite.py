"""`finite`: no NaN and no infinity at any site that is part of M. A router's -inf is allowed."""

from __future__ import annotations

from pytest_maxact.checks.verdict import Tolerance, Verdict
from pytest_maxact.record import Baseline, Measurement

NAME = "finite"
NEEDS_BASELINE = False


def check(measurement: Measurement, baseline: Baseline | None, tolerance: Tolerance) -> Verdict:
    """Pass where every value of every site that is part of M is finite."""
    sites = [site for site in measurement.sites if site.part_of_m]
    broken = [site for site in sites if site.nan or site.inf]
    if not broken:
        count = sum(site.count for site in sites)
        return Verdict(NAME, "passed", f"all {count:,} values at {len(sites)} sites are finite")
    first = broken[0]
    details = [f"{site}: {site.nan:,} NaN and {site.inf:,} infinite of {site.count:,} values" for site in broken[:10]]
    if len(broken) > len(details):
        details.append(f"... and {len(broken) - len(details)} more sites")
    summary = f"{len(broken)} of {len(sites)} sites hold NaN or infinities; the first to be run is {first}"
    return Verdict(NAME, "failed", summary, tuple(details))
