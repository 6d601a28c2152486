"""What the plugin adds to a pytest run that does not use it; RESULTS.md keeps what was measured."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROUNDS = 15
LEAST = ("-p", "no:xdist", "-p", "no:hypothesispytest", "-p", "no:benchmark", "-p", "no:anyio", "-p", "no:cacheprovider")


def seconds(folder: Path, *args: str) -> float:
    """Of one `pytest --collect-only` in a process of its own."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *LEAST, *args]
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def test_an_idle_plugin(tmp_path: Path, benchmark: Any) -> None:
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n")
    with_it, without = [], []

    def turns() -> None:
        for _ in range(ROUNDS):
            without.append(seconds(tmp_path, "-p", "no:maxact"))
            with_it.append(seconds(tmp_path))

    benchmark.pedantic(turns)
    added = 1000 * (median(with_it) - median(without))
    benchmark.extra_info["added_ms"] = added
    print(f"idle: {1000 * median(with_it):.0f} ms with the plugin, {1000 * median(without):.0f} without, {added:.1f} ms more")
