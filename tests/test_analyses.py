"""The analyses on records made by hand, so that their edges are known: ties, one member, zero, NaN, layers that are missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

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
from pytest_maxact.errors import AnalysisError, BaselineError
from pytest_maxact.formats import FORMATS
from pytest_maxact.record import Baseline, Figures, Measurement, Site, SiteFigures, SunFigures
from pytest_maxact.report.standing import standing
from pytest_maxact.report.terminal import summary
from tests.test_checks import NAN, hidden_peaks, measured, site


def model(values: Iterable[float], name: str = "m", **changes: Any) -> Measurement:
    """A model of which only the `hidden` peaks are known, from the first layer on."""
    record = measured(hidden_peaks(values), **changes)
    return record.model_copy(update={"model": record.model.model_copy(update={"id": name})})


def same(figures: Measurement) -> Figures:
    return figures


BOTH = pytest.mark.parametrize("kind", [same, Baseline.of], ids=["measurement", "baseline"])
Kind = Callable[[Measurement], Figures]
NO_M = model([NAN, NAN], "broken")


# --- M


@BOTH
def test_the_range_names_both_ends_and_of_equals_the_first(kind: Kind) -> None:
    models = [kind(model([value], name)) for value, name in ((20, "a"), (5, "b"), (40, "c"), (40, "d"), (5, "e"))]
    found = range_of(models)
    assert (found.smallest, found.smallest_id, found.largest, found.largest_id, found.ratio) == (5, "b", 40, "c", 8)


def test_the_range_of_one_model_and_from_zero() -> None:
    assert range_of([model([7])]).ratio == 1
    assert range_of([model([0]), model([7])]).ratio == math.inf
    assert range_of([model([0]), model([0])]).ratio == 1


def test_ranges_by_family() -> None:
    found = range_by_family({"one": [model([3])], "two": [model([8], "a"), model([2], "b")]})
    assert {family: (range_.smallest, range_.largest) for family, range_ in found.items()} == {"one": (3, 3), "two": (2, 8)}


@pytest.mark.parametrize(
    "analysis",
    [
        maximum,
        int8,
        tier,
        lambda broken: range_of([model([1]), broken]),
        lambda broken: range_by_family({"f": [broken]}),
        lambda broken: residual_dominance([broken]),
        lambda broken: scaling([(1, model([1])), (2, broken)]),
        lambda broken: succession([broken]),
        lambda broken: ratio_of_maxima(model([1]), broken),
    ],
)
def test_a_model_without_m_is_named(analysis: Callable[[Figures], object]) -> None:
    with pytest.raises(AnalysisError, match="broken holds no finite value and has no M: leave it out"):
        analysis(NO_M)


@pytest.mark.parametrize("analysis", [range_of, scaling, succession])
def test_no_model_at_all_is_said(analysis: Callable[[Sequence[Any]], object]) -> None:
    with pytest.raises(AnalysisError, match="no model to analyse: give at least one"):
        analysis([])


def test_equal_figures_share_the_better_rank() -> None:
    others = [30.0, 20.0, 20.0, 10.0]
    assert [rank(value, others) for value in (40, 30, 25, 20, 10, 5)] == [1, 1, 2, 2, 4, 5]
    assert rank(1, []) == 1
    with pytest.raises(AnalysisError, match="NaN has no rank"):
        rank(NAN, others)


@BOTH
def test_dominance_counts_by_the_rule_of_ties(kind: Kind) -> None:
    ties = measured([site("mlp", 0, 50), site("hidden", 0, 50)])
    norm = measured([site("hidden", 0, 50), site("final_norm", None, 51)])
    found = residual_dominance([kind(model([9], "a")), kind(ties), kind(norm), kind(model([8], "b"))])
    assert found.held == ("a", "b")
    assert found.others == (("m", Site(component="mlp", layer=0)), ("m", Site(component="final_norm")))


# --- comparisons


@BOTH
def test_scaling_finds_the_exponent_whatever_the_order_and_the_unit(kind: Kind) -> None:
    family = [(size, kind(model([5 * size**0.5]))) for size in (16.0, 1.0, 4.0)]
    found = scaling(family)
    assert found.exponent == pytest.approx(0.5)
    assert found.monotone
    assert scaling([(size * 1e9, figures) for size, figures in family]).exponent == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("sizes", "values", "exponent", "monotone"),
    [
        ([1, 2, 4], [8, 4, 2], -1, True),
        ([1, 2, 4], [2, 8, 2], 0, False),
        ([1, 2, 4], [2, 2, 2], 0, True),
        ([2, 2], [3, 9], NAN, True),  # one size tells nothing
        ([2], [3], NAN, True),
        ([1, 2], [0, 3], NAN, True),  # 0 has no logarithm
        ([1, 1, 2], [3, 9, 5], None, False),
    ],
)
def test_scaling_at_its_edges(sizes: list[float], values: list[float], exponent: float | None, monotone: bool) -> None:
    found = scaling([(size, model([value])) for size, value in zip(sizes, values, strict=True)])
    if exponent is not None:
        assert found.exponent == pytest.approx(exponent, abs=1e-12, nan_ok=True)
    assert found.monotone is monotone


@pytest.mark.parametrize("size", [0, -1, NAN, math.inf])
def test_a_size_that_no_model_has_is_refused(size: float) -> None:
    with pytest.raises(AnalysisError, match=f"a model cannot have {size:g} parameters"):
        scaling([(size, model([1]))])


@pytest.mark.parametrize(
    ("values", "direction", "steps"),
    [
        ([5], "level", ()),
        ([5, 5], "level", (1,)),
        ([1, 2, 2, 8], "rise", (2, 1, 4)),
        ([8, 2], "fall", (0.25,)),
        ([1, 2, 2, 1], "inverted V", (2, 1, 0.5)),
        ([2, 1, 4], "V", (0.5, 4)),
        ([1, 2, 1, 2], "mixed", (2, 0.5, 2)),
        ([0, 0, 3], "rise", (1, math.inf)),
    ],
)
def test_a_succession_and_its_direction(values: list[float], direction: str, steps: tuple[float, ...]) -> None:
    found = succession([Baseline.of(model([value])) for value in values])
    assert (found.maxima, found.direction, found.steps) == (tuple(values), direction, steps)
    assert found.total == outcome.times(values[-1], values[0])
    assert found.largest_step == max(steps, default=1)
    assert found.monotone is (direction in ("rise", "fall", "level"))


@BOTH
def test_the_ratio_of_one_m_over_another(kind: Kind) -> None:
    assert ratio_of_maxima(kind(model([1, 60])), kind(model([4]))) == 15


@BOTH
def test_changes_by_depth(kind: Kind) -> None:
    found = by_depth(kind(model([10, 20, 0, 40, 0])), kind(model([11, 20, 3, 10, 0])))
    assert found.changes == pytest.approx((0.1, 0, math.inf, -0.75, 0))
    assert (found.middle, found.last) == (math.inf, 0)
    assert by_depth(model([2]), model([3])).middle == 0.5


def test_changes_by_depth_know_nothing_of_a_layer_without_finite_values() -> None:
    found = by_depth(model([10, NAN, 10, 10]), model([10, 10, 20, NAN]))
    assert found.changes == pytest.approx((0, NAN, 1, NAN), nan_ok=True)
    assert found.middle == 1
    assert math.isnan(found.last)


def test_models_of_different_depth_are_not_compared_layer_by_layer() -> None:
    with pytest.raises(AnalysisError, match="a has 2 hidden layers and b 3: compare models of one depth"):
        by_depth(model([1, 1], "a"), model([1, 1, 1], "b"))
    headless = measured([site("mlp", 0, 1.0)])
    with pytest.raises(AnalysisError, match="m has 0 hidden layers and m 0"):
        by_depth(headless, headless)


# --- Sun's criterion


def judged(layer: int, at_peak: tuple[float, float], at_ratio: tuple[float, float], **changes: Any) -> SiteFigures:
    """A `hidden` site by its two known tokens, (max|x|, ratio) each, and no other."""
    tokens = (at_peak, at_ratio)
    sun = SunFigures(
        tokens=2,
        passing=sum(largest > 100 and ratio > 1000 for largest, ratio in tokens),
        peak_token_median=at_peak[0] / at_peak[1],
        peak_token_ratio=at_peak[1],
        max_ratio=at_ratio[1],
        max_ratio_abs=at_ratio[0],
        max_ratio_median=at_ratio[0] / at_ratio[1],
        mean_ratio=1.0,
        std_ratio=0.0,
        margin=changes.pop("margin", max(min(largest / 100, ratio / 1000) for largest, ratio in tokens)),
    )
    return site("hidden", layer, at_peak[0], **changes).model_copy(update={"sun": sun})


def with_margin(figures: Measurement, margin: float) -> Measurement:
    assert figures.sun is not None
    return figures.model_copy(update={"sun": figures.sun.model_copy(update={"margin": margin})})


LAYERS = measured([judged(0, (50, 10), (40, 20)), judged(1, (8000, 600), (300, 900)), judged(2, (8000, 2000), (8000, 2000))])


def test_at_the_default_thresholds_every_layer_is_decided_as_measured() -> None:
    found = sun_at(LAYERS)
    assert (found.outcome, found.passing, found.failing, found.open) == ("passes", (2,), (0, 1), ())
    assert LAYERS.sun is not None
    assert list(found.passing) == LAYERS.sun.layers
    assert (found.massive_abs, found.massive_ratio) == (100, 1000)


@pytest.mark.parametrize(
    ("massive_abs", "massive_ratio", "passing", "failing", "open_"),
    [
        (100, 599, (1, 2), (0,), ()),  # the token of the largest value
        (100, 600, (1, 2), (0,), ()),  # only that of the largest ratio
        (300, 600, (2,), (0,), (1,)),  # neither, and a third may lie between
        (300, 900, (2,), (0, 1), ()),
        (8000, 1, (), (0, 1, 2), ()),  # beyond, not at
        (49, 9, (0, 1, 2), (), ()),
        (45, 15, (1, 2), (), (0,)),
        (100, 2000, (), (0, 1, 2), ()),
    ],
)
def test_other_thresholds_are_decided_as_far_as_two_tokens_tell(
    massive_abs: float, massive_ratio: float, passing: tuple[int, ...], failing: tuple[int, ...], open_: tuple[int, ...]
) -> None:
    found = sun_at(with_margin(LAYERS, NAN), massive_abs, massive_ratio)
    assert (found.passing, found.failing, found.open) == (passing, failing, open_)
    assert found.outcome == ("passes" if passing else "open" if open_ else "fails")


@pytest.mark.parametrize("thresholds", [{"massive_abs": NAN}, {"massive_ratio": NAN}])
def test_nan_is_no_threshold(thresholds: dict[str, float]) -> None:
    with pytest.raises(AnalysisError, match="nothing exceeds NaN"):
        sun_at(LAYERS, **thresholds)


def test_a_margin_rules_out_and_can_decide_for_the_model_without_naming_a_layer() -> None:
    one = measured([judged(0, (8000, 500), (150, 5000), margin=4)])  # some third token: over 400 at a ratio over 4000
    assert sun_at(with_margin(one, NAN), 300, 3000).outcome == "open"
    known = sun_at(one, 300, 3000)
    assert (known.outcome, known.passing, known.open) == ("passes", (), (0,))
    assert sun_at(one, 400, 4000).outcome == "fails"
    assert sun_at(one, 390, 4100).open == (0,)


def test_what_passed_stricter_thresholds_passes_though_no_known_token_does() -> None:
    third = judged(0, (8000, 50), (20, 5000), margin=2)
    assert third.sun is not None
    passed = measured([third.model_copy(update={"sun": third.sun.model_copy(update={"passing": 1})})])
    assert sun_at(passed).passing == (0,)
    assert sun_at(passed, 30, 60).passing == (0,)
    assert sun_at(passed, 150, 3000).open == (0,)


def test_a_finite_value_of_a_token_that_was_not_judged_makes_nothing_pass() -> None:
    broken = with_margin(measured([judged(0, (8000, 900), (10, 2000), inf=1)]), NAN)
    assert sun_at(broken, 1000, 500).open == (0,)


def test_a_baseline_without_sun_figures_of_its_sites_still_has_the_outcome() -> None:
    stored = Baseline.of(LAYERS)
    assert all(site.sun is None for site in stored.sites)
    found = sun_at(stored)
    assert (found.outcome, found.passing, found.failing, found.open) == ("passes", (2,), (0, 1), ())
    assert sun_at(stored, 60, 600).open == (1,)
    assert sun_at(stored, 9000, 10).outcome == "fails"
    unknown = stored.model_copy(update={"sun": None})
    assert sun_at(unknown).open == (1, 2)
    assert sun_at(NO_M).outcome == "open"


# --- number formats


def quantized(value: float, **sqnr: float) -> Measurement:
    return measured([site("hidden", 0, 1.0, sqnr={"int8_maxabs": 40.0}), site("hidden", 1, value, sqnr=sqnr)])


def test_int8_is_told_of_the_site_that_holds_m() -> None:
    figures = quantized(-500, int8_maxabs=12.5, int8_p999=30.0)
    assert int8(figures) == Int8("m", 500, 500, 12.5, 30)  # the rms of the helper's sites is 1
    stored = int8(Baseline.of(figures))
    assert (stored.maximum, stored.maxabs, stored.p999) == (500, 12.5, 30)
    assert math.isnan(stored.crest)


def test_int8_says_what_is_unknown_or_approximate() -> None:
    assert math.isnan(int8(quantized(500)).maxabs)
    assert int8(measured([site("hidden", 0, 5.0, approximate=True)])).approximate
    baseline = Baseline.of(quantized(500))
    gone = int8(baseline.model_copy(update={"sites": []}))
    assert gone.maximum == 500
    assert all(map(math.isnan, (gone.crest, gone.maxabs, gone.p999)))


def test_the_pairs_that_m_misjudges() -> None:
    low = Int8("low", 100, NAN, 6, NAN)
    high, huge = replace(low, id="high", maximum=1000, maxabs=13), replace(low, id="huge", maximum=9000, maxabs=6)
    unknown = replace(low, id="unknown", maximum=5000, maxabs=NAN)
    assert misled_by_m([high, low, huge, unknown]) == [(low, high)]
    assert misled_by_m([low]) == []


@BOTH
@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2", "float16"])
def test_a_tier_reaches_to_the_largest_value_of_its_format(kind: Kind, name: str) -> None:
    form = FORMATS[name].floating
    assert form is not None
    assert tier(kind(model([form.largest]))) == name
    assert tier(kind(model([0.0, -form.largest]))) == name
    assert tier(kind(model([form.largest * 1.25]))) != name


def test_what_no_narrow_format_holds_needs_bfloat16() -> None:
    assert tier(model([65520])) == "bfloat16"
    assert tier(model([65519])) == "float16"  # rounds down
    assert tier(measured([site("hidden", 0, 3.0, inf=1)])) == "bfloat16"
    assert tier(measured([site("hidden", 0, 3.0), site("router", 0, 3.0, inf=1)])) == "fp8_e4m3"


# --- trajectories


@BOTH
def test_the_pattern_of_a_baseline_is_that_of_its_measurement(kind: Kind) -> None:
    figures = kind(measured([site("mlp", 0, 1e9), *hidden_peaks([1, 2, 30, 31])]))
    found = outcome.trajectory(figures.sites)
    assert found is not None
    assert (found.pattern, found.largest_step, found.largest_step_layer) == ("jump-and-plateau", 15, 2)


@BOTH
def test_the_distance_of_trajectories_is_in_decades(kind: Kind) -> None:
    one, tenfold = kind(model([1, 10, 100])), kind(model([10, 100, 1000]))
    assert distance(one, one) == 0
    assert distance(one, tenfold) == distance(tenfold, one) == pytest.approx(1)


def test_the_distance_goes_by_share_of_the_depth_and_is_that_of_straight_lines() -> None:
    few, many = model([1, 100]), model([1, 1, 10, 100])
    assert distance(few, many) == pytest.approx(0, abs=1e-12)
    rising, level = model([1, 10]), model([1, 1])
    assert distance(rising, level) == pytest.approx(math.sqrt(1 / 6))  # 0 over half of the depth, then the mean of t^2 is 1/3


def test_layers_that_hold_nothing_are_passed_over() -> None:
    assert distance(model([1, NAN, 100, 1000]), model([1, 10, 100, 1000])) == pytest.approx(0, abs=1e-12)
    assert distance(model([1, 0, 100, 1000]), model([1, 10, 100, 1000])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("values", [[5], [NAN, 5], [0, 0, 5], [NAN, NAN], []])
def test_less_than_two_layers_have_no_shape(values: list[float]) -> None:
    shapeless, shaped = model(values), model([1, 2])
    assert math.isnan(distance(shapeless, shaped))
    assert math.isnan(distance(shaped, shapeless))
    assert nearest(shapeless, [shaped]) is None
    assert nearest(shaped, [shapeless]) is None
    assert nearest(shaped, [shapeless, shaped]) is shaped


def test_the_nearest_has_the_same_pattern_though_another_be_less_far() -> None:
    jump, gradual, far_jump = model([1, 10, 10]), model([1, 9, 10]), model([1000, 90000, 90000])
    assert distance(jump, gradual) < distance(jump, far_jump)
    assert nearest(jump, [gradual, far_jump]) is far_jump
    assert nearest(jump, [gradual]) is None


def test_the_nearest_is_the_first_of_equals() -> None:
    far, near, equal = model([9, 9]), model([2, 2]), model([2, 2])
    assert nearest(model([1, 1]), [far, near, equal]) is near
    assert nearest(model([1, 1]), []) is None


# --- where a model stands


def test_a_model_equal_to_a_published_one_stands_where_that_does() -> None:
    values = [s.value for s in outcome.hidden(published.figures("Ling-mini-20T").sites)]
    sites = hidden_peaks(values)
    sites[-1] = site("hidden", 19, values[-1], sqnr={"int8_maxabs": 17.34})
    stranger = measured(sites)
    assert standing(stranger) == "M 13th of 28 published, like Ling-mini, tier fp8_e5m2, INT-8 max-abs 17.3 dB"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("openai/gpt-oss-20b", "M 4th of 27 published, like Qwen3, tier bfloat16, INT-8 max-abs unknown"),
        ("my/gpt-oss-20b", "M 4th of 28 published, like GPT-OSS, tier bfloat16, INT-8 max-abs unknown"),
    ],
)
def test_a_published_model_is_compared_with_the_others(name: str, line: str) -> None:
    assert standing(model([s.value for s in outcome.hidden(published.figures("gpt-oss-20b").sites)], name)) == line


def test_a_float32_model_of_one_layer_has_a_rank_and_no_shape() -> None:
    one = measured([site("hidden", 0, 1.0, sqnr={"int8_maxabs": 36.81}, approximate=True)])
    assert standing(one) == "M 28th of 28 published, tier fp8_e4m3, INT-8 max-abs about 36.8 dB"
    assert standing(NO_M) is None


def test_the_summary_says_it_in_80_columns_below_what_int8_makes_of_the_site() -> None:
    record = measured([site("hidden", layer, 400.0, sqnr={"int8_maxabs": 17.3, "int8_p999": 25.1}) for layer in range(3)])
    lines = summary(record, None)
    place = lines.index("    this site: crest factor 400.00; INT-8 SQNR 25.1 dB, clipped at 99.9%")
    line = standing(record)
    assert line is not None
    assert lines[place + 1] == f"    {line}"
    assert sum(text.count("17.3") for text in lines) == 1


@pytest.mark.parametrize(
    "cause",
    [BaselineError("no such baseline file: x.json"), FileNotFoundError("landscape.json"), ValueError("not\nof the form")],
)
def test_an_installation_without_the_published_figures_says_so(monkeypatch: pytest.MonkeyPatch, cause: Exception) -> None:
    def broken(*_: object) -> None:
        raise cause

    for name in ("figures", "models"):
        with monkeypatch.context() as patch:
            patch.setattr(published, name, broken)
            line = standing(model([7]))
        said = " ".join(str(cause).split())
        assert line == f"tier fp8_e4m3, INT-8 max-abs unknown; the published figures cannot be read: {said}"
