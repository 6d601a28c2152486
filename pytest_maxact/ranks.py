"""A run spread over processes, as torchrun, accelerate or SLURM start them: each is a rank, and rank 0 reports.

What ranks tell one another (who does what, what was found: some megabytes of counts a rank) goes through the key-value store
that `torch.distributed` meets at. There is no collective operation that could wait forever for a rank that is gone: each rank
says every few seconds that it is there, and who waits looks.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import Store, rendezvous  # type: ignore[attr-defined]  # not listed, and documented

from pytest_maxact.errors import MeasurementError, SettingsError, first_line
from pytest_maxact.snapshot import Piece

BEAT_EVERY_SECONDS = 2.0
LOST_AFTER_SECONDS = 30.0
LOOK_EVERY_SECONDS = 0.2
JOIN_WITHIN = timedelta(minutes=5)  # ranks may start, and import torch, minutes apart
LEAVE_WITHIN_SECONDS = 10.0
PART_BYTES = 4 << 20  # the store takes no values above 8 MiB
PORTS = range(20000, 30000)  # for SLURM's jobs, by their number


@dataclass(frozen=True)
class Place:
    """Which of how many processes this one is, among all and on its machine, and where they meet."""

    rank: int
    size: int
    local: int
    address: str
    port: int

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> Place | None:
        """By the variables of torchrun and accelerate, else by SLURM's; None for a process by itself.

        Raises:
            SettingsError: where they contradict one another, or it is not known where to meet.

        """
        if int(environ.get("WORLD_SIZE") or 1) > 1:
            rank, size, local = (_number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        elif int(environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:  # set by srun, not in the script around it
            rank, size, local = (_number(environ, f"SLURM_{name}") for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID"))
        else:
            return None
        address = environ.get("MASTER_ADDR")
        if address is None and environ.get("SLURM_STEP_NUM_NODES") == "1":
            address = "127.0.0.1"
        if address is None:
            raise SettingsError(
                "the ranks do not know where to meet: export MASTER_ADDR=HOST, that of rank 0, and MASTER_PORT=PORT, a free one"
            )
        port = environ.get("MASTER_PORT") or PORTS[int(environ.get("SLURM_JOB_ID") or 0) % len(PORTS)]
        return cls(rank, size, local, address, int(port))


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    if not value.isdecimal():
        raise SettingsError(f"{name}={value!r} is no number: start the ranks with torchrun, accelerate launch or srun")
    return int(value)


class Ranks:
    """All processes of a run, seen from one of them. All call the same methods in the same order, but for `orders`.

    What meets the others raises MeasurementError where one of them is gone or has failed.
    """

    def __init__(self, place: Place, store: Store) -> None:
        self.rank, self.size, self.local = place.rank, place.size, place.local
        self.store = store
        self._steps = 0
        self._tokens = [0] * self.size
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._joined = self._looked = time.monotonic()
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
            store, _, _ = next(rendezvous(where, place.rank, place.size, timeout=JOIN_WITHIN))
        except (RuntimeError, OSError) as cause:
            raise MeasurementError(f"rank {place.rank} of {place.size} could not meet the others at {where}: {cause}") from None
        return cls(place, store)

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
        self.agree({"order": order})

    def orders(self) -> Iterator[Any]:
        """What rank 0 wants help with, until it leaves."""
        while (order := self.agree(None)["order"]) is not None:
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

    def tell(self, tokens: int) -> int:
        """How many tokens this rank has done; how many all have, as far as is known."""
        self._tokens[self.rank] = tokens
        if time.monotonic() - self._looked > LOOK_EVERY_SECONDS:
            self.check()
        return sum(self._tokens)

    def check(self) -> None:
        """Make sure that nobody is gone: rank 0 looks at all others, they look at rank 0, which fails where one does."""
        self._looked = now = time.monotonic()
        with self._answering():
            for rank in range(1, self.size) if self.rank == 0 else (0,):
                if self.store.check([_failed(rank)]):
                    raise MeasurementError(f"rank {rank}: {self.store.get(_failed(rank)).decode()}")
                beat = self.store.get(_beat(rank)) if self.store.check([_beat(rank)]) else b""
                before, heard = self._heard.get(rank, (b"", self._joined))
                if beat != before:
                    self._heard[rank] = (beat, now)
                    self._tokens[rank] = int(beat.split()[1])
                elif now - heard > (LOST_AFTER_SECONDS if beat else JOIN_WITHIN.total_seconds()):
                    raise MeasurementError(
                        f"rank {rank} of {self.size} is gone: nothing was heard of it for {now - heard:.0f} s; nothing was "
                        "measured, what was done is kept for the next try"
                    )

    def fail(self, reason: str) -> None:
        """Let the others end, too."""
        with suppress(RuntimeError):
            self.store.set(_failed(self.rank), reason)

    def leave(self) -> None:
        """Let the others go, and be silent."""
        if self.rank == 0 and not self._over.is_set():
            with suppress(RuntimeError, MeasurementError):
                self.agree({"order": None})
                gone = [_left(rank) for rank in range(1, self.size)]
                until = time.monotonic() + LEAVE_WITHIN_SECONDS  # the store may be in this process
                while not self.store.check(gone) and time.monotonic() < until:
                    self.check()
                    time.sleep(LOOK_EVERY_SECONDS)
        self._over.set()

    def _beat(self) -> None:
        beats = 0
        while True:
            beats += 1
            with suppress(RuntimeError):  # the main thread finds out by itself
                self.store.set(_beat(self.rank), f"{beats} {self._tokens[self.rank]}")
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
