"""How far a run has come, as bytes: to go back to when memory runs out, to go on from after an interruption, to send to rank 0.

The bytes are a SHA-256 of the rest, and an `.npz` archive without pickles.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pytest_maxact.observer import State
from pytest_maxact.record import write_atomically
from pytest_maxact.reducers.states import Named, from_arrays, to_arrays

SCHEMA = "maxact/progress@1"
SUFFIX = ".progress"
HEADER, DONE, STATE = "header", "done", "state."
MAX_BYTES = 4 << 30  # above what any model and corpus need
DIGEST_BYTES = hashlib.sha256().digest_size


class Piece(NamedTuple):
    """Rows `first` to `last`, that one left out, of batch number `batch` of a run."""

    batch: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What was known when so much was done.

    arrays: an observer's state, by `to_arrays`. done: what is through the model. batch_tokens: the token budget by then, None
    for batches that came ready. seconds: of the run, and those of them spent observing. notes: as of `Forwards`.
    """

    arrays: Named
    done: tuple[Piece, ...] = ()
    batch_tokens: int | None = None
    seconds: float = 0.0
    observing_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, state: State, **how_far: Any) -> Snapshot:
        """A copy of an observer's state."""
        return cls(to_arrays(state), **how_far)

    def state(self, like: State) -> State:
        """The observer's state again.

        Raises:
            ValueError: where it is that of another model or corpus.

        """
        return from_arrays(like, self.arrays)

    def dumps(self, conditions: Mapping[str, str]) -> bytes:
        """Its bytes, and under which conditions it holds."""
        header: dict[str, object] = {"schema": SCHEMA, "conditions": dict(conditions), "batch_tokens": self.batch_tokens}
        header |= {"seconds": self.seconds, "observing_seconds": self.observing_seconds, "notes": self.notes}
        file = io.BytesIO()
        np.savez(
            file,
            allow_pickle=False,
            **{HEADER: np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)},
            **{DONE: np.array(self.done, dtype=np.int64).reshape(-1, len(Piece._fields))},
            **{STATE + name: array for name, array in self.arrays.items()},
        )
        packed = file.getvalue()
        return hashlib.sha256(packed).digest() + packed

    @classmethod
    def loads(cls, data: bytes, conditions: Mapping[str, str]) -> Snapshot:
        """Read what `dumps` gave. Nothing in it is executed.

        Raises:
            ValueError: where it is damaged, of another version, or holds under other conditions.

        """
        digest, packed = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if hashlib.sha256(packed).digest() != digest:
            raise ValueError("it is damaged")
        try:
            with zipfile.ZipFile(io.BytesIO(packed)) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                    raise ValueError("it is larger than any run's")
            with np.load(io.BytesIO(packed), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header, done = json.loads(arrays.pop(HEADER).tobytes()), arrays.pop(DONE)
            if header["schema"] != SCHEMA:
                raise ValueError("another version of pytest-maxact wrote it")
            found = header["conditions"]
            other = [name for name in conditions if found.get(name) != conditions[name]]
            snapshot = cls(
                {name.removeprefix(STATE): array for name, array in arrays.items()},
                tuple(Piece(*map(int, row)) for row in done),
                header["batch_tokens"],
                float(header["seconds"]),
                float(header["observing_seconds"]),
                tuple(map(str, header["notes"])),
            )
        except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, EOFError, OSError) as cause:
            raise ValueError(f"it holds no progress of a run ({type(cause).__name__})") from None
        if other:
            changed = "; ".join(f"{name} {found.get(name)}, now {conditions[name]}" for name in other)
            raise ValueError(f"it was measured under other conditions: {changed}")
        return snapshot


class Kept:
    """A folder in which the processes of a run keep how far they have come, a file each."""

    def __init__(self, folder: Path, conditions: Mapping[str, str], rank: int = 0) -> None:
        self.folder = folder
        self.conditions = conditions
        self.file = folder / f"{rank}{SUFFIX}"

    def load(self, batches: Sequence[int]) -> tuple[list[Snapshot], list[str]]:
        """What an interrupted run has left, no piece of it twice, and in a line each why something is of no use.

        Args:
            batches: how many rows each batch of the run has.

        """
        found, refused = [], list[str]()
        for file in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                snapshot = Snapshot.loads(_read(file), self.conditions)
                for batch, first, last in snapshot.done:
                    if not (0 <= batch < len(batches) and 0 <= first < last <= batches[batch]):
                        raise ValueError("it tells of other batches")
                found.append(snapshot)
            except (ValueError, OSError) as cause:
                reason = cause.strerror if isinstance(cause, OSError) else str(cause)
                refused.append(f"began anew: what an interrupted run had left was not used ({reason})")
        found.sort(key=lambda snapshot: -sum(piece.last - piece.first for piece in snapshot.done))
        return _disjoint(found), refused

    def write(self, snapshot: Snapshot, *, alone: bool = False) -> None:
        """Keep this, in place of what the process kept before; `alone` in place of what all did. No reason to stop a run."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self.file, snapshot.dumps(self.conditions))
            if alone:
                self._remove(but=self.file)

    def remove(self) -> None:
        """Keep nothing any more."""
        self._remove()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _remove(self, but: Path | None = None) -> None:
        for file in self.folder.glob(f"*{SUFFIX}"):
            if file != but:
                with contextlib.suppress(OSError):
                    file.unlink()


def _read(file: Path) -> bytes:
    if file.stat().st_size > MAX_BYTES:
        raise ValueError("it is larger than any run's")
    return file.read_bytes()


def _disjoint(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Those that share no row with one before: a run that was stopped while it joined them left both."""
    held, rows = [], set[tuple[int, int]]()
    for snapshot in snapshots:
        own = [(piece.batch, row) for piece in snapshot.done for row in range(piece.first, piece.last)]
        if len(own) == len(set(own)) and rows.isdisjoint(own):
            held.append(snapshot)
            rows.update(own)
    return held
