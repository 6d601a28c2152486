"""The built-in suite: virtual items, one a check, beside the user's own tests; measured once, whoever asks first.

The measurement of a session lies in a folder that all xdist workers share. Who takes the lock first measures; a failure
is a result too, so that nobody repeats it.
"""

from __future__ import annotations

import json
import shlex
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_maxact.checks import CHECKS, Tolerance, Verdict, judge
from pytest_maxact.checks.conditions import differences
from pytest_maxact.config import BENCHMARK, SUITE
from pytest_maxact.errors import MaxactError
from pytest_maxact.record import Baseline, Measurement, write_atomically

if TYPE_CHECKING:
    from pytest_maxact.config import Settings
    from pytest_maxact.plan import Plan


@dataclass(frozen=True)
class Result:
    """What measuring gave: a record and what it is compared with, or the error that ended it.

    `changes` are the lines of a baseline update; `missing` says where a baseline was looked for and not found.
    """

    measurement: Measurement | None
    baseline: Baseline | None
    tolerance: Tolerance
    changes: tuple[str, ...] = ()
    missing: str | None = None
    error: str | None = None


class Session:
    """One session's measurement, made once and kept in `folder`. A worker has no plan yet: it makes it where needed."""

    def __init__(
        self, config: pytest.Config, settings: Settings, plan: Plan | None, folder: Path, command: tuple[str, ...]
    ) -> None:
        self.config = config
        self.settings = settings
        self.plan = plan
        self.folder = folder
        self.command = command
        self.error_told = False
        self._result: Result | None = None

    def result(self) -> Result:
        """The session's result; the first call of all workers measures."""
        from filelock import FileLock

        if self._result is None:
            with FileLock(self.folder / "lock"):
                if not self._kept.exists():
                    self._make()
            self._result = self.kept()
        assert self._result is not None
        return self._result

    def kept(self) -> Result | None:
        """The result if there is one already."""
        if not self._kept.exists():
            return None
        data = json.loads(self._kept.read_text(encoding="utf-8"))
        record, baseline = self.folder / "record.json", self.folder / "baseline.json"
        return Result(
            measurement=Measurement.load(record) if record.exists() else None,
            baseline=Baseline.load(baseline) if baseline.exists() else None,
            tolerance=Tolerance(**data["tolerance"]),
            changes=tuple(data["changes"]),
            missing=data["missing"],
            error=data["error"],
        )

    def accept_command(self) -> str:
        """The command that makes the measurement the baseline."""
        kept = [argument for argument in self.command if argument != "--maxact-update-new"]  # it excludes --maxact-update
        return shlex.join(["pytest", *kept, "--maxact-update"])

    @property
    def _kept(self) -> Path:
        return self.folder / "result.json"

    def _make(self) -> None:
        """Measure, compare nothing yet, and keep what came of it; an interrupt keeps nothing."""
        started = self.folder / "started"
        outcome: dict[str, object] = {"tolerance": {}, "changes": [], "missing": None, "error": None}
        if started.exists():
            outcome["error"] = "the worker that measured died; see its output, and try again without -n"
        else:
            started.touch()
            try:
                outcome |= self._measure()
            except KeyboardInterrupt:
                started.unlink()
                raise
            except MaxactError as cause:
                outcome["error"] = str(cause)
            except Exception:  # whatever a model's own code raises is this result, and told with its traceback
                outcome["error"] = f"measuring {self.settings.model} broke:\n{traceback.format_exc()}"
        write_atomically(self._kept, json.dumps(outcome))

    def _measure(self) -> dict[str, object]:
        from pytest_maxact.baseline import update
        from pytest_maxact.plan import Plan
        from pytest_maxact.progress import TerminalProgress

        plan = self.plan or Plan.of(self.settings)
        progress = TerminalProgress(self.config, plan.reference.id)
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # a library's warning is shown; only the user's own tests make it an error
            progress.stage("loading and measuring")
            measurement = plan.run(progress.tokens)
        measurement.save(self.folder / "record.json")
        if self.settings.json is not None:
            measurement.save(self.settings.json)
        baseline, changes = plan.stored.baseline, []
        if plan.updates:
            changes = update(plan.stored, measurement)
            baseline = Baseline.load(plan.stored.target)
        missing = None
        if baseline is not None:
            write_atomically(self.folder / "baseline.json", baseline.dumps())
        elif plan.stored.wanted:
            missing = f"no baseline for {plan.reference.id}: looked for {plan.stored.target}, and among the package's own"
        return {"tolerance": vars(plan.tolerance), "changes": changes, "missing": missing}


class Suite(pytest.Collector):
    """The node `maxact`."""

    def __init__(self, *, maxact: Session, only: frozenset[str], **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.maxact = maxact
        self.only = only

    def collect(self) -> Iterator[pytest.Item]:
        """One item for each check that the settings give something to do, or those that were named."""
        for name in CHECKS:
            if name in self.only if self.only else name != "headroom" or self.maxact.settings.formats:
                yield CheckItem.from_parent(self, name=name, maxact=self.maxact)
        if self.maxact.settings.benchmark and (not self.only or BENCHMARK in self.only):
            yield BenchmarkItem.from_parent(self, name=BENCHMARK, maxact=self.maxact)


class MeasuredItem(pytest.Item):
    """What needs the session's measurement."""

    def __init__(self, *, maxact: Session, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.maxact = maxact
        self.add_marker("maxact")

    def measured(self) -> tuple[Measurement, Result]:
        """Measure if nobody has; fail where that was not possible."""
        result = self.maxact.result()
        if result.measurement is None:
            assert result.error is not None
            reason, *rest = result.error.splitlines()
            if rest:  # a traceback: once is enough
                rest, self.maxact.error_told = ["see the first of these"] if self.maxact.error_told else rest, True
            pytest.fail("\n".join([f"nothing was measured: {reason}", *rest]), pytrace=False)
        return result.measurement, result

    def reportinfo(self) -> tuple[Path, None, str]:
        """Shown where a test function's file and name would be."""
        return self.config.rootpath / SUITE, None, self.nodeid


class BenchmarkItem(MeasuredItem):
    """The node `maxact::benchmark`: what observing costs; it passes once that is known, and the summary shows it."""

    def runtest(self) -> None:
        """Measure if nobody has, and keep the figures as properties."""
        measurement, _ = self.measured()
        assert measurement.overhead is not None
        figures = measurement.overhead.model_dump(exclude_none=True)
        self.user_properties += [(f"maxact.{name}", value) for name, value in figures.items()]


class CheckItem(MeasuredItem):
    """The node `maxact::CHECK`."""

    def runtest(self) -> None:
        """Measure if nobody has, and judge."""
        measurement, result = self.measured()
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
        if verdict.outcome == "skipped" and result.missing is not None and result.baseline is None:
            return Verdict(self.name, "failed", result.missing)
        return verdict

    def _acceptable(self, result: Result) -> bool:
        """Whether an update would turn this failure green: a rise can be accepted, NaN, a ceiling or other conditions not."""
        measurement, baseline = result.measurement, result.baseline
        if self.name == "finite" or measurement is None or measurement.peak is None or baseline is None:
            return False
        ceiling = result.tolerance.ceiling
        if self.name == "maximum" and ceiling is not None and measurement.peak.value > ceiling:
            return False
        return not differences(measurement, baseline) and not judge("finite", measurement, None, result.tolerance).failed

    def _lines(self, verdict: Verdict, result: Result) -> list[str]:
        lines = [verdict.summary, *(f"  {line}" for line in verdict.details)]
        if result.missing is not None and self.name != "finite":
            return [
                *lines,
                f"  write it:  {self.maxact.accept_command()}",
                "  or only measure:  --maxact-baseline=none",
            ]
        if self._acceptable(result):
            lines.append(f"  to accept the change:  {self.maxact.accept_command()}")
        return lines
