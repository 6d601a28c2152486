"""The plugin of a session for which a checkpoint was named: the suite joins what is collected, and progress is shown."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_maxact.checks import CHECKS
from pytest_maxact.checks.growth import NAME as GROWTH
from pytest_maxact.config import BENCHMARK, SERIES, SUITE, names_the_suite
from pytest_maxact.errors import MaxactError
from pytest_maxact.launch import Place
from pytest_maxact.progress import Watcher
from pytest_maxact.report.properties import properties
from pytest_maxact.series import missing, spoken
from pytest_maxact.session import Session
from pytest_maxact.settings import Settings
from pytest_maxact.suite import SeriesSuite, Suite
from pytest_maxact.visible import visible

if TYPE_CHECKING:
    from pytest_maxact.plan import Plan
    from pytest_maxact.series import Member


class Active:
    """Raises MaxactError, when it is made, for all that can be known to be wrong before the run."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        session = Session.of(config)
        place = Place.find() if config.getoption("maxact_model") else None  # as `pytest_cmdline_main` asks
        if place is not None and not hasattr(config, "workerinput"):
            settings = _joined(session, place, settings)
        self.series = settings.series
        named = [argument for argument in config.args if names_the_suite(argument)]
        self.only = frozenset(argument.partition("::")[2] for argument in named) - {""}
        self._check_names(settings)
        if SUITE in named:
            self.only = frozenset()
        # pytest would look for files of these names.
        config.args[:] = [argument for argument in config.args if argument not in named]
        paths_given = config.args_source is pytest.Config.ArgsSource.ARGS
        self.wanted = bool(named) or settings.suite == "always" or (settings.suite == "auto" and not paths_given)
        if not self.wanted and (settings.update or settings.update_new or settings.json or settings.benchmark):
            raise MaxactError(
                "--maxact-update, --maxact-json and --maxact-benchmark would do nothing: the built-in checks are off, since "
                "paths were given or --maxact-suite=never; add the argument maxact"
            )
        # A model that only an ini file names is looked for when a test asks, where the checks are off.
        asked = (self.wanted or bool(config.getoption("maxact_model"))) and not hasattr(config, "workerinput")
        if self.series:
            plans: dict[Member, Plan] = {}
            if asked:
                from pytest_maxact.plan import plan_series

                plans, left_out = plan_series(settings)  # raises what is wrong, before anything is collected
                self.series = config.stash[SERIES] = tuple(plans)
                session.remarks = [*missing(self.series), *left_out]
            session.add_series(replace(settings, series=self.series), plans)
            self.tasks = session.series
        else:
            plan = None
            if asked:
                from pytest_maxact.plan import Plan

                plan = Plan.of(settings)
            self.tasks = [session.task(settings, plan)]

    def _check_names(self, settings: Settings) -> None:
        """Refuse node ids of no check, and of those that were not asked for."""
        labels = [member.label for member in self.series]
        known = [*CHECKS, GROWTH] if self.series else [*CHECKS]
        for name in sorted(self.only.difference(labels)):
            label, _, check = name.rpartition("::") if self.series else ("", "", name)
            if self.series and name in known:
                raise MaxactError(
                    f"maxact::{name} names no checkpoint of the series: maxact::{labels[-1]}::{name}, or -k {name}"
                )
            if self.series and label not in labels:
                there = ", ".join(labels if len(labels) <= 6 else [*labels[:3], "...", labels[-1]])
                raise MaxactError(f"there is no checkpoint maxact::{label or check}: there are {there}")
            if name == GROWTH:
                raise MaxactError("maxact::growth needs a series: name the earlier checkpoints too, or a glob")
            if check not in (*known, BENCHMARK):
                raise MaxactError(f"there is no check maxact::{name}: there are {', '.join(known)}")
            if check == "headroom" and not settings.formats:
                raise MaxactError(f"maxact::{name} needs a number format to check: add --maxact-format=NAME")
            if check == BENCHMARK and not settings.benchmark:
                raise MaxactError(f"maxact::{name} runs only on request: add --maxact-benchmark")

    def pytest_report_header(self) -> list[str]:
        """Say what will be measured and what it is compared with."""
        return [visible(line) for line in self._header()]

    def _header(self) -> list[str]:
        """A worker, whose header nobody sees, has no plan yet."""
        task = self.tasks[-1]
        plan, settings = task.plan, task.settings
        if not self.wanted:
            name = Path(settings.model or "").name if plan is None else plan.reference.id
            return [f"maxact: no built-in checks of {name}, since paths were given; add the argument maxact"]
        if plan is None:
            return []
        if self.series:
            remarks = [f"maxact: {remark}" for remark in Session.of(self.config).remarks]
            baseline = settings.baseline if any(member.compared for member in self.series) else "none"
            return [f"maxact: {spoken(self.series)}, corpus {plan.corpus.id}, baseline {baseline}", *remarks]
        source: Path | str | None = plan.stored.source
        if source is None:
            source = "not there yet" if plan.stored.wanted else "none"
        elif Path(source).is_relative_to(self.config.rootpath):
            source = Path(source).relative_to(self.config.rootpath)
        return [f"maxact: {plan.reference.id}, corpus {plan.corpus.id}, baseline {source}"]

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Append the suite to what the session collected."""
        report = yield
        if self.wanted and report.passed and isinstance(collector, pytest.Session):
            where = {"name": SUITE, "nodeid": SUITE}
            suite: pytest.Collector
            if self.series:
                suite = SeriesSuite.from_parent(collector, tasks=self.tasks, only=self.only, **where)
            else:
                suite = Suite.from_parent(collector, task=self.tasks[0], only=self.only, **where)
            report.result = [*report.result, suite]
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Where xdist's workers run the tests, show what they report of a measurement."""
        if not self.config.pluginmanager.hasplugin("dsession"):
            return (yield)
        with Watcher(self.config):
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Put M and what it was measured from among the properties of the JUnit file's suite."""
        writers = [plugin for plugin in self.config.pluginmanager.get_plugins() if hasattr(plugin, "add_global_property")]
        result = self.tasks[-1].finished() if writers else None
        if result is None or result.measurement is None:
            return
        for name, value in properties(result.measurement).items():
            for writer in writers:
                writer.add_global_property(name, value)


def _joined(session: Session, place: Place, settings: Settings) -> Settings:
    """The settings of this process as rank 0, which the others have met."""
    if session.config.getoption("numprocesses", None):
        raise MaxactError("ranks and xdist's workers exclude each other: drop -n, or start pytest without torchrun")
    from pytest_maxact.ranks import Ranks

    session.ranks = Ranks.join(place)
    session.config.add_cleanup(session.ranks.leave)
    return replace(settings, device=session.ranks.device(settings.device))


class Explaining:
    """The plugin of a session that shows the sites of a model in place of running tests."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        from pytest_maxact.checkpoint import check_device, find, resolve_device

        if config.getoption("numprocesses", None):
            raise MaxactError("--maxact-explain runs in one process: drop -n")
        assert settings.model is not None
        self.settings = settings
        self.device = resolve_device(settings.device)
        self.reference = find(settings.model, trust_remote_code=settings.trust_remote_code)
        check_device(self.reference, self.device)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Load the model, say where its sites are, and collect nothing."""
        from pytest_maxact.checkpoint import BALANCED, load
        from pytest_maxact.runner import explain

        session.items = []
        settings, balanced = self.settings, self.settings.device == BALANCED
        try:
            checkpoint = load(self.reference, dtype=settings.dtype, device=self.device, balanced=balanced)
            lines = explain(checkpoint, sites=settings.sites)
        except MaxactError as cause:
            raise pytest.UsageError(str(cause)) from None
        terminal = session.config.pluginmanager.getplugin("terminalreporter")
        if terminal is not None:
            terminal.write_sep("=", "sites of maximum activations")
            for line in lines:
                terminal.write_line(line)
        return True

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """All is well where no test was to run."""
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK
