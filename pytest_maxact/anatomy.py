"""Where the sites are in a model: found by structure and names, then verified by a tiny forward.

The rules run in the order of this file. What a rule cannot place is left out and said in `Anatomy.notes`; what would make
M wrong without anyone noticing (layers or the embedding not found, layers run out of order) is an `AnatomyError`.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pytest_maxact.errors import AnatomyError
from pytest_maxact.record import Component, Site
from pytest_maxact.wrappers import bare, input_device

# Parts of a multimodal model, or of a training head, that are not the text decoder.
FOREIGN = re.compile(r"vision|visual|audio|mtp", re.IGNORECASE)
MIXER_NAME = re.compile(r"self_attn|self_attention|attn|attention")
MIXER_CLASS = re.compile(r"Attention$")
CROSS = re.compile(r"cross|encoder_attn|encdec", re.IGNORECASE)
MLP_NAME = re.compile(r"mlp|feed_forward|ffn|ff|block_sparse_moe|moe")
MLP_CLASS = re.compile(r"(MLP|FeedForward|SparseMoeBlock|MoE)$")
GATE_NAME = re.compile(r"gate_proj|w1|w_0")
EXPERTS_CLASS = re.compile(r"Experts?$")
ROUTER_CLASS = re.compile(r"(Router|Gating|Gate)$")
NORM_CLASS = re.compile(r"Norm")

PROBE_SHAPE = (2, 3)  # unequal, so that no dimension is taken for another


@dataclass(frozen=True)
class _Candidate:
    site: Site
    module: nn.Module
    name: str
    index: int = 0


@dataclass(frozen=True)
class Placement(_Candidate):
    """One site, and the module whose output is observed there: `index` picks from an output that is a tuple.

    dtype, width and device are those of the output, `width` being its number of features.
    """

    dtype: torch.dtype = field(kw_only=True)
    width: int = field(kw_only=True)
    device: torch.device = field(kw_only=True)


@dataclass(frozen=True)
class Anatomy:
    """The sites of a model in the order in which a forward reaches them.

    `core` is the decoder that runs them, without language-model head; `notes` say in words what is not observed.
    """

    core: nn.Module
    layers: int
    hidden_size: int
    placements: tuple[Placement, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Call:
    module: nn.Module
    output: torch.Tensor
    entered: torch.Tensor | None = None


@dataclass
class _Draft:
    candidates: list[_Candidate] = field(default_factory=list)
    unseen: dict[str, list[int]] = field(default_factory=dict)

    def place(self, component: Component, layer: int | None, name: str, module: nn.Module, index: int = 0) -> None:
        self.candidates.append(_Candidate(Site(component=component, layer=layer), module, name, index))

    def miss(self, what: str, layer: int) -> None:
        self.unseen.setdefault(what, []).append(layer)

    def notes(self) -> list[str]:
        return [f"not observed: {what} ({_span(layers)})" for what, layers in self.unseen.items()]


def find_sites(model: nn.Module) -> Anatomy:
    """Find the sites of a transformers model, and verify them with a forward of six tokens.

    Args:
        model: any transformers model whose decoder is text to text; its parameters are not changed.

    Raises:
        AnatomyError: where the decoder's layers or embedding are not found, or do not run as a plain stack.

    """
    core = _core(model)
    config = text_config(core)
    prefix, layers = _layers(core, int(config.num_hidden_layers))
    draft = _Draft()
    embedding = _embedding(model, core)
    draft.place("embedding", None, "embedding", embedding)
    routers = _recorded_routers(model)
    for number, layer in enumerate(layers):
        name = f"{prefix}.{number}"
        _place_in_layer(draft, number, name, layer, routers)
        draft.place("hidden", number, name, layer)
    return _verified(core, config, layers, draft)


def text_config(core: nn.Module) -> Any:
    """The transformers config of a model's text decoder."""
    config: Any = core.config
    return config.get_text_config(decoder=True)


def tensor_of(output: Any, index: int = 0) -> torch.Tensor:
    """The observed tensor of a module's output: itself, or the `index`-th element of a tuple or ModelOutput.

    Raises:
        AnatomyError: where there is no tensor.

    """
    if not isinstance(output, torch.Tensor):
        output = tuple(output.values() if hasattr(output, "values") else output)[index]
    if not isinstance(output, torch.Tensor):
        raise AnatomyError(f"a module gave {type(output).__name__} where a tensor was expected")
    return output


def _core(model: nn.Module) -> nn.Module:
    """The decoder without a language-model head."""
    core: Any = getattr(model, "get_decoder", lambda: model)()
    if not any(isinstance(module, nn.ModuleList) for module in core.modules()):
        core = getattr(model, "base_model", model)
    while hasattr(core, "lm_head") and getattr(core, "base_model", core) is not core:
        core = core.base_model
    if not hasattr(core, "config"):
        raise AnatomyError(f"{type(model).__name__} is no transformers model: it has no config that tells its layers")
    return core  # type: ignore[no-any-return]


def _layers(core: nn.Module, count: int) -> tuple[str, list[nn.Module]]:
    """The name and the modules of the outermost list of as many as the config counts layers."""
    lists = [
        (name, module)
        for name, module in core.named_modules()
        if isinstance(module, nn.ModuleList) and not FOREIGN.search(name)
    ]
    fitting = [(name, module) for name, module in lists if len(module) == count]
    if not fitting:
        seen = ", ".join(f"{name} ({len(module)})" for name, module in lists[:5]) or "no lists of modules"
        raise AnatomyError(f"{type(core).__name__} has no stack of {count} decoder layers, its config's number: found {seen}")
    name, layers = min(fitting, key=lambda pair: pair[0].count("."))
    return name, [bare(layer) for layer in layers]


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


def _recorded_routers(model: nn.Module) -> list[tuple[type[nn.Module], int]]:
    """Router classes, and which of their outputs are the logits, as the model itself declares them."""
    declared: Any = (getattr(model, "_can_record_outputs", None) or {}).get("router_logits", [])
    recorders: list[Any] = list(declared) if isinstance(declared, (list, tuple)) else [declared]
    return [(getattr(recorder, "target_class", recorder), getattr(recorder, "index", 0)) for recorder in recorders]


def _place_in_layer(
    draft: _Draft, number: int, prefix: str, layer: nn.Module, routers: Sequence[tuple[type[nn.Module], int]]
) -> None:
    children = _children(layer)
    mixer = _child(children, MIXER_NAME, MIXER_CLASS)
    if mixer is None:
        draft.miss(f"attention (no child of {type(layer).__name__} is known as a token mixer)", number)
    else:
        draft.place("attention", number, f"{prefix}.{mixer}", children[mixer])
    mlp = _child(children, MLP_NAME, MLP_CLASS)
    if mlp is None:
        draft.miss(f"mlp (no child of {type(layer).__name__} is known as an MLP)", number)
        return
    name, block = f"{prefix}.{mlp}", children[mlp]
    draft.place("mlp", number, name, block)
    parts = _children(block)
    gate = _child(parts, GATE_NAME)
    if gate is not None:
        draft.place("gate", number, f"{name}.{gate}", parts[gate])
    elif any(EXPERTS_CLASS.search(type(module).__name__) for module in block.modules()):
        draft.miss(f"gates of the experts in {type(block).__name__}", number)
    else:
        draft.miss(f"gate ({type(block).__name__} shows no separate gate projection)", number)
    for child, module in block.named_modules():
        index = _router_index(module, routers)
        if index is not None:
            draft.place("router", number, f"{name}.{child}", module, index)


def _children(module: nn.Module) -> dict[str, nn.Module]:
    return {name: bare(child) for name, child in module.named_children()}


def _child(children: dict[str, nn.Module], name: re.Pattern[str], kind: re.Pattern[str] | None = None) -> str | None:
    """The child known by name, else by class; never cross-attention, nor a list or a parameterless stand-in."""
    candidates = [key for key in children if not CROSS.search(key)]
    by_name = [key for key in candidates if name.fullmatch(key)]
    by_class = [key for key in candidates if kind is not None and kind.search(type(children[key]).__name__)]
    return next(iter(by_name or by_class), None)


def _router_index(module: nn.Module, routers: Sequence[tuple[type[nn.Module], int]]) -> int | None:
    for target, index in routers:
        if isinstance(target, type) and isinstance(module, target):
            return index
    return 0 if not routers and ROUTER_CLASS.search(type(module).__name__) else None


def _verified(core: nn.Module, config: Any, layers: Sequence[nn.Module], draft: _Draft) -> Anatomy:
    """Keep the placements that the probe forward confirms, in the order in which it reached them."""
    watched: dict[nn.Module, int] = {candidate.module: candidate.index for candidate in draft.candidates}
    norms = [module for module in core.modules() if NORM_CLASS.search(type(module).__name__)]
    calls = _probe(core, int(config.vocab_size), watched | {norm: 0 for norm in norms if norm not in watched})
    _check_stack(core, layers, calls)
    notes = draft.notes()
    times = Counter(call.module for call in calls)
    order = {call.module: place for place, call in enumerate(calls)}
    outputs = {call.module: call.output for call in calls}
    kept = []
    for candidate in draft.candidates:
        reason = _reason_to_drop(candidate, times[candidate.module], outputs.get(candidate.module))
        if reason is None:
            kept.append(_placed(candidate, outputs[candidate.module]))
        elif candidate.site.component in ("embedding", "hidden"):
            raise AnatomyError(f"{candidate.site} of {type(core).__name__} ({candidate.name}) {reason}")
        else:
            notes.append(f"not observed: {candidate.site} ({candidate.name} {reason})")
    last = order[layers[-1]]
    final = [call.module for call in calls[last + 1 :] if call.module in set(norms)]
    if final:
        name = next(name for name, module in core.named_modules() if module is final[-1])
        kept.append(_placed(_Candidate(Site(component="final_norm"), final[-1], name), outputs[final[-1]]))
    else:
        notes.append("not observed: final_norm (no norm runs after the last layer)")
    kept.sort(key=lambda placement: order[placement.module])
    return Anatomy(core, len(layers), int(config.hidden_size), tuple(kept), tuple(notes))


def _placed(candidate: _Candidate, output: torch.Tensor) -> Placement:
    return Placement(**vars(candidate), dtype=output.dtype, width=output.shape[-1], device=output.device)


def _reason_to_drop(candidate: _Candidate, times: int, output: torch.Tensor | None) -> str | None:
    if times != 1 or output is None:
        return f"ran {times} times in one forward"
    rows = PROBE_SHAPE[0] * PROBE_SHAPE[1]
    if output.shape[:2] == PROBE_SHAPE and output.ndim == 3:
        return None
    if candidate.site.component == "router" and output.ndim == 2 and output.shape[0] == rows:
        return None
    return f"gave shape {tuple(output.shape)} for {PROBE_SHAPE[0]} x {PROBE_SHAPE[1]} tokens"


def _check_stack(core: nn.Module, layers: Sequence[nn.Module], calls: Sequence[_Call]) -> None:
    """Each layer runs once, in order, and takes what the one before it gave."""
    numbers = {layer: number for number, layer in enumerate(layers)}
    ran = [call for call in calls if call.module in numbers]
    if [numbers[call.module] for call in ran] != list(range(len(layers))):
        raise AnatomyError(
            f"the layers of {type(core).__name__} do not run once each and in order: {[numbers[call.module] for call in ran]}"
        )
    for before, after in itertools.pairwise(ran):
        entered = after.entered
        if entered is None or entered.shape != before.output.shape or not _same(entered, before.output):
            raise AnatomyError(
                f"layer {numbers[after.module]} of {type(core).__name__} does not take the output of the layer before it"
            )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal element for element, a NaN being equal to a NaN: a broken checkpoint is measured, not refused."""
    return bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())


def _probe(core: nn.Module, vocabulary: int, watched: dict[nn.Module, int]) -> list[_Call]:
    """Run a few tokens through the model and note what every watched module took and gave, in order of finishing."""
    calls: list[_Call] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        entered = args[0] if args else kwargs.get("hidden_states")
        calls.append(
            _Call(
                module,
                tensor_of(output, watched[module]).detach().clone(),  # a later layer may write into it
                entered.detach().clone() if isinstance(entered, torch.Tensor) else None,
            )
        )

    device = input_device(core)
    ids = (torch.arange(PROBE_SHAPE[0] * PROBE_SHAPE[1], device=device) % vocabulary).reshape(PROBE_SHAPE)
    with torch.no_grad(), hooks({module: note for module in watched}, with_kwargs=True):
        core(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return calls


@contextmanager
def hooks(callbacks: dict[nn.Module, Callable[..., None]], *, with_kwargs: bool = False) -> Iterator[None]:
    """Forward hooks that are gone afterwards, whatever happens."""
    handles = []
    try:
        for module, callback in callbacks.items():
            handles.append(module.register_forward_hook(callback, with_kwargs=with_kwargs))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _span(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return "layers " + ", ".join(map(str, layers))
