"""The checks decide what turns a build red, so their edges are pinned on records made by hand, without a model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest

from pytest_maxact import outcome
from pytest_maxact.checks import CHECKS, Tolerance, Verdict, compare, judge
from pytest_maxact.config import OPTIONS
from pytest_maxact.errors import SettingsError
from pytest_maxact.formats import FORMATS
from pytest_maxact.record import (
    BASELINE_SQNR,
    Baseline,
    CorpusFacts,
    Dominance,
    Environment,
    Location,
    Measurement,
    Model,
    Site,
    SiteFigures,
    SunFigures,
    SunOutcome,
    Timing,
    ToleranceOverride,
)
from pytest_maxact.wording import number, ratio, token_in_context

STEP = 2.0**-7
PLACE = Location(signed=1.0, feature=3, sample="prose-01", position=5, token_id=7, token=" of", before="the end", after=" it")
NAN = math.nan
DEFAULT = Tolerance()


def site(
    component: Any,
    layer: int | None,
    value: float,
    *,
    nan: int = 0,
    inf: int = 0,
    margin: float | None = None,
    place: Location | None = PLACE,
    sqnr: dict[str, float] | None = None,
    approximate: bool = False,
) -> SiteFigures:
    """A site whose largest |a| is that of `value`, which keeps its sign; NaN: no finite value."""
    sun = None
    if margin is not None:
        sun = SunFigures(
            tokens=9,
            passing=int(margin > 1),
            peak_token_median=1.0,
            peak_token_ratio=1.0,
            max_ratio=1.0,
            max_ratio_abs=1.0,
            max_ratio_median=1.0,
            mean_ratio=1.0,
            std_ratio=0.0,
            margin=margin,
        )
    return SiteFigures(
        component=component,
        layer=layer,
        max=value if value > 0 else abs(value) / 2,
        min=value if value < 0 else -abs(value) / 2,
        count=100,
        nan=nan,
        inf=inf,
        peak=None if math.isnan(value) else place.model_copy(update={"signed": value}) if place else None,
        mean=0.0,
        std=1.0,
        rms=1.0,
        abs_mean=0.5,
        abs_quantiles={"0.5": 0.5},
        top=[value],
        crest=abs(value),
        sun=sun,
        sqnr=sqnr or {},
        approximate=approximate,
    )


def measured(sites: Iterable[SiteFigures], **changes: Any) -> Measurement:
    """A measurement of sites in execution order, with what the package itself derives from them."""
    sites = list(sites)
    derived: dict[str, Any] = {
        "peak": outcome.peak(sites),
        "dominance": outcome.dominance(sites),
        "sun": outcome.sun(sites),
        "trajectory": outcome.trajectory(sites),
    }
    return Measurement(
        model=Model(
            id="m",
            architecture="A",
            model_type="a",
            layers=3,
            hidden_size=4,
            parameters=5,
            dtype=changes.pop("dtype", "bfloat16"),
        ),
        corpus=CorpusFacts(
            id=changes.pop("corpus", "core"),
            digest=changes.pop("digest", "d" * 64),
            samples=2,
            tokens=9,
            categories={},
            max_length=changes.pop("max_length", 256),
            special_tokens=changes.pop("special_tokens", "none"),
        ),
        environment=Environment(
            python="3", torch="2", transformers="5", device="cpu", threads=1, ranks=1, batch_tokens=None, kernel="eager"
        ),
        sites=sites,
        samples=[],
        notes=[],
        timing=Timing(seconds=1.0, tokens_per_s=1.0, hook_fraction=None),
        **derived | changes,
    )


def model(peak: float = 1000.0, *, layer: int = 1, margin: float = 3.0, **others: float) -> list[SiteFigures]:
    """Three layers of everything; `hidden` peaks at `layer`, and a name such as `mlp_0` sets another site's value."""
    values: dict[tuple[str, int | None], float] = {("embedding", None): 2.0}
    for number_ in range(3):
        values |= {("attention", number_): 20.0, ("gate", number_): 40.0, ("mlp", number_): 100.0, ("hidden", number_): 300.0}
    values[("final_norm", None)] = 50.0
    values[("hidden", layer)] = peak
    for name, value in others.items():
        component, _, given = name.rpartition("_") if name[-1].isdigit() else (name, "", "")
        values[(component, int(given) if given else None)] = value
    return [
        site(component, number_, value, margin=margin if component == "hidden" else None)
        for (component, number_), value in values.items()
    ]


def stored(*tolerances: ToleranceOverride, sites: list[SiteFigures] | None = None, **changes: Any) -> Baseline:
    return Baseline.of(measured(model() if sites is None else sites), tolerances).model_copy(update=changes)


def run(
    check: str, sites: list[SiteFigures], baseline: Baseline | None = None, tolerance: Tolerance = DEFAULT, **changes: Any
) -> Verdict:
    return judge(check, measured(sites, **changes), baseline, tolerance)


def text(verdict: Verdict) -> str:
    return "\n".join([verdict.summary, *verdict.details])


# --- all of them


def test_the_same_figures_pass_every_check() -> None:
    verdicts = compare(measured(model()), stored())
    assert {verdict.check: verdict.outcome for verdict in verdicts} == {
        **dict.fromkeys(["finite", "maximum", "location", "dominance", "sun", "profile"], "passed"),
        "headroom": "skipped",  # no format was asked for
    }
    assert [verdict.check for verdict in verdicts] == list(CHECKS)


def test_without_a_baseline_only_finite_judges() -> None:
    verdicts = {verdict.check: verdict for verdict in compare(measured(model()), None)}
    assert verdicts.pop("finite").outcome == "passed"
    assert {verdict.outcome for verdict in verdicts.values()} == {"skipped"}
    assert verdicts["maximum"].summary == "needs a baseline or --maxact-ceiling"
    assert verdicts["maximum"].value == 1000


def test_a_model_of_nothing_but_nan_fails_all_checks() -> None:
    broken = [site(s.component, s.layer, NAN, nan=100) for s in model()]
    assert {verdict.check for verdict in compare(measured(broken), stored()) if not verdict.failed} == {"headroom"}


def test_every_verdict_of_a_wild_model_is_one_line_a_line() -> None:
    nasty = Location(
        signed=1.0,
        feature=0,
        sample="a\nb\x1b[31m",
        position=0,
        token_id=1,
        token="\r\n\t\x00\u2028",
        before="\x1b[2J\n",
        after="\x85\x0b",
    )
    wild = [site("gate", 0, 9e5, place=nasty), site("hidden", 0, 4e5, nan=3, place=nasty), site("router", 7, 1.0)]
    verdicts = compare(measured(wild), stored(), Tolerance(ceiling=5.0))
    assert [verdict.outcome for verdict in verdicts] == ["failed"] * 6 + ["skipped"]
    for verdict in verdicts:
        for line in (verdict.summary, *verdict.details):
            assert len(line.splitlines()) == 1
            assert line.isprintable()


# --- finite


@pytest.mark.parametrize("kind", ["nan", "inf"])
@pytest.mark.parametrize("component", ["embedding", "hidden", "attention", "mlp", "gate", "final_norm"])
def test_one_value_that_is_not_finite_fails_at_every_component_of_m(component: str, kind: str) -> None:
    sites = [s.model_copy(update={kind: 1}) if s.component == component and s.layer != 0 else s for s in model()]
    verdict = run("finite", sites)
    assert verdict.outcome == "failed"
    first = component if component in ("embedding", "final_norm") else f"{component} layer 1"
    assert f"the first to be run is {first}" in verdict.summary
    assert verdict.details[0] == f"{first}: {int(kind == 'nan')} NaN and {int(kind == 'inf')} infinite of 100 values"


def test_a_router_may_hold_infinities() -> None:
    verdict = run("finite", [*model(), site("router", 0, 5.0, nan=1, inf=9)])
    assert verdict.outcome == "passed"
    assert verdict.summary == "all 1,400 values at 14 sites are finite"


def test_many_broken_sites_are_cut_short_and_counted() -> None:
    verdict = run("finite", [s.model_copy(update={"nan": 1}) for s in model()])
    assert verdict.summary.startswith("14 of 14 sites hold NaN")
    assert len(verdict.details) == 11
    assert verdict.details[-1] == "... and 4 more sites"


# --- maximum


@pytest.mark.parametrize(
    ("peak", "two_sided", "expected"),
    [
        (1100.0, False, "passed"),
        (1100.0000000000002, False, "failed"),
        (1.0, False, "passed"),
        (900.0, True, "passed"),
        (899.9999999999999, True, "failed"),
        (1100.0000000000002, True, "failed"),
    ],
)
def test_maximum_fails_just_beyond_its_tolerance(peak: float, two_sided: bool, expected: str) -> None:
    sites = [site("hidden", 0, peak), site("mlp", 0, 0.5)]
    baseline = stored(sites=[site("hidden", 0, 1000.0), site("mlp", 0, 0.5)])
    assert run("maximum", sites, baseline, Tolerance(two_sided=two_sided)).outcome == expected


def test_maximum_takes_the_sign_for_nothing() -> None:
    baseline = stored(sites=[site("hidden", 0, -1000.0)])
    assert run("maximum", [site("hidden", 0, 1000.0)], baseline).outcome == "passed"
    assert run("maximum", [site("hidden", 0, -1200.0)], stored()).outcome == "failed"


@pytest.mark.parametrize(
    ("ceiling", "baseline", "expected"),
    [(1000.0, None, "passed"), (999.9, None, "failed"), (999.9, stored(), "failed"), (1000.0, stored(), "passed")],
)
def test_a_ceiling_holds_with_and_without_a_baseline(ceiling: float, baseline: Baseline | None, expected: str) -> None:
    verdict = run("maximum", model(), baseline, Tolerance(ceiling=ceiling))
    assert verdict.outcome == expected
    assert f"ceiling {number(ceiling)}" in verdict.summary


def test_under_the_ceiling_the_baseline_is_judged_all_the_same() -> None:
    verdict = run("maximum", model(1101.0), stored(), Tolerance(ceiling=1e6))
    assert verdict.outcome == "failed"
    assert "ceiling" not in verdict.summary  # only what was broken


def test_a_failed_maximum_says_value_baseline_ratio_sites_and_token() -> None:
    verdict = run("maximum", model(1300.0, layer=2), stored())
    assert verdict.summary == "M = 1,300 at hidden layer 2: 1.30x the baseline 1,000 at hidden layer 1, tolerance +10%"
    assert verdict.details == ("token ' of' at position 5 of sample prose-01: the end[ of] it",)
    assert verdict.value == 1300


def test_the_baseline_may_set_the_tolerance_of_m_and_the_last_word_counts() -> None:
    wide = stored(ToleranceOverride(rtol=0.1, reason="r"), ToleranceOverride(rtol=0.5, reason="r"))
    assert run("maximum", model(1500.0), wide).outcome == "passed"
    assert run("maximum", model(1501.0), wide).outcome == "failed"
    assert run("maximum", model(1200.0), wide, Tolerance(rtol=0.01)).outcome == "passed"
    elsewhere = stored(ToleranceOverride(component="hidden", rtol=9.0, reason="of the profile"))
    assert run("maximum", model(1200.0), elsewhere).outcome == "failed"


def test_without_any_finite_value_there_is_no_maximum() -> None:
    for check in ("maximum", "location"):
        assert run(check, [site("hidden", 0, NAN, nan=1)], stored()).summary == "no site holds a finite value, so there is no M"


# --- location


def test_location_holds_at_the_same_site_whatever_its_value() -> None:
    assert run("location", model(9e6), stored()).outcome == "passed"


def test_another_hidden_layer_is_a_move() -> None:
    verdict = run("location", model(1000.0, layer=2), stored())
    assert verdict.outcome == "failed"
    assert verdict.summary == "M moved from hidden layer 1 to hidden layer 2"
    assert verdict.details == (
        "hidden layer 2 holds 1,000, in the baseline 300.00",
        "hidden layer 1 holds 300.00, in the baseline 1,000",
        "token ' of' at position 5 of sample prose-01: the end[ of] it",
    )


def test_the_old_layer_on_the_new_plateau_is_no_move() -> None:
    now = measured(model(1000.0, layer=2, hidden_1=993.0))
    assert now.peak is not None
    assert (now.peak.layer, now.peak.plateau) == (2, [1, 2])
    verdict = judge("location", now, stored(), DEFAULT)
    assert verdict.outcome == "passed"
    assert verdict.summary == "M is at hidden layer 2, on one plateau with the baseline's hidden layer 1"


def test_the_new_layer_on_the_old_plateau_is_no_move() -> None:
    baseline = stored(sites=model(hidden_2=993.0))
    assert baseline.peak.plateau == [1, 2]
    bare = baseline.model_copy(update={"sites": []})  # not by way of the sites, which tie
    assert run("location", model(1000.0, layer=2), bare).outcome == "passed"
    assert run("location", model(1000.0, layer=0), bare).outcome == "failed"


def test_a_baseline_without_a_plateau_is_judged_by_its_sites() -> None:
    baseline = stored(sites=model(hidden_2=993.0))
    bare = baseline.model_copy(update={"peak": baseline.peak.model_copy(update={"plateau": None})})
    assert run("location", model(1000.0, layer=2), bare).outcome == "passed"  # a tie in the baseline
    nothing = bare.model_copy(update={"sites": []})
    verdict = run("location", model(1000.0, layer=2), nothing)
    assert verdict.outcome == "failed"
    assert "in the baseline nothing" in verdict.details[0]


TIED = 1000 * (1 - STEP)


@pytest.mark.parametrize(("value", "expected"), [(math.nextafter(TIED, 1e9), "passed"), (TIED, "failed")])
def test_a_tie_with_another_component_counts_within_one_bfloat16_step_both_ways(value: float, expected: str) -> None:
    at_mlp = model(300.0, mlp_2=1000.0)
    assert run("location", at_mlp, stored()).outcome == "failed"
    assert run("location", model(value, mlp_2=1000.0), stored()).outcome == expected  # hidden 1 ties now
    assert run("location", at_mlp, stored(sites=model(mlp_2=value))).outcome == expected  # mlp 2 tied then


def test_a_site_that_the_model_no_longer_has_is_a_move() -> None:
    verdict = run("location", [site("mlp", 0, 5.0)], stored())
    assert verdict.outcome == "failed"
    assert "hidden layer 1 holds nothing, in the baseline 1,000" in verdict.details


# --- dominance


def test_dominance_names_both_components_when_it_changes() -> None:
    verdict = run("dominance", model(1000.0, mlp_0=4000.0), stored())
    assert verdict.outcome == "failed"
    assert verdict.summary == "mlp holds M, in the baseline hidden does"
    assert verdict.details == ("mlp: 4,000", "hidden: 1,000", "hidden holds 0.250x the largest other component")
    assert verdict.value == 0.25
    assert run("dominance", model(4000.0), stored(sites=model(1000.0, gate_1=4000.0))).outcome == "failed"


@pytest.mark.parametrize(("value", "expected"), [(1100.0, "passed"), (1100.0000000000002, "failed")])
def test_two_components_within_the_tolerance_of_each_other_may_change_places(value: float, expected: str) -> None:
    verdict = run("dominance", model(1000.0, mlp_0=value), stored())
    assert verdict.outcome == expected
    assert expected == "failed" or "mlp holds M, within the tolerance of the baseline's hidden" in verdict.summary


def test_the_tolerance_of_dominance_is_that_of_m() -> None:
    baseline = stored(ToleranceOverride(rtol=0.5, reason="r"))
    assert run("dominance", model(1000.0, mlp_0=1500.0), baseline).outcome == "passed"
    assert run("dominance", model(1000.0, mlp_0=1050.0), stored(), Tolerance(rtol=0.01)).outcome == "failed"


def test_a_margin_that_shrinks_is_no_failure() -> None:
    assert run("dominance", model(101.0), stored()).outcome == "passed"


def test_one_component_alone_has_no_dominance() -> None:
    assert run("dominance", [site("hidden", 0, 5.0), site("router", 0, 9.0)], stored()).outcome == "failed"


# --- sun


def test_the_sun_outcome_flips_both_ways() -> None:
    healthy, massive = model(margin=0.5), model(margin=3.0)
    now_fails = run("sun", healthy, stored(sites=massive))
    assert now_fails.outcome == run("sun", massive, stored(sites=healthy)).outcome == "failed"
    assert now_fails.summary == "the Sun outcome flipped"
    assert now_fails.details == (
        "now: no massive activations (margin 0.500)",
        "in the baseline: massive activations in 3 hidden layers (margin 3.000)",
    )
    assert now_fails.value == 0.5


def test_the_same_sun_outcome_passes_whatever_the_margin() -> None:
    assert run("sun", model(margin=900.0), stored()).outcome == "passed"
    assert run("sun", model(margin=0.01), stored(sites=model(margin=0.99))).outcome == "passed"


@pytest.mark.parametrize(
    ("now", "then", "expected"),
    [
        (1.05, 0.95, "passed"),
        (0.95, 1.05, "passed"),
        (1.125, 0.875, "passed"),  # exactly at the tolerance
        (math.nextafter(1.125, 2), 0.875, "failed"),
        (1.125, math.nextafter(0.875, 0), "failed"),
    ],
)
def test_two_margins_within_the_tolerance_of_one_are_borderline(now: float, then: float, expected: str) -> None:
    verdict = run("sun", model(margin=now), stored(sites=model(margin=then)), Tolerance(rtol=0.125))
    assert verdict.outcome == expected
    assert verdict.summary.startswith("borderline: ") == (expected == "passed")


def test_no_token_that_can_be_judged_fails_where_the_baseline_knows_the_outcome() -> None:
    assert run("sun", model(), stored(), sun=None).outcome == "failed"


# --- profile


@pytest.mark.parametrize(
    ("value", "two_sided", "expected"),
    [
        (150.0, False, "passed"),
        (math.nextafter(150, 999), False, "failed"),
        (1.0, False, "passed"),
        (50.0, True, "passed"),
        (math.nextafter(50, 0), True, "failed"),
        (0.0, True, "failed"),
    ],
)
def test_profile_fails_just_beyond_a_sites_tolerance(value: float, two_sided: bool, expected: str) -> None:
    assert run("profile", model(mlp_1=value), stored(), Tolerance(two_sided=two_sided)).outcome == expected


def test_profile_names_the_first_and_the_most_risen_site_with_figures_and_token() -> None:
    verdict = run("profile", model(mlp_1=200.0, hidden_2=1200.0, gate_2=80.0), stored())
    assert verdict.summary == (
        "3 of 14 sites left their baselines; the first is mlp layer 1, the most hidden layer 2: 300.00 to 1,200 (4.00x)"
    )
    assert verdict.details == (
        "mlp layer 1: 100.00 to 200.00 (2.00x)",
        "gate layer 2: 40.00 to 80.00 (2.00x)",
        "hidden layer 2: 300.00 to 1,200 (4.00x)",
        "hidden layer 2 peaks at token ' of' at position 5 of sample prose-01: the end[ of] it",
    )


def test_sites_below_a_thousandth_of_m_are_left_out() -> None:
    small = stored(sites=model(embedding=0.001))
    assert run("profile", model(embedding=math.nextafter(1.0, 0)), small).outcome == "passed"
    verdict = run("profile", model(embedding=1.0), small)
    assert verdict.outcome == "failed"
    assert "embedding: 0.001 to 1.000" in verdict.details[0]


def test_a_fall_from_above_the_floor_to_below_it_is_seen_on_request() -> None:
    assert run("profile", model(embedding=0.001), stored()).outcome == "passed"
    assert run("profile", model(embedding=0.001), stored(), Tolerance(two_sided=True)).outcome == "failed"


def test_a_site_that_was_zero_may_not_rise_above_the_floor() -> None:
    verdict = run("profile", model(mlp_0=7.0), stored(sites=model(mlp_0=0.0)))
    assert verdict.outcome == "failed"
    assert "mlp layer 0: 0.000 to 7.000 (from 0)" in verdict.details[0]


def test_missing_and_new_sites_fail_and_are_named() -> None:
    fewer = [s for s in model() if s.component != "final_norm"]
    more = [*model(), site("mlp", 3, 1e-9)]
    gone, new = run("profile", fewer, stored()), run("profile", more, stored())
    assert gone.outcome == new.outcome == "failed"
    assert gone.summary == new.summary == "1 sites are missing or new"
    assert gone.details == ("final_norm: in the baseline, not in the model",)
    assert new.details == ("mlp layer 3: not in the baseline",)


def test_routers_are_no_part_of_the_profile() -> None:
    assert run("profile", [*model(), site("router", 0, 1e9)], stored()).outcome == "passed"
    assert run("profile", model(), stored(sites=[*model(), site("router", 0, 1.0)])).outcome == "passed"


def test_a_site_without_a_finite_value_has_left_its_baseline() -> None:
    verdict = run("profile", model(gate_1=NAN), stored())
    assert verdict.outcome == "failed"
    assert "the first is gate layer 1" in verdict.summary
    assert verdict.details[0] == "gate layer 1: 40.00 to nan (no ratio)"
    both = run("profile", model(mlp_0=1e9, gate_1=NAN), stored())
    assert "the first is mlp layer 0, the most gate layer 1" in both.summary


def test_many_sites_are_cut_short_and_counted() -> None:
    risen = [site(s.component, s.layer, s.value * 2) for s in model()]
    verdict = run("profile", risen, stored())
    assert verdict.summary.startswith("14 of 14 sites left their baselines; the first is embedding")
    assert verdict.details[8] == "... and 6 more"
    assert len(verdict.details) == 10


@pytest.mark.parametrize(
    ("overrides", "limits"),
    [
        ([], {"mlp_1": 150.0, "mlp_2": 150.0, "gate_1": 60.0}),
        ([{"component": "mlp", "rtol": 1.0}], {"mlp_1": 200.0, "mlp_2": 200.0, "gate_1": 60.0}),
        ([{"component": "mlp", "layer": 1, "rtol": 1.0}], {"mlp_1": 200.0, "mlp_2": 150.0}),
        ([{"component": "mlp", "layer": 1, "rtol": 0.25}, {"component": "mlp", "rtol": 1.0}], {"mlp_1": 125.0, "mlp_2": 200.0}),
        ([{"component": "mlp", "rtol": 1.0}, {"component": "mlp", "layer": 1, "rtol": 0.25}], {"mlp_1": 125.0, "mlp_2": 200.0}),
        ([{"component": "mlp", "waived": True}, {"component": "mlp", "layer": 1}], {"mlp_1": 150.0}),
        ([{"rtol": 9.0}], {"mlp_1": 150.0}),
        ([{"component": "final_norm", "rtol": 1.0}], {"final_norm": 100.0}),
    ],
)
def test_the_most_specific_override_sets_a_sites_limit(overrides: list[dict[str, Any]], limits: dict[str, float]) -> None:
    baseline = stored(*(ToleranceOverride(reason="r", **override) for override in overrides))
    for name, limit in limits.items():
        at: dict[str, Any] = {name: limit}
        above: dict[str, Any] = {name: math.nextafter(limit, 1e9)}
        assert run("profile", model(**at), baseline).outcome == "passed", name
        assert run("profile", model(**above), baseline).outcome == "failed", name


def test_a_waived_site_may_do_anything_and_the_result_says_so() -> None:
    component = stored(ToleranceOverride(component="mlp", waived=True, reason="retrained"))
    layer = stored(ToleranceOverride(component="mlp", layer=1, waived=True, reason="retrained"))
    over = stored(
        ToleranceOverride(component="mlp", rtol=0.01, reason="r"),
        ToleranceOverride(component="mlp", layer=1, waived=True, reason="r"),
    )
    for baseline, waived in ((component, 3), (layer, 1), (over, 1)):
        verdict = run("profile", model(mlp_1=999.0), baseline)
        assert verdict.summary == f"no site left its baseline ({14 - waived} of 14 sites judged, {waived} waived)"
    assert run("profile", model(mlp_1=NAN), layer).outcome == "passed"
    assert run("profile", model(mlp_2=999.0), layer).outcome == "failed"


# --- conditions and absent facts

CONDITIONS = {
    "digest": "e" * 64,
    "special_tokens": "chat",
    "dtype": "float32",
    "max_length": 128,
}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ("digest", "corpus core (dddddddddddd), now core (eeeeeeeeeeee): see --maxact-corpus and --maxact-samples"),
        ("special_tokens", "special tokens none, now chat: see --maxact-special-tokens"),
        ("dtype", "dtype bfloat16, now float32: see --maxact-dtype"),
        ("max_length", "max length 256, now 128: see --maxact-max-length"),
    ],
)
def test_each_condition_is_named_alone_with_both_values_and_its_option(changed: str, line: str) -> None:
    now = measured(model(), **{changed: CONDITIONS[changed]})
    for verdict in compare(now, stored()):
        if verdict.check == "finite":
            assert verdict.outcome == "passed"
        else:
            assert verdict.outcome == "failed"
            assert verdict.summary == f"the baseline was made under other conditions: {line}"


def test_several_conditions_are_named_together() -> None:
    verdict = judge("sun", measured(model(), **CONDITIONS), stored(), DEFAULT)
    assert verdict.summary.count("now ") == 4
    assert verdict.summary.count("; ") == 3


def test_what_does_not_condition_the_figures_is_not_compared() -> None:
    now = measured(model(), corpus="renamed")
    other = now.model_copy(update={"model": now.model.model_copy(update={"id": "n", "fingerprint": "0" * 64, "layers": 9})})
    assert {verdict.check for verdict in compare(other, stored()) if verdict.outcome != "passed"} == {"headroom"}


def test_ready_batches_are_told_from_a_corpus() -> None:
    verdict = judge("maximum", measured(model(), digest=None, corpus="batches"), stored(), DEFAULT)
    assert "corpus core (dddddddddddd), now batches (ready batches)" in verdict.summary


def test_a_fact_that_the_baseline_lacks_is_not_checked() -> None:
    baseline = stored(dominance=None, sun=None)
    bare = baseline.model_copy(
        update={
            "model": baseline.model.model_copy(update={"dtype": None}),
            "corpus": baseline.corpus.model_copy(update={"digest": None, "special_tokens": None, "max_length": None}),
        }
    )
    verdicts = {verdict.check: verdict for verdict in compare(measured(model(mlp_0=5000.0), **CONDITIONS), bare)}
    assert verdicts["dominance"].summary == "the baseline does not tell which component holds M"
    assert verdicts["sun"].summary == "the baseline has no Sun outcome"
    assert {name: verdict.outcome for name, verdict in verdicts.items()} == {
        "finite": "passed",
        "maximum": "failed",
        "location": "failed",
        "dominance": "skipped",
        "sun": "skipped",
        "profile": "failed",
        "headroom": "skipped",
    }


# --- headroom


def with_sqnr(peak: float = 1000.0, *, mlp: float = 30.0, approximate: bool = False) -> list[SiteFigures]:
    """One layer; the MLP's INT-8 figures are `mlp` dB and 3 dB more."""
    figures = {"int8_maxabs": mlp, "int8_p999": mlp + 3, "fp8_e4m3": 25.0, "fp8_e5m2": 20.0}
    return [
        site("embedding", None, 2.0, sqnr=dict.fromkeys(figures, 40.0)),
        site("mlp", 0, 20.0, sqnr=figures, approximate=approximate),
        site("router", 0, 1e9, sqnr=dict.fromkeys(figures, -5.0)),  # no part of M: overflows nothing
        site("hidden", 0, peak, margin=0.5, sqnr=dict.fromkeys(figures, 12.0)),
    ]


def asked(*formats: str) -> Tolerance:
    return Tolerance(formats=formats)


def test_headroom_is_judged_where_a_format_was_asked_for() -> None:
    verdict = run("headroom", with_sqnr(), stored(sites=with_sqnr()))
    assert (verdict.outcome, verdict.summary) == ("skipped", "no number format was asked for: see --maxact-format")


@pytest.mark.parametrize(
    ("name", "largest"), [("float16", 65504.0), ("fp8_e4m3", 448.0), ("fp8_e5m2", 57344.0)], ids=lambda value: str(value)
)
def test_a_site_beyond_a_formats_largest_value_overflows_it_with_or_without_a_baseline(name: str, largest: float) -> None:
    for baseline in (None, stored(sites=with_sqnr())):
        verdict = run("headroom", with_sqnr(largest), baseline, asked(name))
        assert verdict.outcome == "passed"
        assert f"{name} holds every site" in verdict.summary
        verdict = run("headroom", with_sqnr(-largest * 1.1), baseline, asked(name))
        assert verdict.failed
        assert verdict.summary.startswith("1 overflow; the first is hidden layer 0: ")
        assert f" beyond {name} (largest {largest:,.0f})" in verdict.details[0]


def test_int8_is_scaled_to_each_site_so_that_it_needs_a_baseline_with_sqnr() -> None:
    without = Baseline.model_validate(stored(sites=model()).model_dump(by_alias=True))
    for baseline in (None, without):
        verdict = run("headroom", with_sqnr(), baseline, asked("int8"))
        assert verdict.outcome == "skipped"
        assert verdict.summary == "int8 is scaled to each site: needs a baseline that holds SQNR"


@pytest.mark.parametrize(("mlp", "expected"), [(29.0, "passed"), (28.99, "failed"), (40.0, "passed"), (NAN, "failed")])
def test_an_sqnr_more_than_one_decibel_below_the_baseline_fails(mlp: float, expected: str) -> None:
    verdict = run("headroom", with_sqnr(mlp=mlp), stored(sites=with_sqnr()), asked("int8"))
    assert verdict.outcome == expected
    if expected == "failed":
        assert "in 2 of 6 figures; the first is mlp layer 0: int8_maxabs 30.00 dB to" in verdict.summary
        assert len(verdict.details) == 2
    assert run("headroom", with_sqnr(mlp=mlp), stored(sites=with_sqnr()), asked("fp8_e5m2")).outcome == "passed"


def test_infinities_have_overflowed_any_float_format() -> None:
    sites = [site("hidden", 0, 10.0, inf=3)]
    verdict = run("headroom", sites, None, asked("float16"))
    assert verdict.failed
    assert verdict.details == ("hidden layer 0: 3 infinities beyond float16 (largest 65,504)",)


def test_a_format_whose_sqnr_could_not_be_judged_is_named() -> None:
    verdict = run("headroom", with_sqnr(), None, asked("float16", "int8", "fp8_e5m2"))
    assert verdict.outcome == "passed"
    assert verdict.summary.endswith("SQNR of int8, fp8_e5m2 not judged: no baseline holds it")
    assert "not judged" not in run("headroom", with_sqnr(), stored(sites=with_sqnr()), asked("int8", "float16")).summary


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"^there is no number format fp16: there are float16, fp8_e4m3, fp8_e5m2, int8$"):
        Tolerance(formats=("fp16",))


def test_an_approximate_loss_says_so() -> None:
    verdict = run("headroom", with_sqnr(mlp=1.0, approximate=True), stored(sites=with_sqnr()), asked("int8"))
    assert verdict.details[0] == "mlp layer 0: int8_maxabs 30.00 dB to 1.00 dB (approximate)"
    same = with_sqnr(approximate=True)
    assert run("headroom", same, stored(sites=same), asked("int8")).summary.endswith("below the baseline (approximate)")


def test_formats_that_can_be_asked_for_are_those_there_are() -> None:
    choices = next(option.choices for option in OPTIONS if option.name == "format")
    assert set(choices) == set(FORMATS)
    assert {key for form in FORMATS.values() for key in form.sqnr_keys} == set(BASELINE_SQNR)


# --- how figures and tokens are told


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.000"),
        (0.234375, "0.234"),
        (9.9996, "10.000"),
        (11.0, "11.00"),
        (999.5, "999.50"),
        (145408.0, "145,408"),
        (-1848.0, "-1,848"),
        (9999999.0, "9,999,999"),
        (1e7, "1e+07"),
        (0.0009, "0.0009"),
        (NAN, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_a_figure_for_people(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_ratio_is_short_even_where_a_model_blew_up() -> None:
    assert ratio(1270.0, 1000.0) == "1.27x"
    assert ratio(5.0, 0.0) == "from 0"
    assert ratio(1e38, 2.0) == "5e+37x"
    assert len(ratio(3.4e38, 1e-38)) < 12


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        (PLACE, "token ' of' at position 5 of sample prose-01: the end[ of] it"),
        (Location(signed=1.0, feature=0, sample="s", position=2, token_id=7), "token id 7 at position 2 of sample s"),
        (Location(signed=1.0, feature=0), "rows of this site cannot be traced to tokens"),
    ],
)
def test_a_token_in_context(place: Location, shown: str) -> None:
    assert token_in_context(place) == shown


# --- outcome: what the figures of the sites say


def test_of_sites_that_tie_the_one_executed_first_holds_m() -> None:
    # As published for gpt-oss-20b: mlp and hidden of the last layer both hold 145,408, and the mlp runs first.
    sites = [site("hidden", 22, 18304.0), site("mlp", 23, -145408.0), site("hidden", 23, 145408.0), site("router", 0, 1e9)]
    peak = outcome.peak(sites)
    assert peak is not None
    assert (peak.component, peak.layer, peak.value, peak.signed) == ("mlp", 23, 145408, -145408)
    assert peak.ties == [Site(component="hidden", layer=23)]
    assert peak.plateau == [23]
    assert (peak.token, peak.sample, peak.feature) == (" of", "prose-01", 3)
    turned = outcome.peak(sites[::-1])
    assert turned is not None
    assert (turned.component, turned.signed) == ("hidden", 145408)


def test_m_is_over_finite_values_of_its_own_components_only() -> None:
    peak = outcome.peak([site("hidden", 0, NAN, nan=9), site("router", 0, 1e9), site("gate", 0, -3.0, inf=4)])
    assert peak is not None
    assert (peak.component, peak.value) == ("gate", 3)
    assert peak.plateau == []
    assert outcome.peak([site("hidden", 0, NAN), site("router", 0, 1e9)]) is outcome.peak([]) is None


def test_a_plateau_is_what_lies_within_one_bfloat16_step_of_the_largest_hidden_peak() -> None:
    inside, outside = math.nextafter(TIED, 1e9), TIED
    sites = [site("hidden", 0, outside), site("hidden", 1, -inside), site("hidden", 2, 1000.0), site("mlp", 3, 1e6)]
    assert outcome.plateau(sites) == [1, 2]
    assert outcome.plateau([site("hidden", 3, 42496.0), site("hidden", 1, 43008.0), site("hidden", 0, 42752.0)]) == [0, 1]


@pytest.mark.parametrize(
    ("hidden", "other", "component", "ratio_"),
    [
        (8.0, 2.0, "hidden", 4.0),
        (1.0, -4.0, "mlp", 0.25),
        (4.0, 0.0, "hidden", math.inf),
        (0.0, 4.0, "mlp", 0.0),
    ],
)
def test_dominance_is_the_holder_and_the_ratio_of_hidden_to_the_rest(
    hidden: float, other: float, component: str, ratio_: float
) -> None:
    sites = [site("mlp", 0, other), site("attention", 0, other / 2), site("hidden", 0, hidden), site("router", 0, 1e9)]
    assert outcome.dominance(sites) == Dominance(component=component, ratio=ratio_)


def test_dominance_needs_finite_values_on_both_sides() -> None:
    assert outcome.dominance([site("hidden", 0, 5.0), site("router", 0, 5.0)]) is None
    assert outcome.dominance([site("mlp", 0, 5.0), site("hidden", 0, NAN)]) is None
    nothing = outcome.dominance([site("mlp", 0, 0.0), site("hidden", 0, 0.0)])
    assert nothing is not None
    assert nothing.ratio == 1.0


def test_the_sun_outcome_is_that_of_the_hidden_layers() -> None:
    sites = [site("mlp", 0, 1.0, margin=50.0), site("hidden", 0, 1.0, margin=0.2), site("hidden", 1, 1.0, margin=1.5)]
    assert outcome.sun(sites) == SunOutcome(passes=True, layers=[1], margin=1.5)
    assert outcome.sun(sites[:2]) == SunOutcome(passes=False, layers=[], margin=0.2)
    assert outcome.sun(sites[:1]) is None


# Hidden peaks by layer as published with arXiv 2605.15572: of each pattern those nearest to the rule's border, and two more.
JUMPS: dict[str, tuple[list[float], float, int]] = {
    "Qwen2.5-VL-3B": ([11.5625, 170.0, 2896.0, 3120.0, 3184.0, 3200.0, 3984.0, 3936.0, 3808.0, 1896.0], 17.04, 2),
    "Qwen3-30B-A3B": ([6.3125, 179.0, 1080.0, 1512.0, 1512.0, 1512.0, 1512.0, 1512.0, 1504.0, 1344.0, 1264.0], 28.36, 1),
    "gpt-oss-20b": ([284.0, 256.0, 310.0, 380.0, 364.0, 356.0, 42752.0, 43008.0, 42496.0, 3216.0, 5024.0, 145408.0], 120.09, 6),
}
GRADUAL: dict[str, tuple[list[float], float, int]] = {
    "Qwen3.5-27B": ([85.5, 94.0, 274.0, 193.0, 197.0, 940.0, 716.0, 1200.0, 334.0, 302.0, 320.0, 1848.0], 5.775, 11),
    "gemma-3-4b-it": ([11520.0, 30208.0, 48640.0, 100864.0, 203776.0, 245760.0, 191488.0, 194560.0], 2.622, 1),
}


def hidden_peaks(values: Iterable[float]) -> list[SiteFigures]:
    return [site("hidden", layer, value) for layer, value in enumerate(values)]


@pytest.mark.parametrize("name", [*JUMPS, *GRADUAL])
def test_published_peaks_by_depth_follow_the_stated_pattern(name: str) -> None:
    values, largest, layer = (JUMPS | GRADUAL)[name]
    found = outcome.trajectory([site("mlp", 0, 1e9), *hidden_peaks(values)])
    assert found is not None
    assert found.pattern == ("jump-and-plateau" if name in JUMPS else "gradual accumulation")
    assert found.largest_step == pytest.approx(largest, abs=0.005)
    assert found.largest_step_layer == layer


def test_a_step_of_ten_is_a_jump_and_nothing_less() -> None:
    at, below = outcome.trajectory(hidden_peaks([1, 10])), outcome.trajectory(hidden_peaks([1, math.nextafter(10, 0)]))
    assert at is not None
    assert below is not None
    assert (at.pattern, below.pattern) == ("jump-and-plateau", "gradual accumulation")


def test_layers_are_taken_by_depth_and_a_rise_from_zero_is_the_largest() -> None:
    found = outcome.trajectory(hidden_peaks([1.0, 0.0, 5.0, 90.0])[::-1])
    assert found is not None
    assert (found.largest_step, found.largest_step_layer) == (math.inf, 2)
    assert outcome.trajectory(hidden_peaks([1.0])) is None


def test_the_layer_of_the_largest_step_is_its_number_even_where_a_layer_held_nothing_finite() -> None:
    found = outcome.trajectory(hidden_peaks([NAN, 1.0, 50.0, 60.0]))
    assert found is not None
    assert (found.largest_step, found.largest_step_layer) == (50.0, 2)


def test_ready_batches_are_compared_with_the_same_batches_only() -> None:
    batches = stored().model_copy(update={"corpus": stored().corpus.model_copy(update={"id": "batches", "digest": None})})
    assert "ready batches, now corpus" in run("maximum", model(), batches).summary
