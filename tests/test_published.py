"""Published figures judge other people's models, so they must be what was published, be found, and tell models apart."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_maxact import outcome, published
from pytest_maxact.baseline import PUBLISHED_FOLDER, file_name, look_up
from pytest_maxact.checkpoint import Reference
from pytest_maxact.checks import Tolerance, compare, judge, maximum
from pytest_maxact.errors import BaselineError
from pytest_maxact.published.make import main, make
from pytest_maxact.record import (
    Baseline,
    CorpusFacts,
    Environment,
    Location,
    Measurement,
    Model,
    Peak,
    SiteFigures,
    Timing,
)
from pytest_maxact.report.standing import standing
from pytest_maxact.report.terminal import summary
from pytest_maxact.resources import data_folder

NAMES = list(published.models())
TWO_SIDED = Tolerance(two_sided=True)
# M and its place are the same, and no site changed by half; the other way round a fall of 45% is a rise of more than half.
NOT_TOLD_APART = [("Qwen2.5-1.5B-Instruct", "Qwen2.5-1.5B")]
# Neighbours by M that lie within the tolerance of each other.
CLOSE = [
    ("Ling-mini-5T", "Qwen2.5-1.5B"),
    ("Qwen2.5-1.5B", "Qwen2.5-1.5B-Instruct"),
    ("Qwen2.5-1.5B-Instruct", "Qwen2.5-VL-7B"),
    ("Qwen2.5-VL-7B", "Ling-mini-10T"),
    ("Qwen2.5-7B", "Qwen2.5-7B-Instruct"),
    ("Qwen2.5-7B-Instruct", "Qwen3-1.7B"),
    ("Qwen2.5-32B-Instruct", "Qwen2.5-VL-32B"),
    ("gpt-oss-20b", "gemma-2-27b"),
]


def measured(name: str, **changes: Any) -> Measurement:
    """A measurement that found just what was published of a checkpoint, on another corpus and device."""
    baseline = published.figures(name)
    known = baseline.model.model_dump() | {"architecture": "A", "parameters": 1}
    sites = [
        SiteFigures(
            component=site.component,
            layer=site.layer,
            max=site.max,
            min=site.min,
            count=9,
            nan=0,
            inf=0,
            peak=Location(signed=site.max, feature=0),
            mean=0.0,
            std=1.0,
            rms=1.0,
            abs_mean=1.0,
            abs_quantiles={},
            top=[],
            crest=1.0,
            sun=None,
            sqnr={},
            approximate=False,
        )
        for site in baseline.sites
    ]
    facts: dict[str, Any] = {
        "model": Model(**known),
        "corpus": CorpusFacts(
            id="core", digest="d" * 64, samples=96, tokens=9, categories={}, max_length=4096, special_tokens="none"
        ),
        "environment": Environment(
            python="3", torch="2", transformers="5", device="cpu", threads=1, ranks=1, batch_tokens=None, kernel="eager"
        ),
        "peak": Peak(**{"feature": 0, "ties": [], **baseline.peak.model_dump(exclude={"feature"})}),
        "dominance": baseline.dominance,
        "sun": baseline.sun,
        "trajectory": None,
        "sites": sites,
        "samples": [],
        "notes": [],
        "timing": Timing(seconds=1.0, tokens_per_s=1.0, hook_fraction=None),
    }
    return Measurement(**facts | changes)


def as_our_own(name: str) -> Baseline:
    """The figures as if they were all there is to know: of every site M counts."""
    return published.figures(name).model_copy(update={"provenance": None})


def failed(measurement: Measurement, baseline: Baseline, tolerance: Tolerance = TWO_SIDED) -> list[str]:
    return [verdict.check for verdict in compare(measurement, baseline, tolerance) if verdict.failed]


# --- what is stored


def test_there_are_27_checkpoints_of_8_families_and_each_has_its_figures() -> None:
    assert len(NAMES) == 27
    assert len({model.family for model in published.models().values()}) == 8
    assert sum(model.main for model in published.models().values()) == 24
    files = {file.name for file in data_folder(PUBLISHED_FOLDER).iterdir()}
    assert files == {file_name(model.hub_id) for model in published.models().values()} | {published.LANDSCAPE}


@pytest.mark.parametrize("name", NAMES)
def test_figures_of_a_checkpoint_agree_with_each_other(name: str) -> None:
    baseline = published.figures(name)
    sites = {(site.component, site.layer): site for site in baseline.sites}
    assert baseline.model.id == published.models()[name].hub_id
    assert baseline.peak.value == max(site.value for site in baseline.sites) == abs(baseline.peak.signed)
    assert baseline.peak.signed in (sites[baseline.peak.component, baseline.peak.layer].max, -baseline.peak.value)
    assert [layer for component, layer in sites if component == "hidden"] == list(range(baseline.model.layers or 0))
    assert baseline.sun is not None
    passing = [s.layer for s in baseline.sites if s.component == "hidden" and s.sun is not None and s.sun.passing]
    assert (baseline.sun.layers, baseline.sun.passes) == (passing, bool(passing))
    assert not baseline.sun.margin > 1 or baseline.sun.passes  # NaN where it is not known
    assert all(site.rms is not None and 0 < site.rms < site.value for site in baseline.sites)
    assert all((site.sun is None) == (site.component == "gate") for site in baseline.sites)


@pytest.mark.parametrize("name", NAMES)
def test_each_says_where_it_comes_from_and_what_it_does_not_tell(name: str) -> None:
    baseline = published.figures(name)
    assert baseline.provenance is not None
    assert "2605.15572" in baseline.provenance.source
    assert "Measuring Maximum Activations" in baseline.provenance.citation
    layers = baseline.model.layers or 0
    gates = sum(site.component == "gate" for site in baseline.sites)
    assert (f"gate of {layers - gates} of {layers} layers" in baseline.provenance.absent) == (gates < layers)


def test_a_name_that_is_not_published_is_told_with_those_that_are() -> None:
    with pytest.raises(BaselineError, match=r"no published figures of Qwen/Qwen3-8B: there are those of Qwen2.5-1.5B, "):
        published.figures("Qwen/Qwen3-8B")


def test_a_damaged_landscape_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "data_folder", lambda name: tmp_path)
    for damage in (None, '{"models": ['):
        if damage is not None:
            (tmp_path / published.LANDSCAPE).write_text(damage)
        with pytest.raises(BaselineError, match=r"landscape.json cannot be read \(.*\): reinstall pytest-maxact$"):
            published.landscape.__wrapped__()


def test_groups_of_checkpoints_name_existing_ones() -> None:
    groups = (
        *published.GENERATIONS,
        *published.DENSE_AND_MOE,
        *published.TRAINING_STAGES,
        *published.BASE_AND_INSTRUCT,
        *published.TEXT_AND_VISION,
    )
    models = published.models()
    assert {name for group in groups for name in group} <= set(models)
    for dense, moe in published.DENSE_AND_MOE:
        assert (models[dense].kind, models[moe].kind, models[dense].family) == ("dense", "moe", models[moe].family)
    for base, instruct in published.BASE_AND_INSTRUCT:
        assert (models[base].instruct, models[instruct].instruct) == (False, True)
    for text, vision in published.TEXT_AND_VISION:
        assert (models[text].kind, models[vision].kind) == ("dense", "vision-language")
    (stages,) = published.TRAINING_STAGES
    assert [models[name].trained for name in stages] == [5, 10, 15, 20]
    assert {row.name for row in published.landscape().int8 + published.landscape().bootstrap} <= set(models)


def test_the_tolerance_of_m_is_how_far_bootstrap_subsets_lay_from_the_whole() -> None:
    rows = published.landscape().bootstrap
    spread = {
        name: max(abs(row.maximum / published.figures(name).peak.value - 1) for row in rows if row.name == name)
        for name in {row.name for row in rows}
    }
    assert len(spread) == 4
    for name in NAMES:
        (override,) = published.figures(name).tolerances
        assert override.component is None
        assert override.rtol == pytest.approx(spread.get(name, max(spread.values())), abs=1e-3)
        assert override.rtol is not None
        assert override.rtol >= spread.get(name, 0)


# --- what they judge


@pytest.mark.parametrize("name", NAMES)
def test_a_record_that_equals_a_published_checkpoint_passes(name: str) -> None:
    assert failed(measured(name), published.figures(name)) == []


def test_all_but_one_pair_of_the_27_fail_against_each_other() -> None:
    records = {name: measured(name) for name in NAMES}
    pairs = itertools.permutations(NAMES, 2)
    assert [(a, b) for a, b in pairs if not failed(records[a], published.figures(b))] == NOT_TOLD_APART


def test_m_alone_tells_neighbours_by_m_apart_unless_they_lie_within_the_tolerance() -> None:
    by_m = sorted(NAMES, key=lambda name: published.figures(name).peak.value)
    close = [
        (lower, upper)
        for lower, upper in itertools.pairwise(by_m)
        if not maximum.check(measured(upper), as_our_own(lower), Tolerance()).failed
    ]
    assert close == CLOSE


def test_a_fall_is_fine_unless_both_sides_were_asked_for() -> None:
    record, later = measured("Ling-mini-5T"), published.figures("Ling-mini-20T")
    assert not judge("maximum", record, later, Tolerance()).failed
    assert judge("maximum", record, later, TWO_SIDED).failed


@pytest.mark.parametrize(
    ("name", "other", "told"),
    [
        ("Qwen3-8B", "Qwen3-32B", "64 layers x 5120, now 36 x 4096: this is not the published Qwen/Qwen3-32B"),
        ("Qwen2.5-1.5B", "Qwen2.5-7B", "28 layers x 3584, now 28 x 1536: this is not the published Qwen/Qwen2.5-7B"),
    ],
)
def test_another_shape_is_not_the_published_checkpoint(name: str, other: str, told: str) -> None:
    verdict = judge("maximum", measured(name), published.figures(other), Tolerance())
    assert verdict.failed
    assert told in verdict.summary


@pytest.mark.parametrize(
    ("part", "change", "told"),
    [
        ("corpus", {"special_tokens": "chat"}, "special tokens none, now chat"),
        ("model", {"dtype": "float32"}, "dtype bfloat16, now float32"),
    ],
)
def test_conditions_that_the_paper_tells_of_must_be_the_same(part: str, change: dict[str, str], told: str) -> None:
    record = measured("Qwen3-8B")
    record = record.model_copy(update={part: getattr(record, part).model_copy(update=change)})
    verdict = judge("maximum", record, published.figures("Qwen3-8B"), Tolerance())
    assert verdict.failed
    assert told in verdict.summary


def test_ready_batches_may_be_compared_and_a_failure_names_corpus_and_device() -> None:
    corpus = CorpusFacts(id="batches", digest=None, samples=4, tokens=64, categories={}, max_length=None, special_tokens="none")
    verdict = judge("maximum", measured("Ling-mini-20T", corpus=corpus), published.figures("Ling-mini-5T"), Tolerance())
    assert verdict.failed
    assert verdict.details[-3:] == (
        "published baseline: corpus hf:Clxxxx/eval_diverse_dataset (5,000 samples, 17,203,224 tokens), here batches "
        "(4 samples, 64 tokens)",
        "published baseline: measured on one 80 GB-class GPU, here on cpu",
        "published baseline: inclusionAI/Ling-mini-base-2.0-20T is taken for inclusionAI/Ling-mini-base-2.0-5T",
    )


def test_sites_that_were_not_published_are_told_and_not_judged() -> None:
    record = measured("Ling-mini-20T")
    gate = next(site for site in record.sites if site.component == "gate")
    more = record.model_copy(update={"sites": [*record.sites, gate.model_copy(update={"layer": 7, "max": 1e9})]})
    verdict = judge("profile", more, published.figures("Ling-mini-20T"), TWO_SIDED)
    assert not verdict.failed
    assert "1 not published (gate)" in verdict.summary
    less = record.model_copy(update={"sites": record.sites[:-1]})
    assert judge("profile", less, published.figures("Ling-mini-20T"), TWO_SIDED).failed


def test_m_its_place_and_dominance_are_of_the_published_sites() -> None:
    record, baseline = measured("Qwen3-30B-A3B"), published.figures("Qwen3-30B-A3B")
    place = Location(signed=2000.0, feature=0)
    gate = record.sites[-1].model_copy(update={"component": "gate", "layer": 5, "max": 2000.0, "min": -1.0, "peak": place})
    sites = [*record.sites, gate]
    more = record.model_copy(update={"sites": sites, "peak": outcome.peak(sites), "dominance": outcome.dominance(sites)})
    assert more.peak is not None
    assert (more.peak.component, more.peak.value) == ("gate", 2000)
    assert failed(more, baseline) == []
    assert "gate layer 5 holds 2,000, of which nothing was published" in judge("maximum", more, baseline, TWO_SIDED).summary
    assert judge("maximum", more, baseline, Tolerance(ceiling=1900)).failed
    assert {"maximum", "location", "dominance"} <= set(failed(more, as_our_own("Qwen3-30B-A3B")))


def test_a_quantized_model_and_another_id_are_named_where_a_check_fails() -> None:
    record = measured("Qwen3-8B")
    model = record.model.model_copy(update={"id": "copy", "quantization": "gptq"})
    told = " ".join(summary(record.model_copy(update={"model": model}), published.figures("Qwen3-8B")))
    assert "copy is taken for Qwen/Qwen3-8B; here quantized by gptq" in " ".join(told.split())


def test_a_copy_is_not_ranked_against_what_it_is_taken_for() -> None:
    record, baseline = measured("gpt-oss-20b"), published.figures("gpt-oss-20b")
    copy = record.model_copy(update={"model": record.model.model_copy(update={"id": "copy"})})
    compared, alone = standing(copy, baseline), standing(copy)
    assert compared is not None
    assert alone is not None
    assert compared.startswith("M 4th of 27 published, like Qwen3, ")
    assert alone.startswith("M 4th of 28 published, like GPT-OSS, ")
    assert standing(copy, as_our_own("gpt-oss-20b")) == alone


def test_an_unknown_margin_is_said_so_and_is_never_borderline() -> None:
    record, baseline = measured("Qwen3.5-27B"), published.figures("Qwen3.5-27B")
    assert math.isnan(baseline.sun.margin if baseline.sun else 0)
    assert "margin unknown" in judge("sun", record, baseline, TWO_SIDED).summary
    assert record.sun is not None
    flipped = record.model_copy(update={"sun": record.sun.model_copy(update={"passes": False, "layers": [], "margin": 0.99})})
    assert judge("sun", flipped, baseline, TWO_SIDED).failed


def test_the_summary_names_source_differences_tolerance_and_what_is_not_told() -> None:
    told = " ".join(" ".join(summary(measured("Qwen3-30B-A3B"), published.figures("Qwen3-30B-A3B"))).split())
    assert "baseline: Qwen/Qwen3-30B-A3B as published in arXiv 2605.15572" in told
    assert "(5,000 samples, 16,967,514 tokens), here core (96 samples, 9 tokens)" in told
    assert "on one 80 GB-class GPU, here on cpu" in told
    assert "tolerance 9.6% for M: the largest deviation of M over bootstrap subsets" in told
    assert "not told there, so not checked: feature, token and position of the peak" in told
    assert "gate of 48 of 48 layers" in told
    assert "as published in" not in " ".join(summary(measured("Qwen3-8B"), None))


# --- how they are found


def test_published_is_looked_up_by_hub_id_or_by_what_the_config_names(tmp_path: Path) -> None:
    by_id = look_up("published", "Qwen/Qwen3-8B", tmp_path)
    by_origin = look_up("published", "my-copy", tmp_path, "Qwen/Qwen3-8B")
    assert by_id.baseline == by_origin.baseline == published.figures("Qwen3-8B")
    assert by_id.source == by_origin.source == data_folder(PUBLISHED_FOLDER) / "Qwen--Qwen3-8B.json"
    for other in ("my-copy", "landscape", "../Qwen3-8B", "Qwen/Qwen3-9B", "Qwen/Qwen3 8B"):
        assert look_up("published", other, tmp_path, "./out/checkpoint-5").baseline is None


def test_a_published_one_may_be_named_but_auto_never_takes_it(tmp_path: Path) -> None:
    assert look_up("Qwen/Qwen3-8B", "my-copy", tmp_path).baseline == published.figures("Qwen3-8B")
    assert look_up("auto", "Qwen/Qwen3-8B", tmp_path).baseline is None
    own = published.figures("Qwen3-8B").model_copy(update={"provenance": None})
    own.save(tmp_path / "Qwen--Qwen3-8B.json")
    assert look_up("Qwen/Qwen3-8B", "my-copy", tmp_path).baseline == own
    assert look_up("published", "Qwen/Qwen3-8B", tmp_path).baseline != own


def test_only_a_folder_of_whole_weights_is_named_by_its_config(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"_name_or_path": "Qwen/Qwen3-8B"}')
    whole = Reference("m", tmp_path, None)
    assert whole.origin == "Qwen/Qwen3-8B"
    assert Reference("m", tmp_path, None, gguf="m.gguf").origin is None  # the config is another checkpoint's
    assert Reference("m", tmp_path, None, base=whole).origin is None
    for broken in ("{", "[]", "{}", '{"_name_or_path": 5}'):
        config.write_text(broken)
        assert whole.origin is None


# --- how they are made

SUN = {
    "tokens": 7,
    "passing": 0,
    "peak_token_median": 0.5,
    "peak_token_ratio": 400.0,
    "max_ratio": 400.0,
    "max_ratio_abs": 200.0,
    "max_ratio_median": 0.5,
    "mean_ratio": 4.0,
    "std_ratio": 1.0,
}


def row(component: str, layer: int | None, largest: float, **sun: float) -> dict[str, Any]:
    figures = {"component": component, "layer": layer, "max": largest / 2, "min": -largest, "rms": 1.0, "count": 9}
    return figures | ({} if component == "gate" else {"sun": SUN | sun})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return written_source(tmp_path / "source")


def written_source(folder: Path) -> Path:
    """Figures of one small checkpoint of two layers, in the authors' form."""
    (folder / "checkpoints").mkdir(parents=True)
    summary_row = {
        "name": "tiny",
        "hub_id": "org/Tiny-1B",
        "family": "Tiny",
        "size": "1.5B-A0.5B @3T",
        "kind": "moe, training stage",
        "main_analysis": False,
        "model_type": "t",
        "layers": 2,
        "hidden_size": 8,
        "dtype": "bfloat16",
        "samples": 10,
        "tokens": 7,
        "M": 200.0,
        "M_signed": -200.0,
        "peak_component": "hidden",
        "peak_layer": 1,
        "peak_hidden": {"layer": 1, "abs": 200.0, "ratio": 400.0},
        "component_max": {"hidden": 200.0, "mlp": 160.0, "gate": 30.0, "final_norm": 50.0},
        "sun_passes": False,
        "sun_layers_passing": 0,
        "reference_wall_s": 3,
    }
    sites = [
        row("hidden", 1, 200.0),
        row("hidden", 0, 199.5, max_ratio=300.0, peak_token_ratio=300.0),
        row("mlp", 0, 100.0),
        row("mlp", 1, 160.0),
        row("gate", 0, 30.0),
        row("final_norm", None, 50.0),
    ]
    (folder / "summary.json").write_text(json.dumps([summary_row]))
    (folder / "checkpoints" / "tiny.json").write_text(json.dumps(summary_row | {"sites": sites}))
    subsets = [{"name": "tiny", "samples": 5, "repeat": n, "M": value} for n, value in enumerate((190.0, 200.0, 175.0))]
    (folder / "bootstrap.json").write_text(json.dumps(subsets))
    int8 = {"name": "tiny", "policy": "clip_q0.999", "threshold": 9.0, "sqnr_db": 12.5, "clip_rate": 0.001}
    (folder / "int8.json").write_text(json.dumps([int8]))
    return folder


def test_a_baseline_is_made_of_each_checkpoint(source: Path, tmp_path: Path) -> None:
    assert make(source, tmp_path / "made") == 1
    baseline = Baseline.load(tmp_path / "made" / "org--Tiny-1B.json")
    assert (baseline.model.id, baseline.model.layers, baseline.model.hidden_size) == ("org/Tiny-1B", 2, 8)
    assert (baseline.peak.component, baseline.peak.layer, baseline.peak.signed) == ("hidden", 1, -200.0)
    assert baseline.peak.plateau == [0, 1]
    assert baseline.dominance is not None
    assert (baseline.dominance.component, baseline.dominance.ratio) == ("hidden", 1.25)
    assert baseline.sun is not None
    assert (baseline.sun.passes, baseline.sun.layers, baseline.sun.margin) == (False, [], 0.4)
    assert [(o.rtol, o.component) for o in baseline.tolerances] == [(0.125, None)]
    assert [(s.component, s.layer) for s in baseline.sites][1:3] == [("gate", 0), ("hidden", 0)]
    assert baseline.provenance is not None
    assert baseline.provenance.absent[-1] == "gate of 1 of 2 layers"
    landscape = published.Landscape.model_validate_json((tmp_path / "made" / published.LANDSCAPE).read_bytes())
    (model,) = landscape.models
    assert (model.kind, model.instruct, model.parameters, model.active, model.trained) == ("moe", False, 1.5, 0.5, 3.0)
    assert (landscape.int8[0].policy, landscape.int8[0].sqnr, len(landscape.bootstrap)) == ("p999", 12.5, 3)


@pytest.mark.parametrize(
    ("max_ratio", "max_ratio_abs", "margin"),
    [
        (400.0, 30.0, 0.4),  # no token has a larger ratio than the one of the largest value
        (900.0, 20.0, math.nan),  # a third token may lie anywhere up to 200 and 900
        (900.0, 40.0, math.nan),
        (900.0, 90.0, 0.9),  # the token of the largest ratio has enough of both
    ],
)
def test_a_margin_is_known_where_no_third_token_can_raise_it(
    source: Path, tmp_path: Path, max_ratio: float, max_ratio_abs: float, margin: float
) -> None:
    at_ratio = {"max_ratio": max_ratio, "max_ratio_abs": max_ratio_abs}
    edit(source / "checkpoints" / "tiny.json", lambda d: d["sites"][0]["sun"].update(at_ratio))
    make(source, tmp_path / "made")
    sun = Baseline.load(tmp_path / "made" / "org--Tiny-1B.json").sun
    assert sun is not None
    assert sun.margin == pytest.approx(margin, nan_ok=True)


def test_without_bootstrap_there_is_no_tolerance_of_its_own(source: Path, tmp_path: Path) -> None:
    (source / "bootstrap.json").write_text("[]")
    make(source, tmp_path / "made")
    assert Baseline.load(tmp_path / "made" / "org--Tiny-1B.json").tolerances == []


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("summary.json", lambda d: d[0].update(kind="sparse"), "malformed at 0.kind"),
        ("summary.json", lambda d: d[0].pop("tokens"), "malformed at 0.tokens: Field required"),
        ("summary.json", lambda d: d[0].update(size="big"), "malformed at 0.size"),
        ("summary.json", lambda d: d[0].update(size="..B"), "malformed at 0.size"),
        ("summary.json", lambda d: d[0].update(M=0), "malformed at 0.M: Input should be greater than 0"),
        ("summary.json", lambda d: d[0].update(hub_id="landscape"), "malformed at 0.hub_id"),
        ("summary.json", lambda d: d.clear(), "summary.json holds no checkpoint"),
        ("summary.json", lambda d: d.append(d[0] | {"hub_id": "org/Other"}), "tiny is there more than once"),
        ("summary.json", lambda d: d.append(d[0] | {"name": "other"}), "org--Tiny-1B.json is there more than once"),
        ("summary.json", lambda d: d[0].update(tokens=8), "tiny.json: tokens is 7, by summary.json it is 8"),
        ("checkpoints/tiny.json", lambda d: d.update(hub_id="o/T"), "hub_id is o/T, by summary.json it is org/Tiny-1B"),
        ("checkpoints/tiny.json", lambda d: d["sites"][2].update(max="x"), "malformed at sites.2.max"),
        ("checkpoints/tiny.json", lambda d: d["sites"][2].update(component="x"), "malformed at sites.2.component"),
        ("checkpoints/tiny.json", lambda d: d["sites"][2].update(layer=-1), "malformed at sites.2.layer"),
        (
            "checkpoints/tiny.json",
            lambda d: d["sites"][2].update(rms=math.nan),
            "malformed at sites.2.rms: Input should be a finite",
        ),
        ("checkpoints/tiny.json", lambda d: d["sites"][2].update(rms=-1), "malformed at sites.2.rms"),
        (
            "checkpoints/tiny.json",
            lambda d: d["sites"][2].update(max=-100, min=50),
            "sites.2: Value error, max -100.0 is below min 50",
        ),
        (
            "checkpoints/tiny.json",
            lambda d: d["sites"][2]["sun"].update(max_ratio="nan"),
            "sites.2: Value error, one of the Sun",
        ),
        ("checkpoints/tiny.json", lambda d: d["sites"].append(d["sites"][2]), "mlp layer 0 is there more than once"),
        ("checkpoints/tiny.json", lambda d: d["sites"].pop(1), "layers is 1, by summary.json it is 2"),
        ("checkpoints/tiny.json", lambda d: d["sites"][1].update(layer=None), "sites.1: Value error, hidden has layer None"),
        ("checkpoints/tiny.json", lambda d: d["sites"][1].update(layer=2), "the last layer is 2, by summary.json it is 1"),
        (
            "checkpoints/tiny.json",
            lambda d: d["sites"][1]["sun"].update(passing=1),
            "sun_passes is True, by summary.json it is False",
        ),
        ("bootstrap.json", lambda d: d[0].update(name="x"), "bootstrap.json: x is no checkpoint of summary.json"),
        ("bootstrap.json", lambda d: d.append(d[0]), "tiny, 5 samples, repeat 0 is there more than once"),
        ("bootstrap.json", lambda d: d[0].update(M=0), "malformed at 0.M"),
        ("int8.json", lambda d: d[0].update(policy="mean"), "malformed at 0.policy"),
        ("int8.json", lambda d: d[0].update(name="x"), "int8.json: x is no checkpoint of summary.json"),
        ("int8.json", lambda d: d.append(d[0]), "tiny, clip_q0.999 is there more than once"),
    ],
)
def test_a_source_that_is_malformed_or_contradicts_itself_writes_nothing(
    source: Path, tmp_path: Path, file: str, change: Callable[[Any], object], told: str
) -> None:
    edit(source / file, change)
    refused(source, tmp_path / "made", told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"M": 201.0}, "M is 200.0, by summary.json it is 201.0"),
        ({"M_signed": 150.0}, "M_signed at the peak site is -200.0, by summary.json it is 150.0"),
        ({"M_signed": 200.0}, "M_signed at the peak site is -200.0, by summary.json it is 200.0"),
        ({"M_signed": 100.0}, "M_signed at the peak site is -200.0, by summary.json it is 100.0"),
        ({"peak_layer": 5}, "M_signed at the peak site is not there, by summary.json it is -200.0"),
        ({"peak_component": "mlp"}, "M_signed at the peak site is not there, by summary.json it is -200.0"),
        ({"layers": 3}, "layers is 2, by summary.json it is 3"),
        ({"peak_hidden": {"layer": 0, "abs": 200.0, "ratio": 400.0}}, "peak_hidden is layer=1 abs=200.0 ratio=400.0, by"),
        ({"peak_hidden": {"layer": 1, "abs": 200.5, "ratio": 400.0}}, "it is layer=1 abs=200.5 ratio=400.0"),
        ({"peak_hidden": {"layer": 1, "abs": 200.0, "ratio": 401.0}}, "it is layer=1 abs=200.0 ratio=401.0"),
        (
            {"component_max": {"hidden": 200.0}},
            "component_max is {'hidden': 200.0, 'mlp': 160.0, 'gate': 30.0, 'final_norm': 50.0}",
        ),
        ({"sun_passes": True}, "sun_passes is False, by summary.json it is True"),
        ({"sun_layers_passing": 1}, "sun_layers_passing is 0, by summary.json it is 1"),
    ],
)
def test_a_row_that_the_sites_do_not_make_up_is_refused(
    source: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    edit_row(source, **changes)
    refused(source, tmp_path / "made", told)


@pytest.mark.parametrize("kept", [2, 3])
def test_without_a_value_beside_the_hidden_ones_there_is_no_dominance(source: Path, tmp_path: Path, kept: int) -> None:
    def silence(checkpoint: Any) -> None:
        checkpoint["sites"] = checkpoint["sites"][:kept]
        checkpoint["sites"][2:] = [site | {"max": 0.0, "min": 0.0} for site in checkpoint["sites"][2:]]

    edit(source / "checkpoints" / "tiny.json", silence)
    edit_row(source, component_max={"hidden": 200.0, "mlp": 0.0} if kept == 3 else {"hidden": 200.0})
    refused(source, tmp_path / "made", "tiny.json: no site but hidden holds a value, so there is no dominance")


def test_a_gate_can_hold_m_and_a_router_cannot(source: Path, tmp_path: Path) -> None:
    def louder(checkpoint: Any) -> None:
        checkpoint["sites"][4:5] = [row("gate", 0, 400.0), row("router", 0, 999.0)]

    edit(source / "checkpoints" / "tiny.json", louder)
    maxima = {"hidden": 200.0, "mlp": 160.0, "gate": 400.0, "final_norm": 50.0}
    edit_row(source, M=400.0, M_signed=-400.0, peak_component="gate", peak_layer=0, component_max=maxima)
    make(source, tmp_path / "made")
    baseline = Baseline.load(tmp_path / "made" / "org--Tiny-1B.json")
    assert (baseline.peak.component, baseline.peak.value, baseline.peak.plateau) == ("gate", 400.0, [0, 1])
    assert baseline.dominance is not None
    assert (baseline.dominance.component, baseline.dominance.ratio) == ("gate", 0.5)


def test_of_extremes_of_one_size_and_of_tied_layers_any_may_be_named(source: Path, tmp_path: Path) -> None:
    edit(source / "checkpoints" / "tiny.json", lambda d: [site.update(max=200.0, min=-200.0) for site in d["sites"][:2]])
    for signed in (-200.0, 200.0):
        for layer, ratio in ((0, 300.0), (1, 400.0)):
            edit_row(source, M_signed=signed, peak_layer=layer, peak_hidden={"layer": layer, "abs": 200.0, "ratio": ratio})
            assert make(source, tmp_path / "made") == 1


def test_subsets_that_all_hold_the_same_m_give_the_least_tolerance(source: Path, tmp_path: Path) -> None:
    edit(source / "bootstrap.json", lambda d: [subset.update(M=200.0) for subset in d])
    make(source, tmp_path / "made")
    assert [o.rtol for o in Baseline.load(tmp_path / "made" / "org--Tiny-1B.json").tolerances] == [0.001]


def test_the_command_says_in_one_line_what_is_missing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["make", str(source), str(tmp_path / "made")])
    main()
    assert "made: 1 checkpoint\n" in capsys.readouterr().out
    (source / "checkpoints" / "tiny.json").unlink()
    with pytest.raises(SystemExit, match=r"tiny\.json cannot be read: No such file"):
        main()


def edit(file: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def edit_row(source: Path, **changes: Any) -> None:
    """Change the checkpoint's row in both files that hold it."""
    edit(source / "summary.json", lambda d: d[0].update(changes))
    edit(source / "checkpoints" / "tiny.json", lambda d: d.update(changes))


def refused(source: Path, made: Path, told: str) -> None:
    with pytest.raises(BaselineError, match=re.escape(told)) as caught:
        make(source, made)
    assert "\n" not in str(caught.value)
    assert not made.exists()
