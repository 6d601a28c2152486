"""`growth`: in a series of checkpoints, neither M nor a site has left its own history."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_maxact.checks.verdict import Tolerance, Verdict
from pytest_maxact.history import Key, Point
from pytest_maxact.record import PART_OF_M
from pytest_maxact.wording import number, ratio

NAME = "growth"
NEGLIGIBLE = 1000  # as in `profile`
WINDOW = 8
SCALES = 5.0
CONSISTENT = 1.4826  # times the median absolute deviation is the standard deviation of a normal distribution
SHOWN = 8


@dataclass(frozen=True)
class Left:
    """A site that left its history: its value now, what the history predicts, and their ratio."""

    key: Key
    value: float
    predicted: float


def check(point: Point, history: Sequence[Point], tolerance: Tolerance) -> Verdict:
    """Pass where M and every site stay within what their own history predicts.

    Args:
        point: the checkpoint to judge.
        history: the checkpoints before it, oldest first.
        tolerance: `growth` and `growth_total`.

    Returns:
        The verdict; its value is M over the predecessor's M. Skipped where there is no predecessor.

    """
    if not history:
        return Verdict(NAME, "skipped", f"{point.label} has no predecessor")
    times = _times([*history, point])
    m = _judge([p.m for p in history], point.m, times, tolerance.growth)
    floor = (point.m if m is None else min(m, point.m)) / NEGLIGIBLE
    left = []
    for key, value in point.values.items():
        if key[0] not in PART_OF_M or not value >= floor:
            continue
        predicted = _judge([p.values.get(key, math.nan) for p in history], value, times, tolerance.growth)
        if predicted is not None and value > predicted:
            left.append(Left(key, value, predicted))
    change = point.m / history[-1].m
    summary = f"M = {number(point.m)}: {ratio(point.m, history[-1].m)} its predecessor's"
    return Verdict(NAME, "failed" if left else "passed", summary, (), change)


def _times(points: Sequence[Point]) -> list[float]:
    """Steps where all are known and rise, else indices."""
    steps = [p.step for p in points]
    known = [float(step) for step in steps if step is not None]
    if len(known) == len(points) and all(a < b for a, b in itertools.pairwise(known)):
        return known
    return [float(i) for i in range(len(points))]


def _judge(values: Sequence[float], value: float, times: Sequence[float], growth: float) -> float | None:
    """The most that a value may be."""
    return None
