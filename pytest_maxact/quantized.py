"""Quantized checkpoints, loaded as transformers does: what each method needs is known before its weights are read."""

from __future__ import annotations

import copy
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch

from pytest_maxact.errors import CheckpointError, on_one_line
from pytest_maxact.wrappers import input_device

# What to install for a method, where transformers says so in other words or fails before it can.
PACKAGES = {
    "aqlm": "aqlm[cpu,gpu] accelerate",
    "auto-round": "auto-round accelerate",
    "awq": "gptqmodel accelerate",
    "bitsandbytes": "bitsandbytes accelerate",
    "compressed-tensors": "compressed-tensors accelerate",
    "eetq": "kernels accelerate",
    "fbgemm_fp8": "fbgemm-gpu accelerate",
    "fp8": "accelerate",
    "fp_quant": "fp_quant accelerate",
    "gptq": "gptqmodel optimum accelerate",
    "higgs": "flute-kernel fast_hadamard_transform accelerate",
    "hqq": "hqq accelerate",
    "mxfp4": "kernels accelerate",
    "quanto": "optimum-quanto accelerate",
    "quark": "amd-quark accelerate",
    "spqr": "spqr_quant[gpu] accelerate",
    "torchao": "torchao accelerate",
    "vptq": "vptq accelerate",
}
# Where a GPU is there these stay packed for it, also in a model that goes to a CPU; by the config class that says otherwise.
UNPACKED_ON_A_CPU = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config", "mxfp8": "FineGrainedFP8Config"}


def scheme(config: Any) -> Any:
    """The quantization config of a transformers config, or of its text decoder; None where weights are plain."""
    return getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )


def method(config: Any) -> str | None:
    """The name of the method by which a checkpoint is quantized; None where weights are plain."""
    found = scheme(config)
    if found is None:
        return None
    named = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    if named is None and isinstance(found, dict) and (found.get("load_in_8bit") or found.get("load_in_4bit")):
        named = "bitsandbytes"  # of files from before the method was written down
    return str(getattr(named, "value", named))


def packages(config: Any) -> list[str]:
    """The distributions that a checkpoint's quantization method needs, as far as they are known and here."""
    known = [name.split("[")[0] for name in PACKAGES.get(method(config) or "", "").split()]
    return [name for name in known if any(metadata.distributions(name=name))]


def check(config: Any, name: str, device: torch.device) -> None:
    """Make sure that transformers can load a quantized checkpoint here, by asking what would load it.

    Args:
        config: the checkpoint's transformers config; it is not changed.
        name: what the checkpoint is called in messages.
        device: where it is to go.

    Raises:
        CheckpointError: where a library is missing, or the method is unknown or not for this machine.

    """
    called = method(config)
    if called is None:
        return
    from transformers.quantizers import AutoHfQuantizer

    how = f"checkpoint {name} is quantized by {called}"
    try:
        if find_spec("accelerate") is None:  # which puts packed weights where they belong
            raise ImportError("`pip install accelerate`")
        quantizer = AutoHfQuantizer.from_config(copy.deepcopy(scheme(config)), pre_quantized=True)
        quantizer.validate_environment(device_map={"": str(device)}, weights_only=True)
    except ImportError as cause:
        reason = f"`pip install {PACKAGES[called]}`" if called in PACKAGES else on_one_line(cause)
        raise CheckpointError(f"{how}, for which a library is missing: {reason}") from None
    except Exception as cause:  # each method has its own ways to say no
        raise CheckpointError(f"{how}, which cannot be loaded here: {on_one_line(cause)}") from None


def options(config: Any, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` must be told so that a quantized checkpoint can run on a device."""
    import transformers

    kind = UNPACKED_ON_A_CPU.get(method(config) or "")
    if kind is None or device.type != "cpu":
        return {}
    return {"quantization_config": getattr(transformers, kind)(dequantize=True)}


def notes(stored: Any, loaded: Any) -> tuple[str, ...]:
    """What to say of a checkpoint whose weights were quantized in its files and no longer are.

    Args:
        stored: the transformers config of its files.
        loaded: that of the model in memory.

    """
    called = method(stored)
    if called is None or method(loaded) is not None:
        return ()
    return (f"not quantized: {called} weights were unpacked for this device, and activations are not rounded as it would",)


def unpack(model: Any) -> None:
    """Let a model unpack its weights where it does so before its first forward: its decoder alone would run without that."""
    if model._forward_pre_hooks and hasattr(model, "config") and method(model.config) is not None:
        with torch.no_grad():
            model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=input_device(model)), use_cache=False)
