"""What training loops and notebooks put around a model, and into it: the transformers model inside, run as it is written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import nn

from pytest_maxact.errors import AnatomyError

# Wrappers that compute nothing of their own, and the child that does. All classes here go by name, since importing them
# would bring the compiler, torch.distributed or PEFT to everyone.
INSIDE = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",  # torch.distributed's activation checkpointing
}
STEERED = {"POLY", "SHADOW", "XLORA"}  # methods of PEFT that a forward of the model inside would run without
SHARDED = {"FullyShardedDataParallel", "FSDPModule"}
TO_MEASURE_SHARDED = "measure a checkpoint that it saved, or a whole copy in one process"


def unwrapped(model: nn.Module) -> nn.Module:
    """The transformers model inside of what was given, in it the adapters of PEFT that are active.

    Raises:
        AnatomyError: where that model alone does not compute what the whole does, or its parameters are not all here.

    """
    model = bare(model)
    if _classes(model) & {"PeftModel", "PeftMixedModel"}:
        model = bare(_with_adapters(model))
    for module in model.modules():
        for kind in _classes(module) & SHARDED:
            raise AnatomyError(f"the model is sharded ({kind}): {TO_MEASURE_SHARDED}")
    if any("DTensor" in _classes(parameter) for parameter in model.parameters()):
        raise AnatomyError(f"the model is sharded (its parameters are DTensors): {TO_MEASURE_SHARDED}")
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):  # each forward waits for all processes
        raise AnatomyError(f"the model is sharded (DeepSpeed ZeRO stage 3): {TO_MEASURE_SHARDED}")
    return model


def bare(module: nn.Module) -> nn.Module:
    """A module without the wrappers around it that compute nothing of their own."""
    while wrappers := _classes(module) & INSIDE.keys():
        module = getattr(module, INSIDE[wrappers.pop()])
    return module


def input_device(model: nn.Module) -> torch.device:
    """Where token ids go in; of a model that accelerate spreads out any device will do, "meta" left out, where nothing is."""
    here = (parameter.device for parameter in model.parameters() if parameter.device.type != "meta")
    return next(here, torch.device("cpu"))


def run(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Any:
    """A forward without a cache of keys and values, where the model knows of one."""
    parameters = signature(model.forward).parameters
    knows = "use_cache" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return model(**inputs, **({"use_cache": False} if knows else {}))


def as_written(model: nn.Module) -> AbstractContextManager[Any]:
    """Run a model of which parts are compiled as plain Python: hooks are seen, and nothing is compiled because of them."""
    return torch.compiler.set_stance("force_eager") if any(map(_compiled, model.modules())) else nullcontext()


def _compiled(module: nn.Module) -> bool:
    """Whether by `module.compile()`, or by `torch.compile` of it or of its forward."""
    return module._compiled_call_impl is not None or hasattr(module.forward, "_torchdynamo_orig_callable")


def more_than_modules(config: Any) -> str | None:
    """Why the model that an adapter's modules are in does not compute what the adapter does; None where it does.

    Args:
        config: a config of PEFT.

    """
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning:
        return f"{kind} of PEFT puts virtual tokens before each sample"
    if kind in STEERED or getattr(config, "alora_invocation_tokens", None):
        return f"{'activated LORA' if kind == 'LORA' else kind} of PEFT steers its adapters from outside the model"
    return None


def _with_adapters(model: Any) -> nn.Module:
    """The model that PEFT put its adapters into."""
    for name in model.active_adapters:
        config = model.peft_config[name]
        reason = more_than_modules(config)
        if reason is not None:
            instead = "model.get_base_model()" if config.is_prompt_learning else "one that they are merged into"
            raise AnatomyError(f"{reason}: measure {instead}")
    return model.base_model.model  # type: ignore[no-any-return]


def _classes(thing: object) -> set[str]:
    return {kind.__name__ for kind in type(thing).__mro__}
