"""Progress of a measurement, seen although pytest captures output: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    import pytest

LINE_EVERY_SECONDS = 10.0


class _Uncaptured:
    """A text stream to pytest's terminal that lifts pytest's capture for each write."""

    def __init__(self, config: pytest.Config) -> None:
        self.reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self.capture: Any = config.pluginmanager.get_plugin("capturemanager")

    def write(self, text: str) -> None:
        with self.capture.global_and_fixture_disabled() if self.capture else nullcontext():
            self.reporter.write(text, flush=True)

    def flush(self) -> None:
        """Nothing to do: every write flushes."""


class TerminalProgress:
    """Shows what a measurement is doing; silent under `-q` and where pytest has no terminal reporter."""

    def __init__(self, config: pytest.Config, what: str) -> None:
        self.what = what
        self.stream = _Uncaptured(config)
        reporter = self.stream.reporter
        self.shown = reporter is not None and config.get_verbosity() >= 0
        self.bar: tqdm[Any] | None = None
        self.fancy = self.shown and bool(reporter.isatty)
        self.started = self.last_line = 0.0

    def stage(self, text: str) -> None:
        """Say what begins."""
        if self.shown:
            self.stream.write(f"\nmaxact: {text} {self.what}")
            if not self.fancy:
                self.stream.write("\n")

    def tokens(self, done: int, total: int) -> None:
        """So many tokens of all are through the model."""
        if not self.shown:
            return
        if self.fancy:
            if self.bar is None:
                self.stream.write("\n")
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
        if not done:
            self.started = self.last_line = now
        elif done == total or now - self.last_line >= LINE_EVERY_SECONDS:
            self.last_line = now
            rate = done / (now - self.started)
            left = f", {(total - done) / rate:,.0f} s left" if done < total else ""
            self.stream.write(f"maxact: {done:,} of {total:,} tokens, {rate:,.0f} tokens/s{left}\n")
