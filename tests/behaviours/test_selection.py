"""Checks are chosen as tests are: `-k`, `-m`, node ids, `--deselect`, `--collect-only`; the user's own stay what they were."""

from __future__ import annotations

import pytest

from tests.behaviours.conftest import CHECKS, GREEN, User

OWN = "def test_own():\n    pass\n"


def test_an_empty_folder_has_the_suite(user: User) -> None:
    result = user.pytest()
    assert result.ret == 0
    assert user.seen == GREEN
    result.stdout.fnmatch_lines(["maxact: tiny, corpus texts, baseline baselines/green.json", "*= maximum activations =*"])


def test_the_suite_stands_beside_the_users_tests(user: User) -> None:
    user.pytester.makepyfile(OWN)
    assert user.pytest().ret == 0
    assert user.seen == GREEN | {"test_the_suite_stands_beside_the_users_tests::test_own": "passed"}


def test_a_conftest_that_looks_at_every_item_finds_what_it_expects(quick_user: User) -> None:
    quick_user.pytester.makepyfile(OWN)
    quick_user.pytester.makeconftest(
        """
        def pytest_collection_modifyitems(items):
            for item in items:
                assert item.path and item.fspath and item.module.__name__ and item.cls is None
                assert not item.fixturenames
        """
    )
    assert quick_user.pytest().ret == 0
    assert len(quick_user.seen) == len(GREEN) + 1


def test_dash_k_chooses_checks_and_tests_alike(user: User) -> None:
    user.pytester.makepyfile(OWN)
    assert user.pytest("-k", "sun or own").ret == 0
    assert sorted(user.seen) == ["maxact::sun", "test_dash_k_chooses_checks_and_tests_alike::test_own"]


def test_dash_m_maxact_chooses_the_suite(user: User) -> None:
    user.pytester.makepyfile(OWN)
    assert user.pytest("-m", "maxact").ret == 0
    assert user.seen == GREEN


def test_dash_m_not_maxact_leaves_it_out_and_measures_nothing(user: User) -> None:
    user.pytester.makepyfile(OWN)
    result = user.pytest("-m", "not maxact")
    assert result.ret == 0
    assert list(user.seen) == ["test_dash_m_not_maxact_leaves_it_out_and_measures_nothing::test_own"]
    assert user.records == []


def test_a_pasted_node_id_runs_one_check(user: User) -> None:
    user.pytester.makepyfile(OWN)
    assert user.pytest("maxact::location").ret == 0
    assert user.seen == {"maxact::location": "passed"}


def test_several_pasted_node_ids_run_those(user: User) -> None:
    assert user.pytest("maxact::location", "maxact::sun").ret == 0
    assert user.seen == {"maxact::location": "passed", "maxact::sun": "passed"}


def test_an_unknown_node_id_is_status_4_and_lists_the_checks(user: User) -> None:
    result = user.pytest("maxact::maximun")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: there is no check maxact::maximun: there are finite, maximum, *"])


def test_a_path_leaves_the_suite_out(user: User) -> None:
    path = user.pytester.makepyfile(OWN)
    result = user.pytest(path)
    assert list(user.seen) == ["test_a_path_leaves_the_suite_out::test_own"]
    result.stdout.fnmatch_lines(["maxact: no built-in checks of tiny, since paths were given; add the argument maxact"])


def test_a_path_and_the_word_maxact_run_both(user: User) -> None:
    path = user.pytester.makepyfile(OWN)
    assert user.pytest(path, "maxact").ret == 0
    assert user.seen == GREEN | {"test_a_path_and_the_word_maxact_run_both::test_own": "passed"}


def test_testpaths_are_no_paths_given(user: User) -> None:
    user.pytester.makepyfile(**{"tests/test_theirs": OWN})
    user.pytester.makeini("[pytest]\ntestpaths = tests")
    assert user.pytest().ret == 0
    assert user.seen == GREEN | {"tests.test_theirs::test_own": "passed"}


def test_deselect_takes_a_check_out(user: User) -> None:
    assert user.pytest("--deselect", "maxact::profile").ret == 0
    assert sorted(user.seen) == sorted(set(GREEN) - {"maxact::profile"})


def test_collect_only_lists_and_measures_nothing(user: User) -> None:
    result = user.pytest("--collect-only", "-q")
    assert result.ret == 0
    assert [line for line in result.stdout.lines if line.startswith("maxact::")] == [f"maxact::{name}" for name in CHECKS]
    assert user.records == []


@pytest.mark.parametrize("suite", ["always", "never"])
def test_the_suite_is_forced_or_left_out(user: User, suite: str) -> None:
    path = user.pytester.makepyfile(OWN)
    assert user.pytest(path, f"--maxact-suite={suite}").ret == 0
    assert len(user.seen) == (7 if suite == "always" else 1)
