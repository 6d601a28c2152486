"""Quantized checkpoints: measured as transformers loads them, or refused before the run with what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, TorchAoConfig

from pytest_maxact import quantized
from pytest_maxact.checkpoint import Checkpoint, check_device, find, load
from pytest_maxact.errors import CheckpointError
from pytest_maxact.runner import measure
from tests.conftest import FAMILIES, SIZES

BATCHES = [{"input_ids": torch.arange(40).reshape(2, 20) + 5}]
WIDE = SIZES | {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}  # what quantized kernels ask for
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the quantization libraries


def whole(folder: Path, family: str = "llama", **sizes: Any) -> Any:
    """A model with its head, written to a folder."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **WIDE | FAMILIES[family] | sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    model.save_pretrained(folder)
    return model


def says(folder: Path, **scheme: Any) -> None:
    """Write a quantization config."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": scheme}))


def check_like(found: Checkpoint, expected: Any, method: str) -> None:
    """Its figures are those of the same model in memory, and not those of the weights before they were quantized."""
    record, in_memory = measure(found, batches=BATCHES), measure(expected, batches=BATCHES)
    assert record.sites == in_memory.sites
    assert type(found.model).__name__ == "LlamaForCausalLM"  # the names of modules in its config are this class's
    assert (record.model.quantization, record.model.dtype) == (method, "bfloat16")
    assert (record.model.architecture, record.model.layers) == ("LlamaForCausalLM", 3)


def to_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix in blocks of 128 x 128: packed, its scales, and what it then stands for in bfloat16."""
    packed = torch.zeros(weight.shape, dtype=torch.float8_e4m3fn)
    scales = torch.zeros([-(-size // 128) for size in weight.shape])
    unpacked = torch.zeros(weight.shape)
    for row in range(scales.shape[0]):
        for column in range(scales.shape[1]):
            block = (slice(row * 128, (row + 1) * 128), slice(column * 128, (column + 1) * 128))
            scales[row, column] = weight[block].float().abs().max() / 448
            packed[block] = (weight[block].float() / scales[row, column]).to(packed.dtype)
            unpacked[block] = packed[block].float() * scales[row, column]
    return packed, scales, unpacked.bfloat16()


@pytest.mark.skipif(torch.cuda.is_available(), reason="elsewhere than on a GPU")
@pytest.mark.skipif(transformers.__version__.startswith("5.0."), reason="transformers 5.0 unpacks to float32 beside bfloat16")
def test_fp8_is_unpacked_on_a_cpu_and_the_record_says_so(tmp_path: Path) -> None:
    model = whole(tmp_path, num_key_value_heads=4)
    spared = "model.layers.1.mlp.down_proj"
    weights = {}
    for name, weight in load_file(tmp_path / "model.safetensors").items():
        weights[name] = weight
        if "_proj" in name and not name.startswith(spared):
            weights[name], weights[f"{name}_scale_inv"], unpacked = to_fp8(weight)
            with torch.no_grad():
                model.get_parameter(name).copy_(unpacked)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    scheme = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    says(tmp_path, **scheme, modules_to_not_convert=[spared, "lm_head"])
    found = load(find(str(tmp_path)))
    check_like(found, model, "fp8")
    told = "not quantized: fp8 weights were unpacked for this device, and activations are not rounded as it would"
    assert measure(found, batches=BATCHES).notes.count(told) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="elsewhere than on a GPU")
def test_mxfp4_experts_are_unpacked_on_a_cpu(tmp_path: Path) -> None:
    """As those of GPT-OSS are."""
    whole(tmp_path, "gpt_oss")
    weights = load_file(tmp_path / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = weights.pop(name).shape
        blocks = torch.randint(0, 256, (experts, rows, columns // 32, 16), generator=generator, dtype=torch.uint8)
        weights[f"{name}_blocks"] = blocks
        weights[f"{name}_scales"] = torch.full((experts, rows, columns // 32), 120, dtype=torch.uint8)  # 2 ** (120 - 127)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    says(tmp_path, quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn", "lm_head"])
    found = load(find(str(tmp_path)))
    model: Any = found.model
    largest = model.get_decoder().layers[0].mlp.experts.gate_up_proj.abs().max().item()
    assert largest == 6 / 128  # the largest value of four bits
    assert measure(found, batches=BATCHES).model.quantization == "mxfp4"


def by_compressed_tensors(folder: Path, preset: str) -> Any:
    """Quantize what is in a folder, as llm-compressor writes it; gives the model in memory, which rounds as it goes."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        apply_quantization_config,
        preset_name_to_scheme,
    )

    whole(folder)
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval() for _ in range(2)]
    for model in models:
        groups = {"all": preset_name_to_scheme(preset, ["Linear"])}
        apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=["lm_head"]))
        linear: list[Any] = [module for module in model.modules() if hasattr(module, "weight_scale")]
        for module in linear:
            args = module.quantization_scheme.weights
            steps = 448 if args.type == "float" else 2 ** (args.num_bits - 1) - 1
            rows = module.weight.detach().abs().reshape(*module.weight_scale.shape, -1)
            module.weight_scale.data = rows.amax(-1) / steps
            module.quantization_status = QuantizationStatus.FROZEN
    stored, in_memory = models
    compressor = ModelCompressor.from_pretrained_model(stored)
    compressor.compress_model(stored)
    stored.save_pretrained(folder)
    compressor.update_config(str(folder))
    return in_memory


@pytest.mark.parametrize("preset", ["W8A8", "W8A16", "W4A16", "FP8_DYNAMIC"])
def test_compressed_tensors_round_as_they_go(tmp_path: Path, preset: str) -> None:
    pytest.importorskip("compressed_tensors")
    expected = by_compressed_tensors(tmp_path, preset)
    found = load(find(str(tmp_path)))
    check_like(found, expected, "compressed-tensors")
    assert measure(found, batches=BATCHES).sites != measure(whole(tmp_path / "plain"), batches=BATCHES).sites


@pytest.mark.parametrize("bits", [8, 4])
def test_bitsandbytes_stay_packed(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    whole(tmp_path)
    how = {"load_in_8bit": True} if bits == 8 else {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16}
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=BitsAndBytesConfig(**how))
    expected.save_pretrained(tmp_path / "packed")
    found = load(find(str(tmp_path / "packed")))
    assert {parameter.dtype for parameter in found.model.parameters()} > {torch.int8 if bits == 8 else torch.uint8}
    check_like(found, expected, "bitsandbytes")


def test_torchao(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    whole(tmp_path)
    how = TorchAoConfig(quantization.Int8DynamicActivationInt8WeightConfig())
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=how, dtype=torch.bfloat16)
    expected.save_pretrained(tmp_path / "packed")
    check_like(load(find(str(tmp_path / "packed"))), expected, "torchao")


# By the library that says it is missing.
NEEDS: dict[str, tuple[dict[str, Any], str]] = {
    "optimum": ({"quant_method": "gptq", "bits": 4}, "gptq, for which a library is missing: `pip install gptqmodel optimum"),
    "gptqmodel": (
        {"quant_method": "awq", "bits": 4, "group_size": 128},
        "awq, for which a library is missing: `pip install gptqmodel",
    ),
    "bitsandbytes": ({"load_in_8bit": True}, "bitsandbytes, for which a library is missing: `pip install bitsandbytes"),
    "compressed_tensors": (
        {"quant_method": "compressed-tensors", "config_groups": {}},
        "compressed-tensors, for which a library is missing: `pip install compressed-tensors",
    ),
    "hqq": ({"quant_method": "hqq", "quant_config": {}}, "hqq, for which a library is missing: `pip install hqq"),
    "a GPU": ({"quant_method": "higgs"}, "higgs, which cannot be loaded here: HIGGS quantization is only supported on GPU"),
    "transformers": ({"quant_method": "telepathy"}, "telepathy, which cannot be loaded here: Unknown quantization type"),
    "a config": ({"bits": 4}, "None, which cannot be loaded here: The model's quantization config"),
}


@pytest.mark.parametrize("missing", NEEDS)
def test_what_is_missing_is_told_before_weights_are_read(
    checkpoint: Path, tmp_path: Path, make_checkpoint: Callable[..., Path], missing: str
) -> None:
    if missing.isidentifier() and missing != "transformers" and find_spec(missing):
        pytest.skip(f"{missing} is installed")
    scheme, expected = NEEDS[missing]
    folder = make_checkpoint(tmp_path / "packed")
    says(folder, **scheme)
    reference = find(str(folder))
    (folder / "model.safetensors").unlink()
    for refused in (check_device, lambda reference, device: load(reference, device=device)):
        with pytest.raises(CheckpointError) as caught:
            refused(reference, CPU)
        message = str(caught.value)
        assert message.startswith(f"checkpoint packed is quantized by {expected}")
        assert "\n" not in message


@pytest.mark.skipif(find_spec("gptqmodel") is not None, reason="gptqmodel is installed")
def test_of_a_method_not_in_the_table_transformers_own_words_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "PACKAGES", {})
    config = LlamaConfig(quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128})
    with pytest.raises(CheckpointError, match=r"^checkpoint x is quantized by awq, for which .*: Loading an AWQ .*gptqmodel"):
        quantized.check(config, "x", CPU)


def test_without_accelerate_all_of_them_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    config = LlamaConfig(quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    with pytest.raises(
        CheckpointError, match=r"^checkpoint x is quantized by fp8, for which a library .*: `pip install accelerate`$"
    ):
        quantized.check(config, "x", CPU)
    assert quantized.check(LlamaConfig(), "x", CPU) is None  # type: ignore[func-returns-value]
