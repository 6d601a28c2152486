"""How a value is read out of a running model: the output or the input of a module, or what enters the gate of experts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from pytest_maxact.errors import AnatomyError

At = Literal["output", "input", "_apply_gate"]
Features = Literal["all", "first half", "second half", "even"]
Layout = tuple[int, ...]
Rows = Literal["tokens", "routed tokens", "unknown"]


@dataclass(frozen=True)
class Tap:
    """Where to read: `index` picks from an output that is a tuple, `features` says which of a fused projection's are meant.

    `rows` says what a row of the value is: a token of the batch, one as experts are sent it, or neither. `layout` are the axes
    that count rows, for tokens in the order batch, position; all others are features. `_apply_gate` is the method of
    transformers' experts that takes what their gate and up projections gave.
    """

    module: nn.Module
    name: str
    at: At = "output"
    index: int = 0
    features: Features = "all"
    rows: Rows = "tokens"
    layout: Layout = (0, 1)

    def __str__(self) -> str:
        what = {"output": "", "input": "what enters ", "_apply_gate": "what enters the gate of "}[self.at] + self.name
        part = "" if self.features == "all" else f", {self.features}"
        return f"{what}[{self.index}]{part}" if self.index else f"{what}{part}"

    def flat(self, value: torch.Tensor) -> torch.Tensor:
        """The features that are meant, as [rows, features]."""
        width = value.shape[-1]
        if self.features == "first half":
            value = value[..., : width // 2]
        elif self.features == "second half":
            value = value[..., width // 2 :]
        elif self.features == "even":
            value = value[..., ::2]
        if self.layout not in ((0,), (0, 1)):
            value = value.movedim(self.layout, tuple(range(len(self.layout))))
        return value.reshape(math.prod(value.shape[: len(self.layout)]), -1)


def tensor_of(output: Any, index: int = 0) -> torch.Tensor:
    """The observed tensor of a module's output: itself, or the `index`-th element of a tuple or ModelOutput.

    Raises:
        AnatomyError: where there is no tensor.

    """
    if not isinstance(output, torch.Tensor):
        parts = tuple(output.values() if hasattr(output, "values") else output)
        output = parts[index] if index < len(parts) else None
    if not isinstance(output, torch.Tensor):
        raise AnatomyError(f"a module gave {type(output).__name__} where a tensor was expected")
    return output


def first_input(values: Iterable[Any]) -> torch.Tensor | None:
    """The first floating-point tensor of what a module was called with."""
    return next((value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()), None)


@contextmanager
def tapped(callbacks: Mapping[Tap, Callable[[torch.Tensor, Any], None]]) -> Iterator[None]:
    """Call back with the tensor that is there, and all of the module's output; nothing of it stays afterwards."""
    undo: list[Callable[[], None]] = []
    try:
        for tap, callback in callbacks.items():
            undo.append(_attach(tap, callback))
        yield
    finally:
        for take_back in reversed(undo):
            take_back()


def _attach(tap: Tap, callback: Callable[[torch.Tensor, Any], None]) -> Callable[[], None]:
    if tap.at == "output":
        return tap.module.register_forward_hook(
            lambda module, args, output: callback(tensor_of(output, tap.index), output)
        ).remove
    if tap.at == "input":
        return tap.module.register_forward_pre_hook(
            lambda module, args, kwargs: callback(tensor_of([first_input((*args, *kwargs.values()))]), None), with_kwargs=True
        ).remove
    return on_gate(tap.module, lambda value: callback(value, None))


def on_gate(experts: Any, callback: Callable[[torch.Tensor], None]) -> Callable[[], None]:
    """Call back with what enters `experts._apply_gate`; gives what takes that back."""
    original, own = experts._apply_gate, "_apply_gate" in vars(experts)

    def observed(gate_up: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        callback(gate_up)
        return original(gate_up, *args, **kwargs)

    experts._apply_gate = observed

    def take_back() -> None:
        if own:
            experts._apply_gate = original
        else:
            del experts._apply_gate

    return take_back
