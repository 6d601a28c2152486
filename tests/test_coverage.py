"""Every decoder in transformers: where its sites are, that each holds its tokens, and transformers' own outputs beside them.

`coverage_sites.txt` tells the sites of each entry of the zoo, reviewed against the model's source. A model that is changed
there, or that a newer transformers brings, fails with what was found, which is to be reviewed and written down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from pytest_maxact.anatomy import Anatomy, Placement, find_sites
from pytest_maxact.batching import Batch, from_batches
from pytest_maxact.errors import AnatomyError, MeasurementError
from pytest_maxact.record import Site, SiteFigures
from pytest_maxact.runner import measure
from tests.conftest import passes_on, replace_forward
from tests.zoo import UNBUILDABLE, Entry, build, entries, text_model

CPU = torch.device("cpu")
TABLE = Path(__file__).with_name("coverage_sites.txt")

# Of each kind one, tried by default; the others are marked `coverage`.
KINDS = [
    Entry("causal", "llama"),  # dense
    Entry("causal", "gpt2"),  # no gate, transposed projections
    Entry("causal", "bert"),  # norms after the adds, attention and MLP without modules of their own
    Entry("causal", "xlnet"),  # [T, B, d]
    Entry("causal", "gpt_oss"),  # interleaved gates of experts
    Entry("causal", "deepseek_v4"),  # several residual streams, experts by token id, shared ones
    Entry("causal", "longcat_flash"),  # two halves a layer, experts whose rows are not traced
    Entry("causal", "jamba"),  # layers of Mamba or attention, with an MLP or experts
    Entry("causal", "falcon_h1"),  # two mixers a layer
    Entry("causal", "hrm_text"),  # layers that run in turns
    Entry("causal", "zamba"),  # layers that share an attention and an MLP
    Entry("image", "mllama"),  # image and text, with layers that only images reach
]

# What is told of the models whose sites cannot be found; none may be here that is found.
REFUSED: dict[Entry, str] = {
    Entry("causal", "blt"): r"BltModel has a config of blt that does not tell its number of layers",  # bytes in patches
    Entry("causal", "cpmant"): r"embedding of CpmAntModel \(embedding\) gave shape \(2, 37, 64\) for 2 x 5 tokens",  # a prompt
    Entry("causal", "musicgen"): r"embedding of MusicgenDecoder \(embedding\) did not run",  # one for each of its codebooks
    Entry("causal", "musicgen_melody"): r"embedding of MusicgenMelodyDecoder \(embedding\) did not run",
    # each token is there once more for each of the tokens after it that are predicted
    Entry("causal", "prophetnet"): r"hidden layer 0 of ProphetNetDecoder \(layers\.0\) gave shape \(2, 15, 64\)",
    Entry("image", "diffusion_gemma"): r"DiffusionGemmaDecoderModel does not run on text alone: .*decoder_input_ids",
    Entry("image", "pi0"): r"PI0Model has a config of pi0 that does not tell its number of layers",  # actions
}

FOUND = [entry for entry in entries() if entry not in UNBUILDABLE and entry not in REFUSED]

# `hidden_states` begins with the first layer's output, instead of what enters it.
WITHOUT_ENTERED = {"mamba", "mamba2", "falcon_mamba", "rwkv"}
# `hidden_states` are one of the two residual streams that go on from layer to layer; `hidden` holds both.
ONE_STREAM_OF_TWO = {"reformer"}
# What the final norm gives is not the last hidden state.
_SEVERAL = "the norm runs before the last layer, too"
_MIXED = "the residual streams are mixed after their norm"
NOT_LAST = {"nanochat": _SEVERAL, "hrm_text": _SEVERAL, "qwen4_exp": _MIXED, "qwen4_exp_text": _MIXED}
# transformers' `router_logits` leave out the first layers, whose routers choose by token id.
UNRECORDED_ROUTERS = {"deepseek_v4": 1}

# Families of which figures are compared between paddings and batch sizes.
PADDED = [
    *(
        Entry("causal", name)
        for name in (
            "bamba bert bloom cohere2 ctrl deepseek_v2 deepseek_v3 falcon falcon_h1 falcon_mamba gemma2 gemma3_text "
            "gemma3n_text gemma4 glm4 gpt2 gpt_neox gpt_oss granitemoehybrid hrm_text jamba jetmoe kimi_linear lfm2 llama "
            "llama4_text longcat_flash mamba2 minimax mixtral mpt nemotron_h olmo_hybrid olmo2 opt phi3 qwen3 qwen3_next "
            "qwen4_exp_text xlnet zamba2"
        ).split()
    ),
    *(Entry("image", name) for name in ("idefics3", "llava", "mllama", "qwen2_vl", "qwen3_vl_moe")),
]
# What padding changes in the model itself: there the figures depend on the batches.
PADDING_MATTERS = {
    Entry("causal", "bart"): "positions are counted from the first column",
    Entry("causal", "deepseek_v4"): "keys are compressed in windows of columns",
    Entry("causal", "recurrent_gemma"): "the recurrence has no mask",
    Entry("causal", "rwkv"): "the recurrence has no mask",
    Entry("causal", "xlstm"): "the recurrence has no mask",
    Entry("image", "paligemma"): "tokens see later ones where a batch has padding, and not where it has none",
}
MATTERS = 0.01  # of the largest value; rounding moves values by a ten-thousandth of that
SAMPLES = [torch.randint(3, 100, (length,), generator=torch.Generator().manual_seed(length)) for length in (9, 6, 5, 7)]

Given = list[dict[str, torch.Tensor]]


def padded(numbers: Iterable[int], side: str = "right") -> dict[str, torch.Tensor]:
    """Samples as a ready batch."""
    samples = [SAMPLES[number] for number in numbers]
    ids = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True, padding_value=5, padding_side=side)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in samples], batch_first=True, padding_side=side)
    return {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True)
class Specimen:
    """A model's sites, what was measured at them, and the batches that went in."""

    anatomy: Anatomy
    figures: dict[Site, SiteFigures]
    batches: list[Batch]

    @property
    def tokens(self) -> int:
        """How many real ones there are."""
        return sum(batch.tokens for batch in self.batches)

    @property
    def counts(self) -> dict[Site, int]:
        """How many values each site held."""
        return {site: figures.count for site, figures in self.figures.items()}

    @property
    def hidden(self) -> list[SiteFigures]:
        """Those of the layers that ran."""
        return [figures for site, figures in self.figures.items() if site.component == "hidden"]

    def outputs(self, **wanted: bool) -> list[Any]:
        """What transformers' own model gives for the batches."""
        with torch.no_grad():
            return [self.anatomy.core(**batch.inputs(CPU), use_cache=False, **wanted) for batch in self.batches]

    def by_token(self, values: list[torch.Tensor]) -> torch.Tensor:
        """Those of the real tokens, [tokens, features], of a value from each batch, samples in order."""
        samples = {
            sample: rows[row, batch.mask[row]].flatten(1)
            for batch, value in zip(self.batches, values, strict=True)
            for rows in [positioned(value, batch)]
            for row, sample in enumerate(batch.samples.tolist())
        }
        return torch.cat([samples[number] for number in sorted(samples)])

    def hidden_states(self) -> list[torch.Tensor]:
        """What transformers gives for `output_hidden_states`, by token."""
        states = [output.hidden_states for output in self.outputs(output_hidden_states=True)]
        return [self.by_token(list(values)) for values in zip(*states, strict=True)]


def positioned(value: torch.Tensor, batch: Batch) -> torch.Tensor:
    """With batch and position as the first two axes."""
    shape = tuple(batch.mask.shape)
    if tuple(value.shape[:2]) == shape:
        return value
    if tuple(value.shape[:2]) == shape[::-1] and value.ndim > 2:
        return value.transpose(0, 1)
    if tuple(value.shape[1:3]) == shape:
        return value.movedim(0, 2)
    return value.reshape(*shape, *value.shape[1:])


def examine(model: nn.Module, given: Given) -> Specimen:
    anatomy = find_sites(model)
    work = from_batches(given, 128)
    record = measure(model, batches=given)
    figures = {Site(component=one.component, layer=one.layer): one for one in record.sites}
    return Specimen(anatomy, figures, (work.without_padding() if anatomy.needs_whole_batches else work).batches)


def extremes(figures: SiteFigures | torch.Tensor) -> torch.Tensor:
    """The largest and the smallest value, float32 [2]."""
    if isinstance(figures, torch.Tensor):
        return torch.stack([figures.max(), figures.min()])
    return torch.tensor([figures.max, figures.min])


def table() -> dict[str, list[str]]:
    """What `coverage_sites.txt` tells of each entry."""
    told: dict[str, list[str]] = {}
    names: list[str] = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            for name in names:
                told[name].append(line.strip())
        elif not line.startswith("#"):
            names = [*names, *line.split()] if line else []
            told |= {name: [] for name in line.split()}
    return told


def describe(specimen: Specimen) -> list[str]:
    """The sites of a model as they stand in the table."""
    before: list[str] = []
    after: list[str] = []
    layers: dict[int, list[str]] = {}
    homes: dict[int, str] = {}
    for placement in specimen.anatomy.placements:
        component, layer = placement.site.component, placement.site.layer
        values, more = divmod(specimen.figures[placement.site].count, specimen.tokens)
        count = "(varying)" if more else f"({values})"
        if layer is None:
            (after if component == "final_norm" else before).append(f"{component} = {placement.name} {count}")
        elif component == "hidden":
            homes[layer] = placement.taps[0].name
            layers.setdefault(layer, []).append(f"hidden {count}")
        else:
            layers.setdefault(layer, []).append(f"{component} = {told(placement)} {count}")
    alike: dict[str, list[int]] = {}
    for layer, parts in layers.items():
        where = homes[layer].rpartition(".")[0]
        alike.setdefault(f"{where}: {', '.join(parts).replace(f'{homes[layer]}.', '')}", []).append(layer)
    middle = [f"{' '.join(map(str, numbers))} of {text}" for text, numbers in alike.items()]
    return [*before, *middle, *after, *(f"note: {note}" for note in specimen.anatomy.notes)]


def told(placement: Placement) -> str:
    rows = {"tokens": "", "routed tokens": " routed", "unknown": " untraced"}
    return " + ".join(f"{tap}{rows[tap.rows]}" for tap in placement.taps)


def on_demand(tried: Iterable[Entry]) -> list[Any]:
    """As parameters: those that are not of the kinds tried by default only with `-m coverage`."""
    return [pytest.param(one, id=str(one), marks=[] if one in KINDS else [pytest.mark.coverage]) for one in tried]


@pytest.mark.parametrize("entry", on_demand(FOUND))
def test_every_site_is_found_and_holds_what_transformers_gives(entry: Entry) -> None:
    specimen = examine(build(entry), [padded([0, 1]), padded([3, 2], "left")])
    assert describe(specimen) == table().get(str(entry), "missing")
    assert all(
        figures.nan == figures.inf == 0 and 0.05 < float(extremes(figures).abs().max()) < 1e4 for figures in specimen.hidden
    )
    assert_equal_hidden_states(entry, specimen)
    assert_equal_last_hidden_state(entry, specimen)
    assert_equal_router_logits(entry, specimen)


def assert_equal_hidden_states(entry: Entry, specimen: Specimen) -> None:
    """The last layer's is left out: what transformers gives of it is mostly after the final norm."""
    own = specimen.hidden_states()
    own = own if entry.model_type in WITHOUT_ENTERED else own[1:]
    assert len(own) >= len(specimen.hidden)
    for figures, state in list(zip(specimen.hidden, own, strict=False))[:-1]:
        if entry.model_type in ONE_STREAM_OF_TWO:
            assert figures.count == 2 * state.numel()
            assert bool((extremes(figures).abs() >= extremes(state).abs()).all())
            continue
        assert torch.equal(extremes(figures), extremes(state))
        assert figures.count == state.numel()


def assert_equal_last_hidden_state(entry: Entry, specimen: Specimen) -> None:
    final = specimen.figures.get(Site(component="final_norm"))
    if final is None:
        return
    outputs = specimen.outputs(output_hidden_states=True)
    last = specimen.by_token([output.get("last_hidden_state", output.hidden_states[-1]) for output in outputs])
    if entry.model_type in NOT_LAST:
        assert final.count > last.numel()
    else:
        assert torch.equal(extremes(final), extremes(last))
        assert final.count == last.numel()


def assert_equal_router_logits(entry: Entry, specimen: Specimen) -> None:
    routers = [figures for site, figures in specimen.figures.items() if site.component == "router"]
    if not routers:
        return
    outputs = specimen.outputs(output_router_logits=True)
    by_router = [specimen.by_token(list(values)) for values in zip(*(output.router_logits for output in outputs), strict=True)]
    routers = routers[UNRECORDED_ROUTERS.get(entry.model_type, 0) :]
    each, more = divmod(len(by_router), len(routers))
    assert more == 0
    for number, figures in enumerate(routers):
        own = torch.stack(by_router[number * each : (number + 1) * each])  # several where attention is routed, too
        assert torch.equal(extremes(figures), extremes(own))


def test_the_table_tells_of_what_is_found_and_of_nothing_else() -> None:
    assert sorted(table()) == sorted(map(str, FOUND))
    assert len(FOUND) >= 273


@pytest.mark.parametrize("entry", REFUSED, ids=str)
def test_what_is_refused_is_so_in_one_line(entry: Entry) -> None:
    with pytest.raises(AnatomyError, match=f"^{REFUSED[entry]}"):
        find_sites(build(entry))


def paddings(entry: Entry) -> tuple[Specimen, list[Specimen]]:
    """A batch of four padded at the right, and beside it what may differ by rounding only: at the left, and four of one."""
    model, numbers = build(entry), range(len(SAMPLES))
    left, single = [padded(numbers, "left")], [padded([number]) for number in numbers]
    return examine(model, [padded(numbers)]), [examine(model, left), examine(model, single)]


def seen(specimen: Specimen) -> dict[Site, torch.Tensor]:
    """What plain hooks see by token, at the sites that are the whole output of a module in one call."""
    values: dict[Site, list[torch.Tensor]] = {}
    handles = []
    for placement in specimen.anatomy.placements:
        tap, alone = placement.taps[0], len(specimen.anatomy.stack.names) == specimen.anatomy.layers
        if alone and placement.once and tap.at == "output" and tap.features == "all":

            def hook(*args: Any, site: Site = placement.site, index: int = tap.index) -> None:
                value = args[-1] if isinstance(args[-1], torch.Tensor) else list(args[-1])[index]
                values.setdefault(site, []).append(value.clone())  # some layers add to it in place

            handles.append(tap.module.register_forward_hook(hook))
    specimen.outputs()
    for handle in handles:
        handle.remove()
    return {site: specimen.by_token(kept) for site, kept in values.items() if len(kept) == len(specimen.batches)}


def moved(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("entry", on_demand(PADDED))
def test_padding_and_batch_size_move_figures_no_further_than_the_model_moves_values(entry: Entry) -> None:
    """A maximum moves no further than the values do that it is one of: as transformers' own output, and as hooks, tell them."""
    right, others = paddings(entry)
    states, values = right.hidden_states(), seen(right)
    for other in others:
        assert other.counts == right.counts
        first = 0 if entry.model_type in WITHOUT_ENTERED else 1
        own = list(zip(states, other.hidden_states(), strict=True))
        assert all(moved(one, another) < MATTERS * float(one.abs().max()) for one, another in own)
        for figures, others_figures, (one, another) in list(zip(right.hidden, other.hidden, own[first:], strict=False))[:-1]:
            assert moved(extremes(figures), extremes(others_figures)) <= moved(one, another)
        others_values = seen(other)
        assert others_values.keys() == values.keys()
        for site, value in values.items():
            assert torch.equal(extremes(other.figures[site]), extremes(others_values[site]))
            assert moved(extremes(right.figures[site]), extremes(other.figures[site])) <= moved(value, others_values[site])


@pytest.mark.coverage
@pytest.mark.parametrize("entry", PADDING_MATTERS, ids=str)
def test_where_padding_matters_it_does_so_in_transformers_own_hidden_states(entry: Entry) -> None:
    right, others = paddings(entry)
    for other in others:
        assert other.counts == right.counts
    states = right.hidden_states()
    own = [pair for other in others for pair in zip(states, other.hidden_states(), strict=True)]
    assert any(moved(one, another) > MATTERS * float(one.abs().max()) for one, another in own)


def test_a_list_of_layers_of_another_length_is_shown() -> None:
    model: Any = build(Entry("causal", "mixtral"))
    model.model.layers = model.model.layers[:2]
    with pytest.raises(AnatomyError, match=r"MixtralModel has no stack of 3 decoder layers, .*: found layers \(2\)$"):
        find_sites(model)


def test_a_layer_that_runs_instead_of_another_is_shown() -> None:
    model: Any = build(Entry("causal", "jamba"))
    model.model.layers[3] = model.model.layers[1]
    with pytest.raises(AnatomyError, match=r"the 4 layers of JambaModel do not run once each and in order: \[0, 1, 2, 1\]$"):
        find_sites(model)


def test_a_hook_that_never_fires_on_the_corpus_is_an_error() -> None:
    model: Any = build(Entry("causal", "mixtral"))
    replace_forward(model.model.layers[1].mlp, passes_on, from_call=2)
    with pytest.raises(MeasurementError, match=r"^router layer 1 \(layers\.1\.mlp\.gate\) was not reached by a batch"):
        measure(model, batches=[padded([0])])


def test_every_entry_of_transformers_is_there_once() -> None:
    assert len(entries()) == len(set(entries())) >= 286
    assert {*UNBUILDABLE, *REFUSED, *KINDS, *PADDED, *PADDING_MATTERS} <= set(entries())
    assert len(PADDED) >= 30


@pytest.mark.parametrize("entry", KINDS, ids=str)
def test_a_model_is_the_same_for_the_same_seed(entry: Entry) -> None:
    one, again, other = (run(entry, build(entry, seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("entry", UNBUILDABLE, ids=str)
def test_none_is_left_out_that_could_be_built(entry: Entry) -> None:
    with pytest.raises((ImportError, ValueError, StrictDataclassError)):
        run(entry, build(entry))


def run(entry: Entry, model: nn.Module) -> torch.Tensor:
    """The first tensor that the text model gives for two tokens."""
    ids = torch.tensor([[3, 7]])
    with torch.no_grad():
        output = text_model(entry, model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    tensor: torch.Tensor = next(value for value in output.values() if isinstance(value, torch.Tensor))
    return tensor
