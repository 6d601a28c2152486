"""What is where in one layer: its mixers, MLPs, gates, routers, and what it adds to the residual stream.

Rules go from names to what the probe saw; each site says which rule found it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pytest_maxact.anatomy import routing
from pytest_maxact.anatomy.gates import is_list_of_experts, place_gates, within
from pytest_maxact.anatomy.layer import Found, Layer
from pytest_maxact.anatomy.names import (
    CROSS,
    INSIDE,
    MIXER_CLASS,
    MIXER_NAME,
    MLP_CLASS,
    MLP_NAME,
    NORM_OF_PARTS,
    ROUTER_NAME,
    UNREADABLE,
    is_experts,
    is_linear,
    is_norm,
    is_router,
)
from pytest_maxact.anatomy.probe import Call, same
from pytest_maxact.anatomy.stack import descendants
from pytest_maxact.record import INPUT
from pytest_maxact.taps import Tap
from pytest_maxact.wrappers import bare


@dataclass(frozen=True)
class Recorded:
    """A model's own declaration of its routers: modules of a class, maybe below some name, give logits at `index`."""

    kind: type[nn.Module]
    index: int
    below: str | None

    def matches(self, name: str, module: nn.Module) -> bool:
        """Whether this is such a module."""
        return isinstance(module, self.kind) and (self.below is None or self.below in name)


def place(layer: Layer, routers: Sequence[Recorded], *, linear_inputs: bool) -> None:
    """Find the sites of a layer, without `hidden`."""
    mixers, mlps, rest = _parts(layer)
    taps = [_own_output(name, module) for name, module in mixers]
    if taps:
        layer.found.append(_joined("attention", taps))
        _place_write(layer, "attention_write", [tap for tap, _ in taps])
    taps = [_own_output(name, module) for name, module in mlps] or _spread_mlp(layer)
    if taps:
        layer.found.append(_joined("mlp", taps))
        _place_write(layer, "mlp_write", [tap for tap, _ in taps])
        rest = [(name, module) for name, module in rest if not any(within(f"{name}.", tap.name) for tap, _ in taps)]
    place_gates(layer, mlps)
    _place_routers(layer, [*mixers, *mlps, *rest], routers)
    if linear_inputs:
        _place_linear_inputs(layer)
    if not mixers and not taps and not layer.missed:
        layer.missed.append(f"attention and mlp: neither is a part of {type(layer.module).__name__}")
    placed = {tap.name for found in layer.found for tap in found.taps}
    unplaced = [name for name, module in rest if name not in placed and not is_norm(module) and not _spread(layer, name, taps)]
    if unplaced:
        kinds = ", ".join(name.removeprefix(f"{layer.name}.") for name in unplaced)
        layer.missed.append(f"{kinds} of {type(layer.module).__name__}")


def _parts(layer: Layer) -> tuple[list[tuple[str, nn.Module]], list[tuple[str, nn.Module]], list[tuple[str, nn.Module]]]:
    """Mixers, MLPs, and what else of the layer holds parameters; only of what ran."""
    mixers, mlps, rest = [], [], []

    def visit(module: nn.Module, prefix: str) -> None:
        for child_name, child in module.named_children():
            name, inner = f"{prefix}.{child_name}", bare(child)
            kind = _kind(child_name, inner)
            unreadable = UNREADABLE.get(type(inner).__name__)
            if unreadable is not None:
                layer.missed.append(f"{name.removeprefix(f'{layer.name}.')} of {type(layer.module).__name__}, {unreadable}")
            elif kind == "mlp" and layer.ran(inner):
                mlps.append((name, inner))
            elif kind == "mixer" and layer.ran(inner):
                mixers.append((name, inner))
            elif kind in ("mlp", "mixer"):
                layer.missed.append(
                    f"{name.removeprefix(f'{layer.name}.')} of {type(layer.module).__name__}, which did not run"
                )
            elif kind == "cross" or NORM_OF_PARTS.search(type(inner).__name__):
                continue
            elif is_router(inner):
                rest.append((name, inner))
            elif any(True for _ in inner.children()):
                if layer.ran(inner) and _uses_weights(layer, inner) and not _holds_norms(inner):
                    rest.append((name, inner))
                visit(inner, name)
            elif any(True for _ in inner.parameters()) and layer.ran(inner):
                rest.append((name, inner))

    visit(layer.module, layer.name)
    return mixers, mlps, rest


def _holds_norms(module: nn.Module) -> bool:
    """Whether a module is but a wrapper around norms, such as PEFT's of those that it saves whole."""
    holders = [inner for inner in module.modules() if any(True for _ in inner.parameters(recurse=False))]
    return all(is_norm(inner) for inner in holders)


def _uses_weights(layer: Layer, module: nn.Module) -> bool:
    """Whether a module computes with parameters of its own, or with those of a child that it does not call."""
    leaves = [child for child in map(bare, module.children()) if not any(True for _ in child.children())]
    silent = any(any(True for _ in leaf.parameters()) and not layer.ran(leaf) for leaf in leaves)
    return silent or any(True for _ in module.parameters(recurse=False))


def _kind(name: str, module: nn.Module) -> str | None:
    kind = type(module).__name__
    if CROSS.search(name) or CROSS.search(kind):
        return "cross"
    if isinstance(module, nn.ModuleList):
        return None
    if MLP_CLASS.search(kind):
        return "mlp"
    if MIXER_CLASS.search(kind):
        return "mixer"
    if MLP_NAME.fullmatch(name):
        return "mlp"
    return "mixer" if MIXER_NAME.fullmatch(name) else None


def _own_output(name: str, module: nn.Module) -> tuple[Tap, str]:
    """The module's output, or that of a part of it, and the rule."""
    rule = f"{name.rpartition('.')[2]} = {type(module).__name__}"
    for exception in INSIDE:
        if exception.known_as.search(type(module).__name__):
            try:
                part = module.get_submodule(exception.path)
            except AttributeError:
                continue
            return Tap(bare(part), f"{name}.{exception.path}"), f"{rule}; {exception.reason}"
    return Tap(module, name), rule


def _spread_mlp(layer: Layer) -> list[tuple[Tap, str]]:
    """An MLP without a module of its own: its last projection."""
    for path in ("fc2", "output.dense", "lin2"):
        try:
            last = bare(layer.module.get_submodule(path))
        except AttributeError:
            continue
        if layer.ran(last):
            return [(Tap(last, f"{layer.name}.{path}"), f"{path}, the last projection of an MLP that is no module of its own")]
    return []


def _spread(layer: Layer, name: str, taps: Sequence[tuple[Tap, str]]) -> bool:
    """Whether a module is the first projection of such an MLP."""
    first = name.removeprefix(f"{layer.name}.")
    return first in ("fc1", "intermediate.dense", "lin1") and any("no module of its own" in rule for _, rule in taps)


def _joined(component: str, taps: Sequence[tuple[Tap, str]]) -> Found:
    return Found(component, tuple(tap for tap, _ in taps), " and ".join(rule for _, rule in taps))


def _place_write(layer: Layer, component: str, taps: Sequence[Tap]) -> None:
    """Norms that take just what the component gave, and whose outputs nothing but the residual add takes."""
    writes = []
    inner = [call for _, module in descendants(layer.module, layer.name) for call in layer.calls(module)]
    for tap in taps:
        calls = layer.calls(tap.module)
        given = _observed(tap, calls[0]) if len(calls) == 1 else None
        for name, call in _norm_calls(layer):
            alone = not any(_takes(other, call.gave[0]) for other in inner if other is not call)
            if alone and given is not None and not within(name, tap.name) and _takes(call, given):
                writes.append(Tap(call.module, name))
    if len(writes) > 1:
        added = torch.stack([layer.calls(tap.module)[0].gave[0] for tap in writes]).sum(0)
        writes = [Tap(call.module, name) for name, call in _norm_calls(layer) if _close(call.input, added)] or writes
    if writes:
        names = " and ".join(tap.name.removeprefix(f"{layer.name}.") for tap in writes)
        layer.found.append(Found(component, tuple(writes), f"{names} takes what the {component.removesuffix('_write')} gave"))


def _norm_calls(layer: Layer) -> Iterator[tuple[str, Call]]:
    for name, module in descendants(layer.module, layer.name):
        calls = layer.calls(module) if is_norm(module) else []
        if len(calls) == 1:  # of one that serves several places no call is told from another
            yield name, calls[0]


def _takes(call: Call, given: torch.Tensor) -> bool:
    """Whether a call was given just these values, in whatever shape."""
    return call.input is not None and call.input.numel() == given.numel() and same(call.input.flatten(), given.flatten())


def _close(entered: torch.Tensor | None, value: torch.Tensor) -> bool:
    return entered is not None and entered.shape == value.shape and torch.allclose(entered, value)


def _place_routers(layer: Layer, blocks: Sequence[tuple[str, nn.Module]], routers: Sequence[Recorded]) -> None:
    found: list[tuple[Tap, str]] = []
    experts: list[nn.Module] = []
    for name, block in blocks:
        units = [(name, block), *descendants(block, name)]
        experts += [module for _, module in units if is_experts(module) and layer.ran(module)]
        with_experts = any(is_experts(inner) or is_list_of_experts(inner) for _, inner in units)
        for path, module in units:
            recorded = [router for router in routers if any(router.matches(p, m) for p, m in units)]
            tap = _router(layer, path, module, recorded, with_experts=with_experts)
            if tap is not None and not any(within(path, outer.name) for outer, _ in found):
                found.append(tap)
    if found:
        counted = next((module for module in experts if routing.index_of(layer.calls(module)) is not None), None)
        site = _joined("router", found)
        layer.found.append(Found("router", site.taps, site.rule, counted))


def _router(
    layer: Layer, name: str, module: nn.Module, routers: Sequence[Recorded], *, with_experts: bool
) -> tuple[Tap, str] | None:
    """The logits of a router, by the model's own recorder, else by its class or name."""
    if not layer.ran(module):
        return None
    for router in routers:
        if router.matches(name, module):
            return Tap(module, name, index=router.index), f"{type(module).__name__}[{router.index}], the model's own recorder"
    own = name.rpartition(".")[2]
    by_name = is_linear(module) and ROUTER_NAME.fullmatch(own)
    if with_experts and not routers and (by_name or is_router(module)):
        return Tap(module, name), f"{own} = {type(module).__name__}"
    return None


def _place_linear_inputs(layer: Layer) -> None:
    for name, module in descendants(layer.module, layer.name):
        if is_experts(module) and any(parameter.ndim > 2 for parameter in module.parameters(recurse=False)):
            layer.missed.append(f"inputs of the projections of {type(module).__name__}, which are no linear layers")
        if is_linear(module) and layer.ran(module):
            own = name.removeprefix(f"{layer.name}.")
            if not any(is_linear(outer) and within(name, path) for path, outer in descendants(layer.module, layer.name)):
                layer.found.append(Found(f"{INPUT}{own}", (Tap(module, name, "input"),), "an input of a linear layer"))


def _observed(tap: Tap, call: Call) -> torch.Tensor | None:
    value = call.gave[tap.index] if tap.index < len(call.gave) else None
    return value if isinstance(value, torch.Tensor) else None


def sites_of(layer: Layer, taken: Sequence[torch.Tensor]) -> Iterator[Found]:
    """Those of the layer, `hidden` among them: of several tensors that it gives those that the next layer takes.

    Args:
        layer: where sites have been placed.
        taken: what entered the next layer; nothing after the last one.

    """
    yield from layer.found
    gave = layer.calls(layer.module)[-1].gave
    tensors = [(index, part) for index, part in enumerate(gave) if isinstance(part, torch.Tensor)]
    first = tensors[0][1] if tensors else None
    alike = [(index, part) for index, part in tensors if first is not None and part.shape == first.shape]
    going_on = [index for index, part in alike if any(same(entered, part) for entered in taken)]
    taps = tuple(Tap(layer.module, layer.name, index=index) for index in going_on or [0])
    rule = "the layer's output" if going_on in ([], [0]) else "what of the layer's output the next one takes"
    yield Found("hidden", taps, rule)
