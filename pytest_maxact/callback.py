"""In the training loop: a callback of transformers' Trainer that measures the model, logs, keeps records and judges growth."""

from __future__ import annotations

import inspect
import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from pytest_maxact.adapters import is_adapter
from pytest_maxact.checkpoint import fetch, find
from pytest_maxact.checks import growth
from pytest_maxact.checks.verdict import Tolerance
from pytest_maxact.corpus import Corpus, load_corpus
from pytest_maxact.errors import MaxactError, SettingsError, first_line
from pytest_maxact.history import RECORDS, Point
from pytest_maxact.record import Measurement
from pytest_maxact.runner import measure
from pytest_maxact.wording import first_fault

OnGrowth = Literal["warn", "stop"]
MATRICES = 32  # looked at to tell whether a model is trained
PAUSE = "maxact/seconds"  # in every entry that this callback logs

logger = logging.getLogger(__name__)


class MaxactCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed throughout
    """Measure M and every site while transformers' `Trainer` trains, and say so when they run away.

    Measured is before the first step, after every `every` steps and after the last one, by the main process, in the weights'
    own dtype and outside of autocast. Losses are to the bit what they are without the callback.

    Each measurement is logged as the Trainer's own figures are, to `state.log_history` and to every tracker: `maxact/M`, that
    of arXiv 2605.15572; the largest peak of each component, as `maxact/hidden`; `maxact/growth`, M over that of the measurement
    before; `maxact/sun_margin`; `maxact/nonfinite`, how many NaN and infinities there were at sites that are part of M; and
    `maxact/seconds`, by which training was held up. What is not finite is not logged. Its record is written as
    `checkpoint-<step>.json`, as the Trainer names the checkpoint of that step, and bears the fingerprint of that one where it
    is saved.

    Each measurement is judged by the check `growth` against those before it, also those of the run that is resumed. What a
    trained model came with is the first of them. Fresh weights predict nothing, nor does a fresh model's warm-up: there only
    NaN and infinities are judged. A measurement that breaks is told once and never ends the training.

    Args:
        every: optimizer steps from one measurement to the next.
        corpus: a corpus, or the name of one (see `load_corpus`).
        tokenizer: the model's tokenizer; the Trainer's `processing_class` by default.
        on_growth: what comes of a failed check: `warn` tells it in the log, `stop` also ends the training, after that step and
            without a save of its own: under `save_total_limit` it could cost the last good checkpoint.
        folder: where the records go; `maxact` in the Trainer's `output_dir` by default.
        tolerance: how much growth is accepted.
        text: whether records may hold tokens and texts, and the samples' own ids; see `measure`.

    Raises:
        SettingsError: where an argument cannot be used.
        CorpusError: where the corpus cannot be found or read.

    """

    def __init__(
        self,
        every: int,
        corpus: str | Corpus = "smoke",
        tokenizer: Any = None,
        on_growth: OnGrowth = "warn",
        folder: str | Path | None = None,
        tolerance: Tolerance = Tolerance(),  # noqa: B008 - immutable
        text: bool = True,
    ) -> None:
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise SettingsError(f"every={every!r} is no number of steps: give a whole number from 1, such as every=100")
        if on_growth not in get_args(OnGrowth):
            raise SettingsError(f"on_growth={on_growth!r} is neither 'warn' nor 'stop'")
        if not isinstance(tolerance, Tolerance):
            raise SettingsError(f"tolerance={tolerance!r} is no Tolerance: give Tolerance(growth=3.0), for example")
        if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
            raise SettingsError(f"folder={str(folder)!r} is a file: name a folder for the records")
        if folder is not None and ".." in Path(folder).parts:
            raise SettingsError(f"folder={str(folder)!r} has a .. in it: give the plain path, {str(Path(folder).resolve())!r}")
        self.every = every
        self.corpus = load_corpus(corpus, text=text) if isinstance(corpus, str) else corpus
        self.tokenizer = tokenizer
        self.on_growth = on_growth
        self.folder = None if folder is None else Path(folder)
        self.tolerance = tolerance
        self.text = text
        self._history: list[Point] = []
        self._settled = 0  # the step from which on values predict the next ones
        self._conditions: tuple[object, ...] | None = None
        self._told: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Read back what the resumed run measured, and measure what training starts from."""
        self._history, self._conditions = [], None
        self._told.clear()
        self._settled = max(1, args.get_warmup_steps(state.max_steps)) if _is_fresh(kwargs["model"]) else 0
        # The log came back with the run that is resumed; the folder may also hold records of runs that were given up.
        steps = [entry["step"] for entry in state.log_history if PAUSE in entry]
        if state.is_world_process_zero:
            self._read_back(self._folder(args), steps)
        return control if state.global_step in steps else self._observe(args, state, control, **kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Measure where it is time to."""
        due = state.global_step % self.every == 0 or state.global_step >= state.max_steps
        return self._observe(args, state, control, **kwargs) if due else control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the saved checkpoint's fingerprint into the record of its step; adapters and sharded states have none."""
        if not self._history or self._history[-1].step != state.global_step:
            return
        label = _label(state.global_step)
        path, saved = self._folder(args) / f"{label}.json", Path(args.output_dir, label)
        if is_adapter(saved):  # its base model would be read again at each save
            return
        try:
            fingerprint = fetch(find(str(saved))).fingerprint
            record = Measurement.load(path)
            model = record.model.model_copy(update={"fingerprint": fingerprint})
            record.model_copy(update={"model": model}).save(path)
        except (MaxactError, OSError) as cause:
            logger.info("maxact: the record %s goes without a fingerprint: %s", path, first_line(cause))

    def _observe(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> TrainerControl:
        """Measure, keep, log and judge."""
        failed = False
        if state.is_world_process_zero:
            start = time.perf_counter()
            record = self._measure(model, self.tokenizer or processing_class, state.global_step)
            if record is not None:
                self._keep(record, self._folder(args), state.global_step)
                point = self._point(record, state.global_step)
                figures = _figures(record, point, self._history[-1] if self._history else None)
                control = _log(figures | {PAUSE: time.perf_counter() - start}, args, state, control)
                failed = self._judge(point)
                if record.first_fault is not None:
                    logger.warning("maxact: step %d: %s", state.global_step, first_fault(record.first_fault))
                self._history.append(point)
        if self.on_growth == "stop" and _for_all(failed, args):
            control.should_training_stop = True
        return control

    def _measure(self, model: nn.Module, tokenizer: Any, step: int) -> Measurement | None:
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # that of a processor, which also knows images or sound
        try:
            record = measure(model, tokenizer, self.corpus, text=self.text)
        except Exception as cause:  # a run of days must not end because it cannot be watched
            kind = type(cause).__name__
            told = f"{kind}: {first_line(cause)}" if self.text else kind  # a tokenizer may quote what it could not read
            reason = first_line(cause) if isinstance(cause, MaxactError) else told
            self._tell_once(f"nothing was measured at step {step}, and training goes on", reason)
            return None
        return record.model_copy(update={"model": record.model.model_copy(update={"id": _label(step)})})

    def _keep(self, record: Measurement, folder: Path, step: int) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            record.save(folder / f"{_label(step)}.json")
        except OSError as cause:
            self._tell_once(f"the record of step {step} could not be written, and training goes on", first_line(cause))

    def _point(self, record: Measurement, step: int) -> Point:
        """What is judged of a record; points of other conditions, which say nothing of it, are forgotten."""
        conditions = (record.corpus.digest, record.corpus.max_length, record.model.dtype)
        if self._conditions not in (None, conditions):
            what = "the corpus, the length of its samples or the dtype is not that of the records before"
            logger.warning("maxact: growth is judged anew from step %d on: %s", step, what)
            self._history = []
        self._conditions = conditions
        return Point.of(record, _label(step), step)

    def _judge(self, point: Point) -> bool:
        """Whether the check fails; if so the log has its words, in full only where the measurement before was good."""
        history = [before if self._predicts(before) else _without_values(before) for before in self._history]
        verdict = growth.check(point, history, self.tolerance)
        if verdict.failed:
            end = "; training stops here, as on_growth='stop' asks" if self.on_growth == "stop" else ""
            logger.warning("maxact: step %d: %s%s", point.step, verdict, end)
        return verdict.failed

    def _predicts(self, point: Point) -> bool:
        return point.step is not None and point.step >= self._settled

    def _read_back(self, folder: Path, steps: list[int]) -> None:
        for step in steps:
            try:
                record = Measurement.load(folder / f"{_label(step)}.json", samples=False)
            except MaxactError as cause:
                logger.warning("maxact: growth is judged without step %d: %s", step, cause)
            else:
                self._history.append(self._point(record, step))

    def _folder(self, args: TrainingArguments) -> Path:
        return Path(args.output_dir, RECORDS) if self.folder is None else self.folder

    def _tell_once(self, what: str, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            logger.warning("maxact: %s (the same failure is not told again): %s", what, reason)


def _is_fresh(model: nn.Module) -> bool:
    """Whether a model's weights were never trained: most matrices still have the spread that they are made with.

    What `from_pretrained` gave has a name; what `from_config` gave may have its config's.
    """
    if not getattr(model, "name_or_path", ""):
        return True
    spread = getattr(getattr(model, "config", None), "initializer_range", None)
    if not spread:
        return False
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2][:MATRICES]
    same = [math.isclose(float(matrix.detach().float().std()), spread, rel_tol=0.05) for matrix in matrices]
    return 2 * sum(same) > len(same)


def _label(step: int) -> str:
    """How the Trainer names the checkpoint of a step."""
    return f"checkpoint-{step}"


def _without_values(point: Point) -> Point:
    """A point that predicts nothing, and still says where all was finite."""
    return replace(point, peak=None, m=math.nan, values=dict.fromkeys(point.values, math.nan))


def _figures(record: Measurement, point: Point, previous: Point | None) -> dict[str, float]:
    """What is logged of a measurement: only finite figures, which every tracker takes."""
    found = {"maxact/M": point.m, "maxact/nonfinite": sum(point.unfit.values())}
    for (component, _), value in point.values.items():
        if not math.isnan(value):
            found[f"maxact/{component}"] = max(value, found.get(f"maxact/{component}", 0.0))
    if previous is not None and previous.m:
        found["maxact/growth"] = point.m / previous.m
    if record.sun is not None:
        found["maxact/sun_margin"] = record.sun.margin
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _log(figures: dict[str, float], args: TrainingArguments, state: TrainerState, control: TrainerControl) -> TrainerControl:
    """An entry in the Trainer's log, and to all its trackers, as `Trainer.log` makes one.

    Not by that method, where subclasses (TRL's) empty averages of their own. Nor by adding to the Trainer's next entry, which
    the trackers it was made with have read before any other callback is called.
    """
    logs = figures | {"epoch": state.epoch}
    state.log_history.append(logs | {"step": state.global_step})
    handler = _handler()
    if handler is not None:
        due = control.should_log  # of the Trainer's own figures, which a log resets
        control = handler.on_log(args, state, control, logs)
        control.should_log = due
    return control


def _handler() -> CallbackHandler | None:
    """The handler that calls this callback, from the stack: callbacks are handed neither it nor the Trainer."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back
    return None


def _for_all(failed: bool, args: TrainingArguments) -> bool:
    """The main process's verdict in all processes: they leave the loop together, or those left in it wait for ever."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return failed
    verdict = torch.tensor(int(failed), device=args.device)
    torch.distributed.broadcast(verdict, src=0)
    return bool(verdict)
