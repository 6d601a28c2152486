"""What is no plain folder of weights: an adapter, a quantized checkpoint, a model over all devices, named like any other."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModel

from pytest_maxact.record import Measurement
from tests.behaviours.conftest import GREEN, User

for name in ("accelerate", "transformers.quantizers.auto"):  # before inner sessions, which forget what they import
    import_module(name)


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    """A folder with an adapter on the checkpoint, which adds nothing to it."""
    folder = tmp_path / "tuned"
    config = peft.LoraConfig(r=2, task_type="FEATURE_EXTRACTION", target_modules=["q_proj"])
    peft.get_peft_model(AutoModel.from_pretrained(checkpoint, dtype="auto"), config).save_pretrained(str(folder))
    return folder


@pytest.mark.filterwarnings("ignore:`is_gradient")  # which PEFT asks for
def test_an_adapter_is_measured_on_its_base(quick_user: User, adapter: Path) -> None:
    assert quick_user.pytest("--maxact-json=record.json", model=adapter).ret == 0
    assert quick_user.seen == GREEN
    record = Measurement.load(quick_user.folder / "record.json")
    assert (record.model.id, record.model.architecture, record.model.dtype) == ("tuned", "LlamaModel", "bfloat16")
    kept = quick_user.records
    assert quick_user.pytest(model=adapter).ret == 0
    assert quick_user.records == kept  # measured once


@pytest.mark.filterwarnings("ignore:`is_gradient")
def test_an_adapter_without_its_base_is_status_4(quick_user: User, adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "./base"}))
    refused(quick_user, adapter, "ERROR: the base model ./base of adapter tuned is not there (looked for *")


def test_a_quantized_checkpoint_without_its_library_is_status_4(quick_user: User, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "packed"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "aqlm"}}))
    refused(
        quick_user, folder, "ERROR: checkpoint packed is quantized by aqlm, for which a library is missing: `pip install *`"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_balanced_is_like_the_one_device_that_there_is(quick_user: User) -> None:
    assert quick_user.pytest("--maxact-device=balanced").ret == 0
    assert quick_user.seen == GREEN
    kept = quick_user.records
    assert quick_user.pytest("--maxact-device=cpu").ret == 0
    assert quick_user.records == kept


def refused(user: User, model: Path, line: str) -> None:
    """Before anything runs, in one line."""
    result = user.pytest(model=model)
    assert result.ret == 4
    result.stderr.fnmatch_lines([line])
    assert len([text for text in result.errlines if text.strip()]) == 1
    assert user.seen == {}
