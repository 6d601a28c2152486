"""Misses and false alarms of `growth` on real training runs: `python -m tests.benchmarks.growth_alarms FOLDER`.

29 runs of `tests.training` in 15 to 20 minutes; RESULTS.md keeps what came out. Without a spike each checkpoint that fails is a
false alarm. With one it is caught where the first checkpoint after it fails, and what fails before it is a false alarm.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_maxact.checkpoint import find, load
from pytest_maxact.checks import Tolerance, Verdict, growth
from pytest_maxact.history import Point
from pytest_maxact.record import Site
from pytest_maxact.runner import measure
from tests.training import CHECKPOINTS, train


@dataclass(frozen=True)
class Setting:
    """How runs are trained, and with how many of the seeds."""

    title: str
    spike: bool = False
    seeds: int = 5
    changes: dict[str, Any] = field(default_factory=dict)


SETTINGS = (
    Setting("as it should be"),
    Setting("spike of 30 times the rate", spike=True),
    Setting("spike of 10 times the rate", spike=True, changes={"times": 10.0}),
    Setting(
        "spike of 100 times the rate in the MLP of layer 1 alone",
        spike=True,
        seeds=2,
        changes={"part": "layers.1.mlp", "times": 100.0},
    ),
    Setting(
        "spike of 100 times the rate in the attention of layer 2 alone",
        spike=True,
        seeds=2,
        changes={"part": "layers.2.self_attn", "times": 100.0},
    ),
    Setting("a third of the rate", seeds=2, changes={"rate": 1e-3}),
    Setting("three times the rate, warm-up of 60", seeds=2, changes={"rate": 9e-3, "warmup": 60}),
    Setting("no warm-up", seeds=2, changes={"warmup": 0}),
    Setting("a checkpoint every 5 steps", seeds=2, changes={"every": 5}),
    Setting("a checkpoint every 40 steps", seeds=2, changes={"every": 40}),
)


def series(setting: Setting, seed: int, cache: Path) -> list[Point]:
    """The points of a run, from the cache where they are kept."""
    changes = "".join(f"-{name}-{value}" for name, value in setting.changes.items())
    kept = cache / f"{seed}-{'spike' if setting.spike else 'healthy'}{changes}.json"
    if kept.exists():
        return [read(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for path in train(Path(folder), seed=seed, spike=setting.spike, **setting.changes):
            record = measure(load(find(str(path))), corpus="smoke")
            points.append(Point.of(record, path.name, int(path.name.partition("-")[2])))
    kept.write_text("".join(written(point) + "\n" for point in points), encoding="utf-8")
    return points


def written(point: Point) -> str:
    """A point as a line of JSON."""
    peak = None if point.peak is None else [point.peak.component, point.peak.layer]
    pairs = {name: [[*key, value] for key, value in getattr(point, name).items()] for name in ("values", "unfit")}
    return json.dumps([point.label, point.step, peak, point.m, pairs["values"], pairs["unfit"], point.massive])


def read(line: str) -> Point:
    """The point of such a line."""
    label, step, peak, m, values, unfit, massive = json.loads(line)
    return Point(
        label,
        step,
        None if peak is None else Site(component=peak[0], layer=peak[1]),
        m,
        {(component, layer): value for component, layer, value in values},
        {(component, layer): count for component, layer, count in unfit},
        massive,
    )


def named(verdict: Verdict) -> str:
    """Where a failure says that it started."""
    return verdict.summary.partition("starting with the ")[2].partition(" (")[0] or verdict.summary


def main() -> None:
    """Train, judge and print a line for each setting; the points of each run are kept in a folder, and taken from there."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth_alarms", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for setting in SETTINGS:
        judged = false = caught = 0
        remarks = []
        for seed in range(arguments.first_seed, arguments.first_seed + setting.seeds):
            points = series(setting, seed, arguments.folder)
            verdicts = [growth.check(point, points[:index], Tolerance()) for index, point in enumerate(points)]
            spike = CHECKPOINTS // 2 if setting.spike else len(points)
            judged += spike - 1
            alarms = [verdict for verdict in verdicts[:spike] if verdict.failed]
            false += len(alarms)
            remarks += [f"{seed}: false, {named(verdict)}" for verdict in alarms]
            if setting.spike:
                caught += verdicts[spike].failed
                red = sum(verdict.failed for verdict in verdicts[spike:])
                found = named(verdicts[spike]) if verdicts[spike].failed else "missed"
                change = points[spike].m / points[spike - 1].m
                remarks.append(f"{seed}: M {change:.2f}x, {found}, red at {red} of {len(points) - spike}")
        spikes = f"{caught} of {setting.seeds}" if setting.spike else ""
        print(f"| {setting.title} | {setting.seeds} | {false} of {judged} | {spikes} |", *remarks, sep="\n    ", flush=True)


if __name__ == "__main__":
    main()
