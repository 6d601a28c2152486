"""What pytest's cache makes possible: `--lf`, `--ff`, `--stepwise`; and `-x`."""

from __future__ import annotations

from tests.behaviours.conftest import GREEN, RED, User


def test_last_failed_runs_the_red_check_and_reuses_the_measurement(user: User) -> None:
    assert user.pytest(baseline="red").ret == 1
    assert user.seen == RED
    result = user.pytest("--lf", baseline="red")
    assert result.ret == 1
    assert user.seen == {"maxact::maximum": "failed"}
    result.stdout.fnmatch_lines(["reused, measured at 20??-??-??T??:??:??+00:00; --maxact-fresh measures anew"])


def test_failed_first_runs_the_red_check_first(user: User) -> None:
    user.pytest(baseline="red")
    user.pytest("--ff", baseline="red")
    assert next(iter(user.seen)) == "maxact::maximum"
    assert user.seen == RED


def test_dash_x_stops_at_the_first_red_check(user: User) -> None:
    result = user.pytest("-x", baseline="red")
    assert result.ret == 1
    assert user.seen == {"maxact::finite": "passed", "maxact::maximum": "failed"}
    result.stdout.fnmatch_lines(["*= maximum activations =*"])


def test_stepwise_stops_there_and_goes_on_from_there(user: User) -> None:
    assert user.pytest("--stepwise", baseline="red").ret == 2  # pytest's own status of a run that was cut off
    assert user.seen == {"maxact::finite": "passed", "maxact::maximum": "failed"}
    assert user.pytest("--stepwise", baseline="green").ret == 0
    assert sorted(user.seen) == sorted(set(GREEN) - {"maxact::finite"})
