"""Records kept in pytest's cache by what they were measured from, so that `--lf` or another tolerance measures nothing anew."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_maxact.errors import MeasurementError
from pytest_maxact.files import parse_json, read
from pytest_maxact.record import Measurement, sidecar_of, write_atomically

if TYPE_CHECKING:
    import pytest

KEPT = 16  # records beside those of a series; one of a large model takes some megabytes
RECORD = "record.json"
UNFINISHED = "unfinished"
KEPT_UNFINISHED = 4  # runs that were never taken up again
FINGERPRINTS = "fingerprints.json"
REMEMBERED = 1000
MAX_FINGERPRINTS = 1 << 20  # bytes; 1,000 of them have 134,000
DIGEST = re.compile(r"[0-9a-f]{64}")
UNSETTLED_NS = 2_000_000_000  # a file written again within a clock's tick looks the same


class Store:
    """Records in a folder, one below for each set of conditions; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def of(cls, config: pytest.Config) -> Store:
        """In pytest's cache; nowhere under `-p no:cacheprovider`, or where it cannot be written."""
        cache: pytest.Cache | None = getattr(config, "cache", None)
        try:
            return cls(None if cache is None else cache.mkdir("maxact"))
        except OSError:
            return cls(None)

    def load(self, conditions: Mapping[str, object]) -> Measurement | None:
        """The record that was made under these conditions; None where there is none, or it is damaged."""
        if self.folder is None:
            return None
        try:
            record = Measurement.load(self._place(conditions) / RECORD)
            _ = record.sidecar and record.arrays
        except MeasurementError:
            return None
        with contextlib.suppress(OSError):
            os.utime(self._place(conditions))  # what is used is not the oldest
        return record

    def save(self, conditions: Mapping[str, object], record: Path, others: int = 0) -> None:
        """Keep a record file and its arrays; the oldest go, but for 16 and as many `others` as a series has.

        A cache that cannot be written keeps nothing, as pytest's own.
        """
        if self.folder is None:
            return
        place = self._place(conditions)
        with contextlib.suppress(OSError):
            place.mkdir(exist_ok=True)
            for source, target in ((sidecar_of(record), sidecar_of(place / RECORD)), (record, place / RECORD)):
                if source.exists():  # a record need not have arrays
                    write_atomically(target, source.read_bytes())
            os.utime(place)
            _forget([other for other in self.folder.glob("*/") if other.name != UNFINISHED], KEPT + others)

    def unfinished(self, name: str, *, fresh: bool) -> Path | None:
        """Where a run of this name keeps how far it has come; `fresh` if it shall not go on from there."""
        if self.folder is None:
            return None
        if fresh:
            self.finished(name)
        folder = self.folder / UNFINISHED / name
        with contextlib.suppress(OSError):
            os.utime(folder)  # what goes on is not the oldest
        _forget([other for other in folder.parent.glob("*/") if other != folder], KEPT_UNFINISHED)
        return folder

    def finished(self, name: str) -> None:
        """Forget how far the run of this name has come."""
        if self.folder is not None:
            shutil.rmtree(self.folder / UNFINISHED / name, ignore_errors=True)
            with contextlib.suppress(OSError):
                (self.folder / UNFINISHED).rmdir()  # of the last one

    def fingerprint(self, files: Sequence[Path], digest: Callable[[Sequence[Path]], str]) -> str:
        """The digest of files, read only where one has changed since it was last asked for: by size, times and inode."""
        if self.folder is None:
            return digest(files)
        stats = [(str(file.resolve()), file.stat()) for file in files]
        seen = [[path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for path, stat in stats]
        key = hashlib.sha256(json.dumps(seen).encode()).hexdigest()
        known = self._fingerprints()
        if key not in known:
            known[key] = digest(files)
            if time.time_ns() - max(stat.st_ctime_ns for _, stat in stats) > UNSETTLED_NS:
                kept = dict(list(known.items())[-REMEMBERED:])
                with contextlib.suppress(OSError):
                    write_atomically(self.folder / FINGERPRINTS, json.dumps(kept))
        return known[key]

    def _fingerprints(self) -> dict[str, str]:
        assert self.folder is not None
        try:
            known = parse_json(read(self.folder / FINGERPRINTS, MAX_FINGERPRINTS).decode())
        except (OSError, ValueError):
            return {}
        values = known.values() if isinstance(known, dict) else [None]
        return known if all(isinstance(value, str) and DIGEST.fullmatch(value) for value in values) else {}

    def _place(self, conditions: Mapping[str, object]) -> Path:
        assert self.folder is not None
        return self.folder / hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:32]


def _forget(folders: Sequence[Path], kept: int) -> None:
    """Remove the oldest, but for so many."""
    with contextlib.suppress(OSError):  # another session may remove one meanwhile
        by_age = sorted(folders, key=lambda folder: folder.stat().st_mtime_ns)
        for old in by_age[: max(0, len(by_age) - kept)]:
            shutil.rmtree(old, ignore_errors=True)
