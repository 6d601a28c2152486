"""`growth` decides whether a training run has gone wrong and where, so each of its rules is pinned on series made by hand.

The last test trains a model twice and takes about a minute; all others take no time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_maxact.checkpoint import find, load
from pytest_maxact.checks import Tolerance, Verdict, growth
from pytest_maxact.errors import SettingsError
from pytest_maxact.history import Key, Point
from pytest_maxact.record import Site
from pytest_maxact.runner import measure
from tests.test_checks import measured, site
from tests.training import spike_at, train

NAN = math.nan
DEFAULT = Tolerance()
# Three layers in execution order; M is at `hidden` layer 2.
VALUES: dict[Key, float] = {("embedding", None): 2.0}
for _layer in range(3):
    VALUES |= {("attention", _layer): 20.0, ("gate", _layer): 40.0, ("mlp", _layer): 100.0}
    VALUES |= {("hidden", _layer): 300.0 + 100.0 * _layer}
VALUES |= {("final_norm", None): 50.0}
EMBEDDING, FINAL_NORM, ROUTER = ("embedding", None), ("final_norm", None), ("router", 1)
ATTENTION, GATE, MLP, HIDDEN = ("attention", 1), ("gate", 1), ("mlp", 1), ("hidden", 1)


def point(number: int, changes: dict[Key, float] | None = None, *, times: float = 1.0, unfit: Sequence[Key] = ()) -> Point:
    """A checkpoint at 100 times its number in steps; some sites may be changed, and then all values multiplied."""
    values = {key: times * value for key, value in (VALUES | (changes or {})).items()}
    finite = {key: value for key, value in values.items() if key[0] != "router" and not math.isnan(value)}
    peak = max(finite, key=lambda key: finite[key], default=None)
    return Point(
        label=f"run-{number}",
        step=100 * number,
        peak=None if peak is None else Site.model_validate({"component": peak[0], "layer": peak[1]}),
        m=NAN if peak is None else finite[peak],
        values=values,
        unfit=dict.fromkeys(unfit, 3),
        massive=True,
    )


def series(*times: float) -> list[Point]:
    """Checkpoints all of whose values are multiples of the usual ones."""
    return [point(number, times=factor) for number, factor in enumerate(times)]


def last(points: Sequence[Point], tolerance: Tolerance = DEFAULT) -> Verdict:
    return growth.check(points[-1], points[:-1], tolerance)


def outcomes(points: Sequence[Point], tolerance: Tolerance = DEFAULT) -> str:
    """The first letters of the outcomes of all points but the first."""
    return "".join(last(points[: end + 1], tolerance).outcome[0] for end in range(1, len(points)))


def steady(changes: dict[Key, float] | None = None, *, unfit: Sequence[Key] = ()) -> list[Point]:
    """Five usual checkpoints and a sixth with changes."""
    return [*series(1, 1, 1, 1, 1), point(5, changes, unfit=unfit)]


def test_a_point_keeps_what_a_series_needs() -> None:
    sites = [site("embedding", None, 2.0), site("router", 0, 9e3, inf=4), site("mlp", 0, -70.0, nan=1, inf=2)]
    sites += [site("hidden", 0, 60.0, margin=3.0), site("final_norm", None, NAN, nan=5)]
    kept = Point.of(measured(sites), "run-7", 700)
    assert (kept.label, kept.step, str(kept.peak), kept.m, kept.massive) == ("run-7", 700, "mlp layer 0", 70.0, True)
    assert list(kept.values) == [("embedding", None), ("router", 0), ("mlp", 0), ("hidden", 0), ("final_norm", None)]
    assert (kept.values["router", 0], kept.values["mlp", 0]) == (9e3, 70.0)
    assert math.isnan(kept.values["final_norm", None])
    assert kept.unfit == {("mlp", 0): 3, ("final_norm", None): 5}


def test_a_point_without_a_finite_value() -> None:
    kept = Point.of(measured([site("hidden", 0, NAN, nan=9)]), "x", None)
    assert kept.peak is None
    assert math.isnan(kept.m)
    assert kept.massive is None


def test_the_first_checkpoint_is_skipped() -> None:
    verdict = growth.check(point(0), [], DEFAULT)
    assert (verdict.check, verdict.outcome, verdict.summary) == ("growth", "skipped", "run-0 has no predecessor")


def test_what_a_pass_says() -> None:
    verdict = last(series(1.0, 1.1, 1.2))
    assert verdict.outcome == "passed"
    assert verdict.summary == "M = 600.00 at hidden layer 2: 1.09x its predecessor run-1, 1.20x the first run-0"
    assert verdict.value == pytest.approx(1.2 / 1.1)


@pytest.mark.parametrize(("before", "limit"), [(1, 4.0), (2, 4.0), (3, 2 ** (4 / 3)), (9, 2 ** (10 / 9))])
def test_the_edge_by_the_number_of_predecessors(before: int, limit: float) -> None:
    history = [1.0] * before
    assert last(series(*history, 0.999 * limit)).outcome == "passed"
    verdict = last(series(*history, 1.001 * limit))
    assert verdict.outcome == "failed"
    assert "14 of 14 sites left their own history" in verdict.summary


def test_a_fall_is_no_failure() -> None:
    assert outcomes(series(1, 1, 1, 1, 0.01, 0.01, 0.02)) == "pppppp"


def test_to_stop_falling_is_no_failure() -> None:
    assert outcomes(series(64, 16, 4, 1, 3)) == "pppp"


def test_early_training_rises_quickly_and_levels_off() -> None:
    rising = [1 - math.exp(-number / 3) for number in range(1, 15)]
    assert rising[1] / rising[0] > 1.7
    assert outcomes(series(*rising)) == "p" * 13


def test_a_rise_that_keeps_its_rate_is_predicted() -> None:
    exponential = [1.5**number for number in range(12)]
    assert outcomes(series(*exponential)) == "p" * 11
    assert last(series(*exponential[:-1], 3 * exponential[-1])).outcome == "failed"


def test_growth_total_limits_a_rise_that_keeps_its_rate() -> None:
    points = series(*(1.5**number for number in range(6)))
    limited = Tolerance(growth_total=5.0)
    assert outcomes(points, limited) == "pppff"
    assert last(points, limited).summary.endswith("7.59x the first run-0; more than 5x the first")


def test_one_bad_checkpoint_is_red_and_what_follows_is_green() -> None:
    assert outcomes(series(1, 1, 1, 1, 20, 1, 1.1, 1, 1)) == "pppfpppp"


def test_a_plateau_after_a_spike_stays_red_and_its_return_is_green() -> None:
    assert outcomes(series(1, 1.1, 0.9, 1, *[20] * 20, 1.2)) == "ppp" + "f" * 20 + "p"


def test_where_it_began_is_told_of_a_plateau() -> None:
    later = [point(number, {MLP: 5000.0, HIDDEN: 5100.0}) for number in (5, 6, 7)]
    verdict = last([*series(1, 1, 1, 1, 1), *later])
    assert "starting with the MLP write of layer 1 since run-5 (5,000, 50.00x the 100.00 that it predicts)" in verdict.summary


def test_the_trend_runs_over_steps() -> None:
    """1.5 times in 100 steps; 2.9 times the last value are too much after a step, and not after 100."""
    points = series(*(1.5**number for number in range(8)))
    value = point(8, times=2.9 * 1.5**7)
    assert last([*points, value]).outcome == "passed"
    assert last([*points, dataclasses.replace(value, step=701)]).outcome == "failed"


def test_the_trend_is_carried_on_by_one_rise_at_most() -> None:
    logarithmic = [dataclasses.replace(p, step=10**number) for number, p in enumerate(series(1, 2, 2, 2, 2, 50))]
    assert outcomes(logarithmic) == "ppppf"
    points = series(*(1.5**number for number in range(8)))
    assert last([*points, dataclasses.replace(point(8, times=4 * 1.5**8), step=10**6)]).outcome == "failed"


def test_the_first_two_give_way_to_three_that_left_them() -> None:
    assert outcomes(series(1, 50, 60, 50, 55, 60)) == "fffpp"
    assert outcomes(series(1, 1, 50, 60, 50, 55)) == "pfffp"
    assert outcomes(series(1, 1, 1, 50, 60, 50, 55, 60, 50)) == "pp" + "f" * 6
    assert outcomes(series(1, 50, 60, 1, 50, 60)) == "ffpff"  # not in a row


@pytest.mark.parametrize("key", [EMBEDDING, ATTENTION, GATE, MLP, HIDDEN, FINAL_NORM])
def test_each_site_has_its_own_history(key: Key) -> None:
    verdict = last(steady({key: 3 * VALUES[key]}))
    assert verdict.outcome == "failed"
    assert "1 of 14 sites left" in verdict.summary
    name = key[0] if key[1] is None else f"`{key[0]}` layer 1"
    assert verdict.details[0].startswith(f"{name}: ")
    assert "3.00x the" in verdict.details[0]


def test_a_negligible_site_is_left_out_until_it_matters() -> None:
    history = [point(number, {MLP: 0.001}) for number in range(5)]
    assert last([*history, point(5, {MLP: 0.4})]).outcome == "passed"
    assert last([*history, point(5, {MLP: 0.6})]).outcome == "failed"


def test_a_blow_up_does_not_hide_its_small_origin() -> None:
    changes = {("attention", 0): 60.0} | {key: 1e5 * value for key, value in VALUES.items() if key[1] in (1, 2)}
    assert "`attention` layer 0" in last(steady(changes)).details[0]


def test_routers_are_no_part_of_it() -> None:
    history = [point(number, {ROUTER: 1.0}) for number in range(5)]
    assert last([*history, point(5, {ROUTER: 1e5})]).outcome == "passed"


def test_writes_that_start_at_zero_are_no_blow_up() -> None:
    history = [point(0, {MLP: 0.0}), point(1, {MLP: 30.0})]
    assert last(history).outcome == "passed"
    assert last([*history, point(2, {MLP: 1000.0})]).outcome == "failed"


def test_scatter_widens_what_is_allowed() -> None:
    noise = [1.0, 2.2, 0.8, 2.0, 1.1, 1.9, 0.9, 2.1]
    assert (
        last([*(point(number, {MLP: 100 * factor}) for number, factor in enumerate(noise)), point(8, {MLP: 400.0})]).outcome
        == "passed"
    )
    assert last([*series(*[1] * 8), point(8, {MLP: 400.0})]).outcome == "failed"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({ATTENTION: 900.0, HIDDEN: 1300.0, ("hidden", 2): 1500.0}, "attention write of layer 1"),
        ({MLP: 900.0, HIDDEN: 1300.0, ("hidden", 2): 1500.0}, "MLP write of layer 1"),
        ({GATE: 200.0, MLP: 900.0, HIDDEN: 1300.0}, "MLP write of layer 1"),
        ({ATTENTION: 90.0, MLP: 900.0, HIDDEN: 1300.0}, "MLP write of layer 1"),  # 90 of 1300 are not what lifted it
        ({("attention", 0): 90.0, MLP: 900.0, HIDDEN: 1300.0, ("mlp", 2): 2000.0}, "MLP write of layer 1"),
        ({("attention", 0): 90.0, MLP: 900.0}, "MLP write of layer 1"),  # the stream took no notice of either
        ({ATTENTION: 400.0, MLP: 900.0, HIDDEN: 1300.0}, "MLP write of layer 1"),
        ({("gate", 0): 200.0, HIDDEN: 1300.0}, "accumulation in the residual stream at hidden layer 1"),
        ({HIDDEN: 1300.0, ("mlp", 2): 900.0}, "accumulation in the residual stream at hidden layer 1"),
        ({GATE: 400.0}, "gate of the MLP write of layer 1"),
        ({EMBEDDING: 900.0, ("hidden", 0): 1300.0}, "token embedding"),
        ({FINAL_NORM: 900.0}, "final norm"),
    ],
)
def test_where_it_started(changes: dict[Key, float], words: str) -> None:
    verdict = last(steady(changes))
    assert f"left their own history, starting with the {words} (" in verdict.summary
    assert len(verdict.details) >= len(changes)


@pytest.mark.parametrize(
    ("changes", "unfit", "words"),
    [
        ({}, [MLP, HIDDEN, FINAL_NORM], "MLP write of layer 1 (3 NaN or infinities)"),
        ({MLP: NAN, HIDDEN: NAN}, [MLP, HIDDEN], "MLP write of layer 1 (3 NaN or infinities)"),
        ({("attention", 0): 80.0}, [MLP, HIDDEN], "attention write of layer 0 ("),
        ({FINAL_NORM: 5e4}, [HIDDEN], "accumulation in the residual stream at hidden layer 1 (3 NaN"),
    ],
)
def test_nan_where_there_was_none(changes: dict[Key, float], unfit: list[Key], words: str) -> None:
    verdict = last(steady(changes, unfit=unfit))
    assert verdict.outcome == "failed"
    assert f"starting with the {words}" in verdict.summary


def test_nan_stays_red_and_is_known_where_it_always_was() -> None:
    broken = [point(number, unfit=[MLP]) for number in (5, 6, 7)]
    assert outcomes([*series(1, 1, 1, 1, 1), *broken]) == "ppppfff"
    assert outcomes([point(number, unfit=[MLP]) for number in range(4)]) == "ppp"


def test_nothing_finite() -> None:
    nothing = point(5, dict.fromkeys(VALUES, NAN), unfit=list(VALUES))
    assert last([*series(1, 1), nothing]).summary == "no site holds a finite value, so there is no M"
    verdict = last([nothing, point(6)])
    assert (verdict.outcome, verdict.value) == ("passed", None)
    assert verdict.summary == "M = 500.00 at hidden layer 2: no ratio to its predecessor run-5"


def test_another_architecture_is_no_series() -> None:
    other = point(1, {("mlp", 3): 1.0})
    verdict = last([point(0), other])
    assert verdict.summary == "1 site is missing or new: all checkpoints of a series need the same architecture"
    assert verdict.details == ("`mlp` layer 3: not in run-0",)
    assert last([other, point(2)]).details == ("`mlp` layer 3: in run-1, not here",)


def test_details_name_movers_and_are_cut() -> None:
    verdict = last(series(1, 1, 1, 1, 10))
    assert len(verdict.details) == 10
    assert verdict.details[8:] == (
        "... and 6 more",
        "largest movers: embedding 10.00x, `attention` layer 0 10.00x, `gate` layer 0 10.00x",
    )


def test_a_peak_that_moves_and_a_sun_outcome_that_flips_are_told() -> None:
    moved = dataclasses.replace(point(5, {MLP: 900.0}), massive=False)
    verdict = last([*series(1, 1, 1, 1, 1), moved])
    assert "M moved from hidden layer 2 to mlp layer 1" in verdict.details
    assert "the Sun outcome flipped: no massive activations now, some in run-4" in verdict.details
    back = last([moved, point(6)])
    assert "the Sun outcome flipped: massive activations now, none in run-5" in back.summary
    assert "M moved from mlp layer 1 to hidden layer 2" in back.summary
    tie = last([point(0), point(1, {HIDDEN: 503.0})])
    assert "moved" not in tie.summary  # within one bfloat16 step


def test_experts_that_die_are_told() -> None:
    router = ("router", 1)
    before = dataclasses.replace(point(4), idle={router: frozenset({5})})
    now = dataclasses.replace(point(5), idle={router: frozenset({0, 3, 5})})
    assert "experts that had tokens in run-4 and have none now: 0, 3 of layer 1" in last([before, now]).summary
    assert "experts" not in last([now, before]).summary
    assert "experts" not in last([point(4), now]).summary  # nothing is known of them before


def crossing(factor: float, start: float, *, steps: bool = True, count: int = 8) -> str:
    """The summary of a series whose `hidden` layer 1 rises by a factor a checkpoint, all else staying where it was."""
    points = [point(number, {HIDDEN: start * factor**number}) for number in range(count)]
    return last(points if steps else [dataclasses.replace(p, step=None) for p in points]).summary


def test_a_trend_that_nears_fp16_is_told_in_words() -> None:
    # 1000 * 1.5^7 = 17,086; ln(65504 / 17,086) / ln 1.5 = 3.31 checkpoints of 100 steps.
    assert crossing(1.5, 1000.0).endswith("; at this rate `hidden` layer 1 passes FP16's 65,504 in 330 steps")
    assert crossing(1.5, 1000.0, steps=False).endswith("in about 4 checkpoints")
    # 60,400 steps away by ln(65504 / 1007) / ln 1.001 * 100; further than twice the 700 steps so far
    assert "FP16" not in crossing(1.001, 1000.0)
    assert "FP16" not in crossing(0.9, 60000.0)
    assert "FP16" not in crossing(1.5, 65504.0)  # beyond it
    assert "FP16" not in crossing(1.5, 1000.0, count=2)  # no trend yet


def test_noise_is_no_trend() -> None:
    noise = [0.95, 1.05, 0.96, 1.03, 1, 1.06, 0.99, 1.06]  # the median slope is above 0
    points = [point(number, {HIDDEN: 60000.0 * factor}) for number, factor in enumerate(noise)]
    assert "FP16" not in last(points).summary


def test_a_crossing_is_told_of_a_failure_too() -> None:
    points = [point(number, {HIDDEN: 1000.0 * 1.5**number}) for number in range(8)]
    points[-1] = point(7, {HIDDEN: 1000.0 * 1.5**7, MLP: 9000.0})
    assert any("at this rate `hidden` layer 1 passes" in line for line in last(points).details)


@pytest.mark.parametrize("steps", [[0, 100, None, 300], [0, 100, 100, 200], [500, 600, 0, 100]])
def test_without_usable_steps_checkpoints_are_counted(steps: list[int | None]) -> None:
    points = [dataclasses.replace(p, step=step) for p, step in zip(series(1, 2, 4, 8), steps, strict=True)]
    points = [dataclasses.replace(p, values={k: 10 * v for k, v in p.values.items()}, m=10 * p.m) for p in points]
    assert "in about 1 checkpoint" in last(points).summary


def test_a_tighter_growth_is_kept() -> None:
    points = series(*[1] * 9, 1.5)
    assert last(points).outcome == "passed"
    assert last(points, Tolerance(growth=1.2)).outcome == "failed"


@pytest.mark.parametrize("name", ["growth", "growth_total"])
@pytest.mark.parametrize("value", [1.0, 0.0, -3.0, math.inf, NAN])
def test_a_factor_that_means_nothing_is_refused(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{name} is a factor above 1, such as 2, and not"):
        Tolerance(growth=value) if name == "growth" else Tolerance(growth_total=value)


HISTORY = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=12)


@settings(deadline=None)
@given(HISTORY, st.floats(1e-3, 1e6), st.floats(1.0, 100.0))
def test_more_is_never_better(history: list[float], value: float, factor: float) -> None:
    if last(series(*history, value)).failed:
        assert last(series(*history, factor * value)).failed


@settings(deadline=None)
@given(HISTORY, st.floats(1e-3, 1e6), st.integers(-10, 10))
def test_the_unit_does_not_matter(history: list[float], value: float, exponent: int) -> None:
    scaled = [2.0**exponent * factor for factor in (*history, value)]
    assert last(series(*scaled)).outcome == last(series(*history, value)).outcome


@settings(deadline=None)
@given(HISTORY)
def test_no_more_than_there_ever_was_is_green(history: list[float]) -> None:
    assert last(series(*history, min(history))).outcome == "passed"


@settings(deadline=None)
@given(st.lists(st.floats(0.8, 1.25), min_size=3, max_size=10), st.floats(30.0, 1e6), st.integers(1, 5))
def test_a_spike_is_red_as_long_as_it_lasts(healthy: list[float], spike: float, length: int) -> None:
    assert outcomes(series(*healthy, *[spike] * length))[len(healthy) - 1 :] == "f" * length


def points_of(folder: Path, *, spike: bool) -> list[Point]:
    """A run of the tiny model in transformers' Trainer, each checkpoint loaded from its folder and measured."""
    paths = train(folder, seed=0, spike=spike)
    return [Point.of(measure(load(find(str(path))), corpus="smoke"), path.name, int(path.name.split("-")[1])) for path in paths]


@pytest.mark.training
def test_a_real_training_run_turns_red_at_the_spike_and_not_without_it(tmp_path: Path) -> None:
    """About a minute: a real training run of 14 checkpoints, once with a spike of the learning rate and once without."""
    healthy = points_of(tmp_path / "healthy", spike=False)
    spiked = points_of(tmp_path / "spiked", spike=True)
    assert outcomes(healthy) == "p" * 13
    first = next(index for index, p in enumerate(spiked) if p.step is not None and p.step > spike_at())
    assert outcomes(spiked[:first]) == "p" * (first - 1)
    verdict = last(spiked[: first + 1])
    assert verdict.failed
    assert "MLP write of layer 0" in verdict.summary
    assert spiked[:first] == healthy[:first]  # the same run up to the spike
