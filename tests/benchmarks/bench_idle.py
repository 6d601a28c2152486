"""What the plugin adds to a pytest run that does not use it; RESULTS.md keeps what was measured."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

ROUNDS = 60
LEAST = ("-p", "no:xdist", "-p", "no:hypothesispytest", "-p", "no:benchmark", "-p", "no:anyio", "-p", "no:cacheprovider")


def seconds(folder: Path, *args: str) -> float:
    """Of processor time that one `pytest --collect-only` took in a process of its own: wall time moves by more than this."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *LEAST, *args]
    # As installed packages are: compiled once. Where that is forbidden, pytest rewrites each plugin's modules every time.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_an_idle_plugin(tmp_path: Path, benchmark: Any) -> None:
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n")
    with_it, without = [], []
    seconds(tmp_path)

    def turns() -> None:
        for _ in range(ROUNDS):
            without.append(seconds(tmp_path, "-p", "no:maxact"))
            with_it.append(seconds(tmp_path))

    benchmark.pedantic(turns)
    added = 1000 * (median(with_it) - median(without))
    benchmark.extra_info["added_ms"] = added
    print(f"idle: {1000 * median(with_it):.0f} ms with the plugin, {1000 * median(without):.0f} without, {added:.1f} ms more")
