"""What pytest calls. Nothing heavy is imported until `--maxact-model` is given."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_maxact.config import BENCHMARK, SUITE, Settings, add_options
from pytest_maxact.errors import MaxactError

if TYPE_CHECKING:
    from pytest_maxact.suite import Session


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of group `maxact`."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Where a model is named, find out all that is wrong (exit status 4), then join the session."""
    config.addinivalue_line("markers", "maxact: the built-in checks of a checkpoint's maximum activations")
    if config.option.help or config.option.markers:  # these configure too, and run nothing
        return
    try:
        settings = Settings.from_pytest(config)
        if settings is not None:
            config.pluginmanager.register(Active(config, settings), "maxact-active")
        elif any(_is_ours(arg) for arg in config.args):
            raise MaxactError("the built-in checks need a checkpoint: add --maxact-model=ID")
    except MaxactError as cause:
        raise pytest.UsageError(str(cause)) from None
    except OSError as cause:  # a name too long for the system, a folder that may not be read
        raise pytest.UsageError(f"{str(cause.filename)[:200]} cannot be used: {cause.strerror}") from None


def _is_ours(argument: str) -> bool:
    return (argument == SUITE or argument.startswith(f"{SUITE}::")) and not Path(SUITE).exists()


class Active:
    """The plugin of a session in which a model is measured."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        from pytest_maxact.checks import CHECKS
        from pytest_maxact.suite import Session

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
        worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        self.controls = worker is None
        plan = None
        if worker is None:
            from pytest_maxact.plan import Plan

            plan = Plan.of(settings)  # raises what is wrong, before anything is collected
            folder, command = Path(tempfile.mkdtemp(prefix="maxact-")), tuple(map(str, config.invocation_params.args))
        else:
            folder, command = Path(worker["maxact_folder"]), tuple(worker["maxact_command"])
        self.session: Session = Session(config, settings, plan, folder, command)

    def pytest_report_header(self) -> str | list[str]:
        """Say what will be measured and what it is compared with; a worker, whose header nobody sees, has no plan yet."""
        plan = self.session.plan
        if plan is None:
            return []
        source: Path | str | None = plan.stored.source
        if source is None:
            source = "not there yet" if plan.stored.wanted else "none"
        elif Path(source).is_relative_to(self.config.rootpath):
            source = Path(source).relative_to(self.config.rootpath)
        if not self.wanted:
            return f"maxact: {plan.reference.id} is not checked, since paths were given; add the argument maxact"
        return f"maxact: {plan.reference.id}, corpus {plan.corpus.id}, baseline {source}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker where the one measurement is kept."""
        node.workerinput["maxact_folder"] = str(self.session.folder)
        node.workerinput["maxact_command"] = list(self.session.command)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Append the suite to what the session collected."""
        report = yield
        if self.wanted and report.passed and isinstance(collector, pytest.Session):
            from pytest_maxact.suite import Suite

            suite = Suite.from_parent(collector, name=SUITE, nodeid=SUITE, maxact=self.session, only=self.only)
            report.result = [*report.result, suite]
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show M, its place and the largest sites."""
        result = self.session.kept()
        if result is None or result.measurement is None:
            return
        from pytest_maxact.report.terminal import summary

        terminalreporter.write_sep("=", "maximum activations")
        for line in [*summary(result.measurement, result.baseline), *result.changes]:
            terminalreporter.write_line(line)

    def pytest_unconfigure(self) -> None:
        """Remove the shared folder."""
        if self.controls:
            shutil.rmtree(self.session.folder, ignore_errors=True)
