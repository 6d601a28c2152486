"""Whatever happens on the way (memory runs out, the process dies), each token counts once and the figures stay the same."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_maxact import forwards, runner
from pytest_maxact.anatomy import find_sites
from pytest_maxact.batching import from_batches
from pytest_maxact.checkpoint import Checkpoint, fetch, find, load
from pytest_maxact.corpus import Corpus, Sample
from pytest_maxact.errors import MeasurementError, SettingsError
from pytest_maxact.observer import Observer
from pytest_maxact.record import Measurement
from pytest_maxact.reducers.states import from_arrays, to_arrays
from pytest_maxact.runner import measure, observing
from pytest_maxact.snapshot import NOT_USED, SUFFIX, Kept, Piece, Snapshot
from tests.conftest import tiny_model

STEP = 1 - 2**-7  # of bfloat16
LENGTHS = [40, 3, 17, 40, 1, 29, 8, 33, 12, 5, 21, 40]


def corpus(seed: int = 0) -> Corpus:
    chance = random.Random(seed)
    rows = [tuple(chance.choices(range(3, 500), k=length)) for length in LENGTHS]
    return Corpus("random", tuple(Sample(str(number), "text", input_ids=row) for number, row in enumerate(rows)))


@pytest.fixture(scope="module")
def tiny(checkpoint: Path) -> Checkpoint:
    return load(fetch(find(str(checkpoint))), dtype="float32")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot after every batch."""
    monkeypatch.setattr(forwards, "SNAPSHOT_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(forwards, "SNAPSHOT_SHARE", 1e9)


def figures(record: Measurement) -> dict[str, Any]:
    """All that was measured, but for time and what is told of the way."""
    arrays = record.arrays
    assert arrays is not None
    counts = [(histogram.dtype, histogram.counts.tolist()) for histogram in arrays.histograms]
    return record.model_dump(mode="json", exclude={"timing", "notes"}) | {
        "counts": counts,
        "by layer": arrays.hidden_peaks.tolist(),
    }


class Stopped(Exception):
    """As a process is stopped."""


def stop_after(batches: int) -> Callable[[int, int], None]:
    """Progress that stops the run when so many batches are through."""
    told = [0]

    def tell(done: int, total: int) -> None:
        told[0] += 1
        if told[0] > batches:
            raise Stopped

    return tell


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails at operations of these numbers, as where they find no memory."""

    def __init__(self, *failing: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.failing = failing
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.count in self.failing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return func(*args, **(kwargs or {}))


# --- Memory.


@pytest.fixture(scope="module")
def untroubled(tiny: Checkpoint) -> tuple[Measurement, int]:
    """The record, and how many operations it took."""
    with Allocations() as counting:
        record = measure(tiny, corpus=corpus(), batch_tokens=160)
    return record, counting.count


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.usefixtures("often")
def test_memory_that_runs_out_at_any_operation_loses_and_doubles_nothing(
    tiny: Checkpoint, untroubled: tuple[Measurement, int], seed: int
) -> None:
    whole, operations = untroubled
    at = random.Random(seed).randrange(operations // 3, operations)
    try:
        with Allocations(at) as counting:
            record = measure(tiny, corpus=corpus(), batch_tokens=160)
    except torch.OutOfMemoryError:  # while the sites were looked for, or at the end: nothing is counted then
        assert counting.count == at
        return
    assert [sample.tokens for sample in record.samples] == [sample.tokens for sample in whole.samples]
    assert [site.count for site in record.sites] == [site.count for site in whole.sites]
    assert record.peak is not None
    assert whole.peak is not None
    assert STEP <= record.peak.value / whole.peak.value <= 1 / STEP
    assert record.site("embedding", None) == whole.site("embedding", None)  # which no batch's composition changes
    short = [note for note in record.notes if note.startswith("memory was too short")]
    assert len(short) == (record.environment.batch_tokens != 160)


def test_a_sample_that_never_fits_is_tried_twice_however_many_others_there_are(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tries = Observer.run, []

    def limited(self: Observer, batch: Any, device: torch.device) -> None:
        run(self, batch, device)
        tries.append(int(batch.samples[0]))
        if tries[-1] == 7:
            raise MemoryError

    monkeypatch.setattr(Observer, "run", limited)
    with pytest.raises(MeasurementError, match="for sample 7 alone, of 33 tokens"):
        measure(tiny, corpus=corpus(), batch_tokens=1)
    assert tries.count(7) == 2


def test_tokens_a_forward_are_halved_until_they_fit(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = measure(tiny, corpus=corpus(), batch_tokens=1)
    run, shapes = Observer.run, list[torch.Size]()

    def limited(self: Observer, batch: Any, device: torch.device) -> None:
        run(self, batch, device)
        if batch.mask.numel() > 45:  # after all has been counted
            raise MemoryError
        shapes.append(batch.ids.shape)

    monkeypatch.setattr(Observer, "run", limited)
    record = measure(tiny, corpus=corpus(), batch_tokens=400)
    assert record.environment.batch_tokens in range(22, 46)
    assert max(shape.numel() for shape in shapes) <= 45
    assert [sample.tokens for sample in record.samples] == LENGTHS
    assert figures(record)["counts"][0] == figures(alone)["counts"][0]
    assert [note for note in record.notes if note.startswith("memory was too short for a batch of")]


def test_a_sample_that_never_fits_ends_the_run(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(self: Observer, batch: Any, device: torch.device) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(Observer, "run", limited)
    with pytest.raises(MeasurementError, match=r"memory was too short for sample 0 alone, of 40 tokens: lower"):
        measure(tiny, corpus=corpus(), batch_tokens=160)


def test_another_error_of_a_forward_is_not_tried_again(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(self: Observer, batch: Any, device: torch.device) -> None:
        calls.append(batch)
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Observer, "run", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        measure(tiny, corpus=corpus())
    assert len(calls) == 1


def test_a_batch_that_counts_twice_is_found_out(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = Observer.run, []

    def twice(self: Observer, batch: Any, device: torch.device) -> None:
        run(self, batch, device)
        calls.append(batch)
        if len(calls) == 2:
            run(self, batch, device)

    monkeypatch.setattr(Observer, "run", twice)
    with pytest.raises(MeasurementError, match=r"was counted with \d+ tokens and has \d+"):
        measure(tiny, corpus=corpus(), batch_tokens=160)


def test_a_site_that_misses_a_batch_is_found_out(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Observer.run

    def without(self: Observer, batch: Any, device: torch.device) -> None:
        before = self.groups[0].state.totals.counts.clone()
        run(self, batch, device)
        self.groups[0].state.totals.counts.copy_(before)

    monkeypatch.setattr(Observer, "run", without)
    with pytest.raises(MeasurementError, match=r"embedding counted 0 values and not 32 for each of"):
        measure(tiny, corpus=corpus(), batch_tokens=160)


# --- Interruptions.


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_run_stopped_after_any_batch_goes_on_to_the_same_bits(
    make_checkpoint: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    tiny = load(fetch(find(str(make_checkpoint(tmp_path / "model", family)))), dtype="bfloat16")
    whole = measure(tiny, corpus=corpus(), batch_tokens=100)
    resume, lives, record = tmp_path / "unfinished", 0, None
    while record is None:
        lives += 1
        with suppress(Stopped):
            record = measure(tiny, corpus=corpus(), batch_tokens=100, resume=resume, progress=stop_after(2))
    assert lives > 2
    assert figures(record) == figures(whole)
    assert any(note.startswith("went on from an interrupted run, with") for note in record.notes)


def test_until_the_record_is_safe_a_run_that_was_through_needs_no_forward_to_give_it_again(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(tiny, corpus=corpus(), batch_tokens=160, resume=tmp_path)
    monkeypatch.setattr(Observer, "run", None)
    assert figures(measure(tiny, corpus=corpus(), batch_tokens=160, resume=tmp_path)) == figures(whole)


def test_of_progress_that_is_not_used_nothing_stays(tiny: Checkpoint, interrupted: Path) -> None:
    data = next(iter(interrupted.glob(f"*{SUFFIX}"))).read_bytes()
    kept = Snapshot.loads(data, {})
    forged = replace(kept, batch_tokens=40, seconds=1e6, notes=("memory was too short for something",), done=kept.done[:1])
    (interrupted / f"0{SUFFIX}").write_bytes(forged.dumps(conditions_of(interrupted / f"0{SUFFIX}")))
    record = measure(tiny, corpus=corpus(), batch_tokens=160, resume=interrupted)
    assert [note for note in record.notes if note.startswith(NOT_USED)]
    assert not [note for note in record.notes if note.startswith("memory")]
    assert record.environment.batch_tokens == 160
    assert record.timing.seconds < 1e6
    assert figures(record) == figures(measure(tiny, corpus=corpus(), batch_tokens=160))


@pytest.mark.usefixtures("often")
def test_going_on_after_memory_was_short_counts_once(tiny: Checkpoint, tmp_path: Path) -> None:
    run, calls = Observer.run, []

    def limited(self: Observer, batch: Any, device: torch.device) -> None:
        run(self, batch, device)
        calls.append(batch)
        if len(calls) == 3:
            raise MemoryError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Observer, "run", limited)
        with pytest.raises(Stopped):
            measure(tiny, corpus=corpus(), batch_tokens=160, resume=tmp_path, progress=stop_after(6))
    record = measure(tiny, corpus=corpus(), batch_tokens=160, resume=tmp_path)
    assert [sample.tokens for sample in record.samples] == LENGTHS
    assert record.environment.batch_tokens is not None
    assert record.environment.batch_tokens < 160


@pytest.fixture
def interrupted(tiny: Checkpoint, tmp_path: Path, often: None) -> Path:
    with pytest.raises(Stopped):
        measure(tiny, corpus=corpus(), batch_tokens=160, resume=tmp_path / "kept", progress=stop_after(3))
    return tmp_path / "kept"


def test_progress_of_other_conditions_is_refused_with_the_reason(tiny: Checkpoint, interrupted: Path) -> None:
    record = measure(tiny, corpus=corpus(seed=1), batch_tokens=160, resume=interrupted)
    (note,) = (note for note in record.notes if note.startswith(NOT_USED))
    assert "measured under other conditions: corpus random" in note
    assert figures(record) == figures(measure(tiny, corpus=corpus(seed=1), batch_tokens=160))


@pytest.mark.parametrize("seed", range(10))
def test_damaged_progress_is_refused(tiny: Checkpoint, interrupted: Path, seed: int) -> None:
    (file,) = interrupted.glob("*.progress")
    data, chance = bytearray(file.read_bytes()), random.Random(seed)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data[: chance.randrange(len(data))] if seed % 3 == 0 else data)
    record = measure(tiny, corpus=corpus(), batch_tokens=160, resume=interrupted)
    assert f"{NOT_USED}: it is damaged" in record.notes
    assert figures(record) == figures(measure(tiny, corpus=corpus(), batch_tokens=160))


def test_progress_that_does_not_count_what_it_says_is_refused(tiny: Checkpoint, interrupted: Path) -> None:
    (file,) = interrupted.glob("*.progress")
    conditions = conditions_of(file)
    honest = Snapshot.loads(file.read_bytes(), conditions)
    lying = Snapshot(honest.arrays, (*honest.done, Piece(honest.done[-1].batch + 1, 0, 1)), honest.dealt_tokens)
    file.write_bytes(lying.dumps(conditions))
    record = measure(tiny, corpus=corpus(), batch_tokens=160, resume=interrupted)
    assert [note for note in record.notes if note.startswith(NOT_USED) and "was counted with" in note]
    assert figures(record) == figures(measure(tiny, corpus=corpus(), batch_tokens=160))


def test_what_two_files_both_hold_counts_once(tiny: Checkpoint, interrupted: Path) -> None:
    (file,) = interrupted.glob("*.progress")
    (interrupted / "1.progress").write_bytes(file.read_bytes())
    record = measure(tiny, corpus=corpus(), batch_tokens=160, resume=interrupted)
    assert figures(record) == figures(measure(tiny, corpus=corpus(), batch_tokens=160))


def test_a_folder_that_cannot_be_written_stops_no_run(tiny: Checkpoint, tmp_path: Path, often: None) -> None:
    (tmp_path / "file").write_text("")
    record = measure(tiny, corpus=corpus(), batch_tokens=160, resume=tmp_path / "file" / "kept")
    assert [sample.tokens for sample in record.samples] == LENGTHS


def test_a_run_goes_on_with_the_batches_that_it_began_with(
    tiny: Checkpoint, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "CPU_BATCH_TOKENS", 160)
    monkeypatch.setattr(runner, "LEAST_BATCH_TOKENS", 1)
    with pytest.raises(Stopped):
        measure(tiny, corpus=corpus(), resume=tmp_path, progress=stop_after(2))
    monkeypatch.setattr(runner, "CPU_BATCH_TOKENS", 80)  # another process holds memory now
    record = measure(tiny, corpus=corpus(), resume=tmp_path)
    assert record.environment.batch_tokens == 160
    assert [note for note in record.notes if note.startswith("went on from an interrupted run")]


def test_a_run_of_private_texts_is_not_resumed(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="tells its tokens: leave out resume, or text=False"):
        measure(tiny, corpus=corpus(), resume=tmp_path, text=False)


def test_what_a_run_had_left_is_told_once_however_often_it_was_stopped(tiny: Checkpoint, tmp_path: Path, often: None) -> None:
    for _ in range(2):
        with pytest.raises(Stopped):
            measure(tiny, corpus=corpus(), batch_tokens=50, resume=tmp_path, progress=stop_after(2))
    record = measure(tiny, corpus=corpus(), batch_tokens=50, resume=tmp_path)
    assert len([note for note in record.notes if note.startswith("went on")]) == 1


def test_a_model_in_memory_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="only a checkpoint from a file can be resumed"):
        measure(tiny_model(), batches=[{"input_ids": torch.tensor([[3, 4]])}], resume=tmp_path)


def conditions_of(file: Path) -> dict[str, str]:
    with np.load(io.BytesIO(file.read_bytes()[32:])) as arrays:
        return json.loads(arrays["header"].tobytes())["conditions"]  # type: ignore[no-any-return]


# --- States.


def states(family: str) -> Iterator[Any]:
    """What an observer knows after each of three batches."""
    model = tiny_model(family, dtype=torch.bfloat16)
    chance = torch.Generator().manual_seed(1)
    for number in range(3):
        ids = torch.randint(3, 500, (4, 9 + number), generator=chance)
        with observing(model):
            work = from_batches([{"input_ids": ids}], 512)
            observer = Observer(find_sites(model), 4)
            with observer.hooked():
                observer.run(work.batches[0], torch.device("cpu"))
        yield observer.state


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe", "gpt_oss"])
def test_merging_states_is_associative_and_commutative_to_the_bit(family: str) -> None:
    a, b, c = states(family)
    merged = [to_arrays(a.merge(b).merge(c)), to_arrays(c.merge(a.merge(b))), to_arrays(b.merge(c).merge(a))]
    for other in merged[1:]:
        assert merged[0].keys() == other.keys()
        assert all(np.array_equal(merged[0][name], other[name]) for name in other)


def test_a_state_is_what_it_was_written_from() -> None:
    state, other, _ = states("qwen3_moe")
    again = from_arrays(other, to_arrays(state))
    assert to_arrays(again).keys() == to_arrays(state).keys()
    assert all(np.array_equal(array, to_arrays(again)[name]) for name, array in to_arrays(state).items())


@pytest.mark.parametrize("spoil", ["drop", "dtype", "shape", "more", "order", "beyond"])
def test_arrays_of_another_state_are_refused(spoil: str) -> None:
    state, _, _ = states("llama")
    arrays = to_arrays(state)
    packed = next(name for name in arrays if name.endswith("@"))
    if spoil == "drop":
        arrays.pop("tokens")
    elif spoil == "dtype":
        arrays["tokens"] = arrays["tokens"].astype(np.int32)
    elif spoil == "shape":
        arrays["tokens"] = arrays["tokens"][:-1]
    elif spoil == "more":
        arrays["more"] = arrays["tokens"]
    elif spoil == "order":
        arrays[packed] = arrays[packed][::-1].copy()
    else:
        arrays[packed] = arrays[packed] + (1 << 40)
    with pytest.raises(ValueError, match=r"^(tokens|there is no more|groups\.)"):
        from_arrays(state, arrays)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds", 10**400),
        ("seconds", "1"),
        ("batch_tokens", "x"),
        ("batch_tokens", -5),
        ("notes", 3),
        ("notes", [[[]]]),
        ("conditions", None),
        ("schema", "maxact/progress@9"),
    ],
)
def test_a_header_of_other_types_is_refused(name: str, value: Any) -> None:
    state, _, _ = states("llama")
    data = Snapshot.of(state).dumps({})
    with np.load(io.BytesIO(data[32:])) as archive:
        arrays = dict(archive)
    header = json.loads(arrays["header"].tobytes()) | {name: value}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    file = io.BytesIO()
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match="it holds no progress of a run"):
        Snapshot.loads(hashlib.sha256(file.getvalue()).digest() + file.getvalue(), {})


@pytest.mark.parametrize("done", [np.zeros((2, 4), np.int64), np.zeros((2, 3), np.int32), np.zeros(3, np.int64)])
def test_what_is_done_is_told_by_batch_first_and_last_row(done: Any) -> None:
    state, _, _ = states("llama")
    with np.load(io.BytesIO(Snapshot.of(state).dumps({})[32:])) as archive:
        arrays = dict(archive) | {"done": done}
    file = io.BytesIO()
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match="it does not say what is done"):
        Snapshot.loads(hashlib.sha256(file.getvalue()).digest() + file.getvalue(), {})


def test_parts_that_would_take_more_room_than_the_file_are_refused() -> None:
    state, _, _ = states("llama")
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(Snapshot.of(state).dumps({})[32:])) as stored,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in stored.namelist():
            archive.writestr(name, stored.read(name))
    with pytest.raises(ValueError, match="its parts are compressed"):
        Snapshot.loads(hashlib.sha256(packed.getvalue()).digest() + packed.getvalue(), {})


def test_a_part_that_is_no_array_is_refused() -> None:
    state, _, _ = states("llama")
    file = io.BytesIO(Snapshot.of(state).dumps({})[32:])
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("state.tokens.more", b"x")
    with pytest.raises(ValueError, match="not all of its parts are arrays"):
        Snapshot.loads(hashlib.sha256(file.getvalue()).digest() + file.getvalue(), {})


def test_a_snapshot_is_read_back_or_refused(tmp_path: Path) -> None:
    state, _, _ = states("llama")
    snapshot = Snapshot.of(state, done=(Piece(0, 0, 4),), batch_tokens=7, seconds=1.5, observing_seconds=0.5, notes=("a",))
    again = Snapshot.loads(snapshot.dumps({"model": "x"}), {"model": "x"})
    assert (again.done, again.batch_tokens, again.seconds, again.notes) == (snapshot.done, 7, 1.5, ("a",))
    with pytest.raises(ValueError, match="other conditions: model x, now y"):
        Snapshot.loads(snapshot.dumps({"model": "x"}), {"model": "y"})
    kept = Kept(tmp_path, {"model": "x"})
    kept.write(snapshot)
    assert kept.load([3]) == ([], [f"{NOT_USED}: it tells of other batches"])
