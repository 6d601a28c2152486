"""A user's project in a process of its own: what these tests describe is what a user of pytest types and sees.

Each test is a row of the table of behaviours: its name is the situation, its calls what is typed, its assertions what is seen.
"""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from importlib import import_module
from pathlib import Path

import pytest

from pytest_maxact.checkpoint import find, load
from pytest_maxact.record import Baseline, Measurement
from pytest_maxact.runner import measure

CHECKS = ["finite", "maximum", "location", "dominance", "sun", "profile"]
GREEN = {f"maxact::{name}": "passed" for name in CHECKS}
# By how much the stored baseline lies below what is measured, so that one check is red.
RED = GREEN | {"maxact::maximum": "failed"}
SAMPLES = ["The first of two samples.", "3, 1, 4, 1, 5, 9, 2, 6"]


class User:
    """A folder with a checkpoint, a corpus and baselines: `green.json` fits, under `red.json` one check fails.

    `inside` runs pytest in this process, where torch is loaded already: six seconds less, for what does not depend on it.
    """

    def __init__(self, pytester: pytest.Pytester, checkpoint: Path, measured: Measurement, *, inside: bool) -> None:
        self.inside = inside
        self.pytester = pytester
        self.folder = pytester.path
        self.checkpoint = checkpoint
        self.corpus = self.folder / "texts.jsonl"
        self.corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in SAMPLES), encoding="utf-8")
        green = Baseline.of(measured)
        (self.folder / "baselines").mkdir()
        green.save(self.folder / "baselines" / "green.json")
        peak = green.peak.model_copy(update={"value": green.peak.value / 2})
        green.model_copy(update={"peak": peak}).save(self.folder / "baselines" / "red.json")
        self.seen: dict[str, str] = {}

    def pytest(self, *args: str | Path, baseline: str | None = "green", model: str | Path | None = None) -> pytest.RunResult:
        """Run pytest as a user does; `seen` tells how each test ended. Without a baseline no model is named either."""
        given = [str(arg) for arg in args]
        if baseline is not None:
            given += [f"--maxact-model={model or self.checkpoint}", f"--maxact-baseline={baseline}"]
            given += [f"--maxact-corpus={self.corpus}"]
        file = self.folder / "seen.xml"
        file.unlink(missing_ok=True)
        run = self.pytester.runpytest_inprocess if self.inside else self.pytester.runpytest_subprocess
        result = run(*given, f"--junitxml={file}")
        self.seen = outcomes(file) if file.exists() else {}
        return result

    @property
    def records(self) -> list[Path]:
        """The records that pytest's cache keeps."""
        return sorted((self.folder / ".pytest_cache" / "d" / "maxact").glob("*/record.json"))


def outcomes(file: Path) -> dict[str, str]:
    """How each test of a JUnit file ended, by node id; a test that ran twice is told as such."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(file).iter("testcase"):
        where, name = str(case.get("classname", "")), str(case.get("name"))
        if name in (*CHECKS, "growth"):
            where = where.replace("maxact.", "maxact::")  # a checkpoint of a series
        name = "::".join(filter(None, (where, name)))
        kinds = {"failure": "failed", "error": "error", "skipped": "skipped"}
        outcome = next((kinds[part.tag] for part in case if part.tag in kinds), "passed")
        found[name] = f"{found[name]}, {outcome}" if name in found else outcome
    return found


@pytest.fixture(scope="session")
def measured(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    """The checkpoint's record. Made first, so that inner sessions, which forget what they import, import nothing heavy."""
    for name in ("plan", "suite", "progress", "report.terminal", "report.properties"):
        import_module(f"pytest_maxact.{name}")
    corpus = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in SAMPLES), encoding="utf-8")
    return measure(load(find(str(checkpoint))), corpus=str(corpus))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the outer session reaches the inner one."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def user(alone: None, pytester: pytest.Pytester, checkpoint: Path, measured: Measurement) -> User:
    return User(pytester, checkpoint, measured, inside=False)


@pytest.fixture
def quick_user(alone: None, pytester: pytest.Pytester, checkpoint: Path, measured: Measurement) -> User:
    return User(pytester, checkpoint, measured, inside=True)
