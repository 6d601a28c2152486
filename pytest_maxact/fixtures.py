"""Fixtures for users' own tests: the session's checkpoint, corpus, measurement and baseline, or those that a marker names.

A conftest may override `maxact_model` or `maxact_corpus`; what it gives is measured then, in each worker that needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

from pytest_maxact.errors import MaxactError

if TYPE_CHECKING:
    from pytest_maxact.checkpoint import Checkpoint
    from pytest_maxact.plan import Plan
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
            pytest.fail(f"the marker maxact takes model='...' and corpus='...', not {wrong[0]}", pytrace=False)
        given = {**marker.kwargs, **given}
    if given:
        named = _named(given.get("model"), given.get("corpus"))
        metafunc.parametrize("_maxact_named", [named], indirect=True, scope="session", ids=[pytest.HIDDEN_PARAM])


class ModelUnderTest:
    """The checkpoint that was named, loaded when it is first used; `model, tokenizer = maxact_model` works."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model and tokenizer, loaded."""
        return self._plan.load()

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


@contextmanager
def _told_in_a_line() -> Iterator[None]:
    """What is wrong fails the test that asked, without a traceback."""
    try:
        yield
    except MaxactError as cause:
        pytest.fail(str(cause), pytrace=False)


def _settings(config: pytest.Config, named: Named) -> Settings:
    """The session's settings, or what a marker makes of them: it writes no file, and a model it names has its own baseline."""
    from dataclasses import replace

    from pytest_maxact.settings import Settings, from_rootdir

    settings = Settings.from_pytest(config)
    if named == Named():
        return settings
    changed: dict[str, Any] = {"json": None, "update": False, "update_new": False, "benchmark": False}
    if named.model is not None:
        changed |= {"model": from_rootdir(config, named.model), "baseline": "auto"}
    if named.corpus is not None:
        changed |= {"corpus": from_rootdir(config, named.corpus)}
    return replace(settings, **changed)


@pytest.fixture(scope="session")
def _maxact_named(request: pytest.FixtureRequest) -> Named:
    """What the test's marker names."""
    named: Named = getattr(request, "param", Named())
    return named


@pytest.fixture(scope="session")
def _maxact_task(request: pytest.FixtureRequest, _maxact_named: Named) -> Task | None:
    """The session's task, or the marker's; None where no checkpoint was named."""
    with _told_in_a_line():
        settings = _settings(request.config, _maxact_named)
        if settings.model is None:
            return None
        from pytest_maxact.session import Session

        return Session.of(request.config).task(settings)


@pytest.fixture(scope="session")
def maxact_model(_maxact_task: Task | None) -> Any:
    """The model to be measured, and its tokenizer: `model, tokenizer = maxact_model`. Override it to hand over your own."""
    if _maxact_task is None:
        pytest.skip("no checkpoint was named: add --maxact-model=ID, or override the fixture maxact_model")
    return ModelUnderTest(_maxact_task.planned())


@pytest.fixture(scope="session")
def maxact_corpus(request: pytest.FixtureRequest, _maxact_task: Task | None, _maxact_named: Named) -> Any:
    """The corpus to be run through the model. Override it to hand over one of your own, or the name of one."""
    from pytest_maxact.plan import corpus_of

    if _maxact_task is not None:
        return _maxact_task.planned().corpus
    with _told_in_a_line():
        return corpus_of(_settings(request.config, _maxact_named))


@pytest.fixture(scope="session")
def maxact_measurement(
    request: pytest.FixtureRequest, maxact_model: Any, maxact_corpus: Any, _maxact_task: Task | None, _maxact_named: Named
) -> Measurement:
    """The `Measurement`: made once, by whichever test of whichever worker needs it first."""
    from pytest_maxact.progress import progress_of
    from pytest_maxact.runner import measure
    from pytest_maxact.settings import Settings

    if isinstance(maxact_model, ModelUnderTest):
        assert _maxact_task is not None
        if maxact_corpus is _maxact_task.planned().corpus:
            return _maxact_task.measured("maxact_measurement")[0]
        maxact_model = maxact_model.checkpoint
    elif _maxact_named.model is not None:
        pytest.fail("the marker maxact names a model, and maxact_model is overridden here: drop one of them", pytrace=False)
    model, tokenizer = maxact_model if isinstance(maxact_model, tuple) else (maxact_model, None)
    with _told_in_a_line():
        settings = Settings.from_pytest(request.config)
        progress = progress_of(request.config, type(model).__name__)
        progress.stage("measuring")
        return measure(
            model,
            tokenizer,
            maxact_corpus,
            max_length=settings.max_length,
            special_tokens=cast(Any, settings.special_tokens),
            batch_tokens=settings.batch_tokens,
            progress=progress.tokens,
        )


@pytest.fixture(scope="session")
def maxact_baseline(
    request: pytest.FixtureRequest, maxact_measurement: Measurement, maxact_model: Any, _maxact_task: Task | None
) -> Baseline:
    """The `Baseline` to compare with; skips under `--maxact-baseline=none`, fails where there is none yet."""
    from pytest_maxact.baseline import look_up
    from pytest_maxact.settings import Settings

    with _told_in_a_line():
        if _maxact_task is not None and isinstance(maxact_model, ModelUnderTest):
            stored = _maxact_task.planned().stored
        else:
            settings = Settings.from_pytest(request.config)
            stored = look_up(settings.baseline, maxact_measurement.model.id, settings.baselines)
    if not stored.wanted:
        pytest.skip("no baseline is wanted: --maxact-baseline=none")
    if stored.baseline is None:
        pytest.fail(
            f"no baseline for {maxact_measurement.model.id}: looked for {stored.target}; write it with --maxact-update, or in "
            f"Python with Baseline.of(record).save({str(stored.target)!r})",
            pytrace=False,
        )
    return stored.baseline
