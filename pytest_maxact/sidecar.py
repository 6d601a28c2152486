"""What a record keeps in an `.npz` file beside it: histograms of values, peaks by sample, and the samples of a large corpus."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_maxact.errors import first_line, on_one_line
from pytest_maxact.histogram import PATTERNS, Histogram

MAX_BYTES = 4 << 30  # unpacked: a million samples of 128 layers are an eighth of it
MAX_PACKED = (1 << 31) - 1  # of larger files the archive's directory has another form
MAX_DIRECTORY = 4096  # bytes; each of seven entries takes 80
MAX_SITES = 8192  # 128 layers of 64; each has a histogram, which takes half a MiB in memory
MAX_SAMPLE = 16 << 10  # bytes of JSON, in which two labels of 1,000 characters have 12,000 at most


@dataclass(frozen=True, eq=False)
class Arrays:
    """What JSON is no place for.

    histograms: one for each site, in the record's order.
    hidden_peaks: float32 [L, n], max|a| of each of n samples at each of L `hidden` layers; NaN where none was finite.
    samples: the figures of the samples of a large corpus, as JSON; empty where the record itself holds them.
    """

    histograms: Sequence[Histogram]
    hidden_peaks: npt.NDArray[np.float32]
    samples: bytes = b""

    def dumps(self) -> bytes:
        """The bytes of an `.npz` file; of histograms only the patterns that occurred."""
        patterns = [np.flatnonzero(histogram.counts) for histogram in self.histograms]
        file = io.BytesIO()
        np.savez_compressed(
            file,
            histogram_dtype=np.array([histogram.dtype for histogram in self.histograms]),
            histogram_exact=np.array([histogram.exact for histogram in self.histograms]),
            histogram_offsets=np.cumsum([0, *map(len, patterns)]),
            patterns=np.concatenate(patterns).astype(np.uint16),
            counts=np.concatenate([h.counts[seen] for h, seen in zip(self.histograms, patterns, strict=True)]),
            hidden_peaks=self.hidden_peaks,
            samples=np.frombuffer(self.samples, dtype=np.uint8),
        )
        return file.getvalue()

    @classmethod
    def loads(cls, data: bytes, totals: Sequence[int], shape: tuple[int, int]) -> Arrays:
        """Read the bytes of an `.npz` file. Nothing in it is executed.

        Args:
            data: the bytes.
            totals: how many values each site's histogram must count.
            shape: what `hidden_peaks` must have.

        Raises:
            ValueError: where they are no such file.

        """
        layers, samples = shape
        room = {
            "histogram_dtype": 64 * len(totals),
            "histogram_exact": len(totals),
            "histogram_offsets": 8 * (len(totals) + 1),
            "patterns": 2 * PATTERNS * len(totals),
            "counts": 8 * PATTERNS * len(totals),
            "hidden_peaks": 4 * layers * samples,
            "samples": MAX_SAMPLE * (samples + 1),
        }
        try:
            found = _unpacked(data, room)
            dtypes, exact, offsets = (found[f"histogram_{name}"] for name in ("dtype", "exact", "offsets"))
            patterns, counts, hidden_peaks = found["patterns"], found["counts"], found["hidden_peaks"]
        except ValueError:
            raise
        except Exception as cause:  # whatever a damaged file makes zipfile and numpy raise
            raise ValueError(f"it holds no measurement: {on_one_line(cause)}") from None
        told = found.get("samples", np.zeros(0, np.uint8))  # records of earlier versions have none
        sites = len(totals)
        sound = (
            dtypes.shape == exact.shape == (sites,)
            and dtypes.dtype.kind == "U"
            and set(dtypes.tolist()) <= {"bfloat16", "float16"}
            and exact.dtype == np.bool_
            and offsets.shape == (sites + 1,)
            and offsets.dtype == counts.dtype == np.int64
            and patterns.dtype == np.uint16
            and patterns.ndim == 1
            and patterns.shape == counts.shape
            and offsets[0] == 0
            and offsets[-1] == len(patterns)
            and bool((np.diff(offsets) >= 0).all())
            and bool((counts >= 0).all())
            and hidden_peaks.dtype == np.float32
            and hidden_peaks.shape == shape
            and told.dtype == np.uint8
        )
        if not sound:
            raise ValueError("its arrays do not fit the record")
        histograms = []
        for site in range(sites):
            part = slice(offsets[site], offsets[site + 1])
            dense = np.zeros(PATTERNS, dtype=np.int64)
            dense[patterns[part]] = counts[part]
            histograms.append(Histogram(str(dtypes[site]), dense, bool(exact[site])))  # type: ignore[arg-type]
        if [_sum(histogram.counts) for histogram in histograms] != list(totals):
            raise ValueError("its histograms do not count what the record does")
        return cls(histograms, hidden_peaks.copy(), told.tobytes())


def _sum(counts: npt.NDArray[np.int64]) -> int:
    """The sum of counts from 0, which may be beyond int64."""
    return (int((counts >> 31).sum()) << 31) + int((counts & ((1 << 31) - 1)).sum())


def _unpacked(data: bytes, room: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an `.npz` file that have room, by name; nothing is unpacked before its size is known.

    Args:
        data: the bytes.
        room: how many bytes each array may have.

    """
    end, locator = data[-22:], data[-42:-22]
    if end[:4] != b"PK\5\6" or locator[:4] == b"PK\6\7" or int.from_bytes(end[12:16], "little") > MAX_DIRECTORY:
        raise ValueError("it holds no measurement: it does not end as an archive of a few arrays does")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        if len(entries) < len(archive.infolist()):
            raise ValueError("it holds an array more than once")
        sizes = sum(entry.file_size for entry in entries.values())
        if sizes > MAX_BYTES:
            raise ValueError(f"it has {sizes:,} bytes unpacked, and at most {MAX_BYTES:,} are read")
        return {name: _array(archive, entries[name], most) for name, most in room.items() if name in entries}


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> npt.NDArray[Any]:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is packed in a way that is not ours")
    with archive.open(entry) as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("it is of another version of numpy's format")
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        except Exception as cause:  # whatever a damaged one makes numpy raise
            raise ValueError(f"{entry.filename} has no header of ours: {first_line(cause)}") from None
        size = entry.file_size - file.tell()
        if size > most:
            raise ValueError(f"{entry.filename} has {size:,} bytes, and at most {most:,} fit the record")
        if dtype.hasobject or size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{entry.filename} does not hold what its header says")
        return np.ndarray(shape, dtype, file.read(size), order="F" if by_column else "C")
