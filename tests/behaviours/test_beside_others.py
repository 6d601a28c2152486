"""Beside the user's own suite and other plugins: idle it costs nothing, at work it changes nothing of theirs."""

from __future__ import annotations

import os

import pytest

from tests.behaviours.conftest import GREEN, User

IDLE = """
    import sys

    def test_nothing_heavy():
        heavy = {"numba", "torch", "transformers", "numpy", "pydantic", "tqdm", "filelock", "safetensors", "psutil"}
        assert not heavy & set(sys.modules)
"""


def test_an_idle_plugin_imports_nothing_heavy_and_says_nothing(user: User) -> None:
    user.pytester.makepyfile(IDLE)
    result = user.pytest("-p", "no:hypothesispytest", "-p", "no:benchmark", baseline=None)
    assert result.ret == 0
    assert list(user.seen.values()) == ["passed"]
    assert "maxact" not in "".join(line for line in result.stdout.lines if not line.startswith("plugins:"))
    assert user.records == []


def test_autouse_fixtures_of_the_user_do_not_reach_the_checks(user: User) -> None:
    user.pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def theirs(request):
            assert "maxact::" not in request.node.nodeid
            print("theirs ran for", request.node.name)
            yield
        """
    )
    user.pytester.makepyfile("def test_own(theirs):\n    pass\n")
    assert user.pytest().ret == 0
    assert user.seen == GREEN | {"test_autouse_fixtures_of_the_user_do_not_reach_the_checks::test_own": "passed"}


def test_hooks_of_the_user_see_plain_items(user: User) -> None:
    user.pytester.makeconftest(
        """
        def pytest_collection_modifyitems(items):
            items.reverse()
            for item in items:
                assert item.name and item.nodeid and item.path and item.reportinfo() and list(item.iter_markers())

        def pytest_itemcollected(item):
            item.user_properties.append(("seen", item.nodeid))
        """
    )
    assert user.pytest().ret == 0
    assert list(user.seen) == list(reversed(GREEN))


def test_a_broken_test_file_of_the_user_stays_the_users_error(user: User) -> None:
    user.pytester.makepyfile("import no_such_module\n")
    result = user.pytest()
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*No module named 'no_such_module'*"])
    assert user.records == []


def test_an_users_file_called_maxact_is_found(user: User) -> None:
    (user.folder / "maxact").mkdir()
    (user.folder / "maxact" / "test_inside.py").write_text("def test_own():\n    pass\n")
    assert user.pytest("maxact").ret == 0
    assert list(user.seen) == ["maxact.test_inside::test_own"]


def test_the_most_used_plugins_may_all_be_loaded(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.environ.get("MAXACT_TEST_PLUGINS")
    if folder is None:
        pytest.skip("MAXACT_TEST_PLUGINS names no folder with the plugins of .ci/plugins.txt (see .ci/run)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")])))
    user.pytester.makepyfile("def test_own():\n    pass\n")
    result = user.pytest("-p", "no:cacheprovider", "--reruns=2", "--timeout=300", "--cov=.", "--count=1", "--disable-socket")
    assert result.ret == 0
    assert user.seen == GREEN | {"test_the_most_used_plugins_may_all_be_loaded::test_own": "passed"}
    (loaded,) = (line for line in result.stdout.lines if line.startswith("plugins:"))
    assert loaded.count(",") >= 20


def test_a_red_check_is_tried_again_where_reruns_are_asked_for(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is judged again, and measured once."""
    folder = os.environ.get("MAXACT_TEST_PLUGINS")
    if folder is None:
        pytest.skip("MAXACT_TEST_PLUGINS names no folder with the plugins of .ci/plugins.txt (see .ci/run)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")])))
    result = user.pytest("--reruns=2", "-p", "no:randomly", "-p", "no:sugar", baseline="red")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*1 failed, 5 passed, 2 rerun in*"])
    assert result.stdout.str().count("loading and measuring") == 1
