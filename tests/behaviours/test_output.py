"""What is shown, and where: `-q`, `-v`, `--no-summary`, JUnit; strict settings and warnings that are errors change nothing."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from tests.behaviours.conftest import GREEN, User


def test_quiet_shows_dots_and_the_summary(user: User) -> None:
    result = user.pytest("-q")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["......*", "*= maximum activations =*", "M = *"])
    result.stdout.no_fnmatch_line("maxact: loading*")


def test_verbose_names_each_check(user: User) -> None:
    result = user.pytest("-v")
    result.stdout.fnmatch_lines(["maxact::finite *", "maxact::maximum PASSED*", "maxact::profile PASSED*"])


def test_no_summary_shows_none(user: User) -> None:
    result = user.pytest("--no-summary")
    assert result.ret == 0
    assert user.seen == GREEN
    result.stdout.no_fnmatch_line("*maximum activations*")
    result.stdout.no_fnmatch_line("M = *")


def test_warnings_as_errors_change_nothing(user: User) -> None:
    assert user.pytest("-W", "error").ret == 0
    assert user.seen == GREEN


def test_strict_mode_changes_nothing(user: User) -> None:
    user.pytester.makeini(
        "[pytest]\nstrict = true\n"
        if pytest.version_tuple >= (9, 0)
        else "[pytest]\naddopts = --strict-markers --strict-config\n"
    )
    assert user.pytest().ret == 0
    assert user.seen == GREEN


def test_a_terminal_reporter_is_not_needed(user: User) -> None:
    assert user.pytest("-p", "no:terminal").ret == 0
    assert user.seen == GREEN


def test_capture_may_be_off(user: User) -> None:
    assert user.pytest("-s").ret == 0
    assert user.seen == GREEN


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "two workers"])
def test_junit_has_properties_of_items_and_of_the_suite(user: User, workers: tuple[str, ...]) -> None:
    user.pytest(*workers, baseline="red")
    suite = ElementTree.parse(user.folder / "seen.xml").getroot().find("testsuite")
    assert suite is not None
    whole = {item.get("name"): item.get("value") for item in suite.findall("properties/property")}
    assert whole["maxact.model"] == "tiny"
    assert whole["maxact.corpus"] == "texts"
    assert len(whole["maxact.fingerprint"] or "") == 64
    (item,) = (case for case in suite.iter("testcase") if case.get("name") == "maximum")
    (judged,) = item.findall("properties/property")
    assert judged.get("name") == "maxact.maximum"
    assert judged.get("value") == whole["maxact.M"]
    assert float(whole["maxact.M"] or "nan") > 0


def test_a_red_check_says_what_rose_and_how_to_accept_it(user: User) -> None:
    result = user.pytest("maxact::maximum", baseline="red")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["M = * at *: 2.00x the baseline *", "  to accept the change:  pytest * maxact::maximum * --maxact-update"]
    )
