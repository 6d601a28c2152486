"""Checkpoints of vision-language models: loaded whole, with the vision tower, and refused where part of it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from pytest_maxact.checkpoint import find, load
from pytest_maxact.errors import CheckpointError
from pytest_maxact.runner import measure
from tests.conftest import SIZES

BATCHES = [{"input_ids": torch.arange(40).reshape(2, 20) + 5}]
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGES = {"image_size": 28, "patch_size": 14}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
MODELS: dict[str, dict[str, Any]] = {
    "llava": {
        "text_config": SIZES | {"model_type": "llama"},
        "vision_config": VISION | IMAGES | {"model_type": "clip_vision_model"},
        "image_token_index": 500,
    },
    "gemma3": {
        "text_config": SIZES,
        "vision_config": VISION | IMAGES | {"model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4,
    },
    "idefics3": {
        "text_config": SIZES | {"model_type": "llama"},
        "vision_config": VISION | IMAGES,
        "scale_factor": 2,
        "image_token_id": 500,
    },
    "qwen2_vl": {
        "text_config": SIZES | {"rope_parameters": ROPE},
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 14},
    },
}


def whole(folder: Path, family: str) -> Any:
    """A model with its head, written to a folder under the names that checkpoints of this family have."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **MODELS[family])).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", MODELS)
def test_the_vision_tower_comes_with_the_decoder(tmp_path: Path, family: str) -> None:
    saved = whole(tmp_path, family)
    found = load(find(str(tmp_path)))
    expected, weights = saved.model.state_dict(), found.model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert any("vis" in name for name in weights)
    assert measure(found, batches=BATCHES).sites == measure(saved, batches=BATCHES).sites


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("part", ["vis", "embed_tokens"])
def test_a_part_that_is_missing_is_refused(tmp_path: Path, family: str, part: str) -> None:
    whole(tmp_path, family)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights[next(name for name in weights if part in name)]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"lacks 1 weights of its architecture \(the first: \S*{part}"):
        load(find(str(tmp_path)))


@pytest.mark.parametrize("task", ["CAUSAL_LM", None])
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.filterwarnings("ignore")  # of PEFT
def test_adapters_are_put_on_the_class_they_were_trained_on(tmp_path: Path, family: str, task: str | None) -> None:
    whole(tmp_path / "base", family)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base").eval()
    adapted: Any = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type=task, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    adapted.save_pretrained(str(tmp_path / "tuned"))
    found = measure(load(find(str(tmp_path / "tuned"))), batches=BATCHES)
    assert found.sites == measure(adapted, batches=BATCHES).sites
    assert found.sites != measure(load(find(str(tmp_path / "base"))), batches=BATCHES).sites
    assert found.model.model_type == adapted.get_base_model().model.get_decoder().config.model_type
