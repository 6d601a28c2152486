"""Experts see tokens in an order of their own, padded ones too: their gates' figures against the experts' own weights."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from pytest_maxact.anatomy import find_sites
from pytest_maxact.record import Measurement, SiteFigures
from pytest_maxact.runner import measure
from tests.conftest import tiny_model
from tests.zoo import Entry, build

SAMPLES = [[17, 30, 101, 8, 99, 25, 3], [77, 5, 12], [30, 42, 42, 19, 111]]
PADDING = 77  # the id in padded positions, which is sent to experts like any other
Batch = dict[str, torch.Tensor]

# Families whose experts take their gates from one `gate_up_proj`, and where the gate of their shared experts is.
SHARED = {
    "deepseek_v2": "shared_experts",
    "deepseek_v3": "shared_experts",
    "dots1": "shared_experts",
    "ernie4_5_moe": "shared_experts",
    "flex_olmo": None,
    "glm4_moe": "shared_experts",
    "gpt_oss": None,
    "granitemoe": None,
    "hunyuan_v1_moe": "shared_mlp",
    "jamba": None,
    "lfm2_moe": None,
    "minimax": None,
    "mixtral": None,
    "olmoe": None,
    "phimoe": None,
    "qwen2_moe": "shared_expert",
    "qwen3_moe": None,
}
ORDERS = {"eager": "by expert and rank", "grouped_mm": "by expert", "batched_mm": "by token"}


def tiny(family: str, experts: str | None = None) -> Any:
    model: Any = build(Entry("causal", family))
    if experts is not None:
        model.set_experts_implementation(experts)
    return model


def alone(samples: list[list[int]] = SAMPLES) -> list[Batch]:
    return [{"input_ids": torch.tensor([sample]), "attention_mask": torch.ones(1, len(sample))} for sample in samples]


def padded(side: str, samples: list[list[int]] = SAMPLES) -> list[Batch]:
    longest = max(map(len, samples))
    ids, mask = torch.full((len(samples), longest), PADDING), torch.zeros(len(samples), longest, dtype=torch.int64)
    for row, sample in enumerate(samples):
        place = slice(0, len(sample)) if side == "right" else slice(longest - len(sample), longest)
        ids[row, place], mask[row, place] = torch.tensor(sample), 1
    return [{"input_ids": ids, "attention_mask": mask}]


class ByHand:
    """What a layer's gates hold: of routed experts token by token in double precision, of others as a hook sees it."""

    def __init__(self) -> None:
        self.gates: list[tuple[torch.Tensor, list[tuple[int, int]]]] = []  # [rows, features] and (sample, position) of each
        self.sent = [0] * 4

    @property
    def values(self) -> torch.Tensor:
        """All of them."""
        return torch.cat([rows.flatten() for rows, _ in self.gates])

    @property
    def place(self) -> tuple[str, int, int, int]:
        """Sample, position, token id and feature of the largest |gate|."""
        rows, places = max(self.gates, key=lambda part: float(part[0].abs().max()))
        row, feature = divmod(int(rows.abs().argmax()), rows.shape[1])
        sample, position = places[row]
        return str(sample), position, SAMPLES[sample][position], feature


def by_hand(model: Any, shared: str | None) -> dict[int, ByHand]:
    """Of every layer with experts, as the samples run alone, one after the other."""
    found: dict[int, ByHand] = {}
    handles, running = [], -1

    def next_sample(*_: Any) -> None:
        nonlocal running
        running += 1

    def watch(layer: ByHand, experts: Any) -> None:
        def routed(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, index, *_ = (*args, *kwargs.values())
            weights, gates, places = experts.gate_up_proj.double(), [], []
            for position, token in enumerate(hidden.reshape(-1, hidden.shape[-1]).double()):
                for expert in index.reshape(len(SAMPLES[running]), -1)[position].tolist():
                    if type(experts).__name__ == "GptOssExperts":
                        gate_up = token @ weights[expert] + experts.gate_up_proj_bias[expert]
                        gates.append(gate_up[0::2])
                    else:
                        gates.append(weights[expert][: len(weights[expert]) // 2] @ token)
                    places.append((running, position))
                    layer.sent[expert] += 1
            layer.gates.append((torch.stack(gates), places))

        def dense(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
            rows = output.reshape(-1, output.shape[-1]).double()
            layer.gates.append((rows, [(running, position) for position in range(len(rows))]))

        handles.append(experts.register_forward_pre_hook(routed, with_kwargs=True))
        if shared is not None:
            block = next(module for module in model.modules() if getattr(module, "experts", None) is experts)
            handles.append(getattr(block, shared).gate_proj.register_forward_hook(dense))

    handles.append(model.register_forward_pre_hook(next_sample))
    for name, module in model.named_modules():
        if name.endswith(".experts"):
            watch(found.setdefault(int(name.split(".")[2]), ByHand()), module)
    with torch.no_grad():
        for batch in alone():
            model(**batch, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def check_gate(site: SiteFigures, expected: ByHand) -> None:
    values = expected.values
    assert (site.max, site.min) == pytest.approx((float(values.max()), float(values.min())), rel=1e-4)
    assert (site.count, site.nan, site.inf) == (len(values), 0, 0)
    assert site.mean == pytest.approx(float(values.mean()), rel=1e-3, abs=1e-5)
    assert site.rms == pytest.approx(float(values.square().mean().sqrt()), rel=1e-4)
    assert site.peak is not None
    assert (site.peak.sample, site.peak.position, site.peak.token_id, site.peak.feature) == expected.place


def check(record: Measurement, expected: dict[int, ByHand]) -> None:
    assert len(expected) >= 1
    for layer, gates in expected.items():
        gate, router = record.site("gate", layer), record.site("router", layer)
        assert gate is not None
        assert router is not None
        check_gate(gate, gates)
        histogram = record.histogram("gate", layer)
        assert histogram.counts.sum() == len(gates.values)
        assert histogram.moments().mean == pytest.approx(float(gates.values.mean()), abs=2**-8 * gate.abs_mean)
        assert router.experts == gates.sent


@pytest.mark.parametrize("family", SHARED)
def test_gates_and_tokens_by_expert_are_those_of_the_experts_own_weights_whatever_the_padding(family: str) -> None:
    model = tiny(family)
    expected = by_hand(model, SHARED[family])
    for batches in (alone(), padded("right"), padded("left")):
        check(measure(model, batches=batches), expected)


@pytest.mark.parametrize("experts", ORDERS)
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_rows_are_traced_in_every_order_that_experts_work_in(family: str, experts: str) -> None:
    model = tiny(family, experts)
    gates = [placement for placement in find_sites(model).placements if placement.experts is not None]
    assert {placement.order for placement in gates if placement.site.component == "gate"} == {ORDERS[experts]}
    expected = by_hand(model, SHARED[family])
    for side in ("right", "left"):
        check(measure(model, batches=padded(side)), expected)


# --- Experts whose rows tell no token: batches without padding, and a peak without a place.


def entering(model: Any, name: str) -> torch.Tensor:
    """What enters the modules whose names end so, and are in a layer 1, over the samples alone."""
    seen: list[torch.Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda module, args: seen.append(args[0].double().flatten()))
        for path, module in model.named_modules()
        if re.search(r"(layers|blocks)\.1\.", path) and path.endswith(name)
    ]
    with torch.no_grad():
        for batch in alone():
            model(**batch, use_cache=False)
    for handle in handles:
        handle.remove()
    assert seen
    return torch.cat(seen)


# The activations that routed gates enter, and all gates: longcat_flash's layers have two dense MLPs beside the experts.
UNTRACED = {
    "jetmoe": ("mlp.activation", "mlp.activation"),
    "dbrx": ("experts.mlp.activation_fn", "experts.mlp.activation_fn"),
    "longcat_flash": ("experts.act_fn", ".act_fn"),
}


@pytest.mark.parametrize("family", UNTRACED)
@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_that_cannot_be_traced_run_without_padding_and_have_no_place(family: str, side: str) -> None:
    model = tiny(family)
    anatomy = find_sites(model)
    assert anatomy.needs_whole_batches
    masks: list[torch.Tensor] = []
    handle = anatomy.core.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    record = measure(model, batches=padded(side))
    handle.remove()
    assert len(masks) == 1 + len(SAMPLES)  # the probe's, and no two samples are equally long
    assert all(bool(mask.all()) for mask in masks)

    routed, values = (entering(model, name) for name in UNTRACED[family])
    gate = record.site("gate", 1)
    assert gate is not None
    assert gate.peak is not None
    assert (gate.max, gate.min) == pytest.approx((float(values.max()), float(values.min())), rel=1e-4)
    assert gate.count == len(values)
    assert gate.mean == pytest.approx(float(values.mean()), rel=1e-3, abs=1e-5)
    place = (gate.peak.sample, gate.peak.position, gate.peak.token_id)
    if float(routed.abs().max()) == float(values.abs().max()):
        assert place == (None, None, None)
    else:
        assert None not in place
    assert [sample.tokens for sample in record.samples] == [7, 3, 5]
    for number, batch in enumerate(alone()):  # what is known by sample leaves such gates out
        single = measure(model, batches=[batch])
        known = max(site.value for site in single.sites if site.part_of_m and site.peak is not None and site.peak.sample)
        assert record.samples[number].peak == pytest.approx(known, rel=1e-4)


# --- Routers.


@pytest.mark.parametrize(
    "family", ["mixtral", "qwen2_moe", "gpt_oss", "granitemoe", "jamba", "olmoe", "phimoe", "flex_olmo", "minimax"]
)
def test_router_logits_are_the_models_own(family: str) -> None:
    model = tiny(family)
    batch = {"input_ids": torch.tensor([SAMPLES[0], SAMPLES[0][::-1]])}
    record = measure(model, batches=[batch])
    with torch.no_grad():
        own = model(**batch, output_router_logits=True, use_cache=False).router_logits
    routers = [site for site in record.sites if site.component == "router"]
    assert len(routers) == len(own) >= 1
    for site, values in zip(routers, own, strict=True):
        assert (site.max, site.min, site.count) == (float(values.max()), float(values.min()), values.numel())
        assert site.mean == pytest.approx(float(values.double().mean()), rel=1e-6, abs=1e-9)


def test_experts_that_no_token_is_sent_to_are_named() -> None:
    model = tiny("deepseek_v3")
    with torch.no_grad():  # moves the choice, not the logits
        model.model.layers[1].mlp.gate.e_score_correction_bias[:] = torch.tensor([9.0, -9.0, 9.0, -9.0])
    record = measure(model, batches=padded("left"))
    first, second = (record.site("router", layer) for layer in (1, 2))
    assert first is not None
    assert second is not None
    assert first.experts == [15, 0, 15, 0]
    assert second.experts is not None
    idle = [expert for expert, tokens in enumerate(second.experts) if not tokens]
    assert record.notes[0].startswith(f"{2 + len(idle)} of 8 experts saw no token")
    assert "(layer 1: 1, 3" in record.notes[0]


# --- Modules that run in several layers.


def calls_of(model: Any, module: torch.nn.Module) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        model(input_ids=torch.tensor([SAMPLES[0]]), use_cache=False)
    handle.remove()
    return seen


def test_layers_that_share_a_module_have_figures_of_their_own() -> None:
    model = tiny("mixtral")
    layers = model.model.layers
    layers[2].mlp = layers[1].mlp
    expected, record = by_hand(model, None), measure(model, batches=padded("left"))
    gates = [record.site("gate", layer) for layer in (1, 2)]
    assert list(expected) == [0, 1]  # by name a shared module is there once
    assert gates[0] is not None
    assert gates[1] is not None
    assert gates[0].count + gates[1].count == len(expected[1].values)
    assert max(gate.value for gate in gates if gate) == pytest.approx(float(expected[1].values.abs().max()), rel=1e-4)

    record = measure(model, batches=alone(SAMPLES[:1]))
    for layer, seen in enumerate(calls_of(model, layers[1].mlp), 1):
        mlp = record.site("mlp", layer)
        assert mlp is not None
        assert (mlp.max, mlp.min, mlp.count) == (float(seen.max()), float(seen.min()), seen.numel())
    assert record.site("mlp", 1) != record.site("mlp", 2)


def test_a_module_that_runs_in_turns_has_figures_of_each_turn() -> None:
    model = tiny("hrm_text")
    record = measure(model, batches=alone(SAMPLES[:1]))
    turns = calls_of(model, model.model.L_module.layers[0].mlp)
    assert len(turns) == 6
    for layer, seen in zip((0, 2, 4, 8, 10, 12), turns, strict=True):
        mlp = record.site("mlp", layer)
        assert mlp is not None
        assert (mlp.max, mlp.min, mlp.count) == (float(seen.max()), float(seen.min()), seen.numel())


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("k", [1, 2])
def test_rows_of_many_padded_tokens_are_theirs_in_every_implementation(implementation: str, k: int) -> None:
    """Ten tokens sort alike in ways that two hundred do not."""
    model = tiny_model("qwen3_moe", num_experts=16, num_experts_per_tok=k)
    model.set_experts_implementation(implementation)
    ids = torch.randint(3, 500, (8, 30), generator=torch.Generator().manual_seed(3))
    lengths = [30, 7, 19, 26, 11, 30, 5, 22]
    mask = (torch.arange(30)[None] < torch.tensor(lengths)[:, None]).long()
    padded = measure(model, batches=[{"input_ids": ids, "attention_mask": mask}])
    alone = measure(model, batches=[{"input_ids": ids[row : row + 1, :length]} for row, length in enumerate(lengths)])
    for layer in (0, 2):
        together, apart = padded.site("gate", layer), alone.site("gate", layer)
        assert together is not None
        assert apart is not None
        assert together.peak is not None
        assert apart.peak is not None
        assert together.count == apart.count == sum(lengths) * k * 24
        assert together.value == pytest.approx(apart.value, rel=1e-4)
        assert together.mean == pytest.approx(apart.mean, rel=1e-3, abs=1e-5)
        assert (together.peak.sample, together.peak.position) == (apart.peak.sample, apart.peak.position)
