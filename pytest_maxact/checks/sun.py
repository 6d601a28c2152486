"""`sun`: whether the model has massive activations in the sense of Sun et al. 2024 is as it was."""

from __future__ import annotations

import math

from pytest_maxact.checks.verdict import Tolerance, Verdict
from pytest_maxact.record import Baseline, Measurement, SunOutcome
from pytest_maxact.wording import number

NAME = "sun"
NEEDS_BASELINE = True


def check(measurement: Measurement, baseline: Baseline | None, tolerance: Tolerance) -> Verdict:
    """Pass where the outcome is the baseline's, or both margins lie within the tolerance of 1 (borderline)."""
    assert baseline is not None
    now, then = measurement.sun, baseline.sun
    if then is None:
        return Verdict(NAME, "skipped", "the baseline has no Sun outcome")
    if now is None:
        return Verdict(NAME, "failed", "no token could be judged: every one holds NaN or infinities")
    if now.passes == then.passes:
        return Verdict(NAME, "passed", f"{describe(now)}, as in the baseline", value=now.margin)
    rtol = tolerance.for_m(baseline)
    if all(abs(outcome.margin - 1) <= rtol for outcome in (now, then)):
        return Verdict(NAME, "passed", f"borderline: {describe(now)}, in the baseline {describe(then)}", value=now.margin)
    details = (f"now: {describe(now)}", f"in the baseline: {describe(then)}")
    return Verdict(NAME, "failed", "the Sun outcome flipped", details, now.margin)


def describe(outcome: SunOutcome) -> str:
    """The outcome in words, with its margin."""
    margin = "unknown" if math.isnan(outcome.margin) else number(outcome.margin)
    if not outcome.passes:
        return f"no massive activations (margin {margin})"
    count = len(outcome.layers)
    return f"massive activations in {count} hidden layer{'s' if count > 1 else ''} (margin {margin})"
