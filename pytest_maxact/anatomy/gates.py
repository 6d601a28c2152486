"""The gates of a layer's MLPs: of dense ones, of shared experts, of routed experts in one module or in a list of modules.

A gate is what enters the activation function and is multiplied with something else afterwards. The probe's values tell which
projection that is; names decide only where no known function connects what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from pytest_maxact.anatomy.layer import Found, Layer
from pytest_maxact.anatomy.names import ACTIVATION_NAME, GATE_NAME, is_experts, is_linear, is_router
from pytest_maxact.anatomy.probe import Call, same
from pytest_maxact.anatomy.stack import descendants
from pytest_maxact.taps import Features, Tap
from pytest_maxact.wrappers import bare

ACTIVATIONS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    functional.silu,
    functional.gelu,
    partial(functional.gelu, approximate="tanh"),
    functional.relu,
    lambda value: functional.relu(value).square(),
    torch.sigmoid,
)
ROUNDING = 0.02  # of the largest value: what bfloat16 makes of a product
MOSTLY = 0.5  # of the values enter the activation as they are, where a clamp changes some

Named = tuple[str, nn.Module]


class Candidate(NamedTuple):
    """What may be a gate: a projection's output, or half of it, and where that is read."""

    tap: Tap
    value: torch.Tensor

    @property
    def name(self) -> str:
        """The projection's own name, and which part of it."""
        part = "" if self.tap.features == "all" else f"{self.tap.features} of "
        return part + self.tap.name.rpartition(".")[2]


def place_gates(layer: Layer, blocks: Sequence[Named]) -> None:
    """Find the gates in the MLPs of a layer, as one site."""
    found: list[Found] = []
    for name, block in blocks:
        units = [(name, block), *descendants(block, name)]
        experts = outermost([(path, module) for path, module in units if is_experts(module) and layer.ran(module)])
        lists = outermost([(path, module) for path, module in units if is_list_of_experts(module) and path != name])
        found += filter(None, (_gate_of_experts(layer, path, module) for path, module in experts))
        found += filter(None, (_gate_of_list(layer, path, module) for path, module in lists))
        done = [path for path, _ in (*experts, *lists)]
        dense = [(path, module) for path, module in units if not is_router(module) and not _below(path, done)]
        found += filter(None, (_dense_gate(layer, path, module) for path, module in dense))
    if found:
        taps = tuple(tap for gate in found for tap in gate.taps)
        routed = next((gate.experts for gate in found if gate.experts is not None), None)
        layer.found.append(Found("gate", taps, " and ".join(dict.fromkeys(gate.rule for gate in found)), routed))


def is_list_of_experts(module: nn.Module) -> bool:
    """Whether a module is a list of several of one class, which hold weights."""
    if not isinstance(module, nn.ModuleList) or len(module) < 2:
        return False
    kinds = {type(bare(member)) for member in module}
    return len(kinds) == 1 and any(True for _ in module[0].children()) and any(True for _ in module.parameters())


def within(name: str, outer: str) -> bool:
    """Whether a module is below another, by their names."""
    return name.startswith(f"{outer}.")


def outermost(named: Sequence[Named]) -> list[Named]:
    """Those that are below no other."""
    return [(name, module) for name, module in named if not any(within(name, outer) for outer, _ in named)]


def _below(name: str, outer: Sequence[str]) -> bool:
    return any(name == other or within(name, other) for other in outer)


def _gate_of_experts(layer: Layer, name: str, experts: nn.Module) -> Found | None:
    """What enters `_apply_gate`, or where that does not run the activation function."""
    if getattr(experts, "has_gate", True) is False:
        return None
    if layer.calls(experts, gate=True):
        halves = getattr(experts, "is_concatenated", True)
        tap = Tap(experts, name, "_apply_gate", features="first half" if halves else "even")
        return Found("gate", (tap,), f"{type(experts).__name__}._apply_gate, {tap.features}", experts)
    for path, module in descendants(experts, name):
        if ACTIVATION_NAME.fullmatch(path.rpartition(".")[2]) and layer.ran(module):
            tap = Tap(module, path, "input")
            return Found("gate", (tap,), f"what enters the activation of {type(experts).__name__}", experts)
    projection = next((path for path, _ in experts.named_parameters() if "gate" in path), None)
    if projection is not None:
        layer.missed.append(f"gates of the experts in {type(experts).__name__}")
    return None


def _gate_of_list(layer: Layer, name: str, experts: nn.Module) -> Found | None:
    """The gate of each expert of a list, also of those that none of the probe's tokens was sent to."""
    members = [(f"{name}.{number}", bare(member)) for number, member in enumerate(experts.children())]
    for path, member in members:
        gate = _dense_gate(layer, path, member) if layer.ran(member) else None
        if gate is not None:
            (tap,) = gate.taps
            below = tap.name.removeprefix(f"{path}.")
            taps = (
                replace(tap, module=bare(other.get_submodule(below)), name=f"{at}.{below}", rows="unknown")
                for at, other in members
            )
            return Found("gate", tuple(taps), f"{gate.rule}, of each {type(member).__name__} in {name.rpartition('.')[2]}")
    return None


def _dense_gate(layer: Layer, name: str, unit: nn.Module) -> Found | None:
    """The gate among what a module's own projections give."""
    children = [(f"{name}.{child}", bare(module)) for child, module in unit.named_children()]
    ran = [(path, module) for path, module in children if layer.ran(module)]
    linear = [(path, layer.calls(module)[0]) for path, module in ran if is_linear(module)]
    candidates = list(_candidates(linear))
    activation = next(((path, module) for path, module in ran if ACTIVATION_NAME.fullmatch(path.rpartition(".")[2])), None)
    if activation is not None:
        path, module = activation
        entered = layer.calls(module)[0].input
        if entered is None or not _gated(layer, module, ran):
            return None
        alike = [candidate for candidate in candidates if candidate.value.shape == entered.shape]
        for candidate in alike:
            if _mostly_same(candidate.value, entered):
                return Found("gate", (candidate.tap,), f"{candidate.name} enters {path.rpartition('.')[2]}")
        for candidate in alike:  # some make its values sparse in between
            if GATE_NAME.fullmatch(candidate.name):
                return Found("gate", (candidate.tap,), f"{candidate.name}, by its name")
        return Found("gate", (Tap(module, path, "input"),), f"what enters the activation of {type(unit).__name__}")
    return _unseen_activation(layer, unit, linear, candidates)


def _unseen_activation(
    layer: Layer, unit: nn.Module, linear: Sequence[tuple[str, Call]], candidates: Sequence[Candidate]
) -> Found | None:
    """The gate where the activation is a function: by what the next projection takes, else by name."""
    wide = False
    for _, call in linear:
        product = call.input
        if product is None:
            continue
        alike = [one for one in candidates if one.value.shape == product.shape and one.tap.module is not call.module]
        wide = wide or len({one.tap.features for one in alike}) > 1 or len(alike) > 1
        for gate in alike:
            for activation in ACTIVATIONS:
                activated = activation(gate.value)
                if _close(activated, product):
                    return None  # there is nothing that it gates
                if any(one is not gate and _close(activated * one.value, product) for one in alike):
                    return Found("gate", (gate.tap,), f"{gate.name}, which is activated and multiplied")
    for candidate in candidates:
        own = candidate.tap.name.rpartition(".")[2]
        fused = own.startswith("gate_up") and candidate.tap.features == "first half"
        if fused or (GATE_NAME.fullmatch(own) and candidate.tap.features == "all"):
            return Found("gate", (candidate.tap,), f"{candidate.name}, by its name")
    if wide:
        layer.missed.append(f"gate of {type(unit).__name__}, if it has one: no activation that is known explains its values")
    return None


def _candidates(linear: Sequence[tuple[str, Call]]) -> Iterator[Candidate]:
    """Whole outputs first, then halves."""
    parts: tuple[tuple[Features, ...], ...] = (("all",), ("first half", "second half"))
    for features in parts:
        for path, call in linear:
            gave = call.gave[0]
            for part in features:
                if part == "all" or gave.shape[-1] % 2 == 0:
                    tap = Tap(call.module, path, features=part, layout=tuple(range(gave.ndim - 1)))
                    value = tap.flat(gave)
                    yield Candidate(tap, value.reshape(*gave.shape[:-1], value.shape[-1]))


def _gated(layer: Layer, activation: nn.Module, ran: Sequence[Named]) -> bool:
    """Whether something else happens to what an activation gave before the next projection takes it."""
    gave = layer.calls(activation)[0].gave[0]
    if bool(gave.isnan().all()):  # of a broken checkpoint only names tell
        return any(GATE_NAME.fullmatch(path.rpartition(".")[2]) for path, _ in ran)
    others = [layer.calls(module)[0].input for _, module in ran if module is not activation]
    return not any(other is not None and same(other, gave) for other in others) and any(
        other is not None and other.shape == gave.shape for other in others
    )


def _mostly_same(value: torch.Tensor, entered: torch.Tensor) -> bool:
    return bool(torch.isclose(value, entered, rtol=0, atol=0, equal_nan=True).float().mean() > MOSTLY)


def _close(value: torch.Tensor, product: torch.Tensor) -> bool:
    return bool(((value - product).abs() <= ROUNDING * product.abs().max()).all())
