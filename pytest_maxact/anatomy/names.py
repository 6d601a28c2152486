"""By what names and classes the parts of a decoder are known, and the exceptions, each with the reason why it exists."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

# Parts of a multimodal model, or of a training head, that are not the text decoder.
FOREIGN = re.compile(r"vision|visual|image|video|audio|speech|mtp|vqmodel|encoder_layers", re.IGNORECASE)
VISION = re.compile(r"vision|visual|image_tower|image_encoder", re.IGNORECASE)

MIXER_NAME = re.compile(
    r"self_attn|self_attention|self_att|attn|attention|linear_attn|rel_attn|multi_head_attention|SelfAttention"
    r"|mamba|conv|mixer|temporal_block|mlstm_layer"
)
MIXER_CLASS = re.compile(r"(Attention|Mixer|DeltaNet|ShortConv|RecurrentBlock|MambaLayer|Mamba2?|LSTMLayer|MLA)$")
CROSS = re.compile(r"cross|encoder_attn|encdec|encoder_decoder", re.IGNORECASE)
MLP_NAME = re.compile(r"mlp|mlps|mlp_block|feed_forward|ffn|ff|shared_mlp|block_sparse_moe|moe|experts|DenseReluDense")
MLP_CLASS = re.compile(r"(MLP|Mlp|FeedForward|FFN|SparseMoeBlock|SparseMoEBlock|MoE|MoELayer|Experts)$")
GATE_NAME = re.compile(r"gate_proj|w1|w_0|proj_up_gate")
EXPERTS_CLASS = re.compile(r"(Experts|ExpertGLU|ExpertsMLP)$")
ACTIVATION_NAME = re.compile(r"act|act_fn|activation|activation_fn|act_func|gelu_impl")
ROUTER_CLASS = re.compile(r"(Router|Gating|Gate)$")
ROUTER_NAME = re.compile(r"gate|router")
NORM_CLASS = re.compile(r"Norm(?!al)|^NormHead")
NORM_OF_PARTS = re.compile(r"(RMS|Layer)Norm$")  # whatever is inside: some have a gate that is an MLP


def is_experts(module: nn.Module) -> bool:
    """Whether a module is the experts of a mixture, all in one."""
    return EXPERTS_CLASS.search(type(module).__name__) is not None


def is_router(module: nn.Module) -> bool:
    """Whether a module is a router, by its class."""
    return ROUTER_CLASS.search(type(module).__name__) is not None


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, by its class; what holds other modules is none."""
    return NORM_CLASS.search(type(module).__name__) is not None and not any(True for _ in module.children())


def is_linear(module: nn.Module) -> bool:
    """A projection, quantized ones and GPT-2's transposed ones among them."""
    return hasattr(module, "in_features") or (hasattr(module, "nx") and hasattr(module, "nf"))


class Part(NamedTuple):
    """An exception: `path` is where the value is, below the module whose class `known_as` matches."""

    known_as: re.Pattern[str]
    path: str
    reason: str


# Modules whose own output is that of a part of them.
INSIDE = (
    Part(re.compile(r"^BloomAttention$"), "dense", "the module's output already holds the residual"),
    Part(re.compile(r"^BloomMLP$"), "dense_4h_to_h", "the module's output already holds the residual"),
    Part(re.compile(r"^MptMLP$"), "down_proj", "the module's output already holds the residual"),
    Part(re.compile(r"^XLNetFeedForward$"), "layer_2", "the module's output already holds the residual, normed"),
    Part(re.compile(r"^CpmAntSelfAttentionBlock$"), "self_attention", "the block adds the residual"),
    Part(re.compile(r"^CpmAntFFNBlock$"), "ffn", "the block adds the residual"),
    Part(re.compile(r"^(T5|Udop)LayerSelfAttention$"), "SelfAttention", "the block adds the residual"),
    Part(re.compile(r"^Pix2StructTextLayerSelfAttention$"), "attention", "the block adds the residual"),
    Part(re.compile(r"^Pix2StructTextLayerFF$"), "DenseReluDense", "the block adds the residual"),
    Part(re.compile(r"Attention$"), "output.dense", "BERT's attention ends with the residual add and a norm"),
)
# Modules that give something else than what is meant, and no part of which gives that.
UNREADABLE = {"XLNetRelativeAttention": "whose output already holds the residual, normed"}


class Layers(NamedTuple):
    """An exception: names of the lists of layers below the core, and their number by the config."""

    lists: tuple[str, ...]
    count: Callable[[Any], int]
    reason: str
    in_turns: bool = False


STACKS = {
    "longcat_flash": Layers(("layers",), lambda config: int(config.num_layers), "its config counts each layer's two halves"),
    "hrm_text": Layers(
        ("L_module.layers", "H_module.layers"),
        lambda config: int(config.num_hidden_layers),
        "two stacks run in turns; a layer of the record is a call of one",
        in_turns=True,
    ),
    "xlm": Layers(
        ("layer_norm2",), lambda config: int(config.n_layers), "it has no module for a layer, whose last is this norm"
    ),
}
