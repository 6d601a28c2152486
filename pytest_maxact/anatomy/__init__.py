"""Where the sites are in a model: found by structure and names, then verified by a tiny forward.

`stack` finds the decoder and its layers, `components` what is in a layer, `names` holds the patterns and the exceptions,
`probe` runs the forward that verifies all. What cannot be placed is left out and said in `Anatomy.notes`; what would make M
wrong without anyone noticing (layers or the embedding not found, layers run out of order) is an `AnatomyError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pytest_maxact.anatomy import routing
from pytest_maxact.anatomy.components import Recorded, place, sites_of
from pytest_maxact.anatomy.layer import Found, Layer
from pytest_maxact.anatomy.names import FOREIGN, is_norm
from pytest_maxact.anatomy.placement import Placement
from pytest_maxact.anatomy.probe import Trace, layout_of, probe, same, ten_tokens
from pytest_maxact.anatomy.stack import Stack, find_core, find_stack, text_config
from pytest_maxact.anatomy.vision import find_vision
from pytest_maxact.errors import AnatomyError
from pytest_maxact.record import Site
from pytest_maxact.taps import Tap

__all__ = ["Anatomy", "Placement", "find_sites", "text_config"]

# Components of which a row that is no token of the batch would be a mistake.
EACH_TOKEN = frozenset(("embedding", "hidden", "attention", "mlp", "attention_write", "mlp_write", "router", "final_norm"))

ONLY_IMAGES = "which run only with images"


@dataclass(frozen=True)
class Anatomy:
    """The sites of a model in the order in which a forward reaches them.

    `core` is the text decoder that runs them, without language-model head, and `stack` are its layers; `whole` is the model
    that takes images, too, where it is another. `notes` say in words what is not observed, and what is unusual.
    """

    core: nn.Module
    whole: nn.Module
    stack: Stack
    hidden_size: int
    placements: tuple[Placement, ...]
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return self.stack.count

    @property
    def needs_whole_batches(self) -> bool:
        """Whether padded tokens cannot be told from others somewhere, so that batches must have none."""
        text = [placement for placement in self.placements if not placement.only_with_images]
        return any(tap.rows == "unknown" for placement in text for tap in placement.taps)

    def with_images(self, inputs: Mapping[str, torch.Tensor], *, linear_inputs: bool = False) -> Anatomy:
        """With the sites of the vision tower, and of layers that only images reach.

        Args:
            inputs: what `whole` takes of a sample with an image.
            linear_inputs: as in `find_sites`.

        Raises:
            AnatomyError: where that does not run, or no layers of a vision tower do.

        """
        tower = find_vision(self.whole, self.core, inputs)
        if not self.stack.without_images:
            return replace(self, placements=(*tower, *self.placements))
        trace = probe(self.whole, inputs, self.stack, _watched(self.core))
        reached = [run for run in trace.runs if run[0] in self.stack.without_images]
        taken, missed = _sites_of_layers(self.core, self.stack, trace, reached, linear_inputs=linear_inputs)
        found = [replace(placement, only_with_images=True) for placement in _confirmed(self.core, taken, trace, missed)]
        layers = sorted([*self.placements, *found], key=_by_layer)
        notes = [note for note in self.notes if not note.endswith(ONLY_IMAGES)]
        return replace(self, placements=(*tower, *layers), notes=(*notes, *_told(missed)))


def find_sites(model: nn.Module, *, linear_inputs: bool = False) -> Anatomy:
    """Find the sites of a transformers model, and verify them with a forward of ten tokens.

    Args:
        model: any transformers model with a text decoder; its parameters are not changed.
        linear_inputs: whether what enters each linear layer is a site as well.

    Raises:
        AnatomyError: where the decoder's layers or embedding are not found, or do not run as a stack.

    """
    core = find_core(model)
    config = text_config(core)
    stack = find_stack(core)
    embedding = _embedding(model, core)
    trace = probe(core, ten_tokens(core, int(config.vocab_size)), stack, dict.fromkeys([*_watched(core), embedding]))
    notes = _check_stack(core, stack, trace)
    taken = {Site(component="embedding"): Found("embedding", (Tap(embedding, "embedding"),), "get_input_embeddings()")}
    layers, missed = _sites_of_layers(core, stack, trace, trace.runs, linear_inputs=linear_inputs)
    taken |= layers
    final = _final_norm(core, trace)
    if final is None:
        notes.append("not observed: final_norm (no norm runs after the last layer)")
    else:
        taken[Site(component="final_norm")] = final
    placements = _confirmed(core, taken, trace, missed)
    notes += _told(missed)
    if final is not None and len(_values(final.taps[0], trace, None)) > 1:
        notes.append(f"unusual: {final.taps[0].name} runs several times; final_norm holds what each gave")
    whole = getattr(model, "base_model", model)
    return Anatomy(core, whole, stack, int(config.hidden_size), tuple(placements), tuple(notes))


def _watched(core: nn.Module) -> list[nn.Module]:
    return [module for name, module in core.named_modules() if not FOREIGN.search(name)]


def _sites_of_layers(
    core: nn.Module, stack: Stack, trace: Trace, runs: Sequence[tuple[int, nn.Module]], *, linear_inputs: bool
) -> tuple[dict[Site, Found], dict[str, list[int]]]:
    """The sites of these layers, and by what is there and not observed the layers' numbers."""
    taken: dict[Site, Found] = {}
    missed: dict[str, list[int]] = {}
    routers, hidden = _recorded_routers(core), None
    entered = [trace.of(module, number)[-1].entered for number, module in trace.runs]
    after = dict(zip((number for number, _ in trace.runs), [*entered[1:], ()], strict=True))
    for number, module in runs:
        layer = Layer(number, stack.names[module], module, trace)
        place(layer, routers, linear_inputs=linear_inputs)
        # The last layer gives what the others give.
        sites = list(sites_of(layer, after[number]))
        if not after[number] and hidden is not None:
            sites[-1] = replace(sites[-1], taps=tuple(replace(tap, module=module, name=layer.name) for tap in hidden.taps))
        hidden = sites[-1]
        taken |= {Site(component=found.component, layer=number): found for found in sites}
        for what in layer.missed:
            missed.setdefault(what, []).append(number)
    return taken, missed


def _confirmed(core: nn.Module, taken: dict[Site, Found], trace: Trace, missed: dict[str, list[int]]) -> list[Placement]:
    """The placements that the probe confirms, in the order in which it reached them; others are missed.

    Raises:
        AnatomyError: where that is the embedding, or a layer.

    """
    placements = []
    for site, found in taken.items():
        placement = _placed(site, found, trace)
        if isinstance(placement, Placement):
            placements.append(placement)
        elif site.component in ("embedding", "hidden"):
            raise AnatomyError(f"{site} of {type(core).__name__} ({found.taps[0]}) {placement}")
        else:
            what = f"{site.component}, since {found.taps[0].name.rpartition('.')[2]} {placement}"
            missed.setdefault(what, []).append(site.layer or 0)
    order = {(call.module, call.layer): place for place, call in enumerate(trace.calls)}
    return sorted(placements, key=lambda p: max(order.get((tap.module, p.site.layer), -1) for tap in p.taps))


def _told(missed: dict[str, list[int]]) -> list[str]:
    return [f"not observed: {what} ({_span(layers)})" for what, layers in missed.items()]


def _by_layer(placement: Placement) -> float:
    ends = {"embedding": -1.0, "final_norm": math.inf}
    return ends.get(placement.site.component, placement.site.layer or 0.0)


def _embedding(model: nn.Module, core: nn.Module) -> nn.Module:
    owners: tuple[Any, ...] = (core, model)
    for owner in owners:
        try:
            embedding = owner.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            continue
        if isinstance(embedding, nn.Module):
            return embedding
    raise AnatomyError(f"{type(core).__name__} does not tell its token embedding (get_input_embeddings)")


def _recorded_routers(core: nn.Module) -> list[Recorded]:
    recorders: list[Any] = []
    for module in core.modules():
        declared: Any = (getattr(module, "_can_record_outputs", None) or {}).get("router_logits", [])
        recorders += declared if isinstance(declared, (list, tuple)) else [declared]
    routers = [
        Recorded(getattr(one, "target_class", one), getattr(one, "index", 0), getattr(one, "layer_name", None))
        for one in recorders
    ]
    modules = list(core.named_modules())
    return [
        router
        for router in routers
        if isinstance(router.kind, type) and any(router.matches(name, module) for name, module in modules)
    ]


def _check_stack(core: nn.Module, stack: Stack, trace: Trace) -> list[str]:
    """What is unusual about how the layers follow one another.

    Raises:
        AnatomyError: where they are not as many as the config tells, or do not run in order.

    """
    notes, expected = [], [number for number in range(stack.count) if number not in stack.without_images]
    numbers = [number for number, _ in trace.runs]
    if len(expected) < stack.count and numbers == expected:
        notes.append(f"not observed: {_span(sorted(stack.without_images))}, {ONLY_IMAGES}")
    elif numbers != list(range(stack.count)):
        raise AnatomyError(f"the {stack.count} layers of {type(core).__name__} do not run once each and in order: {numbers}")
    apart: list[int] = []
    gave: list[torch.Tensor] = []
    for number, module in trace.runs:
        run = trace.of(module, number)[-1]
        if gave and not any(same(entered, part) for entered in run.entered for part in gave):
            apart.append(number)
        gave = [part for part in run.gave if isinstance(part, torch.Tensor)]
    if apart:
        notes.append(f"unusual: what enters is not what the layer before gave ({_span(apart)})")
    return notes


def _final_norm(core: nn.Module, trace: Trace) -> Found | None:
    """The last norm that the core runs after its last layer."""
    last = max(place for place, call in enumerate(trace.calls) if call.layer is not None)
    for call in reversed(trace.calls[last + 1 :]):
        if call.layer is None and is_norm(call.module):
            name = next(name for name, module in core.named_modules() if module is call.module)
            return Found("final_norm", (Tap(call.module, name),), "the last norm after the last layer")
    return None


def _placed(site: Site, found: Found, trace: Trace) -> Placement | str:
    """The placement that the probe confirms, or what speaks against it."""
    taps, widths, order = [], [], None
    calls = 0
    for tap in found.taps:
        values = _values(tap, trace, site.layer)
        if not values and tap.rows == "unknown":  # an expert that none of the probe's tokens was sent to
            taps.append(replace(tap, layout=(0,)))
            continue
        if not values:
            return "did not run"
        first = values[0]
        if not first.is_floating_point() or first.ndim < 2:
            return f"gave shape {tuple(first.shape)} of {str(first.dtype).removeprefix('torch.')}"
        routed = found.experts is not None and site.component == "gate" and _inside(tap, found.experts)
        layouts = {layout_of(value, trace.shape) for value in values}
        layout = layouts.pop() if len(layouts) == 1 else None
        if layout is not None and tap.rows != "unknown" and not (routed and first.ndim == 2):
            tap = replace(tap, rows="tokens", layout=layout)
        elif site.component in EACH_TOKEN:
            return f"gave shape {tuple(first.shape)} for {trace.shape[0]} x {trace.shape[1]} tokens"
        else:
            tap = replace(tap, rows="unknown", layout=tuple(range(first.ndim - 1)))
            if routed:
                assert found.experts is not None
                gates = torch.cat([tap.flat(value) for value in values])
                order = routing.find_order(tap, found.experts, gates, trace.of(found.experts, site.layer))
                tap = tap if order is None else replace(tap, rows="routed tokens")
        taps.append(tap)
        widths.append(tap.flat(first).shape[-1])
        calls += len(values)
    if not widths:
        return "did not run"
    return Placement(
        site=site,
        taps=tuple(taps),
        rule=found.rule,
        once=calls == 1 and taps[0].rows == "tokens",
        dtype=first.dtype,
        widths=tuple(dict.fromkeys(widths)),
        device=first.device,
        experts=found.experts,
        order=order,
    )


def _values(tap: Tap, trace: Trace, layer: int | None) -> list[torch.Tensor]:
    if tap.at == "_apply_gate":
        return [call.entered[0] for call in trace.of(tap.module, layer, gate=True)]
    calls = trace.of(tap.module, layer)
    given = [
        call.input if tap.at == "input" else call.gave[tap.index]
        for call in calls
        if tap.at == "input" or tap.index < len(call.gave)
    ]
    return [value for value in given if isinstance(value, torch.Tensor)]


def _inside(tap: Tap, experts: nn.Module) -> bool:
    return any(tap.module is module for module in experts.modules())


def _span(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return "layers " + ", ".join(map(str, layers))
