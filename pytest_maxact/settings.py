"""What a session was told, checked."""

from __future__ import annotations

import glob
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_maxact.config import OPTIONS, SERIES, Option
from pytest_maxact.corpus import bundled
from pytest_maxact.demo import DEMO_NAMES
from pytest_maxact.errors import SettingsError
from pytest_maxact.series import Member, is_glob, members

PREVIOUS = "previous"


@dataclass(frozen=True)
class Settings:
    """What a session was told. Folders count from where pytest was called, those of an ini file from rootdir.

    `model` is None where none was named, and the last one of a series; `series` is empty where one checkpoint was named.
    `compared_policies` are those of special tokens under which M is measured, too, besides `special_tokens`.
    """

    model: str | None
    series: tuple[Member, ...]
    corpus: str
    samples: int | None
    max_length: int | None
    special_tokens: str
    compared_policies: tuple[str, ...]
    batch_tokens: int | None
    dtype: str
    device: str
    baseline: str
    baselines: Path
    update: bool
    update_new: bool
    rtol: float
    rtol_given: bool
    site_rtol: float
    two_sided: bool
    growth: float
    growth_total: float | None
    ceiling: float | None
    formats: tuple[str, ...]
    suite: str
    sites: tuple[str, ...]
    explain: bool
    json: Path | None
    benchmark: bool
    no_text: bool
    fresh: bool
    trust_remote_code: bool

    @classmethod
    def from_pytest(cls, config: pytest.Config) -> Settings:
        """The session's settings.

        Raises:
            SettingsError: for a value that is no number, out of range, or not among the choices.

        """
        raw = {option.dest.removeprefix("maxact_"): _given(config, option) for option in OPTIONS}
        models = raw["model"] or [None]
        for name in ("model", "corpus", "baseline"):
            if "" in (raw[name], *models):
                raise SettingsError(f"--maxact-{name} is empty: give it a value, or leave it out")
        if raw["update"] and raw["update_new"]:
            raise SettingsError("--maxact-update and --maxact-update-new exclude each other: give one of them")
        series = _series(config, raw["model"] or [])
        if series and (raw["update"] or raw["update_new"]):
            raise SettingsError("an update writes the baseline of one checkpoint, and a series was named: name that checkpoint")
        if raw["baseline"] == PREVIOUS and raw["model"] and not series:
            raise SettingsError("--maxact-baseline=previous needs a series: name the earlier checkpoints too, or a glob")
        policies = tuple(dict.fromkeys(raw["special_tokens"]))
        if not policies:
            raise SettingsError("maxact_special_tokens names no policy: give none, tokenizer or chat, or leave it out")
        here = config.invocation_params.dir
        folder = raw["baselines"] or config.rootpath / "baselines"
        home = here if config.getoption("maxact_baselines") else config.rootpath
        return cls(
            model=series[-1].model if series else models[0],
            series=series,
            corpus=raw["corpus"],
            samples=_whole(raw, "samples"),
            max_length=_whole(raw, "max_length"),
            special_tokens=policies[0],
            compared_policies=policies[1:],
            batch_tokens=_whole(raw, "batch_tokens"),
            dtype=raw["dtype"],
            device=raw["device"],
            baseline=raw["baseline"],
            baselines=home / os.path.expanduser(folder),
            update=bool(raw["update"]),
            update_new=bool(raw["update_new"]),
            rtol=_positive(raw, "rtol") or 0.0,
            rtol_given=bool(config.getoption("maxact_rtol") or config.getini("maxact_rtol")),
            site_rtol=_positive(raw, "site_rtol") or 0.0,
            two_sided=bool(raw["two_sided"]),
            growth=_factor(raw, "growth") or 0.0,
            growth_total=_factor(raw, "growth_total"),
            ceiling=_positive(raw, "ceiling"),
            formats=tuple(dict.fromkeys(raw["format"] or ())),
            suite=raw["suite"],
            sites=tuple(dict.fromkeys(raw["sites"] or ())),
            explain=bool(raw["explain"]),
            json=None if raw["json"] is None else here / os.path.expanduser(raw["json"]),
            benchmark=bool(raw["benchmark"]),
            no_text=bool(raw["no_text"]),
            fresh=bool(raw["fresh"]),
            trust_remote_code=bool(raw["trust_remote_code"]),
        )

    def of(self, member: Member) -> Settings:
        """The settings of one checkpoint of the series; its record goes to a file of the series' folder."""
        json = None if self.json is None else self.json / f"{member.label}.json"
        return replace(self, model=member.model, json=json)


def _series(config: pytest.Config, models: list[str]) -> tuple[Member, ...]:
    """The series that was named, the same in all workers and all session long, whatever is written meanwhile."""
    if SERIES not in config.stash:
        told = getattr(config, "workerinput", {}).get("maxact_series")
        if told is not None:
            config.stash[SERIES] = tuple(Member(**member) for member in told)
        elif len(models) > 1 or any(map(is_glob, models)):
            config.stash[SERIES] = members(models)
        else:
            config.stash[SERIES] = ()
    return config.stash[SERIES]


def located(folder: Path, name: str) -> str:
    """A name as it was given, or the path that it is from this folder: tests may change the current one.

    A baseline file need not be there yet; several corpora may be joined by `+`; what is shipped goes by its name.
    """
    path = folder / os.path.expanduser(name)
    if name.endswith(".json"):
        return str(path)
    parts = [name] if os.path.exists(path) else name.split("+")
    shipped = {*DEMO_NAMES, *bundled()}
    return "+".join(
        str(folder / part) if part not in shipped and part and os.path.exists(folder / part) else part for part in parts
    )


def _given(config: pytest.Config, option: Option) -> Any:
    """The command line's value, else the ini file's, else the default."""
    value = config.getoption(option.dest)
    if option.flag:
        return value or (not option.action_only and bool(config.getini(option.dest)))
    folder = config.invocation_params.dir
    if value is None and not option.action_only:
        folder = config.rootpath
        value = ini = config.getini(option.dest) or option.default
        if option.repeatable and ini:
            value = ini.replace(",", " ").split() if option.choices else [ini]  # a path may hold spaces
    named = option.name == "baseline" and value and not value.endswith(".json")  # whatever folder is called so too
    if option.may_be_path and value and not named:
        value = [_located_or_pattern(folder, one) for one in value] if option.repeatable else located(folder, value)
    for one in (value or []) if option.repeatable else [value]:
        if option.choices and one not in option.choices:
            raise SettingsError(f"--maxact-{option.name}={one} is none of {', '.join(option.choices)}")
    return value


def _located_or_pattern(folder: Path, name: str) -> str:
    if not is_glob(name) or os.path.exists(folder / name):
        return located(folder, name)
    return os.path.join(glob.escape(str(folder)), os.path.expanduser(name))


def _whole(raw: dict[str, Any], name: str) -> int | None:
    text = raw[name]
    if text is None:
        return None
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19 and int(digits)):
        raise SettingsError(f"--maxact-{name.replace('_', '-')}={text} is no whole number from 1")
    return int(text)


def _factor(raw: dict[str, Any], name: str) -> float | None:
    value = _positive(raw, name)
    if value is not None and value <= 1:
        raise SettingsError(f"--maxact-{name.replace('_', '-')}={raw[name]} is no factor above 1, such as 2")
    return value


def _positive(raw: dict[str, Any], name: str) -> float | None:
    text = raw[name]
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise SettingsError(f"--maxact-{name.replace('_', '-')}={text} is no number above 0")
    return value
