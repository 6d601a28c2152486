"""Small models and checkpoints that the tests share, built here and now from configs."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from pytest_maxact.corpus import load_corpus

# Of every family that the README names; sizes so that a forward takes milliseconds.
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
    "mixtral": {"num_local_experts": 4, **MOE},
    "qwen3_moe": {"num_experts": 4, "mlp_only_layers": [1], **MOE},
    "gpt_oss": {"num_local_experts": 4, **MOE},
}

# Where the sites of a layer are, written by hand in the order in which a forward is through with them.
DENSE = {"attention": ".self_attn", "gate": ".mlp.gate_proj", "mlp": ".mlp", "hidden": ""}
NORMED = {  # Gemma's: a norm stands between what a component gives and what is added to the residual
    "attention": ".self_attn",
    "attention_write": ".post_attention_layernorm",
    "gate": ".mlp.gate_proj",
    "mlp": ".mlp",
    "mlp_write": ".post_feedforward_layernorm",
    "hidden": "",
}
SPARSE = {"attention": ".self_attn", "router": ".mlp.gate", "gate": ".mlp.experts", "mlp": ".mlp", "hidden": ""}
LAYERS: dict[str, list[dict[str, str]]] = {
    **dict.fromkeys(["llama", "qwen2", "qwen3", "gemma"], [DENSE] * 3),
    **dict.fromkeys(["gemma2", "gemma3_text"], [NORMED] * 3),
    "gpt2": [{"attention": ".attn", "mlp": ".mlp", "hidden": ""}] * 3,
    "mixtral": [SPARSE] * 3,
    "qwen3_moe": [SPARSE, DENSE, SPARSE],
    "gpt_oss": [SPARSE | {"router": ".mlp.router"}] * 3,
}


def site_paths(family: str) -> dict[tuple[str, int | None], str]:
    """(component, layer) and module path of every site of a tiny model, in execution order; of routed gates the experts'."""
    embedding, stack, norm = ("wte", "h", "ln_f") if family == "gpt2" else ("embed_tokens", "layers", "norm")
    paths: dict[tuple[str, int | None], str] = {("embedding", None): embedding}
    for number, layer in enumerate(LAYERS[family]):
        paths |= {(component, number): f"{stack}.{number}{path}" for component, path in layer.items()}
    return paths | {("final_norm", None): norm}


def hooked(model: torch.nn.Module) -> list[str]:
    """Names of the modules that hold a forward hook."""
    return [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks]


def tiny_model(family: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **sizes: Any) -> Any:
    """A randomly initialised base model of a family, in evaluation mode."""
    config = AutoConfig.for_model(family, **SIZES | FAMILIES.get(family, MOE) | sizes)
    torch.manual_seed(seed)
    model = AutoModel.from_config(config, dtype=dtype).eval()
    with torch.no_grad():  # fresh weights make activations so small that a wrong site would hardly show
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def replace_forward(module: torch.nn.Module, forward: Callable[..., Any], *, from_call: int = 1) -> None:
    """Give one module another forward, from its n-th call on."""
    original, calls = module.forward, itertools.count(1)
    module.forward = lambda *args, **kwargs: (forward if next(calls) >= from_call else original)(*args, **kwargs)


def passes_on(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Forward of a layer that does nothing."""
    return hidden_states


def breaks(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Forward of a layer that fails."""
    raise RuntimeError("broken on purpose")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    bpe = ByteLevelBPETokenizer()
    texts = [sample.text for sample in load_corpus("smoke").samples if sample.text]
    bpe.train_from_iterator(
        texts, vocab_size=SIZES["vocab_size"], special_tokens=["<pad>", "<bos>", "<eos>"], show_progress=False
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="session")
def make_checkpoint(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Path]:
    """Write a tiny checkpoint with its tokenizer to a folder."""

    def make(folder: Path, family: str = "llama", **kwargs: Any) -> Path:
        model = tiny_model(family, **{"dtype": torch.bfloat16} | kwargs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def rows() -> list[str]:
    """Two samples of token ids, as lines of a JSON Lines corpus."""
    return ['{"id": "a", "input_ids": [5, 6, 7, 8]}', '{"id": "b", "input_ids": [9, 10]}']
