"""Tiny image-text models and their processors, built here and now: of every way in which images get into a decoder, one.

Processors are real ones of transformers, of parts that need no torchvision.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from tests.conftest import SIZES

TEXT: dict[str, Any] = SIZES | {"vocab_size": 640, "max_position_embeddings": 1024}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
# As templates of such models are: content is a list of parts, and a plain string is passed over.
PARTS_ONLY = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] | selectattr('type', 'equalto', 'image') %}"
    "IMAGE\n{% endfor %}{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}{% endfor %} <eos>"
    "{% endfor %}"
)
IN_ORDER = (
    "{% for m in messages %}<eos>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<eos>\n{% endfor %}"
)


class ImageText(NamedTuple):
    """A processor and the config of a model that takes what it makes."""

    processor: Any
    config: Any

    def model(self, dtype: torch.dtype = torch.float32) -> Any:
        """The whole base model, randomly initialised, in evaluation mode."""
        torch.manual_seed(0)
        model = AutoModel.from_config(self.config, dtype=dtype).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if not bool(parameter.any()):  # some let nothing of an image through until they are trained
                    parameter.normal_(std=0.1)
        return model

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of both."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model().save_pretrained(folder)
            self.processor.save_pretrained(folder)
        return folder


def llava(tokenizer: PreTrainedTokenizerFast) -> ImageText:
    """Image features in place of the image's tokens."""
    own = _extended(tokenizer, image_token="<image>")
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    template = PARTS_ONLY.replace("IMAGE", "<image>")
    processor = transformers.LlavaProcessor(
        images,
        own,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    config = AutoConfig.for_model(
        "llava",
        image_token_id=own.convert_tokens_to_ids("<image>"),
        vision_config={"model_type": "clip_vision_model", "image_size": 28, **VISION},
        text_config={"model_type": "llama", **TEXT},
    )
    return ImageText(processor, config)


def idefics3(tokenizer: PreTrainedTokenizerFast) -> ImageText:
    """As many tiles an image as its shape asks for, with words around them; no chat template."""
    own = _extended(tokenizer)
    images = transformers.Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    processor = transformers.Idefics3Processor(images, own, image_seq_len=1)
    config = AutoConfig.for_model(
        "idefics3",
        image_token_id=own.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        vision_config={"image_size": 28, **VISION},
        text_config={"model_type": "llama", **TEXT},
    )
    return ImageText(processor, config)


def gemma3(tokenizer: PreTrainedTokenizerFast) -> ImageText:
    """One token to write, another that stands for pixels; attention in both directions inside an image."""
    own = _extended(tokenizer, image_token="<soft>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    images = transformers.Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    processor = transformers.Gemma3Processor(
        images, own, image_seq_length=4, chat_template=IN_ORDER.replace("IMAGE", "<start_of_image>")
    )
    config = AutoConfig.for_model(
        "gemma3",
        image_token_id=own.convert_tokens_to_ids("<soft>"),
        mm_tokens_per_image=4,
        vision_config={"image_size": 56, **VISION},
        text_config=TEXT | {"layer_types": ["sliding_attention", "full_attention", "full_attention"]},
    )
    return ImageText(processor, config)


def qwen2_vl(tokenizer: PreTrainedTokenizerFast) -> ImageText:
    """As many tokens as an image has patches, with positions in two dimensions, between two marks."""
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    marks = {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    own = _extended(tokenizer, **names, **marks)
    images = transformers.Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, min_pixels=28 * 28, max_pixels=28 * 28 * 6)

    class ImagesOnly(transformers.Qwen2VLProcessor):  # type: ignore[misc]
        """Without the part for videos, which needs torchvision."""

        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if name == "video_processor" else super().check_argument_for_proper_class(name, argument)

    template = IN_ORDER.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    ids = {f"{name}_id": own.convert_tokens_to_ids(token) for name, token in (names | marks).items()}
    config = AutoConfig.for_model(
        "qwen2_vl",
        **ids,
        vision_config={"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14},
        text_config={name: value for name, value in TEXT.items() if name != "head_dim"}
        | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
    )
    return ImageText(ImagesOnly(images, own, None, chat_template=template), config)


def mllama(tokenizer: PreTrainedTokenizerFast) -> ImageText:
    """Images by cross-attention; a single token stands for each."""
    own = _extended(tokenizer, image_token="<|image|>")
    images = transformers.MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=2)
    vision = {name: value for name, value in VISION.items() if name != "num_attention_heads"} | {
        "attention_heads": 2,
        "num_global_layers": 1,
        "image_size": 28,
        "max_num_tiles": 2,
        "intermediate_layers_indices": [0, 1],
        "vision_output_dim": 48,
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }
    config = AutoConfig.for_model(
        "mllama",
        image_token_index=own.convert_tokens_to_ids("<|image|>"),
        vision_config=vision,
        text_config=TEXT | {"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    )
    return ImageText(transformers.MllamaProcessor(images, own), config)


def paligemma(tokenizer: PreTrainedTokenizerFast) -> ImageText:
    """A processor that adds words of its own around a text."""
    own = _extended(tokenizer, image_token="<image>")
    images = transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    config = AutoConfig.for_model(
        "paligemma",
        image_token_index=own.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        vision_config={"model_type": "siglip_vision_model", "image_size": 28, "vision_use_head": False, **VISION},
        text_config={"model_type": "gemma", **TEXT},
    )
    return ImageText(transformers.PaliGemmaProcessor(images, own), config)


FAMILIES: dict[str, Callable[[PreTrainedTokenizerFast], ImageText]] = {
    build.__name__: build for build in (llava, idefics3, gemma3, qwen2_vl, mllama, paligemma)
}


def _extended(tokenizer: PreTrainedTokenizerFast, **tokens: str) -> Any:
    """A copy of the tests' tokenizer that knows these tokens, also as attributes."""
    backend = tokenizer.backend_tokenizer
    return PreTrainedTokenizerFast(
        tokenizer_object=type(backend).from_str(backend.to_str()),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens=tokens,
    )
