"""Progress of a measurement, seen although pytest captures output: a bar on a terminal, plain lines elsewhere.

What an xdist worker prints goes nowhere: it writes its progress to a file, which the controller watches and shows.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
from tqdm import tqdm

from pytest_maxact.config import shared_folder
from pytest_maxact.record import write_atomically
from pytest_maxact.visible import visible

LINE_EVERY_SECONDS = 10.0
LOOK_EVERY_SECONDS = 0.5
FILE = "progress.json"


class Progress(Protocol):
    """Told what a measurement is doing."""

    def stage(self, text: str) -> None:
        """Say what begins."""

    def tokens(self, done: int, total: int) -> None:
        """So many tokens of all are through the model."""


def progress_of(config: pytest.Config, what: str) -> Progress:
    """The progress of a measurement of `what` in this process."""
    return FileProgress(config, what) if hasattr(config, "workerinput") else TerminalProgress(config, what)


class _Uncaptured:
    """A text stream to pytest's terminal that lifts pytest's capture for each write."""

    def __init__(self, config: pytest.Config) -> None:
        self.reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self.capture: Any = config.pluginmanager.get_plugin("capturemanager")

    def write(self, text: str) -> None:
        with self.capture.global_and_fixture_disabled() if self.capture else nullcontext():
            self.reporter.write(text, flush=True)

    def line(self, text: str) -> None:
        """Write a line of its own."""
        self.write(("\n" if self.reporter._tw.width_of_current_line else "") + text + "\n")

    def flush(self) -> None:
        """Nothing to do: every write flushes."""


class TerminalProgress:
    """Shows what a measurement is doing; silent under `-q` and where pytest has no terminal reporter."""

    def __init__(self, config: pytest.Config, what: str, *, bar: bool = True) -> None:
        self.what = visible(what)
        self.stream = _Uncaptured(config)
        reporter = self.stream.reporter
        self.shown = reporter is not None and config.get_verbosity() >= 0
        self.bar: tqdm[Any] | None = None
        self.fancy = self.shown and bar and bool(reporter.isatty)
        self.first: tuple[float, int] | None = None
        self.last_line = 0.0

    def stage(self, text: str) -> None:
        """Say what begins."""
        if self.shown:
            self.stream.line(f"maxact: {text} {self.what}")

    def tokens(self, done: int, total: int) -> None:
        """So many tokens of all are through the model."""
        if not self.shown:
            return
        if self.fancy:
            if self.bar is None:
                self.bar = tqdm(
                    total=total,
                    file=self.stream,
                    desc=f"maxact: {self.what}",
                    unit=" tokens",
                    unit_scale=True,
                    leave=False,
                    ncols=79,
                )
            self.bar.update(done - self.bar.n)
            if done == total:
                self.bar.close()
            return
        now = time.perf_counter()
        if self.first is None:
            self.first, self.last_line = (now, done), now
        if done == total or now - self.last_line >= LINE_EVERY_SECONDS:
            self.last_line = now
            seconds, tokens = now - self.first[0], done - self.first[1]
            speed = f", {tokens / seconds:,.0f} tokens/s" if tokens else ""  # a watcher may have come late
            left = f", {(total - done) * seconds / tokens:,.0f} s left" if tokens and done < total else ""
            self.stream.line(f"maxact: {done:,} of {total:,} tokens{speed}{left}")


class FileProgress:
    """Writes what a measurement is doing to the folder that all workers share."""

    def __init__(self, config: pytest.Config, what: str) -> None:
        self.file = shared_folder(config) / FILE
        self.state: dict[str, Any] = {"run": time.time_ns(), "what": what, "stage": None, "done": None, "total": None}
        self.last = 0.0

    def stage(self, text: str) -> None:
        """Say what begins."""
        self._write(stage=text, done=None, total=None)

    def tokens(self, done: int, total: int) -> None:
        """So many tokens of all are through the model."""
        now = time.perf_counter()
        if done in (0, total) or now - self.last >= LOOK_EVERY_SECONDS:
            self.last = now
            self._write(done=done, total=total)

    def _write(self, **changes: object) -> None:
        self.state |= changes
        self.file.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(self.file, json.dumps(self.state))


class Watcher:
    """In xdist's controller: shows what a worker wrote, while the context lasts."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.file: Path = shared_folder(config) / FILE
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="maxact-progress", daemon=True)
        self._shown: dict[str, Any] = {}
        self._terminal: TerminalProgress | None = None

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_SECONDS):
            self._look()
        self._look()

    def _look(self) -> None:
        with suppress(OSError):
            state = json.loads(self.file.read_text(encoding="utf-8"))
            if state == self._shown:
                return
            if self._terminal is None or state["run"] != self._shown["run"]:
                self._terminal = TerminalProgress(self.config, state["what"], bar=False)  # xdist's own line would break it
                self._shown = {}
            if state["stage"] != self._shown.get("stage"):
                self._terminal.stage(state["stage"])
            if state["total"] is not None:
                self._terminal.tokens(state["done"], state["total"])
            self._shown = state
