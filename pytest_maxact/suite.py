"""The built-in suite: virtual items, one a check, beside the user's own tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_maxact.checks import CHECKS, Verdict, growth, judge
from pytest_maxact.checks.conditions import differences
from pytest_maxact.config import BENCHMARK, SUITE
from pytest_maxact.record import Measurement
from pytest_maxact.session import Result, Task


class Suite(pytest.Collector):
    """The node `maxact`, or in a series `maxact::LABEL`."""

    def __init__(self, *, task: Task, only: frozenset[str], **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.task = task
        self.only = only

    def collect(self) -> Iterator[pytest.Item]:
        """One item for each check that the settings give something to do, or those that were named."""
        for name in CHECKS:
            if name in self.only if self.only else self._has_something_to_do(name):
                yield CheckItem.from_parent(self, name=name, task=self.task)
        if self.task.member is not None and (not self.only or growth.NAME in self.only):
            yield GrowthItem.from_parent(self, name=growth.NAME, task=self.task)
        if self.task.settings.benchmark and (not self.only or BENCHMARK in self.only):
            yield BenchmarkItem.from_parent(self, name=BENCHMARK, task=self.task)

    def _has_something_to_do(self, name: str) -> bool:
        settings, member = self.task.settings, self.task.member
        if name == "headroom":
            return bool(settings.formats)
        alone = name == "finite" or (name == "maximum" and settings.ceiling is not None)
        return alone or member is None or member.compared


class SeriesSuite(pytest.Collector):
    """The node `maxact` of a series."""

    def __init__(self, *, tasks: Sequence[Task], only: frozenset[str], **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.tasks = tasks
        self.only = only

    def collect(self) -> Iterator[pytest.Collector]:
        """One node for each checkpoint that was not left out by naming others."""
        for task in self.tasks:
            assert task.member is not None
            label = task.member.label
            named = {name for name in self.only if name == label or name.startswith(f"{label}::")}
            if named or not self.only:
                only = frozenset() if label in named else frozenset(name.rpartition("::")[2] for name in named)
                yield Suite.from_parent(self, name=label, task=task, only=only)


class MeasuredItem(pytest.Item):
    """What needs the measurement of a task.

    `module`, `cls` and `fixturenames` are what users' conftests and other plugins expect of every item.
    """

    module = sys.modules[__name__]
    cls = None
    fixturenames: Sequence[str] = ()

    def __init__(self, *, task: Task, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.task = task
        self.add_marker("maxact")

    def reportinfo(self) -> tuple[Path, None, str]:
        """Shown where a test function's file and name would be."""
        return self.config.rootpath / SUITE, None, self.nodeid


class BenchmarkItem(MeasuredItem):
    """The node `maxact::benchmark`: what observing costs; it passes once that is known, and the summary shows it."""

    def runtest(self) -> None:
        """Measure if nobody has, and keep the figures as properties."""
        measurement, _ = self.task.measured(self.nodeid)
        assert measurement.overhead is not None
        figures = measurement.overhead.model_dump(exclude_none=True)
        self.user_properties += [(f"maxact.{name}", value) for name, value in figures.items()]


class GrowthItem(MeasuredItem):
    """The node `maxact::LABEL::growth`."""

    def runtest(self) -> None:
        """Measure what is not measured yet of the series so far, and judge."""
        before = [point for task in self.task.earlier if (point := task.point()) is not None]
        measurement, result = self.task.measured(self.nodeid)
        history = [*self.task.session.past(measurement), *before]
        point = self.task.point()
        assert point is not None
        verdict = growth.check(point, history, result.tolerance)
        if verdict.value is not None:
            self.user_properties.append(("maxact.growth", verdict.value))
        if verdict.outcome == "skipped":
            pytest.skip(verdict.summary)
        if verdict.failed:
            pytest.fail(str(verdict), pytrace=False)


class CheckItem(MeasuredItem):
    """The node `maxact::CHECK`."""

    def runtest(self) -> None:
        """Measure if nobody has, and judge."""
        measurement, result = self.task.measured(self.nodeid)
        verdict = self._verdict(measurement, result)
        if verdict.value is not None:
            self.user_properties.append((f"maxact.{self.name}", verdict.value))
        if result.error is not None:  # measured, but the record or the baseline could not be written
            told = self._lines(verdict, result) if self.name == "finite" and verdict.failed else []
            pytest.fail("\n".join([*told, result.error]), pytrace=False)
        if verdict.outcome == "skipped":
            pytest.skip(verdict.summary)
        if verdict.failed:
            pytest.fail("\n".join(self._lines(verdict, result)), pytrace=False)

    def _verdict(self, measurement: Measurement, result: Result) -> Verdict:
        verdict = judge(self.name, measurement, result.baseline, result.tolerance)
        if verdict.outcome == "skipped" and result.baseline is None:
            if result.missing is not None:
                return Verdict(self.name, "failed", result.missing)
            if result.unwanted is not None:
                return Verdict(self.name, "skipped", result.unwanted)
        return verdict

    def _acceptable(self, result: Result) -> bool:
        """Whether an update would turn this failure green: a rise can be accepted, NaN, a ceiling or other conditions not."""
        measurement, baseline = result.measurement, result.baseline
        if self.name == "finite" or measurement is None or measurement.peak is None or baseline is None:
            return False
        if self.task.member is not None or baseline.provenance is not None:  # an update is for one checkpoint of one's own
            return False
        ceiling = result.tolerance.ceiling
        if self.name == "maximum" and ceiling is not None and measurement.peak.value > ceiling:
            return False
        return not differences(measurement, baseline) and not judge("finite", measurement, None, result.tolerance).failed

    def _lines(self, verdict: Verdict, result: Result) -> list[str]:
        lines = [str(verdict)]
        if result.missing is not None and self.name != "finite":
            return [
                *lines,
                f"  write it:  {self.task.session.accept_command}",
                "  or only measure:  --maxact-baseline=none",
            ]
        if self._acceptable(result):
            lines.append(f"  to accept the change:  {self.task.session.accept_command}")
        return lines
