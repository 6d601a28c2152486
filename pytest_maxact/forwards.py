"""The batches of a run through the model: each token exactly once, whatever happens in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from pytest_maxact.batching import Batch, Work
from pytest_maxact.errors import MeasurementError
from pytest_maxact.observer import Observer
from pytest_maxact.ranks import Ranks
from pytest_maxact.snapshot import NOT_USED, Kept, Piece, Snapshot

Progress = Callable[[int, int], None]

SNAPSHOT_EVERY_SECONDS = 10.0
SNAPSHOT_SHARE = 0.01  # of the time at most: that of a large model takes tenths of a second
SHORT = "memory was too short for"
ALLOCATION_FAILURES = ("DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED")


class Forwards:
    """Takes a run's batches through the model.

    Every ten seconds it notes how far it has come: in memory, since a forward that runs out of memory leaves figures half done
    and all that was counted since is discarded; and in a folder where there is one.

    notes: what went otherwise than planned, in words. batch_tokens: the token budget of the last batches, padding counted.
    """

    def __init__(
        self,
        observer: Observer,
        work: Work,
        device: torch.device,
        *,
        progress: Progress | None = None,
        kept: Kept | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.observer = observer
        self.work = work
        self.device = device
        self.progress = progress
        self.kept = kept
        self.ranks = ranks
        self.notes: list[str] = []
        self.batch_tokens = work.batch_tokens
        self._total = sum(batch.tokens for batch in work.batches)
        self._done: list[Piece] = []
        self._seconds_before = 0.0
        self._start = time.perf_counter()
        self._nothing = self._snapshot()

    @property
    def seconds(self) -> float:
        """How long it has taken so far, an interrupted run before it too."""
        return self._seconds_before + time.perf_counter() - self._start

    def run(self) -> None:
        """All that is to be done, together with the other ranks.

        Raises:
            MeasurementError: where there are no tokens, a single sample needs too much memory, a rank is lost, or a token was
                not counted exactly once.

        """
        if not self._total:
            raise MeasurementError("there is nothing to measure: the corpus has no tokens")
        if self.kept is not None:
            self._go_on(self.kept)
        left = self._fitting(_left(self.work.batches, self._done))
        if self.ranks is None:
            self._take(left)
        else:
            self._take(self.ranks.deal(left))
            self._gather(self.ranks)
        self.observer.check(self.work.batches)
        if self.kept is not None:
            self.kept.write(self._snapshot(), alone=True)

    def assist(self, ranks: Ranks) -> None:
        """The share of a rank other than 0: what it found goes there.

        Raises:
            MeasurementError: as `run` does.

        """
        self._take(ranks.deal())
        ranks.hand_in(self._snapshot().dumps({}))

    def _take(self, left: list[Piece]) -> None:
        """These pieces; from the last snapshot on again, with half the tokens a forward, where memory runs out."""
        through = safe = 0
        before, written, every = self._snapshot(), time.perf_counter(), SNAPSHOT_EVERY_SECONDS
        failed: Piece | None = None
        with self.observer.hooked():
            self._tell()
            while through < len(left):
                batch = self._batch(left[through])
                if batch.tokens and not self._fits(batch):
                    if len(batch.ids) > 1:
                        self._halve(batch)
                    elif left[through] == failed:
                        raise MeasurementError(self._too_long(batch))
                    failed = left[through]  # a single sample once more: another process may have held the memory
                    left[safe:] = self._fitting(left[safe:])
                    through = safe
                    self._return_to(before)
                else:
                    self._done.append(left[through])
                    through += 1
                self._tell()
                now = time.perf_counter()
                if now - written >= every and safe < through < len(left):
                    before, safe = self._snapshot(), through
                    if self.kept is not None:
                        self.kept.write(before)
                    written = time.perf_counter()
                    every = max(SNAPSHOT_EVERY_SECONDS, (written - now) / SNAPSHOT_SHARE)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _fits(self, batch: Batch) -> bool:
        """Run a batch; False where memory was too short for it."""
        try:
            self.observer.run(batch, self.device)
        except (MemoryError, RuntimeError) as cause:
            if not _out_of_memory(cause):
                raise
        else:
            return True
        self.observer.let_go()
        if self.device.type == "cuda":  # out here nothing holds the forward's tensors any more
            torch.cuda.empty_cache()
        return False

    def _halve(self, batch: Batch) -> None:
        tokens = batch.mask.numel()
        self.batch_tokens = tokens // 2
        self.notes.append(f"{SHORT} a batch of {tokens:,} tokens: went on with {self.batch_tokens:,}")

    def _too_long(self, batch: Batch) -> str:
        return (
            f"{SHORT} sample {self.work.names[int(batch.samples[0])]} alone, of {batch.tokens:,} tokens: lower "
            "--maxact-max-length, or use a device that has more"
        )

    def _go_on(self, kept: Kept) -> None:
        """From where an interrupted run was."""
        found, refused = kept.load([len(batch.ids) for batch in self.work.batches])
        self.notes = [*refused]
        try:
            for snapshot in found:
                self._join(snapshot)
                self._seconds_before = max(self._seconds_before, snapshot.seconds)
                self.observer.seconds = max(self.observer.seconds, snapshot.observing_seconds)
            self.observer.check(map(self._batch, self._done))
        except (ValueError, MeasurementError) as cause:
            self._return_to(self._nothing)
            self.batch_tokens, self._seconds_before, self.observer.seconds = self.work.batch_tokens, 0.0, 0.0
            self.notes = [*refused, f"{NOT_USED}: {cause}"]
            return
        if self._done:
            self.notes.append(f"went on from an interrupted run, with {self._tokens:,} of {self._total:,} tokens done")
            kept.write(self._snapshot(), alone=True)

    def _gather(self, ranks: Ranks) -> None:
        for rank, data in ranks.handed_in(self._tell):
            try:
                self._join(Snapshot.loads(data, {}))
            except ValueError as cause:
                raise MeasurementError(f"what rank {rank} handed in cannot be used: {cause}") from None

    def _join(self, snapshot: Snapshot) -> None:
        """Add what was found elsewhere, or before."""
        self.observer.state = self.observer.state.merge(snapshot.state(self.observer.state))
        self._done += snapshot.done
        self.notes += [note for note in snapshot.notes if note not in self.notes]
        if self.batch_tokens is None or (snapshot.batch_tokens is not None and snapshot.batch_tokens < self.batch_tokens):
            self.batch_tokens = snapshot.batch_tokens

    def _snapshot(self) -> Snapshot:
        return Snapshot.of(
            self.observer.state,
            done=tuple(self._done),
            dealt_tokens=self.work.batch_tokens,
            batch_tokens=self.batch_tokens,
            seconds=self.seconds,
            observing_seconds=self.observer.seconds,
            notes=tuple(note for note in self.notes if note.startswith(SHORT)),
        )

    def _return_to(self, snapshot: Snapshot) -> None:
        self.observer.state = snapshot.state(self.observer.state)
        self._done = list(snapshot.done)

    def _fitting(self, pieces: Iterable[Piece]) -> list[Piece]:
        """The same rows in pieces within the token budget; a row that is longer is one of its own."""
        if self.batch_tokens is None:
            return list(pieces)
        fitting = []
        for piece in pieces:
            rows = max(1, self.batch_tokens // max(1, self._batch(piece).ids.shape[1]))
            starts = range(piece.first, piece.last, rows)
            fitting += [Piece(piece.batch, start, min(start + rows, piece.last)) for start in starts]
        return fitting

    def _batch(self, piece: Piece) -> Batch:
        return self.work.batches[piece.batch].part(piece.first, piece.last)

    @property
    def _tokens(self) -> int:
        return int(self.observer.state.tokens.sum())

    def _tell(self) -> None:
        """How many tokens are through, those of other ranks too."""
        done = self._tokens if self.ranks is None else self.ranks.tell(self._tokens)
        if self.progress is not None:
            self.progress(done, self._total)


def _left(batches: Sequence[Batch], done: Iterable[Piece]) -> Iterator[Piece]:
    """What of the batches is not done, in their order."""
    rows_done = {(piece.batch, row) for piece in done for row in range(piece.first, piece.last)}
    for number, batch in enumerate(batches):
        first = 0
        for row in range(len(batch.ids) + 1):
            if row == len(batch.ids) or (number, row) in rows_done:
                if first < row:
                    yield Piece(number, first, row)
                first = row + 1


def _out_of_memory(cause: BaseException) -> bool:
    known = (MemoryError, torch.OutOfMemoryError)
    return isinstance(cause, known) or any(failure in str(cause) for failure in ALLOCATION_FAILURES)
