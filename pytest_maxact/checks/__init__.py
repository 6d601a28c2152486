"""The checks, one file each: pure functions of a measurement, a baseline and tolerances. No pytest, no torch.

A check has a `NAME`, says with `NEEDS_BASELINE` whether it can judge without a baseline, and its `check(measurement,
baseline, tolerance)` gives a `Verdict`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from pytest_maxact.checks import dominance, finite, headroom, location, maximum, profile, sun
from pytest_maxact.checks.conditions import differences, let_pass
from pytest_maxact.checks.verdict import Outcome, Tolerance, Verdict
from pytest_maxact.record import Baseline, Measurement

__all__ = ["CHECKS", "Outcome", "Tolerance", "Verdict", "compare", "judge"]


class Check(Protocol):
    """What each of the check modules offers."""

    NAME: str
    NEEDS_BASELINE: bool

    def check(self, measurement: Measurement, baseline: Baseline | None, tolerance: Tolerance) -> Verdict:
        """The verdict."""


_ALL = (finite, maximum, location, dominance, sun, profile, headroom)
CHECKS: dict[str, Check] = {module.NAME: module for module in _ALL}


def judge(name: str, measurement: Measurement, baseline: Baseline | None, tolerance: Tolerance) -> Verdict:
    """Run one check. Where it rests on a baseline made under other conditions it fails, naming each of them."""
    chosen = CHECKS[name]
    if baseline is not None and name != "finite":
        other = differences(measurement, baseline)
        if other:
            return Verdict(name, "failed", "the baseline was made under other conditions: " + "; ".join(other))
    if baseline is None and chosen.NEEDS_BASELINE:
        return Verdict(name, "skipped", "needs a baseline")
    verdict = chosen.check(measurement, baseline, tolerance)
    if verdict.failed and baseline is not None and name != "finite":
        others = tuple(f"published baseline: {difference}" for difference in let_pass(measurement, baseline))
        return replace(verdict, details=verdict.details + others)
    return verdict


def compare(
    measurement: Measurement,
    baseline: Baseline | None,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 - immutable
) -> list[Verdict]:
    """Run every check. Nothing is raised where one fails: that is what its verdict says.

    Args:
        measurement: what `measure` or `Measurement.load` gave.
        baseline: what it is compared with, from `Baseline.load` or `Baseline.of`; without one, the checks that need one are
            skipped. Where it was made under other conditions, all but `finite` fail and name them.
        tolerance: how much may differ. The baseline's own overrides come on top.

    Returns:
        One verdict a check, in the order of `CHECKS`.

    """
    return [judge(name, measurement, baseline, tolerance) for name in CHECKS]
