"""What reducers work on: per-token figures of one site in one batch, on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Encoding:
    """How a floating-point dtype lays out its bits.

    A *key* is the bit pattern as a signed integer whose order is the order of the values; the *magnitude* is the pattern
    without its sign bit, whose order is the order of |x|. From `infinity` upwards magnitudes are not finite.
    """

    dtype: torch.dtype
    integer: torch.dtype
    bits: int
    infinity: int

    @property
    def magnitude_mask(self) -> int:
        """All bits but the sign."""
        return (1 << (self.bits - 1)) - 1

    def values(self, magnitudes: Ints) -> Floats:
        """Magnitudes as the float64 values they stand for, exactly."""
        if self.dtype is torch.bfloat16:  # numpy lacks it: it is the upper half of a float32
            return (magnitudes << 16).astype(np.uint32).view(np.float32).astype(np.float64)
        unsigned, floating = {16: (np.uint16, np.float16), 32: (np.uint32, np.float32), 64: (np.uint64, np.float64)}[self.bits]
        return magnitudes.astype(unsigned).view(floating).astype(np.float64)


ENCODINGS = {
    torch.bfloat16: Encoding(torch.bfloat16, torch.int16, 16, 0x7F80),
    torch.float16: Encoding(torch.float16, torch.int16, 16, 0x7C00),
    torch.float32: Encoding(torch.float32, torch.int32, 32, 0x7F800000),
    torch.float64: Encoding(torch.float64, torch.int64, 64, 0x7FF0000000000000),
}


@dataclass(frozen=True)
class Scan:
    """Figures of one tensor of shape [..., d], seen as N rows, on the tensor's device; integers all.

    max_key, min_key, nan, inf, median: [N] each, see `Rows`.
    peak_row, feature, peak_key: scalars, where the largest finite |x| of the real rows stands, and its key.
    """

    encoding: Encoding
    width: int
    max_key: torch.Tensor
    min_key: torch.Tensor
    nan: torch.Tensor
    inf: torch.Tensor
    median: torch.Tensor | None
    peak_row: torch.Tensor
    feature: torch.Tensor
    peak_key: torch.Tensor


@dataclass(frozen=True)
class RowPeak:
    """The largest finite |x| of a batch at one site: the key of the value, and where it stands."""

    key: int
    sample: int
    position: int
    feature: int


@dataclass(frozen=True)
class Rows:
    """Figures of n real tokens at one site; every array has shape [n] and dtype int64.

    sample, position: where the row comes from (sample index in the corpus, position among its real tokens).
    max_key, min_key: keys of the largest and the smallest finite value; meaningless where the row has none.
    nan, inf: how many of the row's values are NaN, and infinite.
    median: magnitude of the lower median of |x|, NaN and infinities counted as largest; None where nobody asked for it.
    peak: where the largest finite |x| stands; of equals the lowest (sample, position, feature). None without any.
    """

    encoding: Encoding
    width: int
    sample: Ints
    position: Ints
    max_key: Ints
    min_key: Ints
    nan: Ints
    inf: Ints
    median: Ints | None
    peak: RowPeak | None

    @classmethod
    def from_scan(cls, scan: Scan, real: npt.NDArray[np.bool_], sample: Ints, position: Ints) -> Rows:
        """Bring a scan to the host, keeping real rows only.

        Args:
            scan: figures of N rows, padded ones among them.
            real: bool [N], False for padding.
            sample: int64 [N].
            position: int64 [N].

        """

        def host(tensor: torch.Tensor) -> Ints:
            return np.asarray(tensor.cpu().numpy()[real], dtype=np.int64)

        nan, inf = host(scan.nan), host(scan.inf)
        row = int(scan.peak_row)
        has_finite = bool((nan + inf < scan.width).any())
        return cls(
            encoding=scan.encoding,
            width=scan.width,
            sample=sample[real],
            position=position[real],
            max_key=host(scan.max_key),
            min_key=host(scan.min_key),
            nan=nan,
            inf=inf,
            median=None if scan.median is None else host(scan.median),
            peak=RowPeak(int(scan.peak_key), int(sample[row]), int(position[row]), int(scan.feature)) if has_finite else None,
        )

    @property
    def has_finite(self) -> npt.NDArray[np.bool_]:
        """Shape [n], whether the row holds any finite value."""
        return self.nan + self.inf < self.width

    @property
    def largest(self) -> Floats:
        """Shape [n], the largest finite |x| of each row; meaningless where the row has none."""
        return np.maximum(np.abs(self.signed(self.max_key)), np.abs(self.signed(self.min_key)))

    def signed(self, keys: Ints) -> Floats:
        """The values that keys stand for, exactly; -0.0 as 0.0."""
        magnitude = np.where(keys < 0, ~keys & self.encoding.magnitude_mask, keys)
        return np.where(keys < 0, -1.0, 1.0) * self.encoding.values(magnitude) + 0.0
