"""Under pytest-xdist a checkpoint is measured once, whoever asks first, and the controller shows how far it is."""

from __future__ import annotations

import pytest

from tests.behaviours.conftest import GREEN, RED, User

pytest.importorskip("xdist")

MODES = ["load", "loadscope", "loadfile", "loadgroup", "worksteal", "no"]
# Every process that measures leaves a line in a file.
COUNTS = """
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(config):
        from pytest_maxact.session import Task  # not the plan, which brings torch to every process
        original = Task._measure

        def measure(self):
            with open({log!r}, "a") as file:
                file.write("measured\\n")
            {then}
            return original(self)

        Task._measure = measure
"""


def counted(user: User, then: str = "pass") -> None:
    user.pytester.makeconftest(COUNTS.format(log=str(user.folder / "log"), then=then))


def measurements(user: User) -> int:
    return (user.folder / "log").read_text().count("measured")


@pytest.mark.parametrize("mode", MODES)
def test_two_workers_measure_once_in_every_mode(user: User, mode: str) -> None:
    counted(user)
    result = user.pytest("-n2", f"--dist={mode}", baseline="red")
    assert result.ret == 1
    assert user.seen == RED
    assert measurements(user) == 1
    assert result.stdout.str().count("= maximum activations =") == 1


def test_four_workers_measure_once(user: User) -> None:
    counted(user)
    assert user.pytest("-n4").ret == 0
    assert user.seen == GREEN
    assert measurements(user) == 1


def test_each_worker_judges_the_one_measurement(user: User) -> None:
    counted(user)
    assert user.pytest("--dist=each", "--tx=2*popen").ret == 0
    assert user.seen == dict.fromkeys(GREEN, "passed, passed")
    assert measurements(user) == 1


def test_the_controller_shows_progress(user: User) -> None:
    result = user.pytest("-n2")
    result.stdout.fnmatch_lines(["maxact: loading and measuring tiny", "maxact: 33 of 33 tokens*"])


def test_a_measurement_that_breaks_is_made_once_and_its_traceback_told_once(user: User) -> None:
    counted(user, 'raise RuntimeError("broken on purpose")')
    result = user.pytest("-n2", "--dist=loadscope")
    assert result.ret == 1
    assert user.seen == dict.fromkeys(GREEN, "failed")
    assert measurements(user) == 1
    failures, _, summary = result.stdout.str().partition("= short test summary info =")
    assert failures.count("tiny broke: RuntimeError: broken on purpose") == len(GREEN)
    assert failures.count("Traceback (most recent call last)") == 1
    assert "FAILED maxact::sun - Failed: nothing was measured: " in summary


def test_a_worker_that_dies_while_measuring_is_told_and_its_measurement_not_repeated(user: User) -> None:
    counted(user, "import os; os._exit(9)")
    result = user.pytest("-n2")
    assert result.ret == 1
    assert measurements(user) == 1
    assert set(user.seen.values()) <= {"failed", "error"}
    assert len(user.seen) == len(GREEN)
    text = result.stdout.str()
    assert "the worker that measured died" in text
    assert text.count("worker 'gw") >= 1


def test_wrong_settings_are_status_4_and_told_once(user: User) -> None:
    result = user.pytest("-n2", "--maxact-samples=none")
    assert result.ret == 4
    assert (result.stderr.str() + result.stdout.str()).count("--maxact-samples=none is no whole number") == 1


def test_without_xdist_all_works(user: User) -> None:
    assert user.pytest("-p", "no:xdist").ret == 0
    assert user.seen == GREEN


def test_nothing_is_left_in_the_temporary_folder(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = user.folder / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    assert user.pytest("-n2").ret == 0
    assert [path.name for path in scratch.iterdir() if path.name.startswith("maxact-")] == []
