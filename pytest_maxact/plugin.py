"""What pytest calls. Nothing heavy is imported until a checkpoint is named, or a test asks for a fixture."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from pytest_maxact import fixtures
from pytest_maxact.config import ACTIONS, FOLDER, SERIES, add_options, names_a_model, names_the_suite, shared_folder
from pytest_maxact.errors import MaxactError
from pytest_maxact.launch import Place
from pytest_maxact.visible import visible


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of group `maxact`."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> pytest.ExitCode | None:
    """A rank other than 0 (of torchrun, SLURM) helps rank 0 in place of a session of its own, and is quiet."""
    option = config.option
    if not config.getoption("maxact_model") or option.help or option.version or option.markers:
        return None
    try:
        place = Place.find()
    except MaxactError as cause:
        raise pytest.UsageError(str(cause)) from None
    if place is None or place.rank == 0:
        return None
    from pytest_maxact.assistant import serve

    return serve(config, place)


def pytest_configure(config: pytest.Config) -> None:
    """Where a model is named, find out all that is wrong (exit status 4), then join the session."""
    config.addinivalue_line(
        "markers",
        "maxact(model=None, corpus=None): the built-in checks of a checkpoint's maximum activations; on a test of yours, which "
        "checkpoint and corpus the maxact_ fixtures are for, where not the session's own",
    )
    config.pluginmanager.register(fixtures, "maxact-fixtures")
    if config.option.help or config.option.markers:  # these configure too, and run nothing
        return
    try:
        if names_a_model(config):
            from pytest_maxact.active import Active, Explaining
            from pytest_maxact.settings import Settings

            settings = Settings.from_pytest(config)
            plugin = Explaining(config, settings) if settings.explain else Active(config, settings)
            config.pluginmanager.register(plugin, "maxact-active")
        elif any(names_the_suite(arg) for arg in config.args):
            raise MaxactError("the built-in checks need a checkpoint: add --maxact-model=ID")
        elif vain := [f"--maxact-{name}" for name in ACTIONS if config.getoption(f"maxact_{name.replace('-', '_')}")]:
            raise MaxactError(f"{vain[0]} needs a checkpoint to do it with: add --maxact-model=ID")
    except MaxactError as cause:
        raise pytest.UsageError(str(cause)) from None
    except OSError as cause:  # a name too long for the system, a folder that may not be read
        raise pytest.UsageError(f"{visible(str(cause.filename)[:200])} cannot be used: {cause.strerror}") from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where measurements are kept."""
    node.workerinput["maxact_folder"] = str(shared_folder(node.config))
    node.workerinput["maxact_series"] = [vars(member) for member in node.config.stash.get(SERIES, ())]
    node.workerinput["maxact_command"] = list(map(str, node.config.invocation_params.args))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test's marker say which checkpoint and corpus its fixtures are for."""
    fixtures.parametrize(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose marker could not be handed to its fixtures, rather than measure another checkpoint."""
    fixtures.check_marker(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show of each measurement M, its place and the largest sites."""
    config = terminalreporter.config
    if config.option.no_summary or FOLDER not in config.stash or not config.stash[FOLDER].exists():
        return
    from pytest_maxact.report.terminal import series_lines, summary
    from pytest_maxact.session import Session

    session = Session.of(config)
    newest = [result for task in session.series if (result := task.finished()) is not None][-1:]
    lines = []
    for result in newest:
        past = [] if result.measurement is None else session.past(result.measurement)
        lines = series_lines(session.rows(), past, session.remarks, result.tolerance)
    for result in [*newest, *session.results()]:
        if result.measurement is not None:
            lines += [*summary(result.measurement, result.baseline, reused=result.reused), *result.changes]
    if lines:
        terminalreporter.write_sep("=", "maximum activations")
    for line in lines:
        terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the shared folder."""
    if FOLDER in config.stash and not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)
