"""Fixtures for users' own tests: the session's checkpoint, corpus, measurement and baseline, or those that a marker names.

A conftest may override `maxact_model` or `maxact_corpus`; what it gives is measured then, in each worker that needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

if TYPE_CHECKING:
    from pytest_maxact.checkpoint import Checkpoint
    from pytest_maxact.record import Baseline, Measurement
    from pytest_maxact.session import Task
    from pytest_maxact.settings import Settings

MARKER = "maxact"


class Named(NamedTuple):
    """What a test's marker names; None is the session's own."""

    model: str | None = None
    corpus: str | None = None


_named = cache(Named)  # one object for one choice: pytest keeps fixtures by a parameter's identity


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Hand what a test's markers name to its fixtures, the closest marker first."""
    if "_maxact_named" not in metafunc.fixturenames:
        return
    given: dict[str, Any] = {}
    for marker in metafunc.definition.iter_markers(MARKER):
        wrong = [*map(repr, marker.args), *(name for name in marker.kwargs if name not in ("model", "corpus"))]
        wrong += [f"{name}={value!r}" for name, value in marker.kwargs.items() if not (isinstance(value, str) and value)]
        if wrong:
            who = metafunc.definition.nodeid
            pytest.fail(f"{who}: the marker maxact takes model='...' and corpus='...', not {wrong[0]}", pytrace=False)
        given = {**marker.kwargs, **given}
    if given:
        named = _named(given.get("model"), given.get("corpus"))
        metafunc.parametrize("_maxact_named", [named], indirect=True, scope="session", ids=[pytest.HIDDEN_PARAM])


def check_marker(item: pytest.Item) -> None:
    """Fail a marked test that asks for the fixtures in a way that the marker does not reach."""
    asks = "_maxact_named" in getattr(item, "fixturenames", ())
    if asks and not hasattr(item, "callspec") and any(marker.kwargs for marker in item.iter_markers(MARKER)):
        pytest.fail("the marker maxact does not reach a unittest.TestCase: make it a plain class or function", pytrace=False)


class ModelUnderTest:
    """The checkpoint that was named, loaded when it is first used; `model, tokenizer = maxact_model` works."""

    def __init__(self, task: Task) -> None:
        self._task = task

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model and tokenizer, loaded."""
        return self._task.load()

    @property
    def model(self) -> Any:
        """The base model, in evaluation mode."""
        return self.checkpoint.model

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer, None where it has none."""
        return self.checkpoint.tokenizer

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))


def _settings(config: pytest.Config, named: Named) -> Settings:
    """The session's settings, or what a marker makes of them: it writes no file, and a model it names has its own baseline."""
    from dataclasses import replace

    from pytest_maxact.errors import SettingsError
    from pytest_maxact.series import is_glob
    from pytest_maxact.settings import Settings, located

    settings = Settings.from_pytest(config)
    if named == Named():
        return settings
    changed: dict[str, Any] = {"json": None, "update": False, "update_new": False, "benchmark": False, "series": ()}
    if named.model is not None:
        if is_glob(named.model):
            raise SettingsError(f"the marker maxact names one checkpoint, and model={named.model!r} is a pattern")
        changed |= {"model": located(config.rootpath, named.model)}
        changed |= {} if settings.baseline == "none" else {"baseline": "auto"}
    if named.corpus is not None:
        changed |= {"corpus": located(config.rootpath, named.corpus)}
    return replace(settings, **changed)


@pytest.fixture(scope="session")
def _maxact_named(request: pytest.FixtureRequest) -> Named:
    """What the test's marker names."""
    named: Named = getattr(request, "param", Named())
    return named


@pytest.fixture(scope="session")
def _maxact_task(request: pytest.FixtureRequest, _maxact_named: Named) -> Task | None:
    """The session's task, or the marker's; None where no checkpoint was named."""
    from pytest_maxact.session import Session, told_in_a_line

    with told_in_a_line():
        settings = _settings(request.config, _maxact_named)
    return None if settings.model is None else Session.of(request.config).task(settings)


@pytest.fixture(scope="session")
def maxact_model(_maxact_task: Task | None) -> Any:
    """The model to be measured, and its tokenizer: `model, tokenizer = maxact_model`. Override it to hand over your own."""
    if _maxact_task is None:
        pytest.skip("no checkpoint was named: add --maxact-model=ID, or override the fixture maxact_model")
    _maxact_task.planned()  # what is wrong with its name is told now
    return ModelUnderTest(_maxact_task)


@pytest.fixture(scope="session")
def maxact_corpus(request: pytest.FixtureRequest, _maxact_task: Task | None, _maxact_named: Named) -> Any:
    """The corpus to be run through the model. Override it to hand over one of your own, or the name of one."""
    from pytest_maxact.plan import corpus_of
    from pytest_maxact.session import told_in_a_line

    if _maxact_task is not None:
        return _maxact_task.planned().corpus
    with told_in_a_line():
        return corpus_of(_settings(request.config, _maxact_named))


@pytest.fixture(scope="session")
def maxact_measurement(
    request: pytest.FixtureRequest, maxact_model: Any, maxact_corpus: Any, _maxact_task: Task | None, _maxact_named: Named
) -> Measurement:
    """The `Measurement`: made once, by whichever test of whichever worker needs it first."""
    from torch import nn

    from pytest_maxact.checkpoint import Checkpoint
    from pytest_maxact.plan import beside_policies
    from pytest_maxact.progress import progress_of
    from pytest_maxact.runner import measure
    from pytest_maxact.session import told_in_a_line
    from pytest_maxact.settings import Settings

    if isinstance(maxact_model, ModelUnderTest):
        assert _maxact_task is not None
        if maxact_corpus is _maxact_task.planned().corpus:
            return _maxact_task.measured("maxact_measurement")[0]
        maxact_model = maxact_model.checkpoint
    elif _maxact_named.model is not None:
        pytest.fail("the marker maxact names a model, and maxact_model is overridden here: drop one of them", pytrace=False)
    model, tokenizer = maxact_model if isinstance(maxact_model, tuple) else (maxact_model, None)
    if not isinstance(model, (nn.Module, Checkpoint)):
        pytest.fail(f"maxact_model gave {type(model).__name__}: give a module, or a module and its tokenizer", pytrace=False)
    with told_in_a_line():
        settings = Settings.from_pytest(request.config)
        progress = progress_of(request.config, type(model).__name__)
        progress.stage("measuring")

        def measure_under(policy: str) -> Measurement:
            return measure(
                model,
                tokenizer,
                maxact_corpus,
                max_length=settings.max_length,
                special_tokens=cast(Any, policy),
                batch_tokens=settings.batch_tokens,
                text=not settings.no_text,
                progress=progress.tokens,
            )

        return beside_policies(measure_under(settings.special_tokens), settings.compared_policies, measure_under)


@pytest.fixture(scope="session")
def maxact_baseline(
    request: pytest.FixtureRequest, maxact_measurement: Measurement, maxact_model: Any, _maxact_task: Task | None
) -> Baseline:
    """The `Baseline` to compare with; skips under `--maxact-baseline=none`, fails where there is none yet."""
    from pytest_maxact.baseline import look_up
    from pytest_maxact.session import told_in_a_line
    from pytest_maxact.settings import Settings
    from pytest_maxact.visible import visible

    how = "in Python, with Baseline.of(record).save(FILE)"
    if _maxact_task is not None and isinstance(maxact_model, ModelUnderTest):
        stored, result = _maxact_task.planned().stored, _maxact_task.measured("maxact_baseline")[1]
        if result.baseline is None and result.unwanted is not None:
            pytest.skip(result.unwanted)
        baseline = result.baseline
        how = f"with pytest --maxact-model={_maxact_task.settings.model} --maxact-update, or {how}"
    else:
        with told_in_a_line():
            settings = Settings.from_pytest(request.config)
            stored = look_up(settings.baseline, maxact_measurement.model.id, settings.baselines)
            baseline = stored.baseline
    if not stored.wanted and baseline is None:
        pytest.skip("no baseline is wanted: --maxact-baseline=none")
    if baseline is None:
        model = maxact_measurement.model.id
        pytest.fail(visible(f"no baseline for {model}: looked for {stored.target}; write it {how}"), pytrace=False)
    return baseline
