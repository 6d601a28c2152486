"""A site that is missed, or taken for another, makes every figure wrong in silence: where the sites are, and when not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from pytest_maxact.anatomy import Anatomy, find_sites
from pytest_maxact.errors import AnatomyError
from tests.conftest import FAMILIES, breaks, hooked, passes_on, replace_forward, site_paths, tiny_model


def sites(anatomy: Anatomy) -> list[tuple[str, int | None]]:
    return [(placement.site.component, placement.site.layer) for placement in anatomy.placements]


def modules(anatomy: Anatomy) -> list[nn.Module]:
    """Of sites that are read at one place each."""
    return [tap.module for placement in anatomy.placements for tap in placement.taps]


def without(family: str, component: str, layer: int | None) -> list[tuple[str, int | None]]:
    return [site for site in site_paths(family) if site != (component, layer)]


class Rearranged(nn.ModuleList):
    """A list of layers of which a model's forward, which takes a slice, sees others than there are."""

    def __init__(self, layers: nn.ModuleList, order: list[int]) -> None:
        super().__init__(layers)
        self.order = order

    def __getitem__(self, index: Any) -> Any:
        return [list(self)[number] for number in self.order] if isinstance(index, slice) else super().__getitem__(index)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_is_found_at_its_module_in_execution_order(family: str) -> None:
    model = tiny_model(family)
    anatomy = find_sites(model)
    expected = site_paths(family)
    assert sites(anatomy) == list(expected)
    assert modules(anatomy) == [model.get_submodule(path) for path in expected.values()]
    assert (anatomy.core, anatomy.layers, anatomy.hidden_size, anatomy.notes) == (model, 3, 32, ())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_language_model_has_the_sites_of_its_base_model(family: str) -> None:
    model = AutoModelForCausalLM.from_config(tiny_model(family).config)
    anatomy = find_sites(model)
    assert anatomy.core is model.base_model
    assert sites(anatomy) == list(site_paths(family))
    assert modules(anatomy) == [model.base_model.get_submodule(path) for path in site_paths(family).values()]


def test_a_vision_tower_of_as_many_layers_is_not_the_decoder() -> None:
    model = tiny_model()
    model._modules = {"vision_blocks": nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), **model._modules}
    assert sites(find_sites(model)) == list(site_paths("llama"))


def test_modules_under_unknown_names_are_known_by_their_class() -> None:
    model = tiny_model()
    for layer in model.layers:
        layer.mixer, layer.channels = layer.self_attn, layer.mlp
        del layer._modules["self_attn"], layer._modules["mlp"]
        object.__setattr__(layer, "self_attn", layer.mixer)  # what the forward calls, no longer a child
        object.__setattr__(layer, "mlp", layer.channels)
    anatomy = find_sites(model)
    assert sites(anatomy) == list(site_paths("llama"))
    assert [p.name for p in anatomy.placements if p.site.layer == 1] == [
        "layers.1.mixer",
        "layers.1.channels.gate_proj",
        "layers.1.channels",
        "layers.1",
    ]


def test_a_model_with_nan_weights_has_sites_too() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    assert sites(find_sites(model)) == list(site_paths("llama"))


# --- What would make M wrong in silence is an error.


def test_a_module_without_a_config_is_refused() -> None:
    with pytest.raises(AnatomyError, match="Sequential is no transformers model: it has no config"):
        find_sites(nn.Sequential(nn.ModuleList([nn.Linear(4, 4)])))


def test_a_stack_of_another_depth_than_the_configs_is_refused() -> None:
    model = tiny_model()
    model.config.num_hidden_layers = 5
    with pytest.raises(AnatomyError, match=r"LlamaModel has no stack of 5 decoder layers.*found layers \(3\)"):
        find_sites(model)


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 2], [0, 1, 1, 2]], ids=["swapped", "skipped", "repeated"])
def test_layers_that_do_not_run_once_each_in_order_are_refused(order: list[int]) -> None:
    model = tiny_model()
    model.layers = Rearranged(model.layers, order)
    with pytest.raises(AnatomyError, match="do not run once each and in order") as caught:
        find_sites(model)
    assert str(caught.value).endswith(str(order))


def test_a_layer_whose_output_is_not_one_row_a_token_is_refused() -> None:
    model = tiny_model()
    replace_forward(model.layers[2], lambda hidden_states, **kwargs: hidden_states[:, 1:])
    with pytest.raises(
        AnatomyError, match=r"hidden layer 2 of LlamaModel \(layers.2\) gave shape \(2, 4, 32\) for 2 x 5 tokens"
    ):
        find_sites(model)


def test_a_model_that_does_not_tell_its_embedding_is_refused() -> None:
    def silent() -> nn.Module:
        raise NotImplementedError

    model = tiny_model()
    model.get_input_embeddings = silent
    with pytest.raises(AnatomyError, match="LlamaModel does not tell its token embedding"):
        find_sites(model)


def test_an_embedding_that_never_runs_is_refused() -> None:
    model = tiny_model()
    model.get_input_embeddings = lambda: nn.Embedding(4, 4)
    with pytest.raises(AnatomyError, match=r"embedding of LlamaModel \(embedding\) did not run"):
        find_sites(model)


# --- What only leaves a site unseen is a note.


def test_a_layer_fed_something_else_than_the_last_ones_output_is_noted() -> None:
    model = tiny_model()
    model.layers[2].register_forward_pre_hook(lambda module, args: (args[0] * 2, *args[1:]))
    anatomy = find_sites(model)
    assert sites(anatomy) == list(site_paths("llama"))
    assert anatomy.notes == ("unusual: what enters is not what the layer before gave (layer 2)",)


def test_sites_that_do_not_run_are_dropped_with_a_note() -> None:
    model = tiny_model()
    for layer in model.layers[1:]:
        replace_forward(layer, passes_on)
    anatomy = find_sites(model)
    assert [site for site in sites(anatomy) if site[1]] == [("hidden", 1), ("hidden", 2)]
    assert anatomy.notes == (
        "not observed: self_attn of LlamaDecoderLayer, which did not run (layers 1 to 2)",
        "not observed: mlp of LlamaDecoderLayer, which did not run (layers 1 to 2)",
    )


def test_a_site_that_runs_twice_is_observed_both_times() -> None:
    model = tiny_model()
    mlp = model.layers[0].mlp
    replace_forward(mlp, lambda x: mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.gate_proj(x)))
    anatomy = find_sites(model)
    assert sites(anatomy) == list(site_paths("llama"))
    assert [str(placement.site) for placement in anatomy.placements if not placement.once] == ["gate layer 0"]
    assert anatomy.notes == ()


def test_an_mlp_whose_rows_are_not_the_tokens_is_dropped_with_a_note() -> None:
    model = tiny_model()
    replace_forward(model.layers[0].mlp, lambda x: x[:, 1:])
    replace_forward(model.layers[0], lambda x, **kwargs: x + model.layers[0].mlp(x).sum())
    anatomy = find_sites(model)
    assert [site for site in sites(anatomy) if site[1] == 0] == [("hidden", 0)]
    assert "not observed: mlp, since mlp gave shape (2, 4, 32) for 2 x 5 tokens (layer 0)" in anatomy.notes


def test_a_gate_of_flattened_tokens_has_the_same_rows() -> None:
    model = tiny_model()
    mlp = model.layers[0].mlp
    replace_forward(mlp, lambda x: mlp.down_proj(mlp.gate_proj(x.flatten(0, 1)).reshape(*x.shape[:2], -1)))
    anatomy = find_sites(model)
    assert [placement.taps[0].layout for placement in anatomy.placements if placement.site.component == "gate"] == [
        (0,),
        (0, 1),
        (0, 1),
    ]


def test_modules_that_are_known_as_nothing_are_told() -> None:
    model = tiny_model()
    for layer in model.layers[1:]:
        layer.unheard_of = nn.Linear(32, 32)
        replace_forward(layer, lambda x, layer=layer, **kwargs: x + layer.unheard_of(x))
        layer.self_attn = layer.mlp = None
    anatomy = find_sites(model)
    assert [site for site in sites(anatomy) if site[1]] == [("hidden", 1), ("hidden", 2)]
    assert anatomy.notes == ("not observed: unheard_of of LlamaDecoderLayer (layers 1 to 2)",)


def test_a_model_without_a_final_norm_has_no_such_site() -> None:
    model = tiny_model()
    model.norm = nn.Identity()
    anatomy = find_sites(model)
    assert sites(anatomy) == without("llama", "final_norm", None)
    assert anatomy.notes == ("not observed: final_norm (no norm runs after the last layer)",)


# --- The model is left as it was.


def test_no_hook_stays_after_success() -> None:
    model = tiny_model()
    find_sites(model)
    assert hooked(model) == []


def test_no_hook_stays_after_a_forward_that_fails() -> None:
    model = tiny_model()
    replace_forward(model.layers[1], breaks)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        find_sites(model)
    assert hooked(model) == []
