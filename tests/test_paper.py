"""What arXiv 2605.15572 says, asserted from the figures published beside it; and where its text and its data disagree."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import pytest

from pytest_maxact import outcome, published
from pytest_maxact.analyses import (
    Int8,
    by_depth,
    distance,
    int8,
    maximum,
    misled_by_m,
    nearest,
    range_by_family,
    range_of,
    rank,
    ratio_of_maxima,
    residual_dominance,
    scaling,
    succession,
    sun_at,
    tier,
)
from pytest_maxact.published import BASE_AND_INSTRUCT, DENSE_AND_MOE, GENERATIONS, TEXT_AND_VISION, TRAINING_STAGES, models
from pytest_maxact.published import figures as of
from pytest_maxact.record import Baseline, Figures, Site
from pytest_maxact.resources import data_folder

ALL = {name: of(name) for name in models()}
MAIN = {name: ALL[name] for name, model in models().items() if model.main}
NAMES = {model.hub_id: name for name, model in models().items()}
FAMILIES = list(dict.fromkeys(model.family for model in models().values()))


def family(name: str) -> dict[str, Baseline]:
    """The members of a family that the main analysis counts."""
    return {member: MAIN[member] for member in MAIN if models()[member].family == name}


def pattern(figures: Figures) -> str:
    found = outcome.trajectory(figures.sites)
    assert found is not None
    return found.pattern


def int8_row(name: str, policy: Literal["maxabs", "p999"] = "maxabs") -> published.Int8Row:
    return next(row for row in published.landscape().int8 if (row.name, row.policy) == (name, policy))


INT8 = {
    name: Int8(name, maximum(ALL[name]), int8(ALL[name]).crest, int8_row(name).sqnr, int8_row(name, "p999").sqnr)
    for name in dict.fromkeys(row.name for row in published.landscape().int8)
}


# --- M


def test_27_checkpoints_24_of_them_in_the_main_analysis() -> None:
    assert (len(ALL), len(MAIN)) == (27, 24)
    assert sorted(set(ALL) - set(MAIN)) == sorted(instruct for _, instruct in BASE_AND_INSTRUCT)


@pytest.mark.parametrize("among", [MAIN, ALL])
def test_m_ranges_from_122_to_696320(among: dict[str, Baseline]) -> None:
    found = range_of(list(among.values()))
    assert (found.smallest, NAMES[found.smallest_id]) == (122, "Qwen3.5-0.8B")
    assert (found.largest, NAMES[found.largest_id]) == (696320, "gemma-3-27b-it")
    assert found.ratio == pytest.approx(5708, abs=1)


def test_at_one_size_m_differs_by_nearly_four_orders_of_magnitude() -> None:
    large = [ALL[name] for name in MAIN if 27 <= models()[name].parameters <= 35]
    found = range_of(large)
    assert (found.smallest, found.largest) == (132, 696320)
    assert found.ratio == pytest.approx(5275, abs=1)


@pytest.mark.parametrize(
    ("name", "smallest", "largest"),
    [
        ("Qwen2.5", 7968, 30848),
        ("Qwen2.5-VL", 3984, 22144),
        ("Qwen3", 1512, 35328),
        ("Qwen3.5", 122, 1848),
        ("Gemma2", 1664, 157696),
        ("Gemma3", 245760, 696320),
        ("GPT-OSS", 145408, 145408),
        ("Ling-mini", 7648, 11776),
    ],
)
def test_the_range_within_each_family(name: str, smallest: float, largest: float) -> None:
    found = range_by_family({each: list(family(each).values()) for each in FAMILIES})[name]
    assert (found.smallest, found.largest) == (smallest, largest)


def test_the_largest_four() -> None:
    values = [maximum(figures) for figures in MAIN.values()]
    places = {rank(maximum(figures), values): name for name, figures in MAIN.items()}
    assert [places[place] for place in range(1, 5)] == ["gemma-3-27b-it", "gemma-3-4b-it", "gemma-2-27b", "gpt-oss-20b"]


def test_22_of_24_hold_m_in_the_residual_stream() -> None:
    found = residual_dominance(MAIN.values())
    assert len(found.held) == 22
    others = {NAMES[hub_id]: site for hub_id, site in found.others}
    assert others == {"Qwen3.5-0.8B": Site(component="final_norm"), "gpt-oss-20b": Site(component="mlp", layer=23)}


def test_gpt_oss_holds_the_same_value_in_the_residual_stream() -> None:
    mlp, hidden = (of("gpt-oss-20b").site(component, 23) for component in ("mlp", "hidden"))
    assert mlp is not None
    assert hidden is not None
    assert mlp.value == hidden.value == maximum(of("gpt-oss-20b")) == 145408


# --- Sun's criterion


def test_20_of_24_pass_suns_criterion_and_the_four_others_are_named() -> None:
    outcomes = {name: sun_at(figures) for name, figures in MAIN.items()}
    failing = [name for name, found in outcomes.items() if found.outcome == "fails"]
    assert failing == ["Qwen2.5-1.5B", "Qwen3.5-0.8B", "Qwen3.5-9B", "Qwen3.5-35B-A3B"]
    assert all(found.outcome == "passes" for name, found in outcomes.items() if name not in failing)
    assert not any(found.open for found in outcomes.values())


def test_qwen2_5_1_5b_fails_by_the_ratio_of_its_peak_token_though_not_by_its_value() -> None:
    figures = of("Qwen2.5-1.5B")
    site = figures.site("hidden", figures.peak.layer)
    assert site is not None
    assert site.sun is not None
    assert site.value == 7968
    assert site.sun.peak_token_ratio == pytest.approx(574, abs=0.5)
    assert sun_at(figures, 100, 573).outcome == "passes"
    assert sun_at(figures, 100, 880).outcome == "fails"
    assert sun_at(figures, 7000, 600).outcome == "open"  # some third token may lie between those that are known


@pytest.mark.parametrize(
    ("massive_abs", "massive_ratio", "passing", "open_"),
    [(100, 500, 21, 0), (50, 1000, 20, 0), (1000, 1000, 19, 0), (100, 10000, 3, 0), (10, 100, 23, 0)],
)
def test_how_many_pass_at_other_thresholds(massive_abs: float, massive_ratio: float, passing: int, open_: int) -> None:
    found = Counter(sun_at(figures, massive_abs, massive_ratio).outcome for figures in MAIN.values())
    assert (found["passes"], found["open"]) == (passing, open_)


# --- size, mixtures of experts, generations


@pytest.mark.parametrize(
    ("name", "exponent"), [("Qwen2.5", 0.44), ("Qwen2.5-VL", 0.72), ("Qwen3", 0.31), ("Qwen3.5", 0.79), ("Gemma3", 0.55)]
)
def test_m_grows_with_size_among_the_dense_models_of_a_family(name: str, exponent: float) -> None:
    found = scaling([(models()[n].parameters, figures) for n, figures in family(name).items() if models()[n].kind != "moe"])
    assert found.monotone
    assert found.exponent == pytest.approx(exponent, abs=0.005)


@pytest.mark.parametrize(("pair", "ratio"), [(DENSE_AND_MOE[0], 23.4), (DENSE_AND_MOE[1], 14.0)])
def test_a_mixture_of_experts_lies_far_below_the_dense_model_of_its_size(pair: tuple[str, str], ratio: float) -> None:
    dense, moe = pair
    assert (models()[dense].kind, models()[moe].kind) == ("dense", "moe")
    assert ratio_of_maxima(ALL[dense], ALL[moe]) == pytest.approx(ratio, abs=0.05)


@pytest.mark.parametrize(
    ("names", "steps"),
    [(GENERATIONS[0], (1.78, 0.009)), (GENERATIONS[1], (1.33, 0.054)), (GENERATIONS[2], (1.15, 0.052))],
)
def test_qwen_is_an_inverted_v_over_three_generations_at_three_scales(names: tuple[str, ...], steps: tuple[float, ...]) -> None:
    assert [models()[name].family for name in names] == ["Qwen2.5", "Qwen3", "Qwen3.5"]
    found = succession([ALL[name] for name in names])
    assert found.direction == "inverted V"
    assert found.steps == pytest.approx(steps, rel=0.05)


@pytest.mark.parametrize(("names", "step"), [(GENERATIONS[3], 82.1), (GENERATIONS[4], 4.4)])
def test_gemma_rises_from_one_generation_to_the_next(names: tuple[str, ...], step: float) -> None:
    found = succession([ALL[name] for name in names])
    assert found.direction == "rise"
    assert found.steps == pytest.approx((step,), abs=0.05)


# --- training


def test_ling_grows_from_7648_to_11776_between_5_and_20_trillion_tokens() -> None:
    (names,) = TRAINING_STAGES
    assert [models()[name].trained for name in names] == [5, 10, 15, 20]
    found = succession([ALL[name] for name in names])
    assert found.maxima == (7648, 9024, 10112, 11776)
    assert found.direction == "rise"
    assert found.total == pytest.approx(1.54, abs=0.005)
    assert found.largest_step == pytest.approx(1.18, abs=0.005)


@pytest.mark.parametrize(
    ("pair", "change"), [(BASE_AND_INSTRUCT[0], -0.45), (BASE_AND_INSTRUCT[1], -0.48), (BASE_AND_INSTRUCT[2], -0.31)]
)
def test_instruct_tuning_cuts_the_last_layer_and_leaves_the_middle(pair: tuple[str, str], change: float) -> None:
    found = by_depth(*(ALL[name] for name in pair))
    assert found.last == pytest.approx(change, abs=0.005)
    assert abs(found.middle) < 0.01
    assert max(map(abs, found.changes[1:-2])) < 0.03
    assert found.changes[-2] > 0.1  # the layer before it rises


@pytest.mark.parametrize(
    ("pair", "ratio", "of_instruct", "middle", "last"),
    [(TEXT_AND_VISION[0], 0.62, 0.62, -0.377, 0.211), (TEXT_AND_VISION[1], 0.72, 1.00, -0.012, -0.778)],
)
def test_a_vision_language_model_lies_below_the_base_text_model_though_not_always_below_the_instruct_one(
    pair: tuple[str, str], ratio: float, of_instruct: float, middle: float, last: float
) -> None:
    text, vision = (ALL[name] for name in pair)
    instruct = ALL[dict(BASE_AND_INSTRUCT)[pair[0]]]
    assert ratio_of_maxima(vision, text) == pytest.approx(ratio, abs=0.005)
    assert ratio_of_maxima(vision, instruct) == pytest.approx(of_instruct, abs=0.005)
    found = by_depth(text, vision)
    assert (found.middle, found.last) == pytest.approx((middle, last), abs=0.0005)


# --- number formats


@pytest.mark.parametrize(
    ("name", "decibels"),
    [
        ("Qwen3.5-0.8B", 29.1),
        ("gemma-3-4b-it", 13.5),
        ("Qwen3-30B-A3B", 12.8),
        ("Qwen3-8B", 12.6),
        ("Qwen2.5-7B", 12.0),
        ("Qwen3-32B", 10.1),
        ("Qwen3.5-9B", 7.7),
        ("Qwen3.5-35B-A3B", 6.2),
    ],
)
def test_the_sqnr_of_int8_at_the_peak_site(name: str, decibels: float) -> None:
    assert INT8[name].maxabs == pytest.approx(decibels, abs=0.05)


def test_clipping_at_the_quantile_ruins_five_of_eight_and_helps_one() -> None:
    ruined = {name for name, row in INT8.items() if row.p999 < 1}
    assert ruined == {"Qwen2.5-7B", "Qwen3-8B", "Qwen3-32B", "Qwen3-30B-A3B", "gemma-3-4b-it"}
    assert [name for name, row in INT8.items() if row.p999 > row.maxabs] == ["Qwen3.5-35B-A3B"]


def test_no_published_model_but_four_needs_more_than_fp8s_range() -> None:
    tiers = {name: tier(figures) for name, figures in MAIN.items()}
    assert [name for name, found in tiers.items() if found == "fp8_e4m3"] == ["Qwen3.5-0.8B", "Qwen3.5-35B-A3B"]
    beyond = ["gemma-2-27b", "gemma-3-4b-it", "gemma-3-27b-it", "gpt-oss-20b"]
    assert [name for name, found in tiers.items() if found == "bfloat16"] == beyond
    assert Counter(tiers.values()) == {"fp8_e5m2": 18, "bfloat16": 4, "fp8_e4m3": 2}


# --- trajectories


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *((name, "jump-and-plateau") for name in ("Qwen2.5", "Qwen2.5-VL", "Qwen3", "GPT-OSS", "Ling-mini")),
        *((name, "gradual accumulation") for name in ("Qwen3.5", "Gemma2", "Gemma3")),
    ],
)
def test_the_trajectory_of_every_member_of_a_family(name: str, label: str) -> None:
    assert {pattern(figures) for figures in family(name).values()} == {label}


def test_the_rule_of_ten_lies_in_a_wide_gap() -> None:
    steps = {name: found.largest_step for name, f in ALL.items() if (found := outcome.trajectory(f.sites)) is not None}
    assert len(steps) == 27
    assert min(step for step in steps.values() if step >= outcome.JUMP) == pytest.approx(17.0, abs=0.05)
    assert max(step for step in steps.values() if step < outcome.JUMP) == pytest.approx(5.78, abs=0.005)


def test_the_least_distance_by_itself_finds_the_same_pattern() -> None:
    for figures in ALL.values():
        others = [other for other in ALL.values() if other is not figures]
        assert pattern(min(others, key=lambda other: distance(figures, other))) == pattern(figures)


def test_how_often_the_nearest_other_checkpoint_is_of_the_same_family() -> None:
    confused: Counter[tuple[str, str]] = Counter()
    for name, figures in ALL.items():
        found = nearest(figures, [other for other in ALL.values() if other is not figures])
        assert found is not None
        confused[models()[name].family, models()[NAMES[found.model.id]].family] += 1
    assert confused == {
        ("Qwen2.5", "Qwen2.5"): 6,
        ("Qwen2.5-VL", "Qwen2.5"): 1,
        ("Qwen2.5-VL", "Qwen3"): 1,
        ("Qwen2.5-VL", "Ling-mini"): 1,
        ("Qwen3", "Qwen2.5"): 2,
        ("Qwen3", "Qwen2.5-VL"): 1,
        ("Qwen3", "Ling-mini"): 1,
        ("Qwen3.5", "Qwen3.5"): 4,
        ("Gemma2", "Gemma2"): 2,
        ("Gemma2", "Gemma3"): 1,
        ("Gemma3", "Gemma2"): 1,
        ("Gemma3", "Gemma3"): 1,
        ("GPT-OSS", "Qwen3"): 1,
        ("Ling-mini", "Ling-mini"): 4,
    }
    assert sum(count for (true, found), count in confused.items() if true == found) == 17


@pytest.mark.parametrize(
    ("file", "families", "label"),
    [
        ("gemma-3-270m-q4_k_m", {"Gemma2", "Gemma3"}, "gradual accumulation"),
        ("SmolLM2-135M-Instruct.Q4_1", {"Qwen2.5", "Qwen2.5-VL", "Qwen3", "GPT-OSS", "Ling-mini"}, "jump-and-plateau"),
    ],
)
def test_real_checkpoints_that_we_measured_are_placed(file: str, families: set[str], label: str) -> None:
    ours = Baseline.load(data_folder("baselines") / f"{file}.json")
    assert pattern(ours) == label
    least = min(ALL.values(), key=lambda other: distance(ours, other))
    assert models()[NAMES[least.model.id]].family in families
    assert nearest(ours, ALL.values()) is least


# --- what it cost


def test_the_bootstrap_moves_m_little_and_what_is_called_cv_is_the_spread_over_the_mean() -> None:
    spread = {}
    for name, samples in {(row.name, row.samples) for row in published.landscape().bootstrap}:
        values = [row.maximum for row in published.landscape().bootstrap if (row.name, row.samples) == (name, samples)]
        assert len(values) == 5
        spread[name, samples] = 100 * (max(values) - min(values)) / (sum(values) / 5)
    assert spread == pytest.approx(
        {
            ("Qwen3.5-0.8B", 1000): 6.9,
            ("Qwen3.5-0.8B", 2000): 6.3,
            ("Qwen3-30B-A3B", 1000): 10.1,
            ("Qwen3-30B-A3B", 2000): 8.2,
            ("Qwen3-32B", 1000): 5.2,
            ("Qwen3-32B", 2000): 3.7,
            ("gemma-3-4b-it", 1000): 3.4,
            ("gemma-3-4b-it", 2000): 1.7,
        },
        abs=0.05,
    )


def test_the_script_took_64_gpu_hours_and_read_2191_tokens_a_second_of_qwen3_8b() -> None:
    assert sum(model.seconds for model in models().values()) / 3600 == pytest.approx(64.3, abs=0.05)
    qwen = models()["Qwen3-8B"]
    assert qwen.tokens / qwen.seconds == pytest.approx(2191, abs=0.5)
    assert qwen.tokens == pytest.approx(17.0e6, rel=0.005)
    assert divmod(qwen.seconds // 60, 60) == (2, 9)  # hours and minutes


# --- where the text and the data disagree


def test_the_text_once_gives_qwen3_5_27b_as_1546_and_the_data_say_1848() -> None:
    dense, moe = (maximum(of(name)) for name in DENSE_AND_MOE[1])
    assert dense == 1848
    assert dense / moe == pytest.approx(14.0)  # what the text says of the ratio
    assert 1546 / moe == pytest.approx(11.7, abs=0.05)  # what it would be


def test_the_text_gives_ling_at_20t_as_its_plateau_and_the_data_have_a_higher_peak_in_the_last_layer() -> None:
    (names,) = TRAINING_STAGES
    figures = of(names[-1])
    hidden = [site.value for site in outcome.hidden(figures.sites)]
    assert hidden[5:17] == [10240] * 12
    assert 10240 not in hidden[:5] + hidden[17:]
    assert 10240 / maximum(of(names[0])) == pytest.approx(1.34, abs=0.005)  # growth by the text
    assert (figures.peak.value, figures.peak.component, figures.peak.layer) == (11776, "hidden", 19)
    assert succession([of(name) for name in names]).total == pytest.approx(1.54, abs=0.005)  # by the data


def test_the_text_counts_gemma_2b_to_gemma2_and_it_is_of_the_first_generation() -> None:
    first = of("gemma-2b")
    assert models()["gemma-2b"].family == "Gemma2"
    assert (first.model.model_type, first.model.layers) == ("gemma", 18)
    assert {of(name).model.model_type for name in ("gemma-2-9b", "gemma-2-27b")} == {"gemma2"}
    sized = [(models()[name].parameters, figures) for name, figures in family("Gemma2").items()]
    assert not scaling(sized).monotone  # as the text says
    assert scaling([(size, figures) for size, figures in sized if figures is not first]).exponent > 0


def test_gates_count_for_m_and_where_they_were_published_none_holds_it() -> None:
    gated = [figures for figures in ALL.values() if sum(s.component == "gate" for s in figures.sites) == figures.model.layers]
    assert len(gated) == 20
    shares = {f.model.id: max(s.value for s in f.sites if s.component == "gate") / maximum(f) for f in gated}
    assert max(shares.values()) == pytest.approx(0.16, abs=0.005)
    assert max(shares, key=lambda name: shares[name]) == "Qwen/Qwen3.5-0.8B"


def test_m_of_two_bootstrap_subsets_exceeds_that_of_the_whole_corpus_by_one_bfloat16_step() -> None:
    rows = published.landscape().bootstrap
    over = [(row.name, row.samples, row.maximum - maximum(of(row.name))) for row in rows if row.maximum > maximum(of(row.name))]
    assert over == [("Qwen3-32B", 1000, 256), ("Qwen3-32B", 2000, 256)]
    assert 2**15 < 35328 < 2**16  # where numbers of eight significant bits lie 256 apart


def test_what_the_text_calls_cv_is_no_standard_deviation_over_the_mean() -> None:
    values = [row.maximum for row in published.landscape().bootstrap if (row.name, row.samples) == ("Qwen3-30B-A3B", 1000)]
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    assert deviation / mean == pytest.approx(0.044, abs=0.0005)
    assert (max(values) - min(values)) / mean == pytest.approx(0.101, abs=0.0005)


def test_the_text_trusts_a_low_m_and_the_two_worst_sqnr_belong_to_low_ones() -> None:
    worst = sorted(INT8.values(), key=lambda row: row.maxabs)[:2]
    assert [(row.id, row.maximum) for row in worst] == [("Qwen3.5-35B-A3B", 132), ("Qwen3.5-9B", 956)]
    assert [round(row.maxabs, 1) for row in worst] == [6.2, 7.7]
    by_m = {row.id: rank(row.maximum, [other.maximum for other in INT8.values()]) for row in INT8.values()}
    by_sqnr = {row.id: rank(row.maxabs, [other.maxabs for other in INT8.values()]) for row in INT8.values()}
    assert (by_m["Qwen3.5-35B-A3B"], by_sqnr["Qwen3.5-35B-A3B"]) == (7, 8)
    assert (by_m["gemma-3-4b-it"], by_sqnr["gemma-3-4b-it"]) == (1, 2)  # 245,760 and 13.5 dB
    misled = Counter(lower.id for lower, _ in misled_by_m(INT8.values()))
    assert misled["Qwen3.5-35B-A3B"] == 6  # worse than all of larger M
    assert misled["Qwen3.5-9B"] == 5


def test_the_crest_factor_does_not_order_the_sqnr_either() -> None:
    sharp, worst = INT8["Qwen3-8B"], INT8["Qwen3.5-35B-A3B"]
    assert [sharp.crest, worst.crest] == pytest.approx([3429, 288], abs=1)
    assert sharp.maxabs > 2 * worst.maxabs
