"""A training run is watched by a callback: its figures must reach every tracker, and nothing of the run may change."""

from __future__ import annotations

import itertools
import logging
import math
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

import pytest_maxact
from pytest_maxact.callback import MaxactCallback, _for_all
from pytest_maxact.checkpoint import fetch, find, load
from pytest_maxact.checks.verdict import Tolerance
from pytest_maxact.corpus import Corpus, Sample, load_corpus
from pytest_maxact.errors import CorpusError, SettingsError
from pytest_maxact.record import Measurement
from pytest_maxact.runner import measure
from tests.conftest import SIZES, breaks, replace_forward

# Options of transformers by the names that 5.0 knows.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")

Log = list[tuple[int, dict[str, float]]]
FIGURES = {
    *("maxact/M", "maxact/nonfinite", "maxact/sun_margin", "maxact/seconds", "maxact/growth"),
    *("maxact/embedding", "maxact/attention", "maxact/gate", "maxact/mlp", "maxact/hidden", "maxact/final_norm"),
}
SPIKE = 20


class Tracker(TrainerCallback):  # type: ignore[misc]
    """Keeps what a tracker is sent."""

    def __init__(self) -> None:
        self.log: Log = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep an entry."""
        self.log.append((state.global_step, dict(logs)))


class Run:
    """Makes Trainers of one kind: a tiny Llama with dropout on made-up data."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.folder = folder
        self.tokenizer = tokenizer

    def trainer(
        self, *callbacks: TrainerCallback, seed: int = 0, rate: Callable[[int], float] = lambda step: 1.0, **kwargs: Any
    ) -> Any:
        """A Trainer that is ready to train; `rate` is the factor of the learning rate by step."""
        set_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.2, tie_word_embeddings=True))
        ids = torch.randint(3, SIZES["vocab_size"], (64, 24), generator=torch.Generator().manual_seed(seed))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        options: dict[str, Any] = {"max_steps": 20, "logging_steps": 4, "save_strategy": "no"}
        arguments = TrainingArguments(
            str(self.folder),
            per_device_train_batch_size=4,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            dataloader_pin_memory=False,
            **options | kwargs,
        )
        return Trainer(
            model,
            arguments,
            train_dataset=[{"input_ids": row, "labels": row} for row in ids],
            data_collator=default_data_collator,
            processing_class=self.tokenizer,
            callbacks=list(callbacks),
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)),
        )


@pytest.fixture
def run(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Run:
    return Run(tmp_path / "out", tokenizer)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Few and short samples: a measurement takes milliseconds."""
    samples = load_corpus("smoke").first(2).samples
    return Corpus("two", tuple(Sample(s.id, s.category, (s.text or "")[:80], None) for s in samples))


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the callback's logger says."""
    with caplog.at_level(logging.WARNING, logger="pytest_maxact.callback"):
        yield caplog


def own(trainer: Any) -> list[dict[str, float]]:
    """The callback's entries in the Trainer's log."""
    return [entry for entry in trainer.state.log_history if "maxact/M" in entry]


def losses(trainer: Any) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def words(told: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in told.records if record.name == "pytest_maxact.callback"]


def spiked(step: int) -> float:
    """A learning rate that is, for one step, a thousand times what was meant."""
    return 1000.0 if step == SPIKE else 1.0


# --- What is logged and written.


def test_figures_are_in_the_log_and_reach_trackers_before_and_after_the_callback(run: Run, corpus: Corpus) -> None:
    early, late = Tracker(), Tracker()
    trainer = run.trainer(early, MaxactCallback(every=8, corpus=corpus), late)
    trainer.train()
    entries = own(trainer)
    assert [entry["step"] for entry in entries] == [0, 8, 16, 20]
    assert [step for step, _ in losses(trainer)] == [4, 8, 12, 16, 20]
    assert entries[0].keys() == FIGURES - {"maxact/growth"} | {"epoch", "step"}
    for before, after in itertools.pairwise(entries):
        assert after.keys() == FIGURES | {"epoch", "step"}
        assert after["maxact/growth"] == after["maxact/M"] / before["maxact/M"]
    sent = [(entry["step"], {name: figure for name, figure in entry.items() if name != "step"}) for entry in entries]
    for tracker in (early, late):
        assert [(step, logs) for step, logs in tracker.log if "maxact/M" in logs] == sent


def test_records_lie_beside_the_checkpoints_and_say_what_measuring_those_says(run: Run, corpus: Corpus) -> None:
    trainer = run.trainer(MaxactCallback(every=5, corpus=corpus), save_strategy="steps", save_steps=10)
    trainer.train()
    folder = run.folder / "maxact"
    assert {path.name for path in folder.iterdir()} == {
        f"checkpoint-{step}.{kind}" for step in (0, 5, 10, 15, 20) for kind in ("json", "npz")
    }
    record = Measurement.load(folder / "checkpoint-10.json")
    saved = fetch(find(str(run.folder / "checkpoint-10")))
    again = measure(load(saved), corpus=corpus)
    assert (record.model.id, record.model.fingerprint) == ("checkpoint-10", saved.fingerprint)
    assert (record.peak, record.sites, record.corpus) == (again.peak, again.sites, again.corpus)
    assert record.hidden_peaks.tolist() == again.hidden_peaks.tolist()
    assert Measurement.load(folder / "checkpoint-5.json").model.fingerprint is None
    assert [entry["maxact/M"] for entry in own(trainer)][2] == record.peak.value  # type: ignore[union-attr]


def test_another_folder_and_the_last_step(run: Run, corpus: Corpus, tmp_path: Path) -> None:
    trainer = run.trainer(MaxactCallback(every=100, corpus=corpus, folder=tmp_path / "a" / "b"), max_steps=3)
    trainer.train()
    assert [entry["step"] for entry in own(trainer)] == [0, 3]
    assert len(list((tmp_path / "a" / "b").glob("*.json"))) == 2
    assert not (run.folder / "maxact").exists()


def test_records_hold_no_text_where_none_is_wanted(run: Run, corpus: Corpus) -> None:
    run.trainer(MaxactCallback(every=100, corpus=corpus, text=False), max_steps=1).train()
    for file in (run.folder / "maxact").iterdir():
        record = Measurement.load(file)
        assert record.peak is not None
        assert (record.peak.token, record.peak.token_id) == (None, None)
        assert [sample.id for sample in record.samples] == ["0", "1"]
    assert {file.name for file in (run.folder / "maxact").iterdir()} == {"checkpoint-0.json", "checkpoint-1.json"}


def test_the_figures_are_those_of_the_record(run: Run, corpus: Corpus) -> None:
    trainer = run.trainer(MaxactCallback(every=100, corpus=corpus), max_steps=2)
    trainer.train()
    record = Measurement.load(run.folder / "maxact" / "checkpoint-2.json")
    entry = own(trainer)[-1]
    assert record.sun is not None
    assert entry["maxact/sun_margin"] == record.sun.margin
    for component in ("embedding", "attention", "gate", "mlp", "hidden", "final_norm"):
        assert entry[f"maxact/{component}"] == max(site.value for site in record.sites if site.component == component)
    assert entry["maxact/seconds"] > record.timing.seconds


# --- What is not changed.


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (0, {}),
        (1, {"gradient_accumulation_steps": 2}),
        (2, {"gradient_checkpointing": True}),
        (3, {"bf16": True}),
        (4, {"neftune_noise_alpha": 5.0}),
    ],
)
def test_losses_and_weights_are_to_the_bit_those_of_a_run_without_it(
    run: Run, corpus: Corpus, seed: int, options: dict[str, Any]
) -> None:
    options = {"logging_steps": 1, "max_steps": 12} | options
    plain = run.trainer(seed=seed, **options)
    plain.train()
    watched = run.trainer(MaxactCallback(every=3, corpus=corpus), seed=seed, **options)
    watched.train()
    assert len(own(watched)) == 5
    assert len(losses(plain)) == 12
    assert losses(plain) == losses(watched)
    for one, other in zip(plain.model.state_dict().values(), watched.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


# --- Growth.


def test_a_healthy_run_is_left_alone(run: Run, corpus: Corpus, told: pytest.LogCaptureFixture) -> None:
    trainer = run.trainer(MaxactCallback(every=4, corpus=corpus, on_growth="stop"), max_steps=40)
    trainer.train()
    assert trainer.state.global_step == 40
    assert words(told) == []


@pytest.mark.parametrize("on_growth", ["warn", "stop"])
def test_a_learning_rate_spike_is_told_or_stops_the_run(
    run: Run, corpus: Corpus, told: pytest.LogCaptureFixture, on_growth: Any
) -> None:
    trainer = run.trainer(MaxactCallback(every=4, corpus=corpus, on_growth=on_growth), rate=spiked, max_steps=40)
    trainer.train()
    first = words(told)[0]
    assert first.startswith("maxact: step 24: ")
    if on_growth == "warn":
        assert trainer.state.global_step == 40
    else:
        assert trainer.state.global_step == 24
        assert first.endswith("training stops here, as on_growth='stop' asks")
        assert own(trainer)[-1]["step"] == 24
        assert not list(run.folder.glob("checkpoint-*"))
    assert [entry["maxact/growth"] > 2 for entry in own(trainer)[1:7]] == [False] * 5 + [True]


def test_the_tolerance_is_the_users(run: Run, corpus: Corpus, told: pytest.LogCaptureFixture) -> None:
    callback = MaxactCallback(every=4, corpus=corpus, on_growth="stop", tolerance=Tolerance(growth=1e9))
    trainer = run.trainer(callback, rate=spiked, max_steps=28)
    trainer.train()
    assert trainer.state.global_step == 28
    assert words(told) == []


def test_what_stays_wrong_is_told_in_full_once(run: Run, corpus: Corpus, told: pytest.LogCaptureFixture) -> None:
    run.trainer(MaxactCallback(every=4, corpus=corpus), rate=spiked, max_steps=28).train()
    assert ["\n" in text for text in words(told)] == [True, False]


@pytest.mark.parametrize(
    ("name", "spread", "warmup", "steps"),
    [
        ("base", 1.2, 0, [4, 8]),
        ("base", 1.2, 8, [4, 8]),
        ("", 1.0, 0, [8]),
        ("", 1.0, 8, []),
        ("base", 1.0, 8, []),  # a new model of a trained one's config
    ],
)
def test_fresh_weights_and_their_warm_up_predict_nothing(
    run: Run, corpus: Corpus, told: pytest.LogCaptureFixture, name: str, spread: float, warmup: int, steps: list[int]
) -> None:
    trainer = run.trainer(
        MaxactCallback(every=4, corpus=corpus),
        max_steps=8,
        warmup_steps=warmup,
        rate=lambda step: 300.0 if step in (1, 5) else 1.0,
    )
    trainer.model.name_or_path = name
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(spread)
    trainer.train()
    assert [text.split(":")[1] for text in words(told)] == [f" step {step}" for step in steps]


def test_figures_that_are_not_finite_are_counted_and_not_logged(
    run: Run, corpus: Corpus, told: pytest.LogCaptureFixture
) -> None:
    callback = MaxactCallback(every=2, corpus=corpus, on_growth="stop")
    trainer = run.trainer(callback, rate=lambda step: math.nan, warmup_steps=10)
    trainer.train()
    assert trainer.state.global_step == 2
    assert words(told)[0].startswith("maxact: step 2: no site holds a finite value")
    assert words(told)[1].startswith("maxact: step 2: first NaN: embedding, feature 0, token '")
    last = [entry for entry in trainer.state.log_history if "maxact/seconds" in entry][-1]
    assert last["maxact/nonfinite"] > 0
    assert not {"maxact/M", "maxact/hidden", "maxact/growth"} & last.keys()


# --- Resuming.


@pytest.fixture
def interrupted(run: Run, corpus: Corpus) -> str:
    """A run's checkpoint of step 12, which the run went beyond before it was given up."""
    run.trainer(MaxactCallback(every=4, corpus=corpus), save_strategy="steps", save_steps=12).train()
    return str(run.folder / "checkpoint-12")


def test_a_resumed_run_goes_on_as_if_it_had_never_been_interrupted(
    run: Run, corpus: Corpus, interrupted: str, told: pytest.LogCaptureFixture
) -> None:
    whole = run.trainer(MaxactCallback(every=4, corpus=corpus, folder=run.folder / "whole"))
    whole.train()
    resumed = run.trainer(MaxactCallback(every=4, corpus=corpus))
    resumed.train(resume_from_checkpoint=interrupted)
    assert words(told) == []
    without_time = [
        [{name: figure for name, figure in entry.items() if name != "maxact/seconds"} for entry in own(trainer)]
        for trainer in (whole, resumed)
    ]
    assert without_time[0] == without_time[1]
    assert losses(whole) == losses(resumed)


def test_a_blow_up_after_resuming_is_judged_by_the_records_from_before(
    run: Run, corpus: Corpus, interrupted: str, told: pytest.LogCaptureFixture
) -> None:
    trainer = run.trainer(
        MaxactCallback(every=4, corpus=corpus, on_growth="stop"), rate=lambda step: 1000.0 if step == 13 else 1
    )
    trainer.train(resume_from_checkpoint=interrupted)
    assert trainer.state.global_step == 16
    assert len(words(told)) == 1


def test_a_broken_record_is_told_and_left_out(
    run: Run, corpus: Corpus, interrupted: str, told: pytest.LogCaptureFixture
) -> None:
    (run.folder / "maxact" / "checkpoint-12.json").write_text("{")
    (run.folder / "maxact" / "checkpoint-4.json").unlink()
    trainer = run.trainer(MaxactCallback(every=4, corpus=corpus))
    trainer.train(resume_from_checkpoint=interrupted)
    assert len(words(told)) == 2
    assert words(told)[0].startswith("maxact: growth is judged without step 4: no such record file: ")
    assert words(told)[1].startswith("maxact: growth is judged without step 12: the record file ")
    entries = {entry["step"]: entry for entry in own(trainer)}
    assert entries[16]["maxact/growth"] == entries[16]["maxact/M"] / entries[8]["maxact/M"]


def test_records_of_another_corpus_do_not_judge(
    run: Run, interrupted: str, corpus: Corpus, told: pytest.LogCaptureFixture
) -> None:
    trainer = run.trainer(MaxactCallback(every=4, corpus=corpus.first(1)))
    trainer.train(resume_from_checkpoint=interrupted)
    assert len(words(told)) == 1
    assert words(told)[0].startswith("maxact: growth is judged anew from step 16 on: ")
    assert ["maxact/growth" in entry for entry in own(trainer)] == [False, True, True, True, False, True]


def test_a_new_run_knows_nothing_of_the_records_in_its_folder(run: Run, corpus: Corpus, interrupted: str) -> None:
    trainer = run.trainer(MaxactCallback(every=4, corpus=corpus), seed=1, max_steps=4)
    trainer.train()
    assert ["maxact/growth" in entry for entry in own(trainer)] == [False, True]


# --- Several processes.


def vote(rank: int, folder: Path, answers: Any) -> None:
    """One of two processes, of which only the main one saw the check fail."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    answers.put(_for_all(rank == 0, SimpleNamespace(device="cpu")))
    answers.put(_for_all(False, SimpleNamespace(device="cpu")))
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_all_processes_learn_what_the_main_one_found(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=vote, args=(rank, tmp_path, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in range(4)]
    for process in processes:
        process.join(60)
    assert sorted(found) == [False, False, True, True]


def test_only_the_main_process_measures(run: Run, corpus: Corpus) -> None:
    callback = MaxactCallback(every=1, corpus=corpus)
    trainer = run.trainer()
    trainer.state.is_world_process_zero = False
    callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model, processing_class=run.tokenizer)
    assert trainer.state.log_history == []
    assert not run.folder.joinpath("maxact").exists()
    trainer.state.is_world_process_zero = True
    callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model, processing_class=run.tokenizer)
    assert len(own(trainer)) == 1


# --- What fails.


def test_a_measurement_that_fails_is_told_once_and_training_goes_on(
    run: Run, corpus: Corpus, told: pytest.LogCaptureFixture
) -> None:
    trainer = run.trainer(MaxactCallback(every=4, corpus=corpus, on_growth="stop"))
    trainer.processing_class = trainer.callback_handler.processing_class = None
    trainer.train()
    assert trainer.state.global_step == 20
    assert own(trainer) == []
    assert len(words(told)) == 1
    assert words(told)[0].startswith("maxact: nothing was measured at step 0, and training goes on")
    assert "tokenizer" in words(told)[0]


def test_a_model_that_breaks_only_under_measurement_goes_on_training(
    run: Run, corpus: Corpus, told: pytest.LogCaptureFixture
) -> None:
    trainer = run.trainer(MaxactCallback(every=4, corpus=corpus))
    mlp: nn.Module = trainer.model.model.layers[1].mlp
    working = mlp.forward
    replace_forward(mlp, lambda *args: working(*args) if mlp.training else breaks())
    trainer.train()
    assert len(losses(trainer)) == 5
    assert [text.endswith("RuntimeError: broken on purpose") for text in words(told)] == [True]


def test_records_that_cannot_be_written_are_told_and_the_figures_still_logged(
    run: Run, corpus: Corpus, told: pytest.LogCaptureFixture
) -> None:
    callback = MaxactCallback(every=10, corpus=corpus)
    run.folder.mkdir()
    (run.folder / "maxact").write_text("a file is in the way")
    trainer = run.trainer(callback)
    trainer.train()
    assert [entry["step"] for entry in own(trainer)] == [0, 10, 20]
    assert len(words(told)) == 1
    assert words(told)[0].startswith("maxact: the record of step 0 could not be written, and training goes on")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, r"every=0 is no number of steps: give a whole number from 1"),
        ({"every": 0.5}, r"every=0\.5 is no number of steps"),
        ({"every": True}, r"every=True is no number of steps"),
        ({"every": 5, "on_growth": "halt"}, r"on_growth='halt' is neither 'warn' nor 'stop'"),
        ({"every": 5, "tolerance": 2.0}, r"tolerance=2\.0 is no Tolerance: give Tolerance\(growth=3\.0\)"),
        ({"every": 5, "folder": __file__}, r"folder='.*test_callback\.py' is a file: name a folder"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        MaxactCallback(**arguments)


def test_a_corpus_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(CorpusError, match="smok"):
        MaxactCallback(every=5, corpus="smok")


def test_the_callback_is_a_name_of_the_package() -> None:
    assert pytest_maxact.MaxactCallback is MaxactCallback
