"""A run spread over processes, as torchrun, accelerate or SLURM start them: each is a rank, and rank 0 reports.

What ranks tell one another (who does what, what was found: some megabytes of counts a rank) goes through the key-value store
that `torch.distributed` meets at. There is no collective operation that could wait forever for a rank that is gone: each rank
says every few seconds that it is there, and who waits looks.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from pytest_maxact.checkpoint import BALANCED
from pytest_maxact.errors import MeasurementError, SettingsError, first_line
from pytest_maxact.launch import Place
from pytest_maxact.snapshot import Piece

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

BEAT_EVERY_SECONDS = 2.0
LOST_AFTER_SECONDS = 30.0
LOOK_EVERY_SECONDS = 0.2
JOIN_WITHIN = timedelta(minutes=5)  # ranks may start, and import torch, minutes apart
LEAVE_WITHIN_SECONDS = 10.0
OVER = "over"
PART_BYTES = 4 << 20  # the store takes no values above 8 MiB


class Ranks:
    """All processes of a run, seen from one of them. All call the same methods in the same order, but for `orders`.

    What meets the others raises MeasurementError where one of them is gone or has failed.
    """

    _joins = itertools.count()

    def __init__(self, place: Place, store: Store) -> None:
        self.rank, self.size, self.local = place.rank, place.size, place.local
        self.store = store
        self._steps = 0
        self._tokens = [0] * self.size
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._joined = self._looked = time.monotonic()
        self._orders = 0
        self._ordered = False
        self._ended: str | None = None
        self._told_to_stop = self._loading = False
        self._before: Any = None
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="maxact-ranks", daemon=True)
        self._beating.start()

    @classmethod
    def join(cls, place: Place) -> Ranks:
        """Meet the others.

        Raises:
            MeasurementError: where they do not come within five minutes.

        """
        where = f"tcp://{place.address}:{place.port}"
        try:
            # Not every build of torch has it. Neither is listed among what it exports, both are documented.
            from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

            store, _, _ = next(rendezvous(where, place.rank, place.size, timeout=JOIN_WITHIN))
        except (ImportError, RuntimeError, OSError, ValueError) as cause:
            raise MeasurementError(
                f"rank {place.rank} of {place.size} could not meet the others at {where} ({first_line(cause)}): start all with "
                "torchrun, accelerate launch or srun, or unset WORLD_SIZE"
            ) from None
        # torchrun keeps its store when it starts all anew.
        start = f"maxact/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{next(cls._joins)}"
        ranks = cls(place, PrefixStore(start, store))
        if place.rank == 0 and threading.current_thread() is threading.main_thread():
            # torchrun's way to say that another rank is gone: there is time to report it.
            ranks._before = signal.signal(signal.SIGTERM, ranks._stop)
        return ranks

    def device(self, name: str) -> str:
        """The device that an option names, for this rank: of several GPUs its own one.

        Raises:
            SettingsError: where a model is to be spread over all of them.

        """
        if name == BALANCED:
            raise SettingsError("--maxact-device=balanced is one process over all GPUs: start it without torchrun, as one")
        devices = torch.cuda.device_count()
        return f"cuda:{self.local % devices}" if name in ("auto", "cuda") and devices else name

    def agree(self, value: Any) -> Any:
        """What rank 0 gives here, as JSON allows it."""
        key = self._step()
        if self.rank == 0:
            self._send(key, json.dumps(value).encode())
            return value
        return json.loads(self._wait(key))

    def agree_on(self, conditions: Mapping[str, str]) -> None:
        """Make sure that this rank's conditions are those of rank 0."""
        theirs = self.agree(dict(conditions))
        other = [name for name in conditions if theirs.get(name) != conditions[name]]
        if other:
            named = "; ".join(f"{name} {conditions[name]}, there {theirs.get(name)}" for name in other)
            raise MeasurementError(f"it would measure something else than rank 0: {named}")

    def order(self, order: Mapping[str, Any]) -> None:
        """Let the other ranks help with this."""
        if self._ended is not None:
            raise MeasurementError(f"the other ranks ended with an earlier checkpoint: {self._ended}")
        self._ordered = True
        self.agree({"order": order})
        self._begin()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Meanwhile, since nobody looks, MeasurementError is raised at once where this rank is told to stop."""
        self._loading = True
        try:
            yield
        except BaseException:
            self._ordered = False
            raise
        finally:
            self._loading = False

    def orders(self) -> Iterator[Any]:
        """What rank 0 wants help with, until it leaves."""
        while (order := self.agree(None)["order"]) is not None:
            self._begin()
            yield order
        with self._answering():
            self.store.set(_left(self.rank), "")

    def deal(self, pieces: Sequence[Piece] = ()) -> list[Piece]:
        """The share of this rank in what rank 0 gives: one piece in so many, since they come by size."""
        return [Piece(*piece) for piece in self.agree([list(piece) for piece in pieces])][self.rank :: self.size]

    def hand_in(self, found: bytes) -> None:
        """Give rank 0 what was found."""
        self._send(f"{self._step()}-{self.rank}", found)

    def handed_in(self, tell: Callable[[], None]) -> Iterator[tuple[int, bytes]]:
        """What each other rank hands in; `tell` is called meanwhile."""
        key = self._step()
        for rank in range(1, self.size):
            yield rank, self._wait(f"{key}-{rank}", tell)
        self._ordered = False
        self._look_whether_to_stop()

    def tell(self, tokens: int) -> int:
        """How many tokens this rank has done; how many all have, as far as is known."""
        self._tokens[self.rank] = tokens
        if time.monotonic() - self._looked > LOOK_EVERY_SECONDS:
            self.check()
        return sum(self._tokens)

    def check(self) -> None:
        """Make sure that nobody is gone: rank 0 looks at all others, they look at rank 0, which fails where one does."""
        self._look_whether_to_stop()
        self._looked = time.monotonic()
        with self._answering():
            for rank in range(1, self.size) if self.rank == 0 else (0,):
                if self.store.check([_failed(rank)]):
                    raise MeasurementError(f"rank {rank}: {self.store.get(_failed(rank)).decode()}")
                self._listen(rank)

    def fail(self, reason: str) -> None:
        """Let the others end, too. Another rank than 0 stays until rank 0 has left: torchrun would stop that one with it."""
        self._ended, self._ordered = reason, False
        with suppress(RuntimeError, MeasurementError):
            self.store.set(_failed(self.rank), reason)
            while self.rank and not self.store.check([OVER]):
                self._listen(0)
                time.sleep(LOOK_EVERY_SECONDS)

    def leave(self) -> None:
        """Let the others go, and be silent."""
        if self.rank == 0 and not self._over.is_set():
            with suppress(RuntimeError, MeasurementError):
                self.store.set(OVER, "")
                self.agree({"order": None})
                gone = [_left(rank) for rank in range(1, self.size)]
                until = time.monotonic() + LEAVE_WITHIN_SECONDS  # the store may be in this process
                while not self.store.check(gone) and time.monotonic() < until:
                    self.check()
                    time.sleep(LOOK_EVERY_SECONDS)
        self._over.set()
        self._beating.join(LEAVE_WITHIN_SECONDS)  # it may wait for an answer of a machine that is gone
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _begin(self) -> None:
        self._orders += 1
        self._tokens = [0] * self.size

    def _listen(self, rank: int) -> None:
        """Hear what a rank says every few seconds: how many signs it gave, its order and the tokens it has done of it."""
        beat = self.store.get(_beat(rank)) if self.store.check([_beat(rank)]) else b""
        now = time.monotonic()
        before, heard = self._heard.get(rank, (b"", self._joined))
        if beat != before:
            self._heard[rank] = (beat, now)
            _, orders, tokens = map(int, beat.split())
            if orders == self._orders:
                self._tokens[rank] = tokens
        elif now - heard > (LOST_AFTER_SECONDS if beat else JOIN_WITHIN.total_seconds()):
            never = "" if beat else "; where pytest is to run by itself here, unset WORLD_SIZE"
            raise MeasurementError(
                f"rank {rank} of {self.size} is gone: nothing was heard of it for {now - heard:.0f} s{never}"
            )

    def _look_whether_to_stop(self) -> None:
        if self._told_to_stop:
            raise MeasurementError(
                "rank 0 was told to stop (SIGTERM), most likely since another rank is gone: see what started the ranks"
            )

    def _stop(self, number: int, frame: object) -> None:
        if self._ordered and not self._told_to_stop:
            self._told_to_stop = True
            if self._loading:
                self._look_whether_to_stop()
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _beat(self) -> None:
        beats = 0
        while True:
            beats += 1
            with suppress(RuntimeError):  # the main thread finds out by itself
                self.store.set(_beat(self.rank), f"{beats} {self._orders} {self._tokens[self.rank]}")
            if self._over.wait(BEAT_EVERY_SECONDS):
                return

    def _step(self) -> str:
        self._steps += 1
        return str(self._steps)

    def _send(self, key: str, value: bytes) -> None:
        with self._answering():
            parts = [value[start : start + PART_BYTES] for start in range(0, len(value), PART_BYTES)]
            for number, part in enumerate(parts):
                self.store.set(f"{key}.{number}", part)  # type: ignore[arg-type]  # bytes are taken, too
            self.store.set(key, str(len(parts)))

    def _wait(self, key: str, tell: Callable[[], None] | None = None) -> bytes:
        with self._answering():
            while not self.store.check([key]):
                self.check()
                if tell is not None:
                    tell()
                time.sleep(LOOK_EVERY_SECONDS)
            return b"".join(self.store.get(f"{key}.{number}") for number in range(int(self.store.get(key))))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as cause:  # of torch's store
            raise MeasurementError(f"rank 0 is gone, or the process that started the ranks ({first_line(cause)})") from None


def _beat(rank: int) -> str:
    return f"beat-{rank}"


def _failed(rank: int) -> str:
    return f"failed-{rank}"


def _left(rank: int) -> str:
    return f"left-{rank}"
