"""What a rank other than 0 does in place of a pytest session: its share of what rank 0 measures."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_maxact.baseline import NO_BASELINE
from pytest_maxact.errors import MaxactError, on_one_line
from pytest_maxact.plan import Plan
from pytest_maxact.ranks import Ranks
from pytest_maxact.runner import assist
from pytest_maxact.settings import Settings

if TYPE_CHECKING:
    from pytest_maxact.checkpoint import Checkpoint
    from pytest_maxact.launch import Place


def serve(config: pytest.Config, place: Place) -> pytest.ExitCode:
    """Help rank 0 until it leaves; what goes wrong is told to it, and by it."""
    try:
        settings = Settings.from_pytest(config)
    except MaxactError:  # rank 0 meets and tells the same
        return pytest.ExitCode.USAGE_ERROR
    if settings.explain:
        return pytest.ExitCode.OK
    if config.getoption("numprocesses", None):  # rank 0 refuses that
        return pytest.ExitCode.USAGE_ERROR
    try:
        ranks = Ranks.join(place)
    except MaxactError as cause:  # which rank 0 may not know
        sys.stderr.write(f"ERROR: {cause}\n")
        return pytest.ExitCode.USAGE_ERROR
    try:
        settings = replace(settings, device=ranks.device(settings.device))
        plan: Plan | None = None
        checkpoint: Checkpoint | None = None
        for order in ranks.orders():
            wanted = replace(settings, model=order["model"], corpus=order["corpus"])
            if plan is None or (plan.settings.model, plan.settings.corpus) != (wanted.model, wanted.corpus):
                plan = checkpoint = None  # two may not fit into memory
                plan = Plan.of(_alone(wanted)).fetched()
                checkpoint = plan.load()
            assert checkpoint is not None
            if order["run"] is not None:
                _help(plan, checkpoint, ranks, order["run"])
    except MaxactError as cause:
        ranks.fail(str(cause))
        return pytest.ExitCode.TESTS_FAILED
    except Exception as cause:  # whatever a model's own code raises
        kind = type(cause).__name__
        ranks.fail(kind if settings.no_text else f"{kind}: {on_one_line(cause)}")  # a tokenizer may quote a text
        return pytest.ExitCode.TESTS_FAILED
    finally:
        ranks.leave()
    return pytest.ExitCode.OK


def _alone(settings: Settings) -> Settings:
    """The settings of one checkpoint that is measured; rank 0 alone compares and writes."""
    alone = replace(settings, series=(), compared_policies=(), baseline=NO_BASELINE)
    return replace(alone, update=False, update_new=False, json=None)


def _help(plan: Plan, checkpoint: Checkpoint, ranks: Ranks, wanted: Any) -> None:
    assist(
        checkpoint,
        plan.corpus,
        ranks,
        max_length=plan.settings.max_length,
        special_tokens=wanted["special_tokens"],
        batch_tokens=plan.settings.batch_tokens,
        sites=wanted["sites"],
        resume=None if wanted["resume"] is None else Path(wanted["resume"]),
    )
