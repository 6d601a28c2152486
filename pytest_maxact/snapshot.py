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
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, TypeAdapter

from pytest_maxact.errors import on_one_line
from pytest_maxact.files import read
from pytest_maxact.observer import State
from pytest_maxact.record import write_atomically
from pytest_maxact.reducers.states import Named, from_arrays, to_arrays

SCHEMA = "maxact/progress@1"
SUFFIX = ".progress"
PATTERN = f"[0-9]*{SUFFIX}"
NOT_USED = "what an interrupted run had left was not used"
HEADER, DONE, STATE = "header", "done", "state."
MAX_BYTES = 4 << 30  # above what any model and corpus need
DIGEST_BYTES = hashlib.sha256().digest_size

Tokens = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class _Header:
    schema: str
    conditions: dict[str, str]
    dealt_tokens: Tokens | None
    batch_tokens: Tokens | None
    seconds: Seconds
    observing_seconds: Seconds
    notes: list[str]


class Piece(NamedTuple):
    """Rows `first` to `last`, that one left out, of batch number `batch` of a run."""

    batch: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What was known when so much was done.

    arrays: an observer's state, by `to_arrays`. done: what is through the model. dealt_tokens: the token budget by which the
    corpus was dealt into batches, None for ready ones; batch_tokens: that of the last batch. seconds: of the run, and those of
    them spent observing. notes: on memory that was short, in words.
    """

    arrays: Named
    done: tuple[Piece, ...] = ()
    dealt_tokens: int | None = None
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
        told = ("dealt_tokens", "batch_tokens", "seconds", "observing_seconds", "notes")
        header = {"schema": SCHEMA, "conditions": dict(conditions)} | {name: getattr(self, name) for name in told}
        arrays: dict[str, Any] = {HEADER: np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)}
        arrays[DONE] = np.array(self.done, dtype=np.int64).reshape(-1, len(Piece._fields))
        arrays |= {STATE + name: array for name, array in self.arrays.items()}
        file = io.BytesIO()
        np.savez(file, **arrays)
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
                parts = archive.infolist()
                if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                    raise ValueError("its parts are compressed")
                if sum(part.file_size for part in parts) > len(packed):
                    raise ValueError("its parts are larger than it")
            with np.load(io.BytesIO(packed), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # numpy gives other members as bytes
                raise ValueError("not all of its parts are arrays")
            header, done = TypeAdapter(_Header).validate_json(arrays.pop(HEADER).tobytes(), strict=True), arrays.pop(DONE)
            if header.schema != SCHEMA:
                raise ValueError("another version of pytest-maxact wrote it")
            if done.dtype != np.int64 or done.shape[1:] != (len(Piece._fields),):
                raise ValueError("it does not say what is done")
        except Exception as cause:  # whatever a damaged archive makes its reader raise
            raise ValueError(f"it holds no progress of a run ({on_one_line(cause)})") from None
        found = header.conditions
        other = [name for name in conditions if found.get(name) != conditions[name]]
        if other:
            changed = "; ".join(f"{name} {found.get(name)}, now {conditions[name]}" for name in other)
            raise ValueError(f"it was measured under other conditions: {changed}")
        return cls(
            arrays={name.removeprefix(STATE): array for name, array in arrays.items()},
            done=tuple(Piece(*row) for row in done.tolist()),
            dealt_tokens=header.dealt_tokens,
            batch_tokens=header.batch_tokens,
            seconds=header.seconds,
            observing_seconds=header.observing_seconds,
            notes=tuple(header.notes),
        )


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
        for file in sorted(self.folder.glob(PATTERN)):
            try:
                snapshot = Snapshot.loads(read(file, MAX_BYTES), self.conditions)
                for batch, first, last in snapshot.done:
                    if not (0 <= batch < len(batches) and 0 <= first < last <= batches[batch]):
                        raise ValueError("it tells of other batches")
                found.append(snapshot)
            except (ValueError, OSError) as cause:
                reason = cause.strerror if isinstance(cause, OSError) else str(cause)
                refused.append(f"{NOT_USED}: {reason}")
        found.sort(key=lambda snapshot: -sum(piece.last - piece.first for piece in snapshot.done))
        return _disjoint(found), refused

    def write(self, snapshot: Snapshot, *, alone: bool = False) -> None:
        """Keep this, in place of what the process kept before; `alone` in place of what all did. No reason to stop a run."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self.file, snapshot.dumps(self.conditions))
            if alone:
                for other in self.folder.glob(PATTERN):
                    if other != self.file:
                        other.unlink(missing_ok=True)


def dealt_tokens(folder: Path) -> int | None:
    """The token budget by which an interrupted run dealt its corpus into batches; None where none has left progress."""
    for file in sorted(folder.glob(PATTERN)):
        with contextlib.suppress(ValueError, OSError):
            return Snapshot.loads(read(file, MAX_BYTES), {}).dealt_tokens
    return None


def _disjoint(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Those that share no row with one before: a run that was stopped while it joined them left both."""
    held, rows = [], set[tuple[int, int]]()
    for snapshot in snapshots:
        own = [(piece.batch, row) for piece in snapshot.done for row in range(piece.first, piece.last)]
        if len(own) == len(set(own)) and rows.isdisjoint(own):
            held.append(snapshot)
            rows.update(own)
    return held
