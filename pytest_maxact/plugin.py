"""What pytest calls. Nothing heavy is imported until a checkpoint is named, or a test asks for a fixture."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_maxact import fixtures
from pytest_maxact.config import BENCHMARK, COMMAND, FOLDER, SUITE, Settings, add_options, names_a_model
from pytest_maxact.errors import MaxactError


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of group `maxact`."""
    add_options(parser)


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
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is None:  # the folder is made by who first needs it
        config.stash[FOLDER] = Path(tempfile.gettempdir(), f"maxact-{os.urandom(16).hex()}")
        config.stash[COMMAND] = tuple(map(str, config.invocation_params.args))
    else:
        config.stash[FOLDER] = Path(worker["maxact_folder"])
        config.stash[COMMAND] = tuple(worker["maxact_command"])
    try:
        if names_a_model(config):
            config.pluginmanager.register(Active(config, Settings.from_pytest(config)), "maxact-active")
        elif any(_is_ours(arg) for arg in config.args):
            raise MaxactError("the built-in checks need a checkpoint: add --maxact-model=ID")
    except MaxactError as cause:
        raise pytest.UsageError(str(cause)) from None
    except OSError as cause:  # a name too long for the system, a folder that may not be read
        raise pytest.UsageError(f"{str(cause.filename)[:200]} cannot be used: {cause.strerror}") from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where measurements are kept."""
    node.workerinput["maxact_folder"] = str(node.config.stash[FOLDER])
    node.workerinput["maxact_command"] = list(node.config.stash[COMMAND])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test's marker say which checkpoint and corpus its fixtures are for."""
    fixtures.parametrize(metafunc)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show of each measurement M, its place and the largest sites."""
    config = terminalreporter.config
    if config.option.no_summary or not config.stash[FOLDER].exists():
        return
    from pytest_maxact.report.terminal import summary
    from pytest_maxact.session import Session

    results = [result for result in Session.of(config).results() if result.measurement is not None]
    if results:
        terminalreporter.write_sep("=", "maximum activations")
    for result in results:
        assert result.measurement is not None
        for line in [*summary(result.measurement, result.baseline, reused=result.reused), *result.changes]:
            terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the shared folder."""
    if FOLDER in config.stash and not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


def _is_ours(argument: str) -> bool:
    return (argument == SUITE or argument.startswith(f"{SUITE}::")) and not Path(SUITE).exists()


class Active:
    """The plugin of a session for which a checkpoint was named."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        from pytest_maxact.checks import CHECKS
        from pytest_maxact.session import Session

        self.config = config
        named = [argument for argument in config.args if _is_ours(argument)]
        self.only = frozenset(argument.partition("::")[2] for argument in named) - {""}
        unknown = sorted(self.only - {*CHECKS, BENCHMARK})
        if unknown:
            raise MaxactError(f"there is no check maxact::{unknown[0]}: there are {', '.join(CHECKS)}")
        if SUITE in named:
            self.only = frozenset()
        if "headroom" in self.only and not settings.formats:
            raise MaxactError("maxact::headroom needs a number format to check: add --maxact-format=NAME")
        if BENCHMARK in self.only and not settings.benchmark:
            raise MaxactError("maxact::benchmark runs only on request: add --maxact-benchmark")
        # pytest would look for files of these names.
        config.args[:] = [argument for argument in config.args if argument not in named]
        paths_given = config.args_source is pytest.Config.ArgsSource.ARGS
        self.wanted = bool(named) or settings.suite == "always" or (settings.suite == "auto" and not paths_given)
        if not self.wanted and (settings.update or settings.update_new or settings.json or settings.benchmark):
            raise MaxactError(
                "--maxact-update, --maxact-json and --maxact-benchmark would do nothing: the built-in checks are off, since "
                "paths were given or --maxact-suite=never; add the argument maxact"
            )
        plan = None
        if not hasattr(config, "workerinput"):
            from pytest_maxact.plan import Plan

            plan = Plan.of(settings)  # raises what is wrong, before anything is collected
        self.task = Session.of(config).task(settings, plan)

    def pytest_report_header(self) -> str | list[str]:
        """Say what will be measured and what it is compared with; a worker, whose header nobody sees, has no plan yet."""
        plan = self.task.plan
        if plan is None:
            return []
        source: Path | str | None = plan.stored.source
        if source is None:
            source = "not there yet" if plan.stored.wanted else "none"
        elif Path(source).is_relative_to(self.config.rootpath):
            source = Path(source).relative_to(self.config.rootpath)
        if not self.wanted:
            return f"maxact: no built-in checks of {plan.reference.id}, since paths were given; add the argument maxact"
        return f"maxact: {plan.reference.id}, corpus {plan.corpus.id}, baseline {source}"

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Append the suite to what the session collected."""
        report = yield
        if self.wanted and report.passed and isinstance(collector, pytest.Session):
            from pytest_maxact.suite import Suite

            suite = Suite.from_parent(collector, name=SUITE, nodeid=SUITE, task=self.task, only=self.only)
            report.result = [*report.result, suite]
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Where xdist's workers run the tests, show what they report of a measurement."""
        if not self.config.pluginmanager.hasplugin("dsession"):
            return (yield)
        from pytest_maxact.progress import Watcher

        with Watcher(self.config):
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Put M and what it was measured from among the properties of the JUnit file's suite."""
        writers = [plugin for plugin in self.config.pluginmanager.get_plugins() if hasattr(plugin, "add_global_property")]
        result = self.task.finished() if writers else None
        if result is None or result.measurement is None:
            return
        from pytest_maxact.report.properties import properties

        for name, value in properties(result.measurement).items():
            for writer in writers:
                writer.add_global_property(name, value)
