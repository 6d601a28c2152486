"""The decoder of a model, and the stack of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pytest_maxact.anatomy.names import FOREIGN, STACKS
from pytest_maxact.errors import AnatomyError
from pytest_maxact.wrappers import bare

SHOWN = 6


def find_core(model: nn.Module) -> nn.Module:
    """The text decoder without a language-model head.

    Raises:
        AnatomyError: where it has no config.

    """
    core: Any = _decoder(model)
    if not _lists(core):
        core = getattr(model, "base_model", model)
        core = core if _decoder(core) is core or not _lists(_decoder(core)) else _decoder(core)
    while hasattr(core, "lm_head"):
        inner = getattr(core, "base_model", core)
        inner = getattr(core, "model", core) if inner is core else inner
        if inner is core:
            break
        core = inner
    if not hasattr(core, "config"):
        raise AnatomyError(f"{type(model).__name__} is no transformers model: it has no config that tells its layers")
    return core  # type: ignore[no-any-return]


def _decoder(model: nn.Module) -> nn.Module:
    """What `get_decoder` tells, which of an encoder-decoder has one in turn."""
    core, seen = model, {model}
    while True:
        given = getattr(core, "get_decoder", lambda: None)()
        if not isinstance(given, nn.Module) or given in seen:
            return core
        core = given
        seen.add(core)


def text_config(core: nn.Module) -> Any:
    """The transformers config of a model's text decoder."""
    config: Any = core.config
    return config.get_text_config(decoder=True)


@dataclass(frozen=True)
class Stack:
    """The modules of the layers with their names, how many layers a forward runs, and the rule that found them.

    `in_turns` is whether a module runs several times, each being a layer; `without_images` are the numbers of layers that
    run only where there are images.
    """

    names: dict[nn.Module, str]
    count: int
    rule: str
    in_turns: bool = False
    without_images: frozenset[int] = frozenset()


def find_stack(core: nn.Module) -> Stack:
    """The stack of a decoder's layers.

    Raises:
        AnatomyError: where no list of modules has the length that the config tells.

    """
    config = text_config(core)
    known = STACKS.get(config.model_type)
    if known is not None:
        parts: list[tuple[str, Any]] = [(name, core.get_submodule(name)) for name in known.lists]
        rule = f"{' and '.join(known.lists)} of {config.model_type}: {known.reason}"
        return Stack(_named(parts), known.count(config), rule, in_turns=known.in_turns)
    count = _count(core, config)
    lists = _lists(core)
    fitting = [(name, module) for name, module in lists if len(module) == count]
    if not fitting:
        seen = ", ".join(f"{name} ({len(module)})" for name, module in lists[:SHOWN]) or "no lists of modules"
        raise AnatomyError(f"{type(core).__name__} has no stack of {count} decoder layers, its config's number: found {seen}")
    name, module = min(fitting, key=lambda pair: pair[0].count("."))
    rule = f"{name}, the outermost list of {count} modules, the config's number of layers"
    images = frozenset(getattr(config, "cross_attention_layers", None) or ())
    return Stack(_named([(name, module)]), count, rule, without_images=images)


def _count(core: nn.Module, config: Any) -> int:
    """Of encoder-decoders `num_hidden_layers` may be the encoder's, and the text config may have lost `decoder_layers`."""
    for owner, name in ((core.config, "decoder_layers"), (core.config, "num_decoder_layers"), (config, "num_hidden_layers")):
        count = getattr(owner, name, None)
        if isinstance(count, int):
            return count
    raise AnatomyError(f"{type(core).__name__} has a config of {config.model_type} that does not tell its number of layers")


def _lists(core: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    return [
        (name, module)
        for name, module in core.named_modules()
        if isinstance(module, nn.ModuleList) and not FOREIGN.search(name)
    ]


def _named(lists: Sequence[tuple[str, Any]]) -> dict[nn.Module, str]:
    return {bare(layer): f"{name}.{number}" for name, module in lists for number, layer in enumerate(module)}


def descendants(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """All modules below one, with their names, without wrappers; outer ones first."""
    for name, child in module.named_children():
        path, inner = f"{prefix}.{name}" if prefix else name, bare(child)
        yield path, inner
        yield from descendants(inner, path)
