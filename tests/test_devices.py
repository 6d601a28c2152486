"""Models over several devices, as far as a machine with a CPU alone can tell: the disk that parts wait on is a device, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModel

from pytest_maxact import checkpoint as checkpoints
from pytest_maxact.checkpoint import find, load, resolve_device
from pytest_maxact.config import OPTIONS
from pytest_maxact.errors import SettingsError
from pytest_maxact.runner import measure

BATCHES = [{"input_ids": torch.arange(40).reshape(2, 20) + 5}]
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")


@without_gpu
def test_balanced_is_the_cpu_where_there_is_no_other_device(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("balanced") == torch.device("cpu")
    reference = find(str(checkpoint))
    original, maps = AutoModel.from_pretrained, []

    def spy(*args: Any, **kwargs: Any) -> Any:
        maps.append(kwargs.get("device_map"))
        return original(*args, **kwargs)

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", spy)
    balanced = load(reference, balanced=True)
    assert maps == ["balanced"]
    found, expected = measure(balanced, batches=BATCHES), measure(load(reference), batches=BATCHES)
    assert found.sites == expected.sites
    assert found.model == expected.model
    assert found.environment == expected.environment


def test_balanced_needs_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    with pytest.raises(
        SettingsError, match=r"^--maxact-device=balanced needs the library accelerate: `pip install accelerate`"
    ):
        resolve_device("balanced")


def test_the_help_names_it() -> None:
    (option,) = [option for option in OPTIONS if option.name == "device"]
    assert "balanced" in option.help


WAITING = ["layers.1", "layers.2", "norm"]


@pytest.mark.parametrize("waiting", [[], ["layers.1"], WAITING, ["embed_tokens", *WAITING, "layers.0"]])
@pytest.mark.filterwarnings("ignore")  # of accelerate
def test_parts_that_wait_on_the_disk_are_measured(checkpoint: Path, tmp_path: Path, waiting: list[str]) -> None:
    parts = ["embed_tokens", "layers.0", "layers.1", "layers.2", "norm", "rotary_emb"]
    device_map = {part: "disk" if part in waiting else "cpu" for part in parts}
    model = AutoModel.from_pretrained(checkpoint, dtype="auto", device_map=device_map, offload_folder=tmp_path)
    assert any(parameter.device.type == "meta" for parameter in model.parameters()) == bool(waiting)
    expected = measure(AutoModel.from_pretrained(checkpoint, dtype="auto"), batches=BATCHES)
    found = measure(model, batches=BATCHES)
    assert found.sites == expected.sites
    assert found.environment.device == "cpu"
    assert found.model == expected.model
