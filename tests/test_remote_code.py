"""Checkpoints with Python code of their own: none runs or is even imported without the option; with it they are measured."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_maxact.checkpoint import find, load
from pytest_maxact.errors import CheckpointError
from pytest_maxact.runner import measure

BATCHES = [{"input_ids": torch.arange(24).reshape(2, 12) + 1}]
LAYERS, WIDTH, VOCABULARY = 2, 16, 64

# Leaves a file behind wherever it is imported.
CONFIG_CODE = """
from pathlib import Path

from transformers import PreTrainedConfig

Path({trace!r}).touch()


class BraidConfig(PreTrainedConfig):
    model_type = "braid"

    def __init__(self, vocab_size={vocabulary}, hidden_size={width}, num_hidden_layers={layers}, **kwargs):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.max_position_embeddings, self.tie_word_embeddings = 64, False
        super().__init__(**kwargs)
"""
MODEL_CODE = """
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from .configuration_braid import BraidConfig


class BraidAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(width, width, bias=False)

    def forward(self, hidden_states):  # each token takes the mean of those so far
        count = torch.arange(1, hidden_states.shape[1] + 1, device=hidden_states.device)[:, None]
        return self.mix(hidden_states.cumsum(1) / count)


class BraidMLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.down_proj, self.act_fn = nn.Linear(2 * width, width), nn.SiLU()

    def forward(self, hidden_states):
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class BraidLayer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention, self.mlp = BraidAttention(width), BraidMLP(width)
        self.first_norm, self.second_norm = nn.RMSNorm(width), nn.RMSNorm(width)

    def forward(self, hidden_states):
        hidden_states = hidden_states + self.attention(self.first_norm(hidden_states))
        return hidden_states + self.mlp(self.second_norm(hidden_states))


class BraidPreTrainedModel(PreTrainedModel):
    config_class = BraidConfig
    base_model_prefix = "model"


class BraidModel(BraidPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(BraidLayer(config.hidden_size) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None, **kwargs):
        hidden_states = self.embed_tokens(input_ids)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


class BraidForCausalLM(BraidPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = BraidModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids, **kwargs):
        return CausalLMOutput(logits=self.lm_head(self.model(input_ids, **kwargs).last_hidden_state))
"""


def imported() -> set[str]:
    """Modules of checkpoints' code, maybe of other tests', too."""
    return {name for name in sys.modules if name.startswith("transformers_modules.")}


def weights() -> dict[str, torch.Tensor]:
    """Of a whole model, a little apart from zero."""
    shapes = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (VOCABULARY, WIDTH),
    }
    for number in range(LAYERS):
        at = f"model.layers.{number}"
        shapes |= {f"{at}.attention.mix.weight": (WIDTH, WIDTH), f"{at}.mlp.down_proj.weight": (WIDTH, 2 * WIDTH)}
        shapes |= {
            f"{at}.mlp.down_proj.bias": (WIDTH,),
            f"{at}.first_norm.weight": (WIDTH,),
            f"{at}.second_norm.weight": (WIDTH,),
        }
        for part in ("gate_proj", "up_proj"):
            shapes |= {f"{at}.mlp.{part}.weight": (2 * WIDTH, WIDTH), f"{at}.mlp.{part}.bias": (2 * WIDTH,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


class Braid:
    """A checkpoint whose code leaves `trace` behind where it runs."""

    def __init__(self, home: Path) -> None:
        self.folder, self.trace = home / "braid", home / "ran"
        self.folder.mkdir()
        sizes = {"vocabulary": VOCABULARY, "width": WIDTH, "layers": LAYERS}
        (self.folder / "configuration_braid.py").write_text(CONFIG_CODE.format(trace=str(self.trace), **sizes))
        (self.folder / "modeling_braid.py").write_text(MODEL_CODE)
        save_file(weights(), self.folder / "model.safetensors", {"format": "pt"})
        self.config(AutoModelForCausalLM="modeling_braid.BraidForCausalLM")

    def config(self, model_type: str = "braid", **classes: str) -> None:
        """Write the config, which names the classes of its own code."""
        auto_map = {"AutoConfig": "configuration_braid.BraidConfig"} | classes
        config: dict[str, object] = {
            "model_type": model_type,
            "architectures": ["BraidForCausalLM"],
            "auto_map": auto_map,
            "dtype": "float32",
        }
        config |= {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS}
        (self.folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def braid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Braid]:
    """The checkpoint; transformers copies its code to a folder that goes with the test."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    path, modules = list(sys.path), set(sys.modules)
    yield Braid(tmp_path)
    sys.path[:] = path
    for name in [name for name in set(sys.modules) - modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "classes",
    [
        {"AutoModelForCausalLM": "modeling_braid.BraidForCausalLM"},
        {"AutoModel": "modeling_braid.BraidModel"},
        {"AutoModel": "modeling_braid.BraidModel", "AutoModelForCausalLM": "modeling_braid.BraidForCausalLM"},
    ],
    ids=["with a head only", "without", "both"],
)
def test_it_is_measured_with_the_option_only(braid: Braid, classes: dict[str, str]) -> None:
    before = imported()
    braid.config(**classes)
    with pytest.raises(
        CheckpointError, match=r"^checkpoint braid needs Python code of its own \(.*\): read that code, and where"
    ):
        find(str(braid.folder))
    assert not braid.trace.exists()
    assert not imported() - before
    record = measure(load(find(str(braid.folder), trust_remote_code=True)), batches=BATCHES)
    assert braid.trace.exists()
    assert (record.model.architecture, record.model.model_type, record.model.layers) == ("BraidForCausalLM", "braid", LAYERS)
    embedding = record.site("embedding", None)
    assert embedding is not None
    assert embedding.max == weights()["model.embed_tokens.weight"][1:25].max()
    assert {site.component for site in record.sites} >= {"embedding", "hidden", "attention", "mlp", "gate", "final_norm"}


def test_code_of_a_known_architecture_does_not_run_without_the_option(
    braid: Braid, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """As the configs of many models on the Hub are: transformers has learned the architecture since."""
    folder = make_checkpoint(tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_braid.BraidConfig", "AutoModel": "modeling_braid.BraidModel"}
    (folder / "config.json").write_text(json.dumps(config))
    for file in braid.folder.glob("*.py"):
        shutil.copy(file, folder)
    assert measure(load(find(str(folder))), batches=BATCHES).model.model_type == "llama"
    assert not braid.trace.exists()


def test_weights_that_its_code_misses_are_told(braid: Braid) -> None:
    save_file({key: w for key, w in weights().items() if "layers.1.mlp" not in key}, braid.folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"checkpoint braid lacks 6 weights of its architecture \(the first: model\.layers\.1"
    ):
        load(find(str(braid.folder), trust_remote_code=True))


def test_code_that_breaks_is_told_in_one_line(braid: Braid) -> None:
    (braid.folder / "modeling_braid.py").write_text("import antigravity_of_ours\n")
    with pytest.raises(CheckpointError, match=r"^checkpoint braid cannot be loaded: .*antigravity_of_ours[^\n]*$"):
        load(find(str(braid.folder), trust_remote_code=True))
