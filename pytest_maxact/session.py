"""What a pytest session measures: each checkpoint and corpus once, in a folder that all xdist workers share.

Who takes the lock first measures, or finds the record of an earlier session; a failure is a result too, so that nobody
repeats it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from pydantic import TypeAdapter

from pytest_maxact.checks import Tolerance
from pytest_maxact.config import shared_folder
from pytest_maxact.errors import BaselineError, MaxactError, first_line, on_one_line
from pytest_maxact.files import read
from pytest_maxact.history import RECORDS, Point, recorded
from pytest_maxact.record import Baseline, Measurement, write_atomically
from pytest_maxact.report.terminal import Row
from pytest_maxact.reuse import Store
from pytest_maxact.settings import PREVIOUS
from pytest_maxact.visible import visible

if TYPE_CHECKING:
    from pytest_maxact.checkpoint import Checkpoint
    from pytest_maxact.plan import Plan
    from pytest_maxact.ranks import Ranks
    from pytest_maxact.series import Member
    from pytest_maxact.settings import Settings


@dataclass(frozen=True)
class Result:
    """What measuring gave: a record and what it is compared with, or the error that ended it.

    `changes` are the lines of a baseline update; `missing` says where a baseline was looked for and not found, `unwanted` why
    there is none all the same; `reused` is set where an earlier session had measured.
    """

    measurement: Measurement | None
    baseline: Baseline | None
    tolerance: Tolerance
    changes: tuple[str, ...] = ()
    missing: str | None = None
    unwanted: str | None = None
    error: str | None = None
    reused: bool = False


class Session:
    """The tasks of a pytest session, by checkpoint and corpus."""

    _key = pytest.StashKey["Session"]()

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.folder = shared_folder(config)
        self.command = getattr(config, "workerinput", {}).get("maxact_command") or config.invocation_params.args
        self.series: list[Task] = []
        self.remarks: list[str] = []
        self.ranks: Ranks | None = None
        self._past: list[Point] | None = None
        self._tasks: dict[str, Task] = {}
        self._read: OrderedDict[Path, Result] = OrderedDict()

    @classmethod
    def of(cls, config: pytest.Config) -> Session:
        """The session's one."""
        if cls._key not in config.stash:
            config.stash[cls._key] = cls(config)
        return config.stash[cls._key]

    def task(self, settings: Settings, plan: Plan | None = None) -> Task:
        """The task of these settings; `plan` is theirs where there is one already."""
        name = hashlib.sha256(f"{settings.model}\0{settings.corpus}".encode()).hexdigest()[:16]
        if name not in self._tasks:
            self._tasks[name] = Task(self, settings, plan, self.folder / name)
        return self._tasks[name]

    def add_series(self, settings: Settings, plans: Mapping[Member, Plan]) -> None:
        """Make the tasks of a series, each of which knows those before it."""
        for member in settings.series:
            task = self.task(settings.of(member), plans.get(member))
            task.member, task.earlier = member, tuple(self.series)
            self.series.append(task)

    def read(self, folder: Path) -> Result | None:
        """What came of the task of this folder, None where it is not through; few are held, however long a series is."""
        if folder not in self._read:
            result = read_result(folder)
            if result is None:
                return None
            self._read[folder] = result
            while len(self._read) > HELD:
                self._read.popitem(last=False)
        return self._read[folder]

    def past(self, like: Measurement) -> list[Point]:
        """What records tell of checkpoints before the series: those `MaxactCallback` left beside it, and in --maxact-json."""
        if self._past is None:
            first = self.series[0]
            assert first.member is not None
            beside = Path(first.member.model).parent / RECORDS
            folders = [beside] if first.settings.json is None else [beside, first.settings.json.parent]
            self._past = [] if first.member.step is None else recorded(folders, like, first.member.step)
        return self._past

    def rows(self) -> list[Row]:
        """The series for the terminal; what was not asked for has neither a point nor an error."""
        rows = []
        for task in self.series:
            assert task.member is not None
            result = task.finished()
            point = None if result is None else task.point()
            error = None if result is None or result.error is None else result.error.splitlines()[0]
            rows.append(Row(task.member.label, task.member.step, point, error, reused=result is not None and result.reused))
        return rows

    def results(self) -> Iterator[Result]:
        """What any worker has measured beside the series, in the order in which that was done."""
        series = {task.folder for task in self.series}
        folders = sorted(set(self.folder.glob("*/")) - series, key=lambda folder: folder.stat().st_ctime_ns)
        found = (self.read(folder) for folder in folders)
        return (result for result in found if result is not None)

    @property
    def accept_command(self) -> str:
        """The command that makes the measurement the baseline."""
        kept = [str(argument) for argument in self.command if argument != "--maxact-update-new"]  # it excludes --maxact-update
        return visible(shlex.join(["pytest", *kept, "--maxact-update"]))


class Task:
    """One checkpoint to be measured over one corpus, once; where there is no plan yet it is made where needed."""

    def __init__(self, session: Session, settings: Settings, plan: Plan | None, folder: Path) -> None:
        self.session = session
        self.settings = settings
        self.plan = plan
        self.folder = folder
        self.told: str | None = None
        self.member: Member | None = None
        self.earlier: tuple[Task, ...] = ()
        self._point: Point | None = None

    def result(self) -> Result:
        """What came of it; the first call of all workers measures."""
        result = self.finished()
        if result is None:
            with self._lock():
                if not (self.folder / RESULT).exists():
                    self._make()
            result = self.finished()
        assert result is not None
        return result

    def finished(self) -> Result | None:
        """What came of it, if it is through."""
        return self.session.read(self.folder)

    def point(self) -> Point | None:
        """What a series keeps of it, made from the result once; None where nothing could be measured."""
        assert self.member is not None
        if self._point is None:
            measurement = self.result().measurement
            if measurement is not None:
                self._point = Point.of(measurement, self.member.label, self.member.step)
        return self._point

    def planned(self) -> Plan:
        """The plan, failing the test that asks where something is wrong with it."""
        if self.plan is None:
            with told_in_a_line():
                self.plan = self._plan()
        return self.plan

    def load(self) -> Checkpoint:
        """The checkpoint itself, failing the test that asks where it cannot be loaded."""
        plan = self.planned()
        with told_in_a_line(), self._lock():
            self.plan = plan.fetched()
            return self.plan.load()

    def measured(self, who: str) -> tuple[Measurement, Result]:
        """The same, failing the test `who` that asks where nothing was measured."""
        result = self.result()
        measurement = result.measurement
        if measurement is None:
            assert result.error is not None
            reason, *rest = result.error.splitlines()
            if rest:  # a traceback: once is enough, but a test that is tried again is told again
                self.told = self.told or who
                rest = rest if self.told == who else []
            pytest.fail("\n".join([f"nothing was measured: {reason}", *rest]), pytrace=False)
        if self.settings.baseline == PREVIOUS:
            result = self._beside_previous(result)
        return measurement, result

    def _beside_previous(self, result: Result) -> Result:
        if not self.earlier:
            return replace(result, unwanted="the first checkpoint of the series has no predecessor")
        before = self.earlier[-1].result()
        if before.measurement is None:
            return replace(result, unwanted="the checkpoint before was not measured")
        try:
            return replace(result, baseline=Baseline.of(before.measurement))
        except BaselineError:
            return replace(result, unwanted="the checkpoint before holds NaN or infinities")

    def _lock(self) -> FileLock:
        """Of all tasks and workers: two checkpoints may not fit into memory."""
        self.session.folder.mkdir(mode=0o700, exist_ok=True)  # texts of a corpus may be nobody else's business
        self.folder.mkdir(exist_ok=True)
        return FileLock(self.session.folder / "lock")

    def _plan(self) -> Plan:
        from pytest_maxact.plan import Plan

        return Plan.of(replace(self.settings, json=None))  # the controller has looked at outputs, and a worker may write now

    def _make(self) -> None:
        """Measure, compare nothing yet, and keep what came of it; an interrupt keeps nothing."""
        started = self.folder / "started"
        outcome: dict[str, object] = {"tolerance": {}, "changes": [], "missing": None, "unwanted": None}
        outcome |= {"error": None, "reused": False}
        if started.exists():
            outcome["error"] = "the worker that measured died; see its output, and try again without -n"
        else:
            started.touch()
            try:
                outcome |= self._measure()
            except (KeyboardInterrupt, pytest.exit.Exception):
                started.unlink()
                raise
            except MaxactError as cause:
                outcome["error"] = str(cause)
            except Exception as cause:  # whatever a model's own code raises is this result, and told with its traceback
                said, where = f"{type(cause).__name__}: {first_line(cause)}", traceback.format_exc()
                if self.settings.no_text:  # a tokenizer may quote what it could not read
                    said, where = type(cause).__name__, "".join(traceback.format_tb(cause.__traceback__))
                outcome["error"] = f"measuring {self.settings.model} broke: {said}\n{where}"
            except BaseException as cause:  # as pytest-timeout raises
                outcome["error"] = f"measuring {self.settings.model} was cut off: {first_line(cause)}; give it more time"
                write_atomically(self.folder / RESULT, json.dumps(outcome))
                raise
        write_atomically(self.folder / RESULT, json.dumps(outcome))

    def _measure(self) -> dict[str, object]:
        from pytest_maxact.baseline import PUBLISHED, published_file, update
        from pytest_maxact.progress import progress_of

        with warnings.catch_warnings():
            warnings.simplefilter("default")  # a library's warning is shown; only the user's own tests make it an error
            plan = self.plan or self._plan()
            progress = progress_of(self.session.config, plan.reference.id)
            if plan.reference.repository is not None:
                progress.stage("fetching")
            store = Store.of(self.session.config)
            self.plan = plan = plan.fetched(store.fingerprint)
            # Figures of a benchmark are this session's only, and code of a checkpoint's own may lie anywhere.
            reusable = not (self.settings.benchmark or self.settings.trust_remote_code)
            kept = store.load(plan.conditions()) if reusable and not self.settings.fresh else None
            if kept is None:
                progress.stage("loading and measuring")
            # Of an interrupted run counts of values would be kept, which tell the tokens.
            resumable = reusable and not self.settings.no_text
            unfinished = store.unfinished(self.folder.name, fresh=self.settings.fresh) if resumable else None
            measurement = kept or plan.run(progress.tokens, unfinished, self.session.ranks)
        measurement.save(self.folder / RECORD)
        if kept is None and reusable:
            store.save(plan.conditions(), self.folder / RECORD, others=len(self.session.series))
        if unfinished is not None:
            store.finished(self.folder.name)
        if self.settings.json is not None:
            measurement.save(self.settings.json)
        baseline, changes = plan.stored.baseline, []
        if plan.updates:
            changes = update(plan.stored, measurement)
            baseline = Baseline.load(plan.stored.target)
        missing = unwanted = None
        if baseline is not None:
            write_atomically(self.folder / BASELINE, baseline.dumps())
        elif not plan.stored.wanted and self.settings.baseline == "auto":
            unwanted = f"no baseline for {plan.reference.id}; `growth` compares with the checkpoints before"
        elif plan.stored.wanted:
            missing = f"no baseline for {plan.reference.id}: looked for {plan.stored.target}, and among the package's own"
            if any(published_file(name) for name in (plan.reference.id, plan.reference.origin or "")):
                missing += f"; --maxact-baseline={PUBLISHED} compares with what was published of it"
        compared = {"tolerance": vars(plan.tolerance), "changes": changes, "missing": missing, "unwanted": unwanted}
        return compared | {"reused": kept is not None}


@contextmanager
def told_in_a_line() -> Iterator[None]:
    """What is wrong fails the test that asked, without a traceback."""
    try:
        yield
    except MaxactError as cause:
        raise pytest.fail.Exception(str(cause), pytrace=False) from None


HELD = 2  # results in memory: a checkpoint's own and its predecessor's
RESULT, RECORD, BASELINE = "result.json", "record.json", "baseline.json"
MAX_RESULT = 64 << 20  # bytes; its changes have a line for each site


@dataclass(frozen=True)
class Outcome:
    """What a task writes to its folder besides record and baseline; see `Result`."""

    tolerance: Tolerance
    changes: list[str]
    missing: str | None
    unwanted: str | None
    error: str | None
    reused: bool


def read_result(folder: Path) -> Result | None:
    """What a task left in its folder, None where it is not through."""
    if not (folder / RESULT).exists():
        return None
    record, baseline = folder / RECORD, folder / BASELINE
    try:
        written = TypeAdapter(Outcome).validate_json(read(folder / RESULT, MAX_RESULT), strict=True)
        return Result(
            measurement=Measurement.load(record) if record.exists() else None,
            baseline=Baseline.load(baseline) if baseline.exists() else None,
            tolerance=written.tolerance,
            changes=tuple(map(visible, written.changes)),
            missing=_told(written.missing),
            unwanted=_told(written.unwanted),
            error=_told(written.error),
            reused=written.reused,
        )
    except (OSError, ValueError, MaxactError) as cause:
        error = f"what was measured cannot be read from {folder}, where it was just written: {on_one_line(cause)}"
        return Result(measurement=None, baseline=None, tolerance=Tolerance(), error=error)


def _told(text: str | None) -> str | None:
    """What is shown of a task's outcome, of an error all its lines: names, and what a library raised, may hold anything."""
    return None if text is None else "\n".join(map(visible, text.split("\n")))
