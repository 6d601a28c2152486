"""Records kept in pytest's cache by what they were measured from, so that `--lf` or another tolerance measures nothing anew."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_maxact.errors import MeasurementError
from pytest_maxact.record import Measurement, sidecar_of

if TYPE_CHECKING:
    import pytest

KEPT = 16  # records; one of a large model takes some megabytes
RECORD = "record.json"


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
            _ = record.arrays
        except MeasurementError:
            return None
        return record

    def save(self, conditions: Mapping[str, object], record: Path) -> None:
        """Keep a record file and its arrays; the oldest go. A cache that cannot be written keeps nothing, as pytest's own."""
        if self.folder is None:
            return
        place = self._place(conditions)
        with contextlib.suppress(OSError):
            place.mkdir(exist_ok=True)
            for source, target in ((sidecar_of(record), sidecar_of(place / RECORD)), (record, place / RECORD)):
                shutil.copyfile(source, target)
            os.utime(place)
            by_age = sorted(self.folder.iterdir(), key=lambda kept: kept.stat().st_mtime_ns)
            for old in by_age[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)

    def _place(self, conditions: Mapping[str, object]) -> Path:
        assert self.folder is not None
        return self.folder / hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:32]
