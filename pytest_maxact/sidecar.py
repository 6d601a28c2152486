"""What a record keeps in an `.npz` file beside it: histograms of values, peaks by sample, and the samples of a large corpus."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pytest_maxact.histogram import PATTERNS, Histogram

MAX_BYTES = 4 << 30  # unpacked; far above what any model and corpus need


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
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                    raise ValueError("it is larger than any measurement")
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                dtypes, exact, offsets = (file[f"histogram_{name}"] for name in ("dtype", "exact", "offsets"))
                patterns, counts, hidden_peaks = file["patterns"], file["counts"], file["hidden_peaks"]
                samples = file["samples"].tobytes() if "samples" in file else b""  # records of earlier versions have none
        except (zipfile.BadZipFile, KeyError, EOFError, OSError) as cause:
            raise ValueError(f"it holds no measurement: {cause}") from None
        sites = len(totals)
        sound = (
            dtypes.shape == exact.shape == (sites,)
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
        )
        if not sound:
            raise ValueError("its arrays do not fit the record")
        histograms = []
        for site in range(sites):
            part = slice(offsets[site], offsets[site + 1])
            dense = np.zeros(PATTERNS, dtype=np.int64)
            dense[patterns[part]] = counts[part]
            histograms.append(Histogram(str(dtypes[site]), dense, bool(exact[site])))  # type: ignore[arg-type]
        if [int(histogram.counts.sum()) for histogram in histograms] != list(totals):
            raise ValueError("its histograms do not count what the record does")
        return cls(histograms, hidden_peaks, samples)
