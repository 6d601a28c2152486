"""Which checkpoints a series is made of: globs in natural order, a label and a training step for each. Nothing heavy."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_maxact.errors import SettingsError
from pytest_maxact.files import parse_json, read

_STEP = re.compile(r"(?:step|steps|checkpoint|ckpt|iter|iteration)[-_]?(\d+)", re.IGNORECASE)
TRAINER_STATE = "trainer_state.json"
MAX_TRAINER_STATE = 1 << 30  # bytes: the log of several million steps
MAX_DIGITS = 18  # of a step, which stays within 64 bits


@dataclass(frozen=True)
class Member:
    """A checkpoint of a series: `model` as `--maxact-model` takes it, `label` its name in node ids, `step` where known.

    `matched` tells that a glob found it, and nobody named it; `compared` whether there is a baseline to compare it with.
    """

    model: str
    label: str
    step: int | None
    matched: bool = False
    compared: bool = True


def is_glob(name: str) -> bool:
    """Whether a name is a pattern and no path that is there."""
    return glob.has_magic(name) and not os.path.exists(name)


def matches(pattern: str) -> list[str]:
    """The checkpoints that a pattern means, in natural order: GGUF files, and folders but for those that hold something else.

    Raises:
        SettingsError: where there is none.

    """
    paths = sorted(filter(_may_be_checkpoint, glob.glob(pattern, recursive=True)), key=_natural)
    if not paths:
        raise SettingsError(f"--maxact-model={pattern} matches no checkpoint folder and no .gguf file: name what is there")
    return paths


def members(models: Sequence[str]) -> tuple[Member, ...]:
    """The series of these names and patterns: by step where each has one of its own, else in the order given.

    Raises:
        SettingsError: where a pattern matches nothing.

    """
    named = {_place(name) for name in models if not is_glob(name)}
    places: dict[str, str] = {}  # a glob may match what is named too, and a link what it leads to
    for given in models:
        for name in matches(given) if is_glob(given) else [given]:
            places.setdefault(_place(name), name)
    found = [
        Member(name, label, step_of(name), place not in named)
        for (place, name), label in zip(places.items(), _labels(list(places.values())), strict=True)
    ]
    if len({member.step for member in found} - {None}) < len(found):
        return tuple(replace(member, step=None) for member in found)
    return tuple(sorted(found, key=lambda member: member.step or 0))


def step_of(model: str) -> int | None:
    """The training step of a checkpoint: as its `trainer_state.json` says, else as its name does; None where neither does."""
    state = Path(model) / TRAINER_STATE
    try:
        step = parse_json(read(state, MAX_TRAINER_STATE).decode())["global_step"]
        if type(step) is int and 0 <= step < 10**MAX_DIGITS:
            return step
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no Trainer wrote it, or not all of it yet
    return named_step(model)


def named_step(name: str) -> int | None:
    """The training step that the last part of a name tells, as in `checkpoint-500`; None where there is none."""
    found = _STEP.findall(re.split(r"[/@]", name.rstrip("/"))[-1])
    return int(found[-1]) if found and len(found[-1]) <= MAX_DIGITS else None


def gaps(steps: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours that lie further apart than the others: where a checkpoint seems to be missing."""
    pairs = list(itertools.pairwise(steps))
    if len(pairs) < 3:
        return []
    usual = sorted(after - before for before, after in pairs)[len(pairs) // 2]
    return [(before, after) for before, after in pairs if after - before >= 2 * usual]


def _labels(names: Sequence[str]) -> list[str]:
    """For each the shortest end of its path that tells it from the others."""
    parts = [[part for part in name.split("/") if part not in ("", ".")] or [name] for name in names]
    for length in range(1, max(map(len, parts)) + 1):
        labels = [re.sub(r"[^\w.-]", "-", "/".join(part[-length:]), flags=re.ASCII) for part in parts]
        if len(set(labels)) == len(names):
            return labels
    return [f"{label}-{number}" for number, label in enumerate(labels, 1)]


def _place(name: str) -> str:
    """Where a path leads; a name that is no path is itself."""
    return str(Path(name).resolve()) if os.path.exists(name) else name


def _may_be_checkpoint(path: str) -> bool:
    folder = Path(path)
    if not folder.is_dir():
        return path.endswith(".gguf")
    known = any((folder / file).exists() for file in ("config.json", "adapter_config.json"))
    return known or step_of(path) is not None  # one of which nothing is written yet has its name


def _natural(path: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path)]


def spoken(members: Sequence[Member]) -> str:
    """The series in a few words, for the header."""
    first, last = members[0], members[-1]
    if len(members) == 1:
        return f"series of 1 checkpoint, {first.label}"
    steps = "" if first.step is not None else ", steps unknown"
    return f"series of {len(members)} checkpoints, {first.label} to {last.label}{steps}"


def missing(members: Sequence[Member]) -> list[str]:
    """Where a checkpoint seems to be missing, in words."""
    steps = [member.step for member in members if member.step is not None]
    return [f"no checkpoint between steps {before:,} and {after:,}" for before, after in gaps(steps)]
