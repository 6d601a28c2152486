"""Measure the maximum activations of LLM checkpoints and assert them against stored baselines.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_maxact.callback import MaxactCallback
    from pytest_maxact.checks import compare
    from pytest_maxact.record import Baseline, Measurement
    from pytest_maxact.runner import measure

__all__ = ["Baseline", "MaxactCallback", "Measurement", "compare", "measure"]

_HOMES = {
    "Baseline": "record",
    "MaxactCallback": "callback",
    "Measurement": "record",
    "compare": "checks",
    "measure": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
