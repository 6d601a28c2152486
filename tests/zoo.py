"""A tiny random model of every decoder in transformers: whether the sites are found is shown on all of them.

The models come from configs alone: a family's own default config, made small by `SIZES` (names that mean the same in
every family) and `SPECIAL` (what one family needs besides). A newer transformers adds entries of itself; they have to
build with these tables, or to be listed in `UNBUILDABLE` with the reason.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import Any, Literal, NamedTuple

import torch
import transformers
from torch import nn
from transformers import CLIPVisionConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)


class Entry(NamedTuple):
    """A model type of one of transformers' two mappings: a causal language model, or image and text to text."""

    kind: Literal["causal", "image"]
    model_type: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.model_type}"


# Sizes of different things differ where no architecture forbids it, so that a tensor taken for another has another width.
HIDDEN, INTERMEDIATE, EXPERT, VOCABULARY, LAYERS, IMAGE, PATCH = 64, 96, 48, 128, 3, 56, 14
_SIZES: dict[int, str] = {
    HIDDEN: """
        hidden_size d_model n_embd emb_dim embedding_dim embed_dim embedding_size input_embedding_size
        word_embed_proj_dim out_hidden_size text_hidden_size projection_dim projector_hidden_size vision_hidden_size
        attention_hidden_size lru_width encoder_hidden_size hidden_size_global output_embedding_size
        projection_hidden_size projector_output_dim projector_input_dim vision_output_dim image_text_hidden_size
        adapter_out_dim patch_embed_hidden_size decoder_hidden_size pooler_output_size image_token_embed_dim
        pronunciation_embed_dim shape_embed_dim ple_embed_dim output_dim backbone_hidden_size output_channels
        cross_attention_hidden_size
    """,
    INTERMEDIATE: """
        intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner d_ff dff dim_ff d_inner mlp_dim
        ffn_hidden_size feed_forward_size dense_intermediate_size intermediate_size_mlp shared_intermediate_size
        prefix_dense_intermediate_size alignment_intermediate_size projection_intermediate_size downsample_hidden_size
        merged_hidden_size projection_hidden_dim
    """,
    EXPERT: """
        moe_intermediate_size expert_ffn_hidden_size shared_expert_intermediate_size moe_hidden_size share_expert_dim
        moe_shared_expert_intermediate_size shared_experts_intermediate_size router_hidden_size
    """,
    VOCABULARY: """
        vocab_size decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size pronunciation_vocab_size
        shape_vocab_size audio_vocab_size
    """,
    LAYERS: "num_hidden_layers num_layers n_layer n_layers decoder_layers num_decoder_layers num_layers_per_stack",
    2: """
        depth layers resampler_depth conf_num_hidden_layers num_global_layers num_key_value_heads num_kv_heads
        kv_n_heads decoder_sparse_step num_experts_per_tok moe_topk moe_k moe_top_k num_experts_per_token top_k_experts
        n_group num_expert_group linear_num_key_heads n_groups num_random_blocks swa_num_key_value_heads
        indexer_kv_heads hc_sinkhorn_iters topk_group expert_layer_period n_mamba_heads num_query_groups mamba_n_groups
        mamba_ngroups num_mem_blocks
    """,
    4: """
        encoder_layers num_encoder_layers num_attention_heads n_head n_heads num_heads decoder_attention_heads
        encoder_attention_heads attention_heads num_experts num_local_experts n_routed_experts moe_num_experts
        linear_num_value_heads linear_num_heads swa_num_attention_heads num_decoder_attention_heads
        num_encoder_attention_heads num_sliding_attention_heads index_n_heads indexer_n_heads resampler_n_heads
        conf_num_attention_heads zero_expert_num attn_layer_period layer_group_size global_attn_every_n_layers
        resampler_n_latents heads_per_ngram resampler_heads resampler_num_latents num_query_tokens latent_query_num
        adapter_rank gated_norm_rank laurel_rank
    """,
    8: """
        mamba_n_heads mamba_num_heads mamba_d_state ssm_state_size state_size time_step_rank mamba_dt_rank index_topk
        block_size hc_lowrank o_lora_rank attention_window_size conf_attention_chunk_size qk_nope_head_dim
        pos_emb_height pos_emb_width ngram_vocab_size_base image_seq_length mm_tokens_per_image num_image_tokens
        hidden_size_per_layer_input split_ngram_parts d_rel
    """,
    16: """
        head_dim d_kv d_head dim_head kv_channels attention_head_dim attention_head_size qk_rope_head_dim v_head_dim
        swa_head_dim index_head_dim indexer_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim
        mamba_d_head mamba_head_dim resampler_head_dim resampler_dim_head sliding_window local_attention
        sliding_window_size window_size mamba_chunk_size chunk_size attention_chunk_size rel_extent
        local_attention_window_len keep_window_size num_buckets
    """,
    24: "kv_lora_rank",
    32: "q_lora_rank",
    256: """
        max_position_embeddings n_positions n_ctx max_target_positions max_source_positions max_seq_len
        position_embedding_size context_length max_2d_position_embeddings
    """,
}
SIZES: dict[str, int] = {name: size for size, names in _SIZES.items() for name in names.split()}
LAYER_COUNTS = {*_SIZES[LAYERS].split(), "encoder_layers", "num_encoder_layers", "depth", "layers"}
ONE = {"first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "num_nextn_predict_layers"}
TOKEN = re.compile(r"_(token_id|token_index|id|index)$")


# What one family needs besides, by model type of the (sub-)config: names left out are as `SIZES` has them.
# A dictionary goes into a sub-config (or into rope_parameters) of that name, on top of what that has of its own.
def _mrope(*section: int) -> dict[str, Any]:
    return {"rope_parameters": {"mrope_section": list(section)}}


_ROPES = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
_GEMMA_MOE = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 40}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
# timm's towers need torchvision; the text decoder is the same after another tower
_TOWER = CLIPVisionConfig(
    hidden_size=HIDDEN,
    intermediate_size=INTERMEDIATE,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=IMAGE,
    patch_size=14,
)
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "mamba_d_head": 16},
    "blenderbot": {"encoder_layers": 4},  # its cache has as many layers as the encoder
    "blt": {"encoder_hash_byte_group_vocab": 32},
    "chameleon": {"vocabulary_map": {"<image>": 100}},
    "chameleon_vqgan": {"base_channels": 32, "num_embeddings": 32},
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {"sliding_attention": _ROPES, "full_attention": _ROPES},
    },
    "cosmos3_edge": {"text_config": _mrope(4, 2, 2)},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_ocr2_text": _EXPERTS | {"mlp_layer_types": ["dense", "sparse", "sparse"]},
    "diffusion_gemma_text": _GEMMA_MOE | {"global_head_dim": 32},
    "dots1": _EXPERTS | {"n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "dots3_note_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 32,
        "swa_kv_lora_rank": 24,
        "swa_head_dim": 24,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 16,
    },
    "dots3_note_audio_encoder": {"adapter_input_size": HIDDEN},
    "dots3_note_vision_encoder": {"adapter_in_dim": HIDDEN},
    "emu3": {"vocabulary_map": {"<image>": 100}},
    "emu3_vqgan": {"base_channels": 32, "codebook_size": 32},
    "ernie4_5_vl_moe_text": {"moe_intermediate_size": [48, 40]} | _mrope(2, 2, 4),
    "evolla": {"aligner_num_add_layers": 1},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_d_head": 16},
    "fast_vlm": {"vision_config": _TOWER},
    "florence_vision": {
        "depths": (1, 1, 1, 1),
        "embed_dim": (16, 32, 32, 64),
        "num_heads": (2, 2, 2, 2),
        "num_groups": (2, 2, 2, 2),
        "projection_dim": HIDDEN,
    },
    "gemma3n_text": {  # both kinds of attention, with a sparse MLP, a dense one, and keys and values of a layer before
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0, 0.0, 0.0],
        "intermediate_size": [INTERMEDIATE] * 6,
    },
    "gemma4": {"text_config": _GEMMA_MOE | {"enable_moe_block": True}},
    "gemma4_text": {"global_head_dim": 32},
    "gemma4_unified_text": {"global_head_dim": 32},
    "glm4v_text": _mrope(4, 2, 2),
    "glm4v_moe_text": _mrope(2, 1, 1),
    "glm_ocr_text": _mrope(4, 2, 2),
    "glm5_next_text": {"num_key_value_heads": 4, "index_topk": 16, "index_kpool": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4},
    "gptj": {"rotary_dim": 8},
    "granite4_vision": {
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[0, 0], [1, 1]],
        "spatial_target_layers": [0, 1, 2, 2],
    },
    "granitemoeshared": {"shared_intermediate_size": INTERMEDIATE},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention", "linear_attention"], "mamba_d_head": 16},
    # num_hidden_layers counts calls: a stack's layers, times two cycles of three low and one high stack
    "hrm_text": {"num_layers_per_stack": 2, "num_hidden_layers": 16},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "hunyuan_vl_text": _mrope(2, 2, 2, 2),
    "inkling2_text": {
        "num_hidden_layers": 4,
        "layer_types": ["hybrid_sliding"] * 3 + ["hybrid"],
        "mlp_layer_types": ["dense"] + ["sparse"] * 3,
        "n_layers_per_attn_res_block": 2,
    },
    "inkling_vision": {"patch_size": 4, "num_hidden_layers": 4},  # fewer layers than scales would need scipy
    "jamba": {"attn_layer_offset": 1, "num_hidden_layers": 4},
    "janus_vqgan": {"base_channels": 32, "num_embeddings": 32, "channel_multiplier": (1, 1)},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "llama4_text": {
        "num_hidden_layers": 4,
        "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
        "no_rope_layers": [1, 1, 1, 0],
        "moe_layers": [1, 3],
    },
    "mamba2": {"head_dim": 16, "num_heads": 8},
    "mllama_text_model": {"num_hidden_layers": 3, "cross_attention_layers": [1]},
    "mistral4": {"qk_nope_head_dim": 16},
    "modernbert-decoder": {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "muse_spark_audio": {
        "hidden_sizes": (16, 16, 32, 32),
        "depths": (1, 1, 1, 1),
        "num_hidden_layers": 4,
        "patch_sizes": (4, 2, 2, 2),
    },
    "musicgen_decoder": {"num_codebooks": 1},  # so that token ids have the usual shape
    "musicgen_melody_decoder": {"num_codebooks": 1},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "paddleocr_vl_text": _mrope(4, 2, 2),
    "perception_lm": {"vision_config": CLIPVisionConfig(**_TOWER.to_dict(), model_args={"embed_dim": HIDDEN})},
    "qwen2_5_omni_text": _mrope(4, 2, 2),
    "qwen2_5_vl_text": _mrope(4, 2, 2),
    "qwen2_vl_text": _mrope(4, 2, 2),
    "qwen4_exp_text": {
        "ple_layer_ids": [1],
        "eos_token_id": 2,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "reformer": {"is_decoder": True, "axial_pos_shape": (16, 16), "axial_pos_embds_dim": (32, 32)},
    "step3p5": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "sliding_window": 16,
        "num_sliding_attention_heads": 8,
    },
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},  # widths are rounded up to multiples of 64
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "attention_hidden_size": 2 * HIDDEN,
        "attention_head_dim": 32,
        "num_key_value_heads": 4,
    },
    "zamba2": {"attention_hidden_size": 2 * HIDDEN, "attention_head_dim": 32, "num_key_value_heads": 4, "n_mamba_heads": 8},
}

# Where get_decoder() gives no model of text: an action model, and the half of a diffusion model that has no causal mask.
TEXT_MODELS = {"pi0": "model.vlm.language_model", "diffusion_gemma": "model.encoder.language_model"}

_TIMM = "its vision tower is timm's, which needs torchvision"
_ASSISTANT = "a head for assisted decoding: its layers read another model's keys and values, and its default config is refused"
# What cannot be built, or run on a CPU, without more than transformers and PyTorch; a test asserts that the rest can.
UNBUILDABLE: dict[Entry, str] = {
    Entry("causal", "gemma3n"): _TIMM,
    Entry("image", "gemma3n"): _TIMM,
    Entry("image", "idefics"): "its decoder takes no text without images",
    Entry("image", "t5gemma2"): "its decoder takes no text without an encoder's hidden states",
    Entry("causal", "gemma4_assistant"): _ASSISTANT,
    Entry("causal", "gemma4_unified_assistant"): _ASSISTANT,
}


def entries() -> list[Entry]:
    """Every entry of the installed transformers' two mappings; a model type that is in both is there twice."""
    causal = [Entry("causal", model_type) for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    image = [Entry("image", model_type) for model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES]
    return causal + image


def build(entry: Entry, seed: int = 0) -> nn.Module:
    """The tiny model of an entry: float32 on the CPU, in evaluation mode, the same for the same seed.

    Whatever transformers raises, where the entry cannot be built.
    """
    model_class = _model_class(entry)
    config = small(CONFIG_MAPPING[entry.model_type](), {}, {})
    parts = [config, *(value for value in vars(config).values() if isinstance(value, PreTrainedConfig))]
    part = next((one for one in parts if type(one) is model_class.config_class), config)
    torch.manual_seed(seed)
    model: nn.Module = model_class._from_config(part, dtype=torch.float32).eval()
    _enliven(model, torch.Generator().manual_seed(seed))
    return model


def text_model(entry: Entry, model: nn.Module) -> nn.Module:
    """The part of an entry's model that takes `input_ids` and `attention_mask` and gives hidden states or logits."""
    if entry.model_type in TEXT_MODELS:
        return model.get_submodule(TEXT_MODELS[entry.model_type])
    decoder: nn.Module = model if entry.kind == "causal" else model.get_decoder()  # type: ignore[operator]
    return decoder


def _model_class(entry: Entry) -> Any:
    """The class itself: transformers' AutoModel classes do not find every one of their own entries."""
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if entry.kind == "causal" else MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return getattr(transformers, names[entry.model_type])


def small(config: Any, tokens: dict[int, int], more: dict[str, Any]) -> Any:
    """A family's config made anew with small sizes, sub-configs too; `tokens` maps special tokens to ids that are left."""
    special = SPECIAL.get(config.model_type, {}) | more
    held = vars(config)  # where layers differ (gemma4), transformers guards the attributes
    names = {field.name: config.attribute_map.get(field.name, field.name) for field in dataclasses.fields(config)}
    fields = {name: held[kept] for name, kept in names.items() if kept in held}
    sizes: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, PreTrainedConfig):
            given = special.get(name, {})
            sizes[name] = given if isinstance(given, PreTrainedConfig) else small(value, tokens, given)
        elif name in special:
            merge = isinstance(special[name], dict) and isinstance(value, dict)
            sizes[name] = value | special[name] if merge else special[name]
        elif name == "head_dim" and value is None:
            sizes[name] = SIZES[name]
        elif name == "num_key_value_heads" and "kv_lora_rank" in fields:  # multi-head latent attention has as many as heads
            sizes[name] = SIZES["num_attention_heads"]
        elif name in SIZES and isinstance(value, int) and not isinstance(value, bool):
            sizes[name] = min(value, SIZES[name])
        elif name in ONE and isinstance(value, int):
            sizes[name] = min(value, 1)
        elif TOKEN.search(name) and isinstance(value, (int, list)):
            sizes[name] = _token(value, tokens)
        elif name == "image_size":
            sizes[name] = type(value)([IMAGE, IMAGE]) if isinstance(value, (list, tuple)) else IMAGE
        elif name == "patch_size" and isinstance(value, int):
            sizes[name] = min(value, PATCH)
    return type(config)(**special | _fewer_layers(fields, sizes) | sizes)


def _token(value: Any, tokens: dict[int, int]) -> Any:
    if isinstance(value, list):
        return [_token(one, tokens) for one in value]
    return value if value < 3 else tokens.setdefault(value, VOCABULARY - 1 - len(tokens))


def _fewer_layers(fields: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """The number of layers that shows every kind of layer once, and all that the config lists by layer, for those layers."""
    counts = [name for name in fields if name in LAYER_COUNTS and isinstance(fields[name], int)]
    if not counts:
        return {}
    count = max(fields[name] for name in counts)
    listed = {name: list(value) for name, value in fields.items() if isinstance(value, (list, tuple)) and len(value) == count}
    listed = {name: value for name, value in listed.items() if name not in sizes}
    if not listed:
        return {}
    kinds = list(zip(*listed.values(), strict=True))
    first = sorted({kind: index for index, kind in reversed(list(enumerate(map(repr, kinds))))}.values())
    if len(first) > 8:
        first = first[:LAYERS]
    spare = (index for index in range(count) if index not in first)
    chosen = sorted([*first, *itertools.islice(spare, max(0, LAYERS - len(first)))])
    return {name: [value[index] for index in chosen] for name, value in listed.items()} | {
        name: len(chosen) for name in counts if fields[name] == count
    }


def _enliven(model: nn.Module, generator: torch.Generator) -> None:
    """Weights under which every part of a layer matters: matrices of gain 1, nothing still 0 or 1 that training would move."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if not tensor.numel():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if float(tensor.max() - tensor.min()) < 0.2 and (tensor.ndim < 2 or bool((tensor == tensor.flatten()[0]).all())):
                tensor.add_(0.2 * noise)  # norms, biases, sinks, scales, and matrices that begin at zero
            elif tensor.ndim > 1 and not name.endswith("A_log"):  # decay rates of state-space models stay in their range
                tensor.copy_(noise / math.sqrt(tensor[0].numel() if tensor.ndim == 2 else tensor.shape[-1]))
        for name, buffer in model.named_buffers():
            if name.endswith(("e_score_correction_bias", "expert_bias")):  # with it other experts are chosen
                buffer.add_(0.2 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("tid2eid"):  # experts by token id: from zeros all tokens would go to expert 0
                buffer.copy_(
                    torch.stack([torch.randperm(SIZES["num_experts"], generator=generator) for _ in buffer])[
                        :, : buffer.shape[1]
                    ]
                )
