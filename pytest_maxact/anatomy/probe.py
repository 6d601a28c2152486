"""One forward of a few tokens with hooks everywhere: which modules ran, in which layer, on what, and what they gave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pytest_maxact.anatomy.stack import Stack
from pytest_maxact.errors import AnatomyError, first_line
from pytest_maxact.taps import Layout, first_input, on_gate
from pytest_maxact.wrappers import input_device, run

SHAPE = (2, 5)  # unequal, so that no dimension is taken for another


@dataclass(frozen=True)
class Call:
    """One call of a module, or of its method `_apply_gate`.

    `layer` is the number of the layer whose forward it belongs to. Tensors are copies, since a later layer may write into
    them: `entered` those that came in, by position and then by name, `gave` those that came out.
    """

    module: nn.Module
    layer: int | None
    entered: tuple[torch.Tensor, ...]
    gave: tuple[Any, ...]
    gate: bool = False

    @property
    def input(self) -> torch.Tensor | None:
        """The first floating-point tensor that came in."""
        return first_input(self.entered)


@dataclass
class Trace:
    """What the probe saw of a batch of this shape, in order of finishing.

    `runs` are the layers, numbered, in the order in which they began.
    """

    shape: tuple[int, int] = SHAPE
    calls: list[Call] = field(default_factory=list)
    runs: list[tuple[int, nn.Module]] = field(default_factory=list)
    _by: dict[tuple[nn.Module, int | None, bool], list[Call]] = field(default_factory=lambda: defaultdict(list))

    def add(self, call: Call) -> None:
        """Note a call that is through."""
        self.calls.append(call)
        self._by[call.module, call.layer, call.gate].append(call)

    def of(self, module: nn.Module, layer: int | None, *, gate: bool = False) -> list[Call]:
        """The calls of a module in one run of a layer, None being outside of all."""
        return self._by.get((module, layer, gate), [])


def ten_tokens(core: nn.Module, vocabulary: int) -> dict[str, torch.Tensor]:
    """What the text decoder is probed with."""
    ids = (torch.arange(SHAPE[0] * SHAPE[1], device=input_device(core)) % vocabulary).reshape(SHAPE)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def probe(model: nn.Module, inputs: Mapping[str, torch.Tensor], stack: Stack, watched: Iterable[nn.Module]) -> Trace:
    """Run a few tokens through the model.

    Args:
        model: what is called.
        inputs: what it takes, `input_ids` [B, T] among it.
        stack: its layers.
        watched: all modules to note.

    Raises:
        AnatomyError: where it wants something else.

    """
    batch, length = inputs["input_ids"].shape
    trace = Trace((batch, length))
    undo: list[Callable[[], None]] = []
    numbers = {module: number for number, module in enumerate(stack.names)}
    current: list[int | None] = [None]

    def enter(module: nn.Module, *_: Any) -> None:
        number = len(trace.runs) if stack.in_turns else numbers[module]
        current[0] = number
        trace.runs.append((number, module))

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        entered = tuple(_copy(value) for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        parts = (output,) if isinstance(output, torch.Tensor) else _values(output)
        trace.add(Call(module, current[0], entered, tuple(_copy(part) for part in parts)))
        if module in numbers:
            current[0] = None

    def gate_of(experts: nn.Module) -> Callable[[torch.Tensor], None]:
        return lambda gate_up: trace.add(Call(experts, current[0], (_copy(gate_up),), (), gate=True))

    try:
        for layer in numbers:
            undo.append(layer.register_forward_pre_hook(enter).remove)
        for module in watched:
            undo.append(module.register_forward_hook(note, with_kwargs=True).remove)
            if hasattr(module, "_apply_gate"):
                undo.append(on_gate(module, gate_of(module)))
        with torch.no_grad():
            run(model, inputs)
    except (TypeError, ValueError, AttributeError, LookupError) as cause:  # what a forward raises that misses an input
        given = "text alone" if len(inputs) == 2 else "what its processor makes"
        raise AnatomyError(f"{type(model).__name__} does not run on {given}: {first_line(cause)}") from cause
    finally:
        for take_back in reversed(undo):
            take_back()
    return trace


def layout_of(tensor: torch.Tensor, batch: tuple[int, int]) -> Layout | None:
    """Which axes of a tensor count the tokens of a batch of this shape; None where its rows are not the tokens."""
    shape = tuple(tensor.shape)
    if len(shape) < 2:
        return None
    for axis in range(len(shape) - 2):
        if shape[axis : axis + 2] == batch:
            return (axis, axis + 1)
    for axis in range(len(shape) - 1):
        if shape[axis] == batch[0] * batch[1]:
            return (axis,)
    if shape[:2] == batch[::-1] and len(shape) > 2:
        return (1, 0)
    return None


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal element for element, a NaN being equal to a NaN: a broken checkpoint is measured, not refused."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.isclose(one, other.to(one.device), rtol=0, atol=0, equal_nan=True).all())


def _values(output: Any) -> tuple[Any, ...]:
    if output is None:
        return ()
    if hasattr(output, "values"):
        return tuple(output.values())
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else None
