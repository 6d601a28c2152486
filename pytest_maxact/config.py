"""Every option once: name, default, help; and `Settings`, what a session was told, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_maxact.errors import SettingsError

SUITE = "maxact"
BENCHMARK = "benchmark"

# Where all xdist workers of a session find what one has measured, and how the session was called.
FOLDER = pytest.StashKey[Path]()
COMMAND = pytest.StashKey[tuple[str, ...]]()


@dataclass(frozen=True)
class Option:
    """A command-line option; unless it is an action it has an ini key of the same name with underscores."""

    name: str
    help: str
    metavar: str | None = None
    default: str | None = None
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    flag: bool = False
    action_only: bool = False
    may_be_path: bool = False

    @property
    def dest(self) -> str:
        """The ini key, and the attribute in pytest's options."""
        return "maxact_" + self.name.replace("-", "_")


OPTIONS = (
    Option(
        "model",
        "checkpoint to measure and check: hub id (org/name, org/name@revision), folder, .gguf file, demo or demo-blowup",
        "ID",
        repeatable=True,
        may_be_path=True,
    ),
    Option(
        "corpus",
        "bundled corpus (core, smoke), a JSON Lines, .txt or .parquet file, or hf:org/dataset; A+B joins",
        "NAME",
        "core",
        may_be_path=True,
    ),
    Option("samples", "only the first N samples, categories kept in proportion", "N"),
    Option("max-length", "tokens kept of a sample (default: least of 4096 and the model's context)", "N"),
    Option("special-tokens", "what is put around a text", default="none", choices=("none", "tokenizer", "chat")),
    Option("batch-tokens", "token budget of a batch, padding counted (default: 4096 on a CPU, 16384 on a GPU)", "N"),
    Option(
        "dtype",
        "dtype of the model (default: the config's own, bfloat16 for GGUF)",
        default="auto",
        choices=("auto", "bfloat16", "float16", "float32"),
    ),
    Option("device", "cpu, cuda, cuda:1 or mps (default: the best there is)", "NAME", "auto"),
    Option(
        "baseline",
        "auto: by model id in the baselines folder, then among the package's; a name or file; none: measure and report only",
        "NAME",
        "auto",
        may_be_path=True,
    ),
    Option("baselines", "folder of the project's baselines (default: <rootdir>/baselines)", "DIR"),
    Option("update", "write what was measured as the baseline, list each change, pass", flag=True, action_only=True),
    Option("update-new", "like --maxact-update, but never overwrite a baseline", flag=True, action_only=True),
    Option("rtol", "relative tolerance of M, dominance and the Sun margin (default: 0.10)", "X", "0.10"),
    Option("site-rtol", "relative tolerance of a single site's peak (default: 0.50)", "X", "0.50"),
    Option("two-sided", "a fall beyond the tolerance fails too", flag=True),
    Option("ceiling", "M must not exceed X, baseline or not", "X"),
    Option(
        "format",
        "a number format that must hold every site, repeatable (int8: no SQNR more than 1 dB below the baseline)",
        choices=("float16", "fp8_e4m3", "fp8_e5m2", "int8"),
        repeatable=True,
    ),
    Option(
        "suite",
        "when to add the built-in checks (auto: unless paths were given)",
        default="auto",
        choices=("auto", "always", "never"),
    ),
    Option("json", "write the record to FILE", "FILE", action_only=True),
    Option("benchmark", "measure also what observing costs, and show it", flag=True, action_only=True),
    Option("fresh", "measure anew, also what pytest's cache has kept", flag=True, action_only=True),
    Option("trust-remote-code", "allow a checkpoint that needs Python code of its own", flag=True, action_only=True),
)


def add_options(parser: pytest.Parser) -> None:
    """Tell pytest of every option and ini key."""
    group = parser.getgroup("maxact", "maximum activations (pytest-maxact)")
    for option in OPTIONS:
        how: dict[str, Any] = {"dest": option.dest, "default": None, "help": option.help}
        if option.flag:
            how["action"] = "store_true"
        else:
            how["metavar"] = option.metavar or "|".join(option.choices)
            if option.repeatable:
                how["action"] = "append"
        group.addoption(f"--maxact-{option.name}", **how)
        if not option.action_only:
            kind: Literal["bool", "string"] = "bool" if option.flag else "string"
            parser.addini(option.dest, option.help, type=kind, default=None)


def names_a_model(config: pytest.Config) -> bool:
    """Whether a checkpoint was named, on the command line or in the ini file."""
    return bool(config.getoption("maxact_model") or config.getini("maxact_model"))


@dataclass(frozen=True)
class Settings:
    """What a session was told. Folders count from where pytest was called, those of an ini file from rootdir.

    `model` is None where none was named.
    """

    model: str | None
    corpus: str
    samples: int | None
    max_length: int | None
    special_tokens: str
    batch_tokens: int | None
    dtype: str
    device: str
    baseline: str
    baselines: Path
    update: bool
    update_new: bool
    rtol: float
    site_rtol: float
    two_sided: bool
    ceiling: float | None
    formats: tuple[str, ...]
    suite: str
    json: Path | None
    benchmark: bool
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
        if len(models) > 1:
            raise SettingsError(f"--maxact-model was given {len(models)} times: one run measures one checkpoint")
        if raw["update"] and raw["update_new"]:
            raise SettingsError("--maxact-update and --maxact-update-new exclude each other: give one of them")
        here = config.invocation_params.dir
        folder = raw["baselines"] or config.rootpath / "baselines"
        home = here if config.getoption("maxact_baselines") else config.rootpath
        return cls(
            model=models[0],
            corpus=raw["corpus"],
            samples=_whole(raw, "samples"),
            max_length=_whole(raw, "max_length"),
            special_tokens=raw["special_tokens"],
            batch_tokens=_whole(raw, "batch_tokens"),
            dtype=raw["dtype"],
            device=raw["device"],
            baseline=raw["baseline"],
            baselines=home / Path(folder).expanduser(),
            update=bool(raw["update"]),
            update_new=bool(raw["update_new"]),
            rtol=_positive(raw, "rtol") or 0.0,
            site_rtol=_positive(raw, "site_rtol") or 0.0,
            two_sided=bool(raw["two_sided"]),
            ceiling=_positive(raw, "ceiling"),
            formats=tuple(dict.fromkeys(raw["format"] or ())),
            suite=raw["suite"],
            json=None if raw["json"] is None else here / Path(raw["json"]).expanduser(),
            benchmark=bool(raw["benchmark"]),
            fresh=bool(raw["fresh"]),
            trust_remote_code=bool(raw["trust_remote_code"]),
        )


def from_rootdir(config: pytest.Config, name: str) -> str:
    """A name in a file of the project: a path counts from rootdir, wherever pytest was called."""
    return str(config.rootpath / name) if (config.rootpath / name).exists() else name


def _given(config: pytest.Config, option: Option) -> Any:
    """The command line's value, else the ini file's, else the default."""
    value = config.getoption(option.dest)
    if option.flag:
        return value or (not option.action_only and bool(config.getini(option.dest)))
    if value is None and not option.action_only:
        ini = config.getini(option.dest) or option.default
        if option.may_be_path and ini:
            ini = from_rootdir(config, ini)
        value = ini
        if option.repeatable and ini:
            value = ini.replace(",", " ").split() if option.choices else [ini]  # a path may hold spaces
    for one in (value or []) if option.repeatable else [value]:
        if option.choices and one not in option.choices:
            raise SettingsError(f"--maxact-{option.name}={one} is none of {', '.join(option.choices)}")
    return value


def _whole(raw: dict[str, Any], name: str) -> int | None:
    text = raw[name]
    if text is None:
        return None
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19 and int(digits)):
        raise SettingsError(f"--maxact-{name.replace('_', '-')}={text} is no whole number from 1")
    return int(text)


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
