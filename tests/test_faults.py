"""Values that are not finite: planted anywhere, they are counted, found at the first site and token, and hide nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pytest_maxact.checks import Verdict, compare
from pytest_maxact.corpus import Corpus, Sample
from pytest_maxact.plan import beside_policies
from pytest_maxact.record import Fault, Measurement, Site, SiteFigures
from pytest_maxact.reducers import kernels
from pytest_maxact.report.properties import properties
from pytest_maxact.report.terminal import WIDTH, summary
from pytest_maxact.runner import measure
from pytest_maxact.wording import first_fault
from tests.conftest import site_paths, tiny_model
from tests.test_runner import alone, padded, seen_by_hand, site_of
from tests.zoo import Entry, build

NAN, INF = math.nan, math.inf
# No id twice, so that an id tells sample and position.
SAMPLES = [[17, 30, 401, 8, 99, 250, 3], [77, 5, 12], [300, 42, 44, 19, 511]]
PLACES = {token: (str(sample), position) for sample, ids in enumerate(SAMPLES) for position, token in enumerate(ids)}
CORPUS = Corpus("three", tuple(Sample(str(number), "ids", None, tuple(ids)) for number, ids in enumerate(SAMPLES)))
PAD = 1
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
Place = tuple[str, int | None, str | None, int | None, int, str]


class Planted(NamedTuple):
    """A value at a token and feature."""

    token: int
    feature: int
    value: float


def plant(stack: ExitStack, model: nn.Module, path: str, values: Sequence[Planted], embedding: str = "embed_tokens") -> None:
    """Put values into what the module at a path gives, wherever its tokens are run."""
    ids = torch.empty(0)

    def note(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        nonlocal ids
        ids = args[0]

    def damage(module: nn.Module, args: Any, output: Any) -> Any:
        tensor = (output[0] if isinstance(output, tuple) else output).clone()
        for token, feature, value in values:
            tensor[..., feature] = torch.where((ids == token).reshape(tensor.shape[:-1]), value, tensor[..., feature])
        return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

    stack.callback(model.get_submodule(embedding).register_forward_hook(note).remove)
    stack.callback(model.get_submodule(path).register_forward_hook(damage).remove)


def place_of(fault: Any, site: SiteFigures | Fault) -> Place:
    """Site, token, feature and kind of a fault."""
    return (site.component, site.layer, fault.sample, fault.position, fault.feature, str(fault.signed))


def kinds_first(value: float) -> int:
    return 0 if math.isnan(value) else 1 if value > 0 else 2


def by_hand(values: torch.Tensor) -> tuple[str, int, int, str] | None:
    """Sample, position, feature and kind of the first value that is not finite, of rows that are the tokens in order."""
    for (sample, position), row in zip(PLACES.values(), values.tolist(), strict=True):
        broken = [(kinds_first(value), feature) for feature, value in enumerate(row) if not math.isfinite(value)]
        if broken:
            kind, feature = min(broken)
            return sample, position, feature, ["nan", "inf", "-inf"][kind]
    return None


def assert_as_by_hand(record: Measurement, seen: dict[Any, torch.Tensor]) -> None:
    """Every site's counts, extremes and fault are those of the tensors that hooks written by hand saw."""
    first = None
    for site, values in zip(record.sites, seen.values(), strict=True):
        finite = values[values.isfinite()]
        assert (site.nan, site.inf, site.count) == (int(values.isnan().sum()), int(values.isinf().sum()), values.numel()), site
        if len(finite):
            assert (site.max, site.min) == (finite.max().item(), finite.min().item()), site
        found = None if site.fault is None else place_of(site.fault, site)[2:]
        assert found == by_hand(values), site
        if found is not None:
            first = first or (site.component, site.layer, *found)
            assert site.fault is not None
            assert PLACES[site.fault.token_id or 0] == found[:2]
    assert (record.first_fault and place_of(record.first_fault, record.first_fault)) == first


def verdict(record: Measurement, check: str) -> Verdict:
    """What a check says of a record, without a baseline."""
    return next(found for found in compare(record, None) if found.check == check)


# --- Planted anywhere.


@pytest.fixture(params=["numba", "eager"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kernels of a CPU."""
    if request.param == "eager":
        monkeypatch.setitem(kernels.OLDEST, "numba", (99, 0))
    else:
        pytest.importorskip("numba")
    return str(request.param)


PATHS = site_paths("llama")


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=25)
@given(
    site=st.sampled_from(list(PATHS)),
    values=st.lists(
        st.builds(Planted, st.sampled_from(list(PLACES)), st.integers(0, 31), st.sampled_from([NAN, INF, -INF])),
        min_size=1,
        max_size=4,
        unique_by=lambda value: value[:2],
    ),
    eager=st.booleans(),
    cut=st.integers(0, 3),
    side=st.sampled_from(["left", "right"]),
)
def test_what_is_planted_is_counted_and_found_where_it_was_planted(
    dtype: str, site: tuple[str, int | None], values: list[Planted], eager: bool, cut: int, side: str
) -> None:
    model = tiny_model(dtype=DTYPES[dtype])
    batches = [padded(part, side, PAD) for part in (SAMPLES[:cut], SAMPLES[cut:]) if part]
    for batch in batches:  # what `measure` gives the model by itself
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        if eager:
            patch.setitem(kernels.OLDEST, "numba", (99, 0))
        healthy = measure(model, batches=batches)
        plant(stack, model, PATHS[site], values)
        record = measure(model, batches=batches)
        seen = seen_by_hand(model, PATHS, batches)
    assert_as_by_hand(record, seen)
    assert (healthy.first_fault, record.environment.kernel) == (None, "eager" if eager else record.environment.kernel)

    names = list(PATHS)
    here = names.index(site)
    assert [s.model_dump_json() for s in record.sites[:here]] == [s.model_dump_json() for s in healthy.sites[:here]]
    planted = site_of(record, *site)
    kinds = [str(value.value) for value in values]
    assert (planted.nan, planted.inf) == (kinds.count("nan"), len(kinds) - kinds.count("nan"))
    sample, position, order, feature = min((*PLACES[v.token], kinds_first(v.value), v.feature) for v in values)
    assert record.first_fault is not None
    assert place_of(record.first_fault, record.first_fault) == (*site, sample, position, feature, ["nan", "inf", "-inf"][order])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", ["embed_tokens", "layers.1.mlp.gate_proj", "layers.2"])
def test_batches_of_any_size_and_side_of_padding_find_the_same(path: str, dtype: str) -> None:
    model = tiny_model(dtype=DTYPES[dtype])
    reports = []
    with ExitStack() as stack:
        plant(stack, model, path, [Planted(19, 4, INF), Planted(12, 9, NAN), Planted(12, 3, -INF), Planted(12, 11, NAN)])
        for size in (1, 7, 14, 64):
            reports.append(measure(model, corpus=CORPUS, batch_tokens=size))
        for batches in (alone(SAMPLES), [padded(SAMPLES, "left", PAD)], [padded(SAMPLES, "right", PAD)]):
            reports.append(measure(model, batches=batches))
    faults = {report.first_fault.model_dump_json() for report in reports if report.first_fault is not None}
    assert len(faults) == 1
    [fault] = [Fault.model_validate_json(text) for text in faults]
    site = next(site for site, where in PATHS.items() if where == path)
    assert place_of(fault, fault) == (*site, "1", 2, 9, "nan")
    assert {(s.nan, s.inf) for s in (site_of(report, *site) for report in reports)} == {(2, 2)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_healthy_samples_keep_their_maxima_beside_a_broken_one(dtype: str) -> None:
    model = tiny_model(dtype=DTYPES[dtype])
    batches = alone(SAMPLES)
    with ExitStack() as stack:
        without = measure(model, batches=batches[:1] + batches[2:])
        plant(stack, model, "embed_tokens", [Planted(token, feature, NAN) for token in SAMPLES[1] for feature in range(32)])
        record = measure(model, batches=batches)
    assert record.peak is not None
    assert without.peak is not None
    assert record.peak.model_dump(exclude={"sample"}) == without.peak.model_dump(exclude={"sample"})
    for site, healthy in zip(record.sites, without.sites, strict=True):
        assert (site.max, site.min, site.top) == (healthy.max, healthy.min, healthy.top), site
        assert site.nan == site.count - healthy.count > 0
    assert [math.isnan(sample.peak) for sample in record.samples] == [False, True, False]


def test_a_site_of_nothing_but_nan_is_found_at_its_first_token() -> None:
    model = tiny_model()
    with ExitStack() as stack:
        plant(stack, model, "layers.1.mlp", [Planted(token, feature, NAN) for token in PLACES for feature in range(32)])
        record = measure(model, batches=[padded(SAMPLES)])
    assert site_of(record, "mlp", 1).nan == site_of(record, "mlp", 1).count
    assert record.first_fault is not None
    assert place_of(record.first_fault, record.first_fault) == ("mlp", 1, "0", 0, 0, "nan")
    assert record.peak is not None


def test_the_last_token_of_the_last_sample_is_found() -> None:
    model = tiny_model()
    with ExitStack() as stack:
        plant(stack, model, "norm", [Planted(511, 31, -INF)])
        for batches in (alone(SAMPLES), [padded(SAMPLES)], [padded(SAMPLES, "left")]):
            record = measure(model, batches=batches)
            assert record.first_fault is not None
            assert place_of(record.first_fault, record.first_fault) == ("final_norm", None, "2", 4, 31, "-inf")
            assert sum(site.nan + site.inf for site in record.sites) == 1


def test_padding_that_is_nan_is_no_fault() -> None:
    model = tiny_model()
    with ExitStack() as stack:
        plant(stack, model, "layers.2", [Planted(PAD, feature, NAN) for feature in range(32)])
        record = measure(model, batches=[padded(SAMPLES, "right", PAD)])
    assert (record.first_fault, [site for site in record.sites if site.nan or site.fault]) == (None, [])


# --- What dtypes make of large values.


def test_float32_beyond_bfloat16_s_range_is_no_fault_although_its_histogram_counts_it_infinite(kernel: str) -> None:
    model = tiny_model()
    largest = torch.finfo(torch.float32).max
    with ExitStack() as stack:
        plant(stack, model, "norm", [Planted(8, 2, 3.397e38), Planted(19, 5, -largest)])
        record = measure(model, batches=[padded(SAMPLES)])
    norm = site_of(record, "final_norm")
    assert (record.first_fault, norm.fault, norm.nan, norm.inf, norm.value) == (None, None, 0, 0, largest)
    assert record.histogram("final_norm", None).inf == 2
    assert verdict(record, "finite").outcome == "passed"
    with ExitStack() as stack:  # the real ones beside them are found all the same
        plant(stack, model, "norm", [Planted(8, 2, 3.397e38), Planted(19, 5, INF), Planted(44, 6, NAN)])
        norm = site_of(measure(model, batches=[padded(SAMPLES)]), "final_norm")
    assert norm.fault is not None
    assert (*place_of(norm.fault, norm)[2:], norm.nan, norm.inf) == ("2", 2, 6, "nan", 1, 1)


@pytest.mark.parametrize(("dtype", "value"), [("float16", 3000.0), ("bfloat16", 1e20), ("float32", 1e20)])
def test_an_overflow_is_found_where_it_happens_and_not_where_it_becomes_nan(dtype: str, value: float) -> None:
    model = tiny_model(dtype=DTYPES[dtype])
    with torch.no_grad():
        model.layers[1].mlp.up_proj.weight.mul_(value)
        model.layers[1].mlp.down_proj.weight[7].mul_(-value)
    record = measure(model, batches=[padded(SAMPLES)])
    assert record.first_fault is not None
    assert (record.first_fault.component, record.first_fault.layer) == ("mlp", 1)
    if dtype != "bfloat16":  # whose products are summed in float32, in which infinities of both signs give NaN there already
        assert math.isinf(record.first_fault.signed)
    assert_as_by_hand(record, seen_by_hand(model, PATHS, [padded(SAMPLES)]))
    norm = site_of(record, "final_norm")
    assert norm.nan > 0


# --- Experts, routers and shared layers.


@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_a_broken_expert_is_found_at_the_first_token_that_was_sent_to_it(experts: str) -> None:
    model = tiny_model("mixtral")
    model.set_experts_implementation(experts)
    with torch.no_grad():
        model.layers[1].mlp.experts.gate_up_proj[2, 5] = NAN
    chosen: list[list[int]] = []

    def note(experts: Any, args: Any, kwargs: Any) -> None:
        chosen.extend(next(value for value in (*args, *kwargs.values()) if not value.is_floating_point()).tolist())

    handle = model.layers[1].mlp.experts.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        for batch in alone(SAMPLES):
            model(**batch)
    handle.remove()
    sent = [place for place, those in zip(PLACES.values(), chosen, strict=True) if 2 in those]
    assert 0 < len(sent) < len(PLACES)
    for batches in (alone(SAMPLES), [padded(SAMPLES, "left", PAD)], [padded(SAMPLES, "right", PAD)]):
        record = measure(model, batches=batches)
        assert record.first_fault is not None
        assert place_of(record.first_fault, record.first_fault) == ("gate", 1, *sent[0], 5, "nan")
        assert site_of(record, "gate", 1).nan == len(sent)


def test_of_rows_that_cannot_be_traced_the_site_is_told_without_a_token() -> None:
    model: Any = build(Entry("causal", "jetmoe"))
    activation = next(module for name, module in model.named_modules() if name.endswith("layers.1.mlp.activation"))
    handle = activation.register_forward_pre_hook(lambda module, args: (args[0].index_fill(-1, torch.tensor(6), -INF),))
    record = measure(model, batches=alone([[5, 6, 7], [8, 9]]))
    handle.remove()
    fault = record.first_fault
    assert fault is not None
    assert place_of(fault, fault) == ("gate", 1, None, None, 6, "-inf")
    assert first_fault(fault) == "first -inf: gate layer 1, feature 6, rows of this site cannot be traced to tokens"


def damaged_router(model: nn.Module, stack: ExitStack, value: float, column: int) -> None:
    """Put a value into what a router says, after it has chosen."""

    def damage(module: nn.Module, args: Any, output: Any) -> Any:
        logits = output[0].clone()
        logits[:, column] = value
        return (logits, *output[1:])

    stack.callback(model.get_submodule("layers.1.mlp.gate").register_forward_hook(damage).remove)


@pytest.mark.parametrize("kind", [NAN, INF])
def test_a_router_s_minus_infinity_is_allowed_and_hides_no_other_fault_of_it(kind: float) -> None:
    model = tiny_model("mixtral")
    batches = [padded(SAMPLES)]
    with ExitStack() as stack:
        damaged_router(model, stack, -INF, 0)
        record = measure(model, batches=batches)
        router = site_of(record, "router", 1)
        assert (router.inf, router.fault, record.first_fault) == (15, None, None)
        assert verdict(record, "finite").outcome == "passed"
        damaged_router(model, stack, kind, 3)
        record = measure(model, batches=batches)
    fault = record.first_fault
    assert fault is not None
    assert place_of(fault, fault) == ("router", 1, "0", 0, 3, str(kind))
    said = verdict(record, "finite")
    assert said.outcome == "passed"
    assert said.summary.endswith(f"sites are finite; not part of M, {first_fault(fault)}")


def test_in_a_module_that_layers_share_the_first_layer_is_told() -> None:
    model: Any = build(Entry("causal", "zamba"))
    with torch.no_grad():
        shared = next(module for name, module in model.named_modules() if name.endswith("shared_transf.feed_forward"))
        shared.down_proj.weight[3] = NAN
    record = measure(model, batches=alone([[5, 6, 7]]))
    broken = [site for site in record.sites if site.nan]
    assert record.first_fault is not None
    assert str(Site(component=record.first_fault.component, layer=record.first_fault.layer)) == str(broken[0])
    assert place_of(broken[0].fault, broken[0]) == ("mlp", broken[0].layer, "0", 0, 3, "nan")


# --- What is said of it.


@pytest.fixture(scope="module")
def broken() -> Measurement:
    """A record with a NaN in the middle of a sample of text."""
    model = tiny_model()
    with ExitStack() as stack:
        plant(stack, model, "layers.1.mlp", [Planted(8, 5, NAN)])
        return measure(model, batches=alone(SAMPLES))


def test_the_check_and_the_summary_name_the_first_site_and_token(broken: Measurement) -> None:
    told = "first NaN: mlp layer 1, feature 5, token id 8 at position 3 of sample 0"
    assert broken.first_fault is not None
    assert first_fault(broken.first_fault) == told
    said = verdict(broken, "finite")
    assert said.failed
    assert said.summary.endswith(f"sites hold NaN or infinities; {told}")
    lines = summary(broken, None)
    assert all(len(line) <= WIDTH for line in lines)
    text = " ".join(line.strip() for line in lines)
    count = sum(site.nan for site in broken.sites)
    every = sum(site.count for site in broken.sites)
    assert f"{count:,} of {every:,} values are NaN or infinities, which M leaves out; {told}" in text
    assert properties(broken)["maxact.first_fault"] == told


def test_a_record_of_before_still_names_the_first_site(broken: Measurement) -> None:
    data = json.loads(broken.dumps())
    del data["first_fault"]
    for site in data["sites"]:
        del site["fault"]
    old = Measurement.model_validate_json(json.dumps(data))
    assert old.first_fault is None
    assert verdict(old, "finite").summary.endswith("sites hold NaN or infinities; the first to be run is mlp layer 1")


def test_a_record_with_a_fault_is_read_as_it_was_written(broken: Measurement, tmp_path: Any) -> None:
    broken.save(tmp_path / "r.json")
    back = Measurement.load(tmp_path / "r.json")
    assert back == broken
    assert json.loads(back.dumps())["first_fault"] == json.loads(broken.dumps())["first_fault"]
    assert json.loads(back.dumps())["first_fault"]["signed"] == "nan"


def test_a_fault_under_another_policy_of_special_tokens_fails_the_check(broken: Measurement) -> None:
    healthy = measure(tiny_model(), batches=alone(SAMPLES))
    corpus = broken.corpus.model_copy(update={"special_tokens": "chat"})
    record = beside_policies(healthy, ["chat"], lambda _: broken.model_copy(update={"corpus": corpus}))
    said = verdict(record, "finite")
    assert said.failed
    assert said.summary.startswith("under special tokens chat, first NaN: mlp layer 1, feature 5,")
    assert verdict(beside_policies(healthy, ["none"], lambda _: healthy), "finite").outcome == "passed"
