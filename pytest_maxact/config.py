"""Every option once: name, default, help. Read in each pytest session, also those without a checkpoint: kept light."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

if TYPE_CHECKING:
    from pytest_maxact.series import Member

SUITE = "maxact"
ACTIONS = ("update", "update-new", "json", "explain", "benchmark", "fresh")  # which the built-in suite does
BENCHMARK = "benchmark"

FOLDER = pytest.StashKey[Path]()
SERIES = pytest.StashKey[tuple["Member", ...]]()


class Option(NamedTuple):
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
        "checkpoint to measure and check: hub id (org/name, org/name@revision), folder, .gguf file, demo or demo-blowup; "
        "repeated, or a quoted glob: a series",
        "ID",
        repeatable=True,
        may_be_path=True,
    ),
    Option(
        "corpus",
        "bundled corpus (core, smoke, images, diverse-5k, stress, vocabulary), a JSON Lines, .txt or .parquet file, or "
        "hf:org/dataset; A+B joins",
        "NAME",
        "core",
        may_be_path=True,
    ),
    Option("samples", "only the first N samples, categories kept in proportion", "N"),
    Option("max-length", "tokens kept of a sample (default: least of 4096 and the model's context)", "N"),
    Option(
        "special-tokens",
        "what is put around a text; of several the first counts, and how M moves under the others is told",
        default="none",
        choices=("none", "tokenizer", "chat"),
        repeatable=True,
    ),
    Option("batch-tokens", "token budget of a batch, padding counted (default: 4096 on a CPU, 16384 on a GPU)", "N"),
    Option(
        "dtype",
        "dtype of the model (default: the config's own, bfloat16 for GGUF)",
        default="auto",
        choices=("auto", "bfloat16", "float16", "float32"),
    ),
    Option("device", "cpu, cuda, cuda:1, mps, or balanced: over all there are (default: the best one)", "NAME", "auto"),
    Option(
        "baseline",
        "auto: by model id in the baselines folder, then among the package's; a name or file; published: by hub id among the "
        "figures of arXiv 2605.15572; previous: in a series, the "
        "checkpoint before; none: measure and report only",
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
    Option("growth", "in a series: M and each site at most X times what its own history predicts (default: 2)", "X", "2"),
    Option("growth-total", "in a series: M at most X times that of its first checkpoint", "X"),
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
    Option(
        "sites",
        "further sites, recorded and no part of M: +linear-inputs, what enters each linear layer",
        choices=("+linear-inputs",),
        repeatable=True,
    ),
    Option("explain", "show the sites of the model and the rule that found each; run no corpus", flag=True, action_only=True),
    Option("json", "write the record to FILE; of a series, the records to a folder", "FILE", action_only=True),
    Option("benchmark", "measure also what observing costs, and show it", flag=True, action_only=True),
    Option("no-text", "leave tokens, texts, ids and categories of samples out of all that is written and shown", flag=True),
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


def shared_folder(config: pytest.Config) -> Path:
    """Where all xdist workers of a session find what one has measured; made by who first needs it."""
    if FOLDER not in config.stash:
        told = getattr(config, "workerinput", {}).get("maxact_folder")
        config.stash[FOLDER] = Path(told) if told else Path(tempfile.gettempdir(), f"maxact-{os.urandom(16).hex()}")
    return config.stash[FOLDER]


def names_the_suite(argument: str) -> bool:
    """Whether a command-line argument means the built-in suite or a check of it, and no path."""
    return (argument == SUITE or argument.startswith(f"{SUITE}::")) and not Path(SUITE).exists()
