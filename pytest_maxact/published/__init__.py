"""The landscape of arXiv 2605.15572 as data: its 27 checkpoints with their figures, and how they belong together.

The figures are baselines (`baselines/published/`), made by `pytest_maxact.published.make` from what the paper's authors
published beside it. `models()` says what each checkpoint is, the tuples of names below which of them the paper compares; the
names are those of the authors' files.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from pydantic import ValidationError

from pytest_maxact.baseline import PUBLISHED_FOLDER, file_name
from pytest_maxact.errors import BaselineError, first_line, shortened
from pytest_maxact.record import Baseline, Count, Figure, Record
from pytest_maxact.resources import data_folder

LANDSCAPE = "landscape.json"

Kind = Literal["dense", "moe", "vision-language"]
Policy = Literal["maxabs", "p999"]


class PublishedModel(Record):
    """What one of the checkpoints is, and how it was measured.

    `parameters` are billions by the name of the checkpoint, `active` those that a token meets in a mixture of experts, None
    where the name does not tell. `instruct` is as the paper calls it, which does not say so of vision-language models.
    `trained` are trillions of tokens of an intermediate checkpoint, None for a finished one. `main` tells whether the paper
    counts it among the 24 of its main analysis. `seconds` are how long the authors' script took on one 80 GB-class GPU.
    """

    name: str
    hub_id: str
    family: str
    kind: Kind
    instruct: bool
    parameters: Figure
    active: Figure | None
    trained: Figure | None
    main: bool
    tokens: Count
    seconds: Figure


class Int8Row(Record):
    """What INT-8 makes of the peak site of one checkpoint, sequences cut at 4,096 tokens.

    `threshold` is max|a| or the 99.9% quantile of |a| over 128 samples, so max-abs can lie below M; `sqnr`, in dB, and
    `clipped`, the share of values beyond the threshold, are over 256 others.
    """

    name: str
    policy: Policy
    threshold: Figure
    sqnr: Figure
    clipped: Figure


class BootstrapRow(Record):
    """M of one checkpoint over one category-proportional subset of the corpus."""

    name: str
    samples: Count
    repeat: Count
    maximum: Figure


class Landscape(Record):
    """Everything the authors published that is no baseline."""

    models: list[PublishedModel]
    int8: list[Int8Row]
    bootstrap: list[BootstrapRow]


# Successive generations, oldest first: of Qwen about the same size, of Gemma the smaller and the larger ones, base to instruct.
GENERATIONS = (
    ("Qwen2.5-1.5B", "Qwen3-1.7B", "Qwen3.5-0.8B"),
    ("Qwen2.5-7B", "Qwen3-8B", "Qwen3.5-9B"),
    ("Qwen2.5-32B", "Qwen3-32B", "Qwen3.5-27B"),
    ("gemma-2b", "gemma-3-4b-it"),
    ("gemma-2-27b", "gemma-3-27b-it"),
)
# Dense and mixture of experts of one generation and about one size.
DENSE_AND_MOE = (("Qwen3-32B", "Qwen3-30B-A3B"), ("Qwen3.5-27B", "Qwen3.5-35B-A3B"))
# One training run, earliest first.
TRAINING_STAGES = (("Ling-mini-5T", "Ling-mini-10T", "Ling-mini-15T", "Ling-mini-20T"),)
BASE_AND_INSTRUCT = (
    ("Qwen2.5-1.5B", "Qwen2.5-1.5B-Instruct"),
    ("Qwen2.5-7B", "Qwen2.5-7B-Instruct"),
    ("Qwen2.5-32B", "Qwen2.5-32B-Instruct"),
)
# The base text model, and the vision-language model of its size, which is instruct-tuned too.
TEXT_AND_VISION = (("Qwen2.5-7B", "Qwen2.5-VL-7B"), ("Qwen2.5-32B", "Qwen2.5-VL-32B"))


@cache
def landscape() -> Landscape:
    """What the authors published that is no baseline.

    Raises:
        BaselineError: where this installation's copy is missing or damaged.

    """
    file = data_folder(PUBLISHED_FOLDER) / LANDSCAPE
    try:
        return Landscape.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as cause:
        raise BaselineError(f"{file} cannot be read ({first_line(cause)}): reinstall pytest-maxact") from None


@cache
def models() -> dict[str, PublishedModel]:
    """The checkpoints by name, families together."""
    return {model.name: model for model in landscape().models}


@cache
def figures(name: str) -> Baseline:
    """The figures of one checkpoint.

    Raises:
        BaselineError: where the paper has none of that name.

    """
    if name not in models():
        raise BaselineError(f"there are no published figures of {shortened(name)}: there are those of {', '.join(models())}")
    return Baseline.load(data_folder(PUBLISHED_FOLDER) / file_name(models()[name].hub_id))
