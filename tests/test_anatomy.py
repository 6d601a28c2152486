"""A site that is missed, or taken for another, makes every figure wrong in silence: where the sites are, and when not."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from pytest_maxact.anatomy import Anatomy, find_sites
from pytest_maxact.errors import AnatomyError
from pytest_maxact.runner import measure
from tests.conftest import FAMILIES, breaks, hooked, passes_on, replace_forward, site_paths, tiny_model
from tests.zoo import Entry, build, text_model


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
    assert anatomy.notes == (
        "not observed: attention and mlp: neither is a part of LlamaDecoderLayer (layers 1 to 2)",
        "not observed: unheard_of of LlamaDecoderLayer (layers 1 to 2)",
    )


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


# --- Families whose layers are built in other ways. Each layer's sites, written by hand in the order in which they are through.

ATTENTION, OUTPUT = ("attention", "self_attn"), ("hidden", "")
DENSE = [ATTENTION, ("gate", "mlp.gate_proj"), ("mlp", "mlp"), OUTPUT]
FUSED = [ATTENTION, ("gate", "mlp.gate_up_proj, first half"), ("mlp", "mlp"), OUTPUT]
NORMED = [
    ATTENTION,
    ("attention_write", "post_attention_layernorm"),
    ("gate", "mlp.gate_proj"),
    ("mlp", "mlp"),
    ("mlp_write", "post_feedforward_layernorm"),
    OUTPUT,
]


def sparse(gate: str, router: str = "mlp.gate") -> list[tuple[str, str]]:
    return [ATTENTION, ("router", router), ("gate", gate), ("mlp", "mlp"), OUTPUT]


ROUTED = "what enters the gate of mlp.experts, first half"
BERT = [("attention", "attention.output.dense"), ("mlp", "output.dense"), OUTPUT]
GEMMA4 = [
    ATTENTION,
    ("attention_write", "post_attention_layernorm"),
    ("router", "router"),
    ("mlp", "mlp and experts"),
    ("gate", "mlp.gate_proj and what enters the gate of experts, first half"),
    ("mlp_write", "post_feedforward_layernorm"),  # of the sum of two norms, one a part
    OUTPUT,
]
MIXER = [("attention", "mixer"), OUTPUT]
ZAMBA2 = [
    ("gate", "what enters shared_transformer.feed_forward.act_fn"),
    ("mlp", "shared_transformer.feed_forward"),
    ("attention", "mamba_decoder.mamba and shared_transformer.self_attn"),
    OUTPUT,
]
BUILT: dict[str, list[list[tuple[str, str]]]] = {
    "causal-gemma2": [NORMED] * 3,
    "causal-gemma3_text": [NORMED] * 3,
    "causal-gemma4": [GEMMA4] * 3,
    "causal-gpt2": [[("attention", "attn"), ("mlp", "mlp"), OUTPUT]] * 3,
    "causal-mixtral": [sparse(ROUTED)] * 3,
    "causal-gpt_oss": [sparse("what enters the gate of mlp.experts, even", "mlp.router")] * 3,
    "causal-qwen2_moe": [sparse(f"{ROUTED} and mlp.shared_expert.gate_proj")] * 3,
    "causal-deepseek_v3": [DENSE, *[sparse(f"{ROUTED} and mlp.shared_experts.gate_proj")] * 2],
    "causal-phi3": [FUSED] * 3,
    "causal-glm": [FUSED] * 3,
    "causal-falcon_h1": [
        [("attention", "mamba and self_attn"), ("gate", "feed_forward.gate_proj"), ("mlp", "feed_forward"), OUTPUT]
    ]
    * 3,
    "causal-zamba2": [[("attention", "mamba"), OUTPUT]] * 2 + [ZAMBA2],
    "image-mllama": [DENSE, [], DENSE],
    "causal-nemotron_h": [MIXER, [("router", "mixer.gate"), ("mlp", "mixer"), OUTPUT], MIXER, [("mlp", "mixer"), OUTPUT]],
    "causal-bert": [BERT] * 3,
    "causal-bloom": [[("attention", "self_attention.dense"), ("mlp", "mlp.dense_4h_to_h"), OUTPUT]] * 2,
    "causal-opt": [[ATTENTION, ("mlp", "fc2"), OUTPUT]] * 3,
}
NOTES = {
    "causal-gemma4": ("not observed: per_layer_input_gate, per_layer_projection of Gemma4TextDecoderLayer (layers 0 to 2)",),
    "causal-zamba2": ("not observed: linear of Zamba2HybridLayer (layer 2)",),
    "causal-bert": ("not observed: final_norm (no norm runs after the last layer)",),
    "image-mllama": ("not observed: layer 1, which run only with images",),
}


def built(name: str) -> Any:
    """A tiny model of a family that takes text."""
    kind, _, model_type = name.partition("-")
    entry = Entry("image" if kind == "image" else "causal", model_type)
    return text_model(entry, build(entry))


def by_layer(anatomy: Anatomy) -> list[list[tuple[str, str]]]:
    """What the sites of each layer are read from, by names below the layer."""
    names = list(anatomy.stack.names.values())
    found: list[list[tuple[str, str]]] = [[] for _ in names]
    for placement in anatomy.placements:
        layer = placement.site.layer
        if layer is not None:
            name = re.sub(rf"{re.escape(names[layer])}\.?", "", placement.name)
            found[layer].append((placement.site.component, name))
    return found


@pytest.mark.parametrize("name", BUILT)
def test_the_sites_of_each_layer_are_those_written_by_hand(name: str) -> None:
    anatomy = find_sites(built(name))
    assert by_layer(anatomy) == BUILT[name]
    assert anatomy.notes == NOTES.get(name, ())


def test_layers_that_run_in_turns_are_layers_of_their_own() -> None:
    model = built("causal-hrm_text")
    anatomy = find_sites(model)
    low, high = ([f"{part}_module.layers.{layer}" for layer in (0, 1)] for part in "LH")
    turns = [*(low * 3), *high] * 2
    hidden = [placement for placement in anatomy.placements if placement.site.component == "hidden"]
    assert [placement.site.layer for placement in hidden] == list(range(16))
    assert [placement.name for placement in hidden] == turns
    assert [str(p.taps[0]) for p in anatomy.placements if p.site.component == "gate"] == [
        f"{layer}.mlp.gate_proj" for layer in turns
    ]
    assert len(sites(anatomy)) == len(set(sites(anatomy))) == 4 * 16 + 2
    assert [note.partition(" (")[0] for note in anatomy.notes] == [
        "unusual: what enters is not what the layer before gave",
        "unusual: H_module.final_norm runs several times; final_norm holds what each gave",
    ]


def test_inputs_of_linear_layers_are_sites_on_demand() -> None:
    model = tiny_model()
    anatomy = find_sites(model, linear_inputs=True)
    inputs = [placement for placement in anatomy.placements if placement.site.component.startswith("input:")]
    names = [*(f"self_attn.{letter}_proj" for letter in "qkvo"), *(f"mlp.{part}_proj" for part in ("gate", "up", "down"))]
    expected = {(f"input:{name}", layer): f"layers.{layer}.{name}" for layer in range(3) for name in names}
    assert {(p.site.component, p.site.layer): p.taps[0].name for p in inputs} == expected
    assert {p.taps[0].at for p in inputs} == {"input"}
    assert [site for site in sites(anatomy) if not site[0].startswith("input:")] == list(site_paths("llama"))
    assert not any(p.site.part_of_m for p in inputs)


# --- Gates are told by values, not by names alone.


class Swiglu(nn.Module):
    """An MLP of any names: `fused` puts both projections in one, `order` says which half or name is activated."""

    def __init__(
        self, names: tuple[str, str, str], activated: int, width: int, *, fused: bool = False, act: bool = False
    ) -> None:
        super().__init__()
        self.names, self.activated, self.fused = names, activated, fused
        self.act_fn = nn.SiLU() if act else None
        if fused:
            self.add_module(names[0], nn.Linear(32, 2 * width))
        else:
            self.add_module(names[0], nn.Linear(32, width))
            self.add_module(names[1], nn.Linear(32, width))
        self.add_module(names[2], nn.Linear(width, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activate one part and multiply it with the other."""
        first = self.get_submodule(self.names[0])(x)
        parts = first.chunk(2, dim=-1) if self.fused else (first, self.get_submodule(self.names[1])(x))
        silu = self.act_fn or nn.functional.silu
        output: torch.Tensor = self.get_submodule(self.names[2])(silu(parts[self.activated]) * parts[1 - self.activated])
        return output


def with_mlp(make: Any) -> Any:
    model = tiny_model()
    torch.manual_seed(5)
    for layer in model.layers:
        layer.mlp = make()
    return model


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: Swiglu(("w1", "w2", "w3"), 1, 48), "mlp.w2"),
        (lambda: Swiglu(("w1", "w2", "w3"), 0, 48), "mlp.w1"),
        (lambda: Swiglu(("wg", "wu", "wd"), 0, 64), "mlp.wg"),
        (lambda: Swiglu(("wg", "wu", "wd"), 0, 64, act=True), "mlp.wg"),
        (lambda: Swiglu(("wg", "wu", "wd"), 1, 40, act=True), "mlp.wu"),
        (lambda: Swiglu(("fc1", "", "fc2"), 1, 48, fused=True), "mlp.fc1, second half"),
        (lambda: Swiglu(("fc1", "", "fc2"), 0, 48, fused=True), "mlp.fc1, first half"),
        (lambda: Swiglu(("fc1", "", "fc2"), 1, 48, fused=True, act=True), "mlp.fc1, second half"),
    ],
)
def test_a_gate_is_what_is_activated_and_multiplied_whatever_its_name(make: Any, where: str) -> None:
    anatomy = find_sites(with_mlp(make))
    assert [p.name for p in anatomy.placements if p.site.component == "gate"] == [f"layers.{n}.{where}" for n in range(3)]


def test_an_mlp_that_gates_nothing_has_no_gate_under_any_name() -> None:
    def plain() -> nn.Module:
        block: Any = nn.Module()
        block.w1, block.w2 = nn.Linear(32, 48), nn.Linear(48, 32)
        block.forward = lambda x: block.w2(nn.functional.gelu(block.w1(x)))
        return block  # type: ignore[no-any-return]

    anatomy = find_sites(with_mlp(plain))
    assert [p.site for p in anatomy.placements if p.site.component == "gate"] == []
    assert anatomy.notes == ()


def test_a_gate_of_an_unknown_activation_is_told() -> None:
    def strange() -> nn.Module:
        block: Any = nn.Module()
        block.a, block.b, block.c = nn.Linear(32, 48), nn.Linear(32, 48), nn.Linear(48, 32)
        block.forward = lambda x: block.c(torch.sin(block.a(x)) * block.b(x))
        return block  # type: ignore[no-any-return]

    (note,) = find_sites(with_mlp(strange)).notes
    assert note.startswith("not observed: gate of Module, if it has one: no activation that is known explains")


class ListedExperts(nn.Module):
    """A mixture as code from the Hub has it: a list of modules, each called with the tokens that a linear router sends."""

    def __init__(self, experts: int, k: int) -> None:
        super().__init__()
        self.gate = nn.Linear(32, experts, bias=False)
        self.experts = nn.ModuleList(Swiglu(("w1", "w3", "w2"), 0, 24) for _ in range(experts))
        self.k = k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Send each token to k experts."""
        flat = x.reshape(-1, 32)
        weights, chosen = self.gate(flat).softmax(-1).topk(self.k)
        result = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, rank = torch.where(chosen == number)
            if len(rows):
                result[rows] += expert(flat[rows]) * weights[rows, rank, None]
        return result.reshape(x.shape)


@pytest.mark.parametrize(("experts", "k"), [(64, 2), (8, 1), (2, 2)])
def test_every_expert_of_a_list_is_observed_also_those_that_the_probe_does_not_reach(experts: int, k: int) -> None:
    model = with_mlp(lambda: ListedExperts(experts, k))
    seen: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}
    handles = [
        expert.w1.register_forward_hook(lambda module, args, output, n=number: seen[n].append(output.detach().clone()))
        for number, layer in enumerate(model.layers)
        for expert in layer.mlp.experts
    ]
    ids = torch.randint(3, 500, (4, 30), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 20:] = mask[3, 11:] = 0
    record = measure(model, batches=[{"input_ids": ids, "attention_mask": mask}])
    for values in seen.values():
        values.clear()
    for row in range(4):
        with torch.no_grad():
            model(ids[row : row + 1, : int(mask[row].sum())])
    for handle in handles:
        handle.remove()
    for number in range(3):
        gate, router = record.site("gate", number), record.site("router", number)
        expected = torch.cat([value.flatten() for value in seen[number]])
        assert gate is not None
        assert router is not None
        assert gate.count == len(expected) == int(mask.sum()) * k * 24
        assert gate.value == pytest.approx(float(expected.abs().max()), rel=1e-5)


def test_a_layer_that_gives_branch_and_residual_is_observed_in_both() -> None:
    model = tiny_model()

    def split(layer: Any) -> Any:
        def forward(hidden_states: Any, residual: Any = None, **kwargs: Any) -> Any:
            branch, residual = (hidden_states * 0, hidden_states) if residual is None else (hidden_states, residual)
            total = branch + residual
            return layer.mlp(total) * 1e-3, total

        return forward

    for layer in model.layers:
        layer.forward = split(layer)

    def run(input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        branch, residual = model.embed_tokens(input_ids), None
        for layer in model.layers:
            branch, residual = layer(branch, residual)
        normed: torch.Tensor = model.norm(branch + residual)
        return normed

    model.forward = run
    record = measure(model, batches=[{"input_ids": torch.arange(3, 33).reshape(2, 15)}])
    embedding = record.site("embedding", None)
    hidden = [site for site in record.sites if site.component == "hidden"]
    assert embedding is not None
    assert len(hidden) == 3
    assert all(site.value > 0.9 * embedding.value for site in hidden)


def test_a_norm_that_serves_two_places_is_no_write_and_breaks_nothing() -> None:
    model = tiny_model("gemma2")
    for layer in model.layers:
        layer.post_feedforward_layernorm = layer.post_attention_layernorm
    record = measure(model, batches=[{"input_ids": torch.arange(3, 13).reshape(1, 10)}])
    assert not any(site.component.endswith("_write") for site in record.sites)
