"""Adapters of PEFT as checkpoints: the figures of the model in memory; what cannot be measured is known before the run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from pytest_maxact.checkpoint import Reference, fetch, find, has_tokenizer, load, load_tokenizer, small_files_digest
from pytest_maxact.errors import CheckpointError
from pytest_maxact.runner import measure
from pytest_maxact.series import members
from tests.conftest import SIZES

BATCHES = [{"input_ids": torch.arange(40).reshape(2, 20) + 5}]

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT, which guesses about embeddings


def stirred(model: Any) -> Any:
    """Adapters that do something: fresh ones add nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


class Folders:
    """A base model and an adapter that names it, by the path from the one to the other."""

    def __init__(self, home: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.base, self.adapter, self.tokenizer = home / "base", home / "tuned", tokenizer
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES), dtype=torch.bfloat16)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)
        model.save_pretrained(self.base)
        tokenizer.save_pretrained(self.base)

    def plain(self) -> Any:
        """The base model with its head."""
        return AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.bfloat16).eval()

    def save(self, config: peft.PeftConfig | None = None, *, vocabulary: int | None = None, base: str = "../base") -> Any:
        """Write an adapter; gives the model that it was on, in memory."""
        model = self.plain()
        if vocabulary is not None:
            model.resize_token_embeddings(vocabulary)
        model = stirred(peft.get_peft_model(model, config or peft.LoraConfig(r=4, task_type="CAUSAL_LM")))
        for kept in model.peft_config.values():
            kept.base_model_name_or_path = base
        model.save_pretrained(self.adapter, save_embedding_layers=vocabulary is not None)
        return model

    def edit(self, **entries: Any) -> None:
        """Change entries of the adapter's config."""
        file = self.adapter / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | entries))

    def refusal(self) -> str:
        """The one line that the adapter is refused with, before its weights are loaded."""
        with pytest.raises(CheckpointError) as caught:
            find(str(self.adapter))
        message = str(caught.value)
        assert "\n" not in message
        return message


@pytest.fixture
def folders(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Folders:
    return Folders(tmp_path, tokenizer)


CONFIGS: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: peft.LoraConfig(r=4, task_type="CAUSAL_LM"),
    "no task": lambda: peft.LoraConfig(r=4, target_modules=["o_proj"]),
    "dora": lambda: peft.LoraConfig(r=4, task_type="CAUSAL_LM", use_dora=True, target_modules="all-linear"),
    "ia3": lambda: peft.IA3Config(task_type="CAUSAL_LM"),
    "head and norms": lambda: peft.LoraConfig(r=4, task_type="CAUSAL_LM", modules_to_save=["lm_head", "norm"]),
    "classifier": lambda: peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"]),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_figures_are_those_of_the_model_in_memory(folders: Folders, kind: str) -> None:
    expected = measure(folders.save(CONFIGS[kind]()), folders.tokenizer, batches=BATCHES)
    found = measure(load(find(str(folders.adapter))), batches=BATCHES)
    assert found.sites == expected.sites
    assert found.sites != measure(folders.plain(), folders.tokenizer, batches=BATCHES).sites
    assert found.model == expected.model.model_copy(
        update={"id": "tuned", "base": "base", "fingerprint": found.model.fingerprint}
    )
    assert (found.model.architecture, found.model.model_type) == ("LlamaForCausalLM", "llama")


def test_embeddings_that_were_resized_come_with_the_adapter(folders: Folders) -> None:
    expected = measure(folders.save(vocabulary=520), folders.tokenizer, batches=BATCHES)
    reference = find(str(folders.adapter))
    assert reference.text_config.vocab_size == 520
    found = load(reference)
    model: Any = found.model
    assert model.get_input_embeddings().num_embeddings == 520
    assert measure(found, batches=BATCHES).sites == expected.sites


@pytest.mark.parametrize("base", ["relative", "absolute", "here"])
def test_the_base_is_found_beside_the_adapter_from_here_and_by_its_path(
    folders: Folders, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders.base.parent)
    folders.save(base={"relative": "../base", "absolute": str(folders.base), "here": "base"}[base])
    reference = find(str(folders.adapter))
    assert reference.base is not None
    assert reference.base.folder.resolve() == folders.base
    assert reference.id == "tuned"


def test_the_fingerprint_is_over_adapter_and_base(folders: Folders) -> None:
    def digests() -> tuple[str | None, str]:
        reference = fetch(find(str(folders.adapter)))
        return reference.fingerprint, small_files_digest(reference)

    folders.save()
    first = digests()
    assert digests() == first
    config = folders.base / "generation_config.json"
    config.write_text("{}")
    assert digests() == first  # moves no figure
    weights = load_file(folders.adapter / "adapter_model.safetensors")
    save_file({name: tensor * 2 for name, tensor in weights.items()}, folders.adapter / "adapter_model.safetensors")
    second = digests()
    assert second[0] != first[0]
    weights = load_file(folders.base / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in weights.items()}, folders.base / "model.safetensors", {"format": "pt"})
    third = digests()
    assert third[0] not in (first[0], second[0])
    assert third[1] == first[1]
    (folders.base / "tokenizer_config.json").write_text("{}")
    assert digests()[1] != third[1]


def test_the_tokenizer_is_the_adapters_own_else_the_bases(folders: Folders) -> None:
    folders.save()
    assert has_tokenizer(find(str(folders.adapter)))
    assert len(load_tokenizer(find(str(folders.adapter)))) == len(folders.tokenizer)
    own = PreTrainedTokenizerFast(tokenizer_object=folders.tokenizer.backend_tokenizer, pad_token="<pad>")
    own.add_tokens(["<thought>"])
    own.save_pretrained(folders.adapter)
    assert "<thought>" in load_tokenizer(find(str(folders.adapter))).get_vocab()
    assert "<thought>" not in load_tokenizer(find(str(folders.base))).get_vocab()


def test_an_adapter_without_a_base_is_told(folders: Folders) -> None:
    folders.save()
    shutil.rmtree(folders.base)
    assert folders.refusal().startswith("the base model ../base of adapter tuned is not there (looked for ")
    folders.edit(base_model_name_or_path="no such base")
    expected = "the base model that adapter tuned names cannot be used: no checkpoint no such base: looked for a folder"
    assert folders.refusal().startswith(expected)
    folders.edit(base_model_name_or_path=None)
    assert folders.refusal().startswith("adapter tuned names no base model: write it to base_model_name_or_path in ")


def test_a_pickled_adapter_is_refused(folders: Folders) -> None:
    folders.save()
    (folders.adapter / "adapter_model.safetensors").rename(folders.adapter / "adapter_model.bin")
    assert "adapter tuned has only pickled weights (adapter_model.bin), and pickled ones can run code" in folders.refusal()
    (folders.adapter / "adapter_model.bin").unlink()
    assert folders.refusal().startswith("adapter tuned holds no weights (looked for adapter_model.safetensors in ")


def test_a_damaged_adapter_is_refused(folders: Folders) -> None:
    folders.save()
    weights = folders.adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    assert "adapter_model.safetensors is damaged or cut short" in folders.refusal()
    weights.write_bytes(whole)
    folders.edit(peft_type="TELEPATHY")
    assert "adapter_config.json is not an adapter's config:" in folders.refusal()
    (folders.adapter / "adapter_config.json").unlink()
    assert folders.refusal().startswith("adapter tuned lacks adapter_config.json (looked in ")


def test_what_measure_refuses_in_memory_is_refused_before_the_run(folders: Folders) -> None:
    folders.save(peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    assert folders.refusal() == (
        "adapter tuned cannot be measured: PROMPT_TUNING of PEFT puts virtual tokens before each sample; name a whole model, "
        "such as its base model"
    )
    folders.save()
    folders.edit(alora_invocation_tokens=[5])
    assert "activated LORA of PEFT steers its adapters from outside the model" in folders.refusal()


def test_an_adapter_beside_a_whole_model_is_refused(folders: Folders) -> None:
    folders.save()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(folders.base / file, folders.adapter)
    assert folders.refusal() == (
        f"checkpoint {folders.adapter} holds a whole model (model.safetensors) and an adapter: leave one of them there"
    )


def test_an_adapter_on_an_adapter_is_refused(folders: Folders) -> None:
    folders.save(base="../other")
    shutil.copytree(folders.adapter, folders.adapter.parent / "other")
    assert "is an adapter itself: merge it into its own base model with merge_and_unload()" in folders.refusal()


def test_without_peft_it_is_told_what_to_install(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.save()
    monkeypatch.setitem(sys.modules, "peft", None)
    assert folders.refusal() == "checkpoint tuned is an adapter, which needs the library peft: `pip install peft`"


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (
            lambda name: name.replace("layers.0", "layers.7"),
            r"has 4 weights without a place in its base model \(the first: .*7",
        ),
        (lambda name: None if "layers.1" in name else name, r"lacks 4 weights for its base model \(the first: .*layers\.1"),
    ],
)
def test_weights_that_do_not_fit_the_base_are_refused(folders: Folders, edit: Callable[[str], str | None], told: str) -> None:
    folders.save()
    file = folders.adapter / "adapter_model.safetensors"
    save_file({name: tensor for key, tensor in load_file(file).items() if (name := edit(key))}, file)
    with pytest.raises(CheckpointError, match=f"adapter tuned {told}"):
        load(find(str(folders.adapter)))


def test_weights_of_another_size_are_refused_in_one_line(folders: Folders) -> None:
    folders.save()
    folders.edit(r=8)
    with pytest.raises(CheckpointError, match=r"^adapter tuned cannot be put on its base model: .*size mismatch for [^\n]*$"):
        load(find(str(folders.adapter)))


def test_a_base_that_changes_while_it_is_loaded_is_refused(folders: Folders) -> None:
    folders.save()
    reference = fetch(find(str(folders.adapter)))
    assert reference.base is not None
    stale: Reference = replace(reference, base=replace(reference.base, stamps=((0, 0),)))
    with pytest.raises(CheckpointError, match="checkpoint base was written to while it was loaded"):
        load(stale)


def test_adapters_of_a_training_run_are_a_series(folders: Folders) -> None:
    folders.save()
    for step in (10, 20):
        shutil.copytree(folders.adapter, folders.adapter.parent / f"step-{step}-adapter")
    found = members([str(folders.adapter.parent / "*adapter")])
    assert [member.step for member in found] == [10, 20]
