"""Ranks find one another, share the work, and never wait for one that is gone."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]
from transformers import PreTrainedTokenizerFast

from pytest_maxact import forwards
from pytest_maxact import ranks as module
from pytest_maxact.batching import Batch
from pytest_maxact.checkpoint import Checkpoint, find, load
from pytest_maxact.corpus import Corpus, load_corpus
from pytest_maxact.errors import MeasurementError, SettingsError
from pytest_maxact.launch import PORTS, Place
from pytest_maxact.observer import Observer
from pytest_maxact.ranks import Ranks
from pytest_maxact.record import Measurement
from pytest_maxact.runner import assist, measure
from pytest_maxact.snapshot import Piece
from tests.image_text import llava

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29400"}
SRUN = {
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "2",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_JOB_ID": "70123",
}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, None),
        (TORCHRUN, Place(3, 8, 1, "node1", 29400)),
        (TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({name: value for name, value in TORCHRUN.items() if name != "LOCAL_RANK"}, None),  # of a cluster's scheduler
        (SRUN, Place(2, 4, 2, "127.0.0.1", PORTS[123])),
        (SRUN | {"SLURM_STEP_NUM_NODES": "2", "MASTER_ADDR": "n7", "MASTER_PORT": "5"}, Place(2, 4, 2, "n7", 5)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, None),  # the script around srun
    ],
)
def test_a_process_knows_its_place(environ: dict[str, str], place: Place | None) -> None:
    assert Place.find(environ) == place


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (TORCHRUN | {"RANK": "first"}, "RANK='first' is no number: start the ranks with torchrun"),
        (TORCHRUN | {"WORLD_SIZE": "many"}, "WORLD_SIZE='many' is no number"),
        (TORCHRUN | {"MASTER_PORT": "x"}, "MASTER_PORT='x' is no number"),
        (TORCHRUN | {"MASTER_PORT": "0"}, "MASTER_PORT=0 is no port to meet at"),
        (SRUN | {"SLURM_STEP_NUM_NODES": "2"}, "do not know where to meet: export MASTER_ADDR=HOST"),
    ],
)
def test_a_place_that_cannot_be_told_is_an_error(environ: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Place.find(environ)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(module, "LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(module, "LOST_AFTER_SECONDS", 2.0)


@pytest.fixture
def together(quick: None) -> Callable[..., list[Any]]:
    """Run a function a rank, each in its thread; what each gave, or raised."""

    def run(*parts: Callable[[Ranks], Any]) -> list[Any]:
        store, found = HashStore(), [None] * len(parts)

        def one(rank: int) -> None:
            ranks = Ranks(Place(rank, len(parts), rank, "", 0), store)
            try:
                found[rank] = parts[rank](ranks)
            except MeasurementError as cause:
                found[rank] = cause  # type: ignore[call-overload]
            finally:
                ranks._over.set()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(parts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a rank hangs"
        return found

    return run


def test_each_piece_is_dealt_to_one_rank(together: Callable[..., list[Any]]) -> None:
    pieces = [Piece(number, 0, 3) for number in range(8)]
    dealt = together(lambda ranks: ranks.deal(pieces), *[lambda ranks: ranks.deal()] * 2)
    assert sorted(piece for share in dealt for piece in share) == pieces
    assert [len(share) for share in dealt] == [3, 3, 2]


def test_what_is_handed_in_arrives_whole(together: Callable[..., list[Any]]) -> None:
    large = random.Random(0).randbytes(9_000_000)  # more than the store takes in one value
    given = together(
        lambda ranks: dict(ranks.handed_in(lambda: None)),
        lambda ranks: ranks.hand_in(large),
        lambda ranks: ranks.hand_in(b""),
    )
    assert given[0] == {1: large, 2: b""}


def test_orders_are_followed_until_rank_0_leaves(together: Callable[..., list[Any]]) -> None:
    def command(ranks: Ranks) -> None:
        ranks.order({"model": "a"})
        ranks.order({"model": "b"})
        ranks.leave()

    assert together(command, lambda ranks: list(ranks.orders()))[1] == [{"model": "a"}, {"model": "b"}]


def test_a_rank_that_is_gone_is_missed(together: Callable[..., list[Any]]) -> None:
    start = time.monotonic()

    def go(ranks: Ranks) -> None:
        time.sleep(0.5)  # seen once
        ranks._over.set()

    def stay(ranks: Ranks) -> None:
        ranks.hand_in(b"x")
        time.sleep(4)

    first, _, _ = together(lambda ranks: list(ranks.handed_in(lambda: None)), go, stay)
    assert str(first).startswith("rank 1 of 3 is gone: nothing was heard of it for 2 s")
    assert time.monotonic() - start < 30


def test_the_others_miss_rank_0(together: Callable[..., list[Any]]) -> None:
    def go(ranks: Ranks) -> None:
        time.sleep(0.5)
        ranks._over.set()

    _, second = together(go, lambda ranks: ranks.deal())
    assert str(second).startswith("rank 0 of 2 is gone")


def test_an_error_of_one_rank_ends_all(together: Callable[..., list[Any]]) -> None:
    def fails(ranks: Ranks) -> None:
        time.sleep(0.2)
        ranks.fail("its disk is full")

    def commands(ranks: Ranks) -> None:
        try:
            dict(ranks.handed_in(lambda: None))
        except MeasurementError as cause:
            ranks.fail(str(cause))
            ranks.leave()
            raise

    first, _, third = together(commands, fails, lambda ranks: ranks.deal())
    assert str(first) == "rank 1: its disk is full"
    assert str(third) == "rank 0: rank 1: its disk is full"


def test_a_rank_that_failed_stays_until_rank_0_has_left(together: Callable[..., list[Any]]) -> None:
    def fails(ranks: Ranks) -> float:
        ranks.fail("its disk is full")
        return time.monotonic()

    def reports(ranks: Ranks) -> float:
        with pytest.raises(MeasurementError, match="its disk is full"):
            dict(ranks.handed_in(lambda: None))
        ranks.fail("rank 1: its disk is full")
        with pytest.raises(MeasurementError, match="ended with an earlier checkpoint: rank 1: its disk is full"):
            ranks.order({"model": "the next one"})
        time.sleep(1.5)  # other tests, the summary
        before = time.monotonic()
        ranks.leave()
        return before

    left, gone = together(reports, fails)
    assert gone >= left


def test_ranks_that_would_measure_something_else_are_refused(together: Callable[..., list[Any]]) -> None:
    first, second = together(lambda ranks: ranks.agree_on({"device": "cpu"}), lambda ranks: ranks.agree_on({"device": "H100"}))
    assert first is None
    assert str(second) == "it would measure something else than rank 0: device H100, there cpu"


@pytest.fixture
def alone(quick: None) -> Iterator[Ranks]:
    """Rank 0 of two, of which the other one never comes."""
    ranks = Ranks(Place(0, 2, 0, "", 0), HashStore())
    yield ranks
    ranks._over.set()


def test_a_rank_that_is_told_to_stop_while_it_loads_stops_at_once(alone: Ranks) -> None:
    alone.order({"run": None})
    with alone.loading(), pytest.raises(MeasurementError, match="told to stop"):
        alone._stop(signal.SIGTERM, None)


def test_a_rank_that_is_told_to_stop_while_it_runs_says_so_where_it_looks(alone: Ranks) -> None:
    alone.order({"run": {}})
    alone._stop(signal.SIGTERM, None)
    time.sleep(0.05)
    with pytest.raises(MeasurementError, match="told to stop"):
        alone.tell(5)


def test_after_a_load_that_failed_nothing_keeps_a_rank_from_stopping(alone: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = list[int]()
    monkeypatch.setattr(os, "kill", lambda process, number: killed.append(number))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    alone.order({"run": None})
    with pytest.raises(MemoryError), alone.loading():
        raise MemoryError
    alone._stop(signal.SIGTERM, None)
    assert killed == [signal.SIGTERM]


def test_tokens_of_all_ranks_are_told(together: Callable[..., list[Any]]) -> None:
    def watch(ranks: Ranks) -> int:
        ranks.order({})
        until = time.monotonic() + 20
        while ranks.tell(30) < 42 and time.monotonic() < until:
            time.sleep(0.02)
        return ranks.tell(30)

    def work(ranks: Ranks) -> None:
        next(ranks.orders())
        ranks.tell(12)
        time.sleep(0.5)

    assert together(watch, work)[0] == 42


def test_a_device_each(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    ranks = Ranks(Place(5, 8, 1, "", 0), HashStore())
    ranks._over.set()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert [ranks.device(name) for name in ("auto", "cuda", "cpu", "cuda:3")] == ["cuda:1", "cuda:1", "cpu", "cuda:3"]
    with pytest.raises(SettingsError, match="balanced is one process over all GPUs"):
        ranks.device("balanced")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert ranks.device("auto") == "auto"


# --- A run that they share.


def figures(record: Measurement) -> dict[str, Any]:
    """All that was measured, but for time, and on how many ranks."""
    data = record.model_dump(mode="json", exclude={"timing", "sidecar", "notes"})
    data["environment"].pop("ranks")
    assert record.arrays is not None
    counts = [histogram.counts.tolist() for histogram in record.arrays.histograms]
    return data | {"counts": counts, "by layer": record.arrays.hidden_peaks.tolist()}


def measured(folder: Path, corpus: Corpus, batch_tokens: int = 60, **how: Any) -> Measurement:
    """The record of one process."""
    return measure(load(find(str(folder))), corpus=corpus, batch_tokens=batch_tokens, **how)


def shared(together: Callable[..., list[Any]], checkpoints: Sequence[Checkpoint], corpus: Corpus, **how: Any) -> list[Any]:
    """What each rank gives or raises, each with a checkpoint of its own."""
    first, *others = checkpoints
    tell = {"progress": how.pop("progress", None)}
    how = {"batch_tokens": 60} | how

    def help_with(checkpoint: Checkpoint) -> Callable[[Ranks], None]:
        return lambda ranks: assist(checkpoint, corpus, ranks, **how)

    return together(lambda ranks: measure(first, corpus=corpus, ranks=ranks, **tell, **how), *map(help_with, others))


def loaded(folder: Path, ranks: int) -> list[Checkpoint]:
    return [load(find(str(folder))) for _ in range(ranks)]  # not in their threads: loading sets torch's default dtype


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt2"])
def test_the_figures_are_those_of_one_rank(
    together: Callable[..., list[Any]], make_checkpoint: Callable[..., Path], tmp_path: Path, family: str, size: int
) -> None:
    folder, corpus = make_checkpoint(tmp_path / "model", family), load_corpus("smoke")
    record = shared(together, loaded(folder, size), corpus)[0]
    assert record.environment.ranks == size
    assert figures(record) == figures(measured(folder, corpus))


def test_images_are_dealt_like_texts(
    together: Callable[..., list[Any]], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder, corpus = llava(tokenizer).save(tmp_path / "tiny-llava"), load_corpus("images")
    corpus = corpus.first(8)
    assert len(corpus.pictured) > 1
    record = shared(together, loaded(folder, 2), corpus)[0]
    assert record.modalities
    assert figures(record) == figures(measured(folder, corpus))


def test_further_sites_are_shared_too(together: Callable[..., list[Any]], checkpoint: Path) -> None:
    corpus = load_corpus("smoke")
    sites = ["+linear-inputs"]
    record = shared(together, loaded(checkpoint, 2), corpus, sites=sites)[0]
    assert figures(record) == figures(measured(checkpoint, corpus, sites=sites))


def test_memory_that_is_short_on_another_rank_is_told_and_counts_once(
    together: Callable[..., list[Any]], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, run, failed = load_corpus("smoke"), Observer.run, list[int]()
    checkpoints = loaded(checkpoint, 2)

    def limited(self: Observer, batch: Batch, device: torch.device) -> None:
        run(self, batch, device)
        if self.anatomy.whole is checkpoints[1].model and not failed:
            failed.append(batch.mask.numel())
            raise MemoryError

    monkeypatch.setattr(Observer, "run", limited)
    record = shared(together, checkpoints, corpus, batch_tokens=1024)[0]
    alone = measured(checkpoint, corpus, batch_tokens=1024)
    assert len(failed) == 1
    assert f"memory was too short for a batch of {failed[0]:,} tokens: went on with {failed[0] // 2}" in record.notes
    assert record.samples is not None
    assert [sample.tokens for sample in record.samples] == [sample.tokens for sample in alone.samples]
    assert record.site("embedding", None) == alone.site("embedding", None)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3), (3, 2)])
def test_another_number_of_ranks_goes_on_with_what_was_done(
    together: Callable[..., list[Any]],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: int,
    after: int,
) -> None:
    monkeypatch.setattr(forwards, "SNAPSHOT_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(forwards, "SNAPSHOT_SHARE", 1e9)
    corpus = load_corpus("smoke")

    def stop(done: int, total: int) -> None:
        if 3 * done > total:
            raise MeasurementError("stopped")

    if before == 1:
        with pytest.raises(MeasurementError, match="stopped"):
            measured(checkpoint, corpus, resume=tmp_path, progress=stop)
    else:
        found = shared(together, loaded(checkpoint, before), corpus, resume=tmp_path, progress=stop)
        assert str(found[0]) == "stopped"
    if after == 1:
        record = measured(checkpoint, corpus, resume=tmp_path)
    else:
        record = shared(together, loaded(checkpoint, after), corpus, resume=tmp_path)[0]
    assert any(note.startswith("went on from an interrupted run") for note in record.notes)
    assert figures(record) == figures(measured(checkpoint, corpus))
