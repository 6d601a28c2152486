"""A run must report what the model computed, against hooks written by hand, however batched, and leave nothing behind."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import PreTrainedTokenizerFast

from pytest_maxact.corpus import Corpus, Sample, load_corpus
from pytest_maxact.errors import AnatomyError, MeasurementError
from pytest_maxact.record import PART_OF_M, WITH_SUN, Measurement, Site, SiteFigures
from pytest_maxact.reducers import kernels
from pytest_maxact.reducers.encoding import ENCODINGS
from pytest_maxact.runner import measure
from tests.conftest import FAMILIES, SIZES, breaks, hooked, passes_on, replace_forward, site_paths, tiny_model

Batch = dict[str, torch.Tensor]
SAMPLES = [[17, 30, 401, 8, 99, 250, 3], [77, 5, 12], [300, 42, 42, 19, 511]]


def padded(samples: list[list[int]], side: str = "right", garbage: int = 0) -> Batch:
    """One batch of ragged samples."""
    longest = max(map(len, samples))
    ids, mask = torch.full((len(samples), longest), garbage), torch.zeros(len(samples), longest, dtype=torch.int64)
    for row, sample in enumerate(samples):
        place = slice(0, len(sample)) if side == "right" else slice(longest - len(sample), longest)
        ids[row, place], mask[row, place] = torch.tensor(sample), 1
    return {"input_ids": ids, "attention_mask": mask}


def alone(samples: list[list[int]]) -> list[Batch]:
    return [{"input_ids": torch.tensor([sample])} for sample in samples]


def timeless(record: Measurement) -> dict[str, Any]:
    return record.model_dump(exclude={"timing"}, mode="json")


def place(site: SiteFigures) -> dict[str, Any]:
    """Where the site's peak is, without its value."""
    assert site.peak is not None
    return site.peak.model_dump(exclude={"signed"})


def site_of(record: Measurement, component: str, layer: int | None = None) -> SiteFigures:
    site = record.site(component, layer)
    assert site is not None
    return site


# --- (a) Hooks written by hand.


def seen_by_hand(model: nn.Module, paths: Mapping[Any, str], batches: Iterable[Batch]) -> dict[Any, torch.Tensor]:
    """What stands at module paths, as float64 [rows, features] in order of (sample, position), tokens k times where routed."""
    seen: dict[Any, list[torch.Tensor]] = {site: [] for site in paths}
    mask = torch.empty(0)

    def keeper(site: Any) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            seen[site].append(tensor.reshape(len(mask), -1, tensor.shape[-1])[mask].to(torch.float64))

        return keep

    with ExitStack() as stack:
        for site, path in paths.items():
            module = model.get_submodule(path)
            if path.endswith(".experts"):
                stack.enter_context(gates_by_hand(module, keeper(site)))
            else:
                stack.callback(module.register_forward_hook(keeper(site)).remove)
        with torch.no_grad():
            for batch in batches:
                mask = batch["attention_mask"].flatten().bool()
                model(**batch, use_cache=False)
    return {site: torch.cat(parts).flatten(0, -2) for site, parts in seen.items()}


@contextmanager
def gates_by_hand(experts: Any, keep: Callable[..., None]) -> Iterator[None]:
    """The gates of experts at each forward, float64 [tokens, k, features]: each row goes to the token that it can be of."""
    original, expected = experts.forward, torch.empty(0)
    interleaved = "GptOss" in type(experts).__name__

    def forward(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        nonlocal expected
        matrices = experts.gate_up_proj.double()[index]
        expected = torch.einsum("nd,nkdw->nkw" if interleaved else "nd,nkwd->nkw", hidden.double(), matrices)
        expected += experts.gate_up_proj_bias[index] if interleaved else 0
        return original(hidden, index, weights)  # type: ignore[no-any-return]

    def apply_gate(gate_up: torch.Tensor) -> torch.Tensor:
        distance, row = torch.cdist(expected.flatten(0, 1), gate_up.double()).min(1)
        assert float(distance.max()) < 0.02 * float(gate_up.norm(dim=1).max())
        gates = gate_up[:, ::2] if interleaved else gate_up.chunk(2, -1)[0]
        keep(experts, (), gates[row])
        return type(experts)._apply_gate(experts, gate_up)  # type: ignore[no-any-return]

    experts.forward, experts._apply_gate = forward, apply_gate
    yield
    del experts.forward, experts._apply_gate


PLACES = [(str(sample), position, token) for sample, ids in enumerate(SAMPLES) for position, token in enumerate(ids)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_holds_to_the_bit_what_hooks_written_by_hand_see(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family, dtype=dtype)
    batches = [padded(SAMPLES[:2]), padded(SAMPLES[2:])]
    record = measure(model, batches=batches)
    seen = seen_by_hand(model, site_paths(family), batches)

    assert [(site.component, site.layer) for site in record.sites] == list(seen)
    for site, values in zip(record.sites, seen.values(), strict=True):
        assert (site.max, site.min) == (values.max().item(), values.min().item()), site
        assert (site.count, site.nan, site.inf) == (values.numel(), 0, 0), site
        place = int(values.abs().flatten().argmax())  # the first of equals
        row = place // values.shape[1]
        sample, position, token = PLACES[row * len(PLACES) // len(values)]
        assert site.peak is not None
        assert (site.peak.sample, site.peak.position, site.peak.token_id) == (sample, position, token), site
        assert site.peak.feature == place % values.shape[1], site
        assert (site.sun is not None) == (site.component in WITH_SUN)

    assert record.peak is not None
    part_of_m = {site: values for site, values in seen.items() if site[0] in PART_OF_M}
    holder = max(part_of_m, key=lambda site: float(part_of_m[site].abs().max()))
    assert (record.peak.component, record.peak.layer) == holder
    assert record.peak.value == seen[holder].abs().max()
    assert record.peak.signed in (seen[holder].max(), seen[holder].min())
    assert abs(record.peak.signed) == record.peak.value
    row = int(seen[holder].abs().amax(1).argmax())
    assert (record.peak.sample, record.peak.position) == PLACES[row * len(PLACES) // len(seen[holder])][:2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def test_the_whole_record_is_what_direct_arithmetic_on_the_tensors_gives(dtype: torch.dtype) -> None:
    model = tiny_model("qwen3_moe", dtype=dtype)
    batches = [padded(SAMPLES[:2]), padded(SAMPLES[2:])]
    record = measure(model, batches=batches)
    exact = dtype is not torch.float32
    for site, values in zip(record.sites, seen_by_hand(model, site_paths("qwen3_moe"), batches).values(), strict=True):
        flat = values.flatten()
        magnitudes = flat.abs().sort().values
        assert site.approximate == (not exact)
        assert site.mean == pytest.approx(float(flat.mean()), rel=1e-9, abs=1e-12)
        assert site.std == pytest.approx(float(flat.std(correction=0)), rel=1e-9)
        assert site.rms == pytest.approx(float(flat.square().mean().sqrt()), rel=1e-9)
        assert site.abs_mean == pytest.approx(float(magnitudes.mean()), rel=1e-9)
        assert site.crest == pytest.approx(site.value / site.rms)
        assert site.top == sorted(flat.tolist(), key=lambda value: (-abs(value), -value))[:100]
        assert list(site.abs_quantiles) == ["0.25", "0.5", "0.75", "0.9", "0.99", "0.999", "0.9999"]
        for q, found in site.abs_quantiles.items():
            rank = math.ceil(Fraction(q) * len(flat))
            assert found == pytest.approx(float(magnitudes[rank - 1]), rel=0 if exact else 2**-8)
        for bits in (4, 6, 8):
            for policy, threshold in (("maxabs", magnitudes[-1]), ("p999", magnitudes[math.ceil(0.999 * len(flat)) - 1])):
                most = 2 ** (bits - 1) - 1
                step = threshold / most
                error = flat - (flat / step).round().clamp(-most, most) * step
                direct = 10 * math.log10(float(flat.square().sum() / error.square().sum()))
                assert site.sqnr[f"int{bits}_{policy}"] == pytest.approx(direct, abs=1e-6 if exact else 1.5)  # few values
        histogram = record.histogram(site.component, site.layer)
        assert histogram.counts.sum() == site.count == len(flat)
        assert (histogram.dtype, histogram.exact) == ("float16" if dtype is torch.float16 else "bfloat16", exact)


def test_every_sample_has_its_peaks_by_layer_and_over_all_of_m() -> None:
    model = tiny_model("mixtral", dtype=torch.bfloat16)
    together = measure(model, batches=[padded(SAMPLES[:2]), padded(SAMPLES[2:])])
    assert together.hidden_peaks.shape == (3, 3)
    assert [(sample.id, sample.category, sample.tokens) for sample in together.samples] == [
        (str(number), None, len(ids)) for number, ids in enumerate(SAMPLES)
    ]
    for number, batch in enumerate(alone(SAMPLES)):
        single = measure(model, batches=[batch])
        assert single.peak is not None
        assert together.samples[number].peak == pytest.approx(single.peak.value, rel=2**-7)  # another composition
        assert single.samples[0].position == single.peak.position
        by_layer = [site.value for site in single.sites if site.component == "hidden"]
        np.testing.assert_allclose(together.hidden_peaks[:, number], by_layer, rtol=2**-7)
    assert together.peak is not None
    assert max(sample.peak for sample in together.samples) == together.peak.value
    assert together.samples[int(together.peak.sample or 0)].position == together.peak.position
    by_site = [site.value for site in together.sites if site.component == "hidden"]
    assert together.hidden_peaks.max(axis=1).tolist() == by_site


def test_a_sample_of_nothing_but_nan_has_no_peak() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[77] = math.nan
    record = measure(model, batches=[padded([[5, 6], [77, 77]]), {"input_ids": torch.zeros((1, 0), dtype=torch.int64)}])
    assert [math.isnan(sample.peak) for sample in record.samples] == [False, True, True]
    assert [sample.position is None for sample in record.samples] == [False, True, True]
    assert [sample.tokens for sample in record.samples] == [2, 2, 0]


def test_a_samples_position_is_that_of_the_site_run_first_and_counts_no_padding() -> None:
    model = tiny_model(dtype=torch.bfloat16)  # so coarse that nothing the layers add shows beside the embedding
    with torch.no_grad():
        model.get_input_embeddings().weight[[7, 9]] = 0.0
        model.get_input_embeddings().weight[[7, 9], 0] = torch.tensor([2.0**20, -(2.0**20)], dtype=torch.bfloat16)
    layer = model.layers[0].forward
    model.layers[0].forward = lambda *args, **kwargs: layer(*args, **kwargs).flip(1)  # the same values, elsewhere
    record = measure(model, batches=[padded([[5, 7, 9], [7, 5]], side="left"), padded([[5, 5, 5, 9]])])
    assert record.peak is not None
    assert (str(record.peak), str(record.peak.ties[0])) == ("embedding", "hidden layer 0")
    assert [(sample.peak, sample.position) for sample in record.samples] == [(2.0**20, 1), (2.0**20, 0), (2.0**20, 3)]


def test_numba_and_eager_give_the_same_record_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model("qwen3", dtype=dtype)
        fast = measure(model, batches=[padded(SAMPLES, "left")])
        with monkeypatch.context() as patch:
            patch.setitem(kernels.OLDEST, "numba", (99, 0))
            slow = measure(model, batches=[padded(SAMPLES, "left")])
        assert (fast.environment.kernel, slow.environment.kernel) == ("numba", "eager")
        assert slow.notes[-1].startswith("slower: numba cannot be used (numba 0.")
        different = {"timing", "notes", "environment"}
        assert fast.model_dump(exclude=different, mode="json") == slow.model_dump(exclude=different, mode="json")
        assert fast.arrays.histograms == slow.arrays.histograms
        assert fast.hidden_peaks.tolist() == slow.hidden_peaks.tolist()


def test_the_time_inside_hooks_is_told_as_a_share_of_the_rest() -> None:
    fraction = measure(tiny_model(), batches=alone(SAMPLES)).timing.hook_fraction
    assert fraction is not None
    assert fraction > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_and_embedding_are_transformers_own_hidden_states(family: str) -> None:
    model = tiny_model(family, dtype=torch.bfloat16)
    batch = padded([SAMPLES[0], SAMPLES[0][::-1]])
    record = measure(model, batches=[batch])
    with torch.no_grad():
        states = model(**batch, use_cache=False, output_hidden_states=True).hidden_states
    assert len(states) == 4
    for layer in (0, 1):  # the last state is the final norm's output
        site = site_of(record, "hidden", layer)
        assert (site.max, site.min) == (states[layer + 1].max(), states[layer + 1].min())
    norm = site_of(record, "final_norm")
    assert (norm.max, norm.min) == (states[3].max(), states[3].min())
    if family != "gpt2":  # adds position embeddings after the module
        embedding = site_of(record, "embedding")
        assert (embedding.max, embedding.min) == (states[0].max(), states[0].min())


def test_the_record_says_what_was_measured() -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    record = measure(model, batches=alone(SAMPLES))
    assert record.model.model_dump(include={"id", "model_type", "layers", "hidden_size", "dtype", "fingerprint"}) == {
        "id": "LlamaModel",
        "model_type": "llama",
        "layers": 3,
        "hidden_size": 32,
        "dtype": "bfloat16",
        "fingerprint": None,
    }
    assert record.model.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (record.corpus.id, record.corpus.digest, record.corpus.samples, record.corpus.tokens) == ("batches", None, 3, 15)
    model = tiny_model()
    model.norm = nn.Identity()
    assert measure(model, batches=alone(SAMPLES)).notes == ["not observed: final_norm (no norm runs after the last layer)"]


# --- (c) Padding.


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_padding_at_either_side_gives_the_figures_of_each_sample_alone(family: str, side: str) -> None:
    model = tiny_model(family)
    reference = measure(model, batches=alone(SAMPLES))
    found = measure(model, batches=[padded(SAMPLES, side)])
    assert found.corpus == reference.corpus
    for site, expected in zip(found.sites, reference.sites, strict=True):
        assert (site.max, site.min) == pytest.approx((expected.max, expected.min), rel=1e-4)
        assert place(site) == place(expected)  # positions count real tokens
        assert site.count == expected.count
        assert (site.sun is None) == (expected.sun is None)
        if site.sun is not None and expected.sun is not None:
            assert site.sun.model_dump() == pytest.approx(expected.sun.model_dump(), rel=1e-3)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_stands_in_padded_positions_changes_nothing(family: str, side: str) -> None:
    model = tiny_model(family)
    with torch.no_grad():
        model.get_input_embeddings().weight[510] = 1e4
    clean, dirty = (measure(model, batches=[padded(SAMPLES, side, garbage)]) for garbage in (0, 510))
    assert timeless(clean) == timeless(dirty)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_model_is_told_which_tokens_are_padding_and_where_left_padded_ones_stand(side: str) -> None:
    model = tiny_model()
    given: list[dict[str, Any]] = []
    model.register_forward_pre_hook(lambda module, args, kwargs: given.append(kwargs), with_kwargs=True)
    measure(model, batches=[padded(SAMPLES, side)])
    _probe, inputs = given
    assert torch.equal(inputs["attention_mask"], padded(SAMPLES, side)["attention_mask"])
    if side == "left":
        assert [row[-len(ids) :] for row, ids in zip(inputs["position_ids"].tolist(), SAMPLES, strict=True)] == [
            list(range(len(ids))) for ids in SAMPLES
        ]


def test_a_ragged_corpus_in_batches_gives_the_figures_of_each_sample_alone() -> None:
    model = tiny_model()
    corpus = Corpus("ragged", tuple(Sample(f"s{n}", "x", input_ids=tuple(ids)) for n, ids in enumerate(SAMPLES)))
    reference = measure(model, batches=alone(SAMPLES))
    for batch_tokens in (1, 10, 100):
        found = measure(model, corpus=corpus, batch_tokens=batch_tokens)
        assert found.corpus.tokens == 15
        for site, expected in zip(found.sites, reference.sites, strict=True):
            assert (site.max, site.min) == pytest.approx((expected.max, expected.min), rel=1e-4)
            assert site.count == expected.count
            assert place(site) == place(expected) | {"sample": f"s{place(expected)['sample']}"}


def test_a_batch_without_a_mask_is_all_real() -> None:
    model = tiny_model()
    batch = padded([SAMPLES[0], SAMPLES[0][::-1]])
    assert timeless(measure(model, batches=[batch])) == timeless(measure(model, batches=[{"input_ids": batch["input_ids"]}]))


# --- (d) The same again, and other batches.


@pytest.fixture
def ragged(tokenizer: PreTrainedTokenizerFast) -> Corpus:
    """Sixteen samples of 8 to 23 tokens."""
    texts = [sample.text for sample in load_corpus("smoke").samples]
    ids = [tokenizer(text)["input_ids"][: 8 + number] for number, text in enumerate(texts)]
    return Corpus("ragged", tuple(Sample(str(number), "x", input_ids=tuple(row)) for number, row in enumerate(ids)))


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_the_same_batches_give_the_same_record(family: str, ragged: Corpus) -> None:
    model = tiny_model(family, dtype=torch.bfloat16)
    first, second = (measure(model, corpus=ragged, batch_tokens=64) for _ in range(2))
    assert timeless(first) == timeless(second)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_batches_move_a_bfloat16_peak_by_one_step_at_most(family: str, ragged: Corpus) -> None:
    model = tiny_model(family, dtype=torch.bfloat16)
    small, large = (measure(model, corpus=ragged, batch_tokens=size) for size in (64, 1024))
    assert small.corpus == large.corpus
    assert small.corpus.tokens == sum(range(8, 24))
    assert (small.environment.batch_tokens, large.environment.batch_tokens) == (64, 1024)
    for one, other in zip(small.sites, large.sites, strict=True):
        assert one.value == pytest.approx(other.value, rel=2**-7), one
        figures = ("component", "layer", "count", "nan", "inf")
        assert [getattr(one, name) for name in figures] == [getattr(other, name) for name in figures]


# --- (e) Corpora, batches and where a peak is.


def with_loud_token(token: int) -> Any:
    """A model whose embedding peaks at one token, at feature 5, with a negative sign."""
    model = tiny_model()
    with torch.no_grad():
        model.embed_tokens.weight[token, 5] = -1e4
    return model


@pytest.mark.parametrize(
    "text",
    [
        "A zebra begins this text, of which enough follows that it must be cut, and more and more.",
        "The quick brown fox jumps over the lazy dog, and then a striped zebra walks along the river bank.",
        "Under the" + " the" * 20 + " zebra" + " the" * 20,  # long tokens: cut by characters
        "Enough stands before it, and more and more, that the text must be cut in front of the zebra.",
    ],
    ids=["near the start", "in the middle", "among long tokens", "near the end"],
)
def test_a_peak_names_sample_position_token_and_the_text_around(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    position = next(place for place, (start, end) in enumerate(offsets) if "ze" in text[start : end + 1])
    start, end = offsets[position]
    corpus = Corpus("two", (Sample("first", "x", text="Nothing loud."), Sample("second", "x", text=text)))

    model = with_loud_token(ids[position])
    record = measure(model, tokenizer, corpus)

    embedding = site_of(record, "embedding")
    assert (embedding.min, embedding.value) == (-1e4, 1e4)
    assert embedding.peak is not None
    assert embedding.peak.model_dump() == {
        "signed": -1e4,
        "feature": 5,
        "sample": "second",
        "position": position,
        "token_id": ids[position],
        "token": text[start:end],
        "before": text[offsets[max(0, position - 12)][0] : start][-24:],
        "after": text[end : offsets[min(position + 12, len(ids) - 1)][1]][:24],
    }
    assert record.peak is not None
    assert record.peak.signed == -record.peak.value


def test_at_the_ends_of_a_sample_there_is_no_text_around(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = Corpus("ids", (Sample("one", "x", input_ids=(40,)),))
    peak = site_of(measure(tiny_model(), tokenizer, corpus), "embedding").peak
    assert peak is not None
    assert (peak.before, peak.token, peak.after) == ("", tokenizer.decode([40]), "")


def test_samples_of_ready_batches_are_numbered_throughout(tokenizer: PreTrainedTokenizerFast) -> None:
    model = with_loud_token(511)
    batches = [padded(SAMPLES[:2]), padded([[9, 9, 9], [9, 9, 511, 9]], "left")]
    peak = site_of(measure(model, batches=batches), "embedding").peak
    assert peak is not None
    assert peak.model_dump() == {
        "signed": -1e4,
        "feature": 5,
        "sample": "3",
        "position": 2,
        "token_id": 511,
        "token": None,
        "before": None,
        "after": None,
    }
    decoded = site_of(measure(model, tokenizer, batches=batches), "embedding").peak
    assert decoded is not None
    assert decoded.token == tokenizer.decode([511])


def test_samples_and_max_length_limit_what_runs(tokenizer: PreTrainedTokenizerFast) -> None:
    core = load_corpus("core")
    record = measure(tiny_model(), tokenizer, core, samples=5, max_length=7)
    assert (record.corpus.samples, record.corpus.max_length, record.corpus.tokens) == (5, 7, 35)
    assert record.corpus.digest == core.first(5).digest
    assert record.corpus.categories == core.first(5).categories
    assert {site.count for site in record.sites if site.component == "hidden"} == {35 * 32}
    for site in record.sites:
        assert site.peak is not None
        assert site.peak.position is not None
        assert site.peak.position < 7
        assert site.peak.sample in [sample.id for sample in core.first(5).samples]


def test_the_models_context_limits_samples_by_default(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = Corpus("ids", (Sample("long", "x", input_ids=(7,) * (SIZES["max_position_embeddings"] + 9)),))
    record = measure(tiny_model(), None, corpus)
    assert record.corpus.max_length == record.corpus.tokens == SIZES["max_position_embeddings"]
    assert record.notes == ["1 of 1 samples were cut to 256 tokens"]


def test_samples_that_were_cut_are_told() -> None:
    corpus = Corpus("ids", tuple(Sample(str(length), "x", input_ids=(7,) * length) for length in (2, 3, 4, 9)))
    assert measure(tiny_model(), None, corpus, max_length=3).notes == ["2 of 4 samples were cut to 3 tokens"]
    assert measure(tiny_model(), None, corpus).notes == []


def test_special_tokens_are_put_around_texts_as_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer.chat_template = "{% for message in messages %}<bos><bos>{{ message.content }}<eos>{% endfor %}"
    corpus = Corpus("texts", (Sample("a", "x", text="lava cools"), Sample("b", "x", text="crust")))
    bare = measure(with_loud_token(1), tokenizer, corpus)
    marked = measure(with_loud_token(1), tokenizer, corpus, special_tokens="tokenizer")
    chat = measure(with_loud_token(2), tokenizer, corpus, special_tokens="chat")

    assert [record.corpus.special_tokens for record in (bare, marked, chat)] == ["none", "tokenizer", "chat"]
    assert marked.corpus.tokens == bare.corpus.tokens + 2
    assert chat.corpus.tokens == bare.corpus.tokens + 6  # a template brings all its special tokens itself
    assert site_of(bare, "embedding").value < 1e4
    peak = site_of(marked, "embedding").peak
    assert peak is not None
    assert (peak.sample, peak.position, peak.token) == ("a", 0, "<bos>")
    last = site_of(chat, "embedding").peak
    assert last is not None
    assert (last.sample, last.token, last.after) == ("a", "<eos>", "")


def test_progress_counts_real_tokens_from_none_to_all() -> None:
    reports: list[tuple[int, int]] = []
    measure(tiny_model(), batches=[padded(SAMPLES[:2]), padded(SAMPLES[2:])], progress=lambda *report: reports.append(report))
    assert reports == [(0, 15), (10, 15), (15, 15)]


# --- (f) The model is left as it was.


@pytest.mark.parametrize("failing_call", [None, 1, 2], ids=["success", "failure while probing", "failure in the run"])
def test_the_model_is_left_as_it_was(failing_call: int | None) -> None:
    model = tiny_model()
    model.train()
    model.layers[1].eval()
    model.norm.eval()
    model.layers[0].mlp.up_proj.weight.grad = torch.ones(48, 32)
    training = [module.training for module in model.modules()]
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    random_state = torch.get_rng_state()

    if failing_call is None:
        measure(model, batches=alone(SAMPLES))
    else:
        replace_forward(model.layers[2], breaks, from_call=failing_call)
        with pytest.raises(RuntimeError, match="broken on purpose"):
            measure(model, batches=alone(SAMPLES))

    assert [module.training for module in model.modules()] == training
    assert hooked(model) == []
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]), name
        assert parameter.requires_grad, name
        if name == "layers.0.mlp.up_proj.weight":
            assert torch.equal(parameter.grad, torch.ones(48, 32))
        else:
            assert parameter.grad is None, name


def test_dropout_is_off_although_the_model_trains() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    reference = timeless(measure(model, batches=alone(SAMPLES)))
    assert timeless(measure(model.train(), batches=alone(SAMPLES))) == reference


# --- (g) What is not finite.


def test_nan_weights_are_counted_and_m_comes_from_finite_values() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.layers[2].mlp.down_proj.weight[4] = math.nan
    batches = [padded(SAMPLES)]
    record = measure(model, batches=batches)
    seen = seen_by_hand(model, site_paths("llama"), batches)
    for site, values in zip(record.sites, seen.values(), strict=True):
        finite = values[values.isfinite()]
        assert (site.nan, site.inf, site.count) == (int(values.isnan().sum()), 0, values.numel()), site
        if len(finite):
            assert (site.max, site.min) == (finite.max().item(), finite.min().item()), site
    assert (site_of(record, "mlp", 2).nan, site_of(record, "mlp", 1).nan) == (15, 0)
    norm = site_of(record, "final_norm")  # a norm spreads one NaN over its whole token
    assert (norm.nan, norm.peak, norm.sun) == (15 * 32, None, None)
    assert math.isnan(norm.value)
    assert record.peak is not None
    assert record.peak.value == max(float(values[values.isfinite()].abs().max()) for values in list(seen.values())[:-1])


def test_infinite_weights_are_counted_apart_from_nan() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.embed_tokens.weight[42, 7] = -math.inf
    embedding = site_of(measure(model, batches=[padded(SAMPLES)]), "embedding")
    assert (embedding.inf, embedding.nan) == (2, 0)
    assert math.isfinite(embedding.value)


def test_a_model_of_nothing_but_nan_has_no_peak() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.embed_tokens.weight.fill_(math.nan)
    record = measure(model, batches=[padded(SAMPLES)])
    assert (record.peak, record.dominance, record.sun, record.trajectory) == (None, None, None, None)
    for site in record.sites:
        assert (site.nan, site.peak, site.sun) == (site.count, None, None)
    assert Measurement.model_validate_json(record.dumps()).dumps() == record.dumps()


# --- (h) What cannot be measured is an error.


@pytest.mark.parametrize(
    "batches",
    [[], [{"input_ids": torch.ones(2, 3, dtype=torch.int64), "attention_mask": torch.zeros(2, 3)}]],
    ids=["no batches", "nothing but padding"],
)
def test_nothing_to_measure_is_an_error(batches: list[Batch]) -> None:
    with pytest.raises(MeasurementError, match="there is nothing to measure: the corpus has no tokens"):
        measure(tiny_model(), batches=batches)


@pytest.mark.parametrize(
    ("ids", "mask"), [((2, 3), (2, 4)), ((2, 3), (3,)), ((3,), (3,))], ids=["wider mask", "flat mask", "flat ids"]
)
def test_a_batch_of_the_wrong_shape_is_named(ids: tuple[int, ...], mask: tuple[int, ...]) -> None:
    wrong = {"input_ids": torch.ones(ids, dtype=torch.int64), "attention_mask": torch.ones(mask)}
    with pytest.raises(MeasurementError, match=r"batch 1: input_ids \(.*\) and attention_mask \(.*\) must be \[B, T\]"):
        measure(tiny_model(), batches=[*alone(SAMPLES[:1]), wrong])


@pytest.mark.parametrize("first_skip", [2, 3], ids=["first batch", "second batch"])
def test_a_site_that_a_batch_does_not_reach_is_an_error(first_skip: int) -> None:
    model = tiny_model()
    replace_forward(model.layers[1], passes_on, from_call=first_skip)  # the first call is the probe's
    with pytest.raises(MeasurementError, match=r"attention layer 1 \(layers.1.self_attn\) was not reached by a batch"):
        measure(model, batches=alone(SAMPLES))


def test_a_site_that_runs_more_than_once_in_a_batch_is_an_error() -> None:
    model = tiny_model()
    last = model.layers[2]
    replace_forward(last, lambda hidden_states, **kwargs: last.mlp(last.mlp(hidden_states)), from_call=2)
    with pytest.raises(MeasurementError, match=r"gate layer 2 \(layers.2.mlp.gate_proj\) ran more than once in a batch"):
        measure(model, batches=alone(SAMPLES))


def test_a_site_whose_rows_are_not_the_batchs_tokens_is_an_error() -> None:
    model = tiny_model()
    last = model.layers[2]
    replace_forward(last, lambda hidden_states, **kwargs: last.mlp(hidden_states[:, 1:]), from_call=2)
    with pytest.raises(MeasurementError, match=r"gate layer 2 holds \(1, 6, 48\): its rows are not the batch's tokens"):
        measure(model, batches=alone(SAMPLES))


def test_a_dtype_that_cannot_be_judged_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ENCODINGS, torch.float32)
    with pytest.raises(MeasurementError, match=r"embedding holds float32, which is none of bfloat16, float16"):
        measure(tiny_model(), batches=alone(SAMPLES))


def test_a_site_that_changes_its_dtype_is_an_error() -> None:
    model = tiny_model()
    mlp = model.layers[1].mlp
    replace_forward(mlp, lambda hidden_states: type(mlp).forward(mlp, hidden_states).bfloat16(), from_call=2)
    with pytest.raises(MeasurementError, match="mlp layer 1 changed its dtype from float32 to bfloat16: measure without"):
        measure(model, batches=alone(SAMPLES))


def test_an_output_without_a_tensor_is_an_error() -> None:
    model = tiny_model()
    replace_forward(model.layers[2], lambda hidden_states, **kwargs: ("no tensor",), from_call=2)
    with pytest.raises(AnatomyError, match="a module gave str where a tensor was expected"):
        measure(model, batches=alone(SAMPLES))


def fails_with(experts: Any, rows: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Experts whose gate, from the second forward on, takes other rows than they are sent; None for none at all."""

    def forward(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        taken = rows(torch.ones(index.numel(), experts.gate_up_proj.shape[1]))
        if taken is not None:
            experts._apply_gate(taken)
        return hidden

    replace_forward(experts, forward, from_call=2)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (lambda gates: gates[1:], r"gate layer 1 held other rows than its experts were sent"),
        (lambda gates: torch.cat([gates, gates]), r"gate layer 1 held other rows than its experts were sent"),
        (lambda gates: None, r"gate layer 1 (\(.*experts, first half\) was not reached|held other rows)"),
    ],
    ids=["too few", "too many", "none"],
)
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])  # alone, and beside a shared expert
def test_experts_that_work_on_other_rows_than_they_are_sent_are_an_error(
    family: str, rows: Callable[[torch.Tensor], torch.Tensor | None], problem: str
) -> None:
    model = tiny_model(family)
    fails_with(model.layers[1].mlp.experts, rows)
    with pytest.raises(MeasurementError, match=problem):
        measure(model, batches=alone(SAMPLES))


def test_routed_experts_that_a_batch_does_not_reach_are_an_error_although_the_shared_one_is_reached() -> None:
    model = tiny_model("qwen2_moe")
    mlp = model.layers[1].mlp

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        mlp.gate(hidden_states.flatten(0, 1))
        return mlp.shared_expert(hidden_states.flatten(0, 1)).view_as(hidden_states)  # type: ignore[no-any-return]

    replace_forward(mlp, forward, from_call=2)
    with pytest.raises(MeasurementError, match=r"gate layer 1 \(what enters the gate of layers.1.mlp.experts, first half\)"):
        measure(model, batches=alone(SAMPLES))


# --- (i) What M is taken from.


def test_router_logits_are_recorded_but_no_part_of_m() -> None:
    model = tiny_model("mixtral")
    quiet = measure(model, batches=alone(SAMPLES))
    with torch.no_grad():
        model.layers[2].mlp.gate.weight.mul_(1e5)
    loud = measure(model, batches=alone(SAMPLES))
    assert quiet.peak is not None
    assert loud.peak is not None
    router = site_of(loud, "router", 2)
    assert router.value == pytest.approx(1e5 * site_of(quiet, "router", 2).value)
    assert router.value > loud.peak.value
    assert loud.peak.component != "router"
    assert loud.dominance is not None
    assert loud.dominance.component == loud.peak.component


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_experts_are_counted_and_padding_is_not(family: str) -> None:
    model = tiny_model(family)
    ids = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    record = measure(model, batches=[{"input_ids": ids, "attention_mask": mask}])
    routers = [site for site in record.sites if site.component == "router"]
    assert len(routers) >= 2
    for site in routers:
        logits: list[torch.Tensor] = []
        mlp = model.layers[site.layer].mlp
        router = mlp.router if family == "gpt_oss" else mlp.gate
        handle = router.register_forward_hook(lambda module, args, output, into=logits: into.append(output[0]))
        with torch.no_grad():
            model(input_ids=ids, attention_mask=mask)
        handle.remove()
        chosen = logits[0].reshape(-1, 4)[mask.flatten() == 1].topk(2).indices
        assert site.experts == [int((chosen == expert).sum()) for expert in range(4)]
    assert all(site.experts is None for site in record.sites if site.component != "router")


def silenced() -> Any:
    """A model whose layers add nothing and whose final norm gives zero."""
    model = tiny_model()
    with torch.no_grad():
        model.norm.weight.zero_()
        for layer in model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.gate_proj.weight.mul_(1e-3)
            layer.mlp.down_proj.weight.zero_()
    return model


def test_of_sites_that_tie_the_one_executed_first_holds_m() -> None:
    model = silenced()
    with torch.no_grad():
        model.embed_tokens.weight[42, 3] = 500
    peak = measure(model, batches=alone(SAMPLES)).peak
    assert peak is not None
    assert (peak.component, peak.layer, peak.value, peak.feature, peak.sample, peak.position) == (
        "embedding",
        None,
        500,
        3,
        "2",
        1,
    )
    assert peak.ties == [Site(component="hidden", layer=layer) for layer in range(3)]
    assert peak.plateau == [0, 1, 2]


def test_inside_a_layer_an_mlp_wins_a_tie_with_the_hidden_state() -> None:
    model = silenced()
    with torch.no_grad():
        model.embed_tokens.weight[:, 3] = 0
        model.layers[1].mlp.down_proj.weight[3] = 1e7
    record = measure(model, batches=alone(SAMPLES))
    assert record.peak is not None
    assert (record.peak.component, record.peak.layer, record.peak.feature) == ("mlp", 1, 3)
    assert record.peak.ties == [Site(component="hidden", layer=1), Site(component="hidden", layer=2)]
    assert record.dominance is not None
    assert record.dominance.component == "mlp"


def test_a_nan_in_an_embedding_that_no_sample_uses_changes_nothing() -> None:
    """Padding takes part in the arithmetic of attention, so it must not bring values of its own."""
    model = tiny_model()
    corpus = Corpus("ids", (Sample("a", "c", input_ids=(5, 6, 7, 8)), Sample("b", "c", input_ids=(9, 10))))
    before = measure(model, corpus=corpus)
    with torch.no_grad():
        model.embed_tokens.weight[0] = math.nan
    assert measure(model, corpus=corpus).sites == before.sites


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        ({"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.tensor([[0.0, -1e9]])}, "must hold 1 for a token and 0"),
        ({"input_ids": torch.tensor([[1, 512]])}, "token ids outside 0 to 511"),
        ({"labels": torch.tensor([[1, 2]])}, "has no input_ids: it holds labels"),
    ],
)
def test_ready_batches_that_cannot_be_meant_are_refused(batch: dict[str, torch.Tensor], problem: str) -> None:
    with pytest.raises(MeasurementError, match=problem):
        measure(tiny_model(), batches=[batch])
