"""Adapters of PEFT (LoRA and its kin) in a folder: what they are put on, and putting them there."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from pytest_maxact.errors import CheckpointError, on_one_line
from pytest_maxact.wrappers import more_than_modules

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the name of each tensor that PEFT saves
# What PEFT saves of an embedding that was resized: by whether the embedding is plain, has adapters or is trained whole.
EMBEDDING_ENDS = ("weight", "base_layer.weight", "modules_to_save.weight")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, damaged or not."""
    return (folder / CONFIG).is_file() or any(folder.glob("adapter_model*"))


def read(folder: Path, name: str) -> Any:
    """The PEFT config of an adapter that can be measured.

    Args:
        folder: where it is.
        name: what it is called in messages.

    Raises:
        CheckpointError: where PEFT is missing, the config is damaged or names no base model, or the adapter does more than
            modules inside of a model can.

    """
    file = folder / CONFIG
    if not file.is_file():
        raise CheckpointError(f"adapter {name} lacks {CONFIG} (looked in {folder.absolute()}): copy it from where it was saved")
    try:
        import peft
    except ImportError:
        raise CheckpointError(f"checkpoint {name} is an adapter, which needs the library peft: `pip install peft`") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # entries of newer releases
            config = peft.PeftConfig.from_pretrained(str(folder))
    except Exception as cause:  # whatever a damaged file makes it raise
        raise CheckpointError(
            f"{file} is not an adapter's config: {on_one_line(cause)}; a newer peft may know this kind"
        ) from None
    reason = more_than_modules(config)
    if reason is not None:
        raise CheckpointError(f"adapter {name} cannot be measured: {reason}; name a whole model, such as its base model")
    if getattr(config, "megatron_config", None):  # PEFT imports the module that stands beside it, earlier ones any module
        raise CheckpointError(f"adapter {name} is for Megatron, whose layers transformers does not have: merge it there")
    if not config.base_model_name_or_path:
        raise CheckpointError(f"adapter {name} names no base model: write it to base_model_name_or_path in {file}")
    return config


def base_of(config: Any, folder: Path, name: str) -> str:
    """The name of an adapter's base model: a folder or file, as seen from the adapter or from here, or a hub id.

    Raises:
        CheckpointError: where it can only be a path, and nothing is there.

    """
    wanted = str(config.base_model_name_or_path)
    beside, here = folder / wanted, Path(os.path.expanduser(wanted))
    if os.path.exists(beside) and beside.resolve() != folder.resolve():
        return str(beside)
    if os.path.exists(here):
        return wanted
    if here.is_absolute() or wanted.startswith("."):
        looked = " and ".join(str(path.absolute()) for path in dict.fromkeys((beside, here)))
        raise CheckpointError(
            f"the base model {wanted} of adapter {name} is not there (looked for {looked}): copy it there, or correct "
            f"base_model_name_or_path in {folder / CONFIG}"
        )
    return f"{wanted}@{config.revision}" if config.revision else wanted


def class_for(folder: Path, config: Any) -> str:
    """The name of the transformers class that an adapter was trained on, or of the Auto class that gives it.

    Args:
        folder: the adapter's, with its weights.
        config: the transformers config of the base model.

    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    trained_on = said.get("auto_mapping") or {}
    if str(trained_on.get("parent_library", "")).startswith("transformers."):
        return str(trained_on["base_model_class"])
    if said.get("task_type") == "FEATURE_EXTRACTION":
        return "AutoModel"
    kind, own = type(config), getattr(config, "auto_map", None) or {}
    both_modalities = kind in AutoModelForImageTextToText._model_mapping
    if both_modalities and (kind not in AutoModelForCausalLM._model_mapping or _beside_vision(folder)):
        return "AutoModelForImageTextToText"
    known = kind in AutoModelForCausalLM._model_mapping or "AutoModelForCausalLM" in own
    return "AutoModelForCausalLM" if known else "AutoModel"


def put_on(model: Any, folder: Path, name: str) -> nn.Module:
    """A base model with an adapter put on it, not merged.

    Args:
        model: the base model with the head that it was trained with; its modules are changed.
        folder: the adapter's.
        name: what it is called in messages.

    Raises:
        CheckpointError: where the adapter's weights do not fit the model.

    """
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ours say what matters
        try:
            rows = _embedding_rows(model, folder)
            if rows is not None and rows != model.get_input_embeddings().num_embeddings:
                model.resize_token_embeddings(rows, mean_resizing=False)
            adapted: Any = peft.PeftModel.from_pretrained(model, str(folder))
            found = adapted.load_adapter(str(folder), "default")  # only here PEFT tells which weights had no place
        except Exception as cause:  # PEFT raises whatever its parts raise
            raise CheckpointError(f"adapter {name} cannot be put on its base model: {on_one_line(cause)}") from cause
    stack = PREFIX + stack_of(model)
    astray = [key for key in found.unexpected_keys if key.startswith(stack)]  # others are heads, which are not measured
    missing = [key for key in found.missing_keys if key.startswith(stack) and "vblora_vector_bank" not in key]  # it is shared
    for keys, problem in ((astray, "has {} weights without a place in"), (missing, "lacks {} weights for")):
        if keys:
            raise CheckpointError(
                f"adapter {name} {problem.format(len(keys))} its base model (the first: {keys[0]}): was it trained on another?"
            )
    return adapted  # type: ignore[no-any-return]


def stack_of(model: Any) -> str:
    """What the names of a model's weights begin with that are no head's; empty where the model has none."""
    inside = model.base_model_prefix
    return f"{inside}." if inside and hasattr(model, inside) else ""


def vocabulary(folder: Path) -> int | None:
    """How many tokens the embedding is for that an adapter brings; None where it brings none."""
    shapes = _shapes(folder)
    ends = tuple(f"embed_tokens.{end}" for end in EMBEDDING_ENDS)
    rows = [shape[0] for key, shape in shapes.items() if key.endswith(ends) and shape]
    return max(rows, default=None)


def _embedding_rows(model: Any, folder: Path) -> int | None:
    embedding, shapes = model.get_input_embeddings(), _shapes(folder)
    name = next(name for name, module in model.named_modules() if module is embedding)
    return next((shapes[key][0] for end in EMBEDDING_ENDS if (key := f"{PREFIX}{name}.{end}") in shapes), None)


def _beside_vision(folder: Path) -> bool:
    """Whether adapted modules bear the names that they have where a vision tower stands beside the decoder."""
    return any(part in key for key in _shapes(folder) for part in (".language_model.", ".vision", ".visual"))


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
