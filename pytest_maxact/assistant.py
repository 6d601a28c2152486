"""What a rank other than 0 does in place of a pytest session: its share of what rank 0 measures."""

from __future__ import annotations

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
    ranks = None
    try:
        settings = Settings.from_pytest(config)
        if settings.explain:
            return pytest.ExitCode.OK
        ranks = Ranks.join(place)
        settings = replace(settings, device=ranks.device(settings.device))
        loaded: tuple[str, Checkpoint] | None = None
        for order in ranks.orders():
            plan = Plan.of(_ordered(settings, order)).fetched()
            if loaded is None or loaded[0] != order["model"]:
                loaded = None  # two may not fit into memory
                loaded = (order["model"], plan.load())
            _help(plan, loaded[1], ranks, order)
    except MaxactError as cause:
        if ranks is not None:
            ranks.fail(str(cause))
        return pytest.ExitCode.TESTS_FAILED
    except Exception as cause:  # whatever a model's own code raises
        if ranks is None:
            raise
        ranks.fail(f"{type(cause).__name__}: {on_one_line(cause)}")
        return pytest.ExitCode.TESTS_FAILED
    finally:
        if ranks is not None:
            ranks.leave()
    return pytest.ExitCode.OK


def _ordered(settings: Settings, order: Any) -> Settings:
    """The settings of what rank 0 measures, which alone compares and writes."""
    return replace(
        settings,
        model=order["model"],
        series=(),
        corpus=order["corpus"],
        special_tokens=order["special_tokens"],
        compared_policies=(),
        baseline=NO_BASELINE,
        update=False,
        update_new=False,
        json=None,
    )


def _help(plan: Plan, checkpoint: Checkpoint, ranks: Ranks, order: Any) -> None:
    assist(
        checkpoint,
        plan.corpus,
        ranks,
        max_length=plan.settings.max_length,
        special_tokens=order["special_tokens"],
        batch_tokens=plan.settings.batch_tokens,
        sites=order["sites"],
        resume=None if order["resume"] is None else Path(order["resume"]),
    )
