"""Counts of a site's values by bit pattern, and everything that follows from them exactly. numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
PATTERNS = 1 << 16

# Bits of the mantissa, and the exponent of the smallest subnormal number.
_LAYOUTS = {"bfloat16": (7, -133), "float16": (10, -24)}


@dataclass(frozen=True)
class Moments:
    """Mean, population standard deviation, root mean square and mean of |a|, over finite values."""

    mean: float
    std: float
    rms: float
    abs_mean: float

    @classmethod
    def of(cls, count: int, total: Fraction, absolute: Fraction, squares: Fraction) -> Moments:
        """The moments of `count` values from their exact sums; NaN where there is none."""
        if not count:
            return cls(math.nan, math.nan, math.nan, math.nan)
        mean, square = total / count, squares / count
        return cls(float(mean), math.sqrt(square - mean**2), math.sqrt(square), float(absolute / count))


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often each of the 65,536 bit patterns of a 16-bit floating-point dtype occurred.

    dtype: `bfloat16` or `float16`, whose patterns are counted.
    counts: int64 [65536], by pattern as an unsigned integer.
    exact: False where float32 values were rounded to bfloat16 to be counted; what follows then errs by up to 2^-8 of a value.
    """

    dtype: Literal["bfloat16", "float16"]
    counts: Ints
    exact: bool = True

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Histogram)
            and (self.dtype, self.exact) == (other.dtype, other.exact)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def infinity(self) -> int:
        """The pattern of +infinity; NaN lie above it."""
        mantissa = _LAYOUTS[self.dtype][0]
        return (1 << 15) - (1 << mantissa)

    @cached_property
    def signed(self) -> tuple[Floats, Ints]:
        """The finite values that occurred, ascending, and how often each did; -0.0 counts as 0.0."""
        half, finite = PATTERNS // 2, self.infinity
        positive, negative = self.counts[:finite].copy(), self.counts[half : half + finite]
        positive[0] += negative[0]
        up, down = np.flatnonzero(positive), np.flatnonzero(negative[1:])[::-1] + 1
        values = np.concatenate([-self._values(down), self._values(up)])
        return values, np.concatenate([negative[down], positive[up]])

    @cached_property
    def magnitudes(self) -> tuple[Floats, Ints]:
        """The finite |a| that occurred, ascending, and how often each did."""
        folded = self._folded(1)
        seen = np.flatnonzero(folded)
        return self._values(seen), folded[seen]

    @cached_property
    def finite(self) -> int:
        """How many values were finite."""
        return int(self._folded(1).sum())

    @property
    def inf(self) -> int:
        """How many values were infinite."""
        return int(self.counts[self.infinity] + self.counts[PATTERNS // 2 + self.infinity])

    @property
    def nan(self) -> int:
        """How many values were NaN."""
        return int(self.counts.sum()) - self.finite - self.inf

    def moments(self) -> Moments:
        """Moments, rounded once at the end."""
        total = self._sum(self._folded(-1), 1)
        return Moments.of(self.finite, total, self._sum(self._folded(1), 1), self._sum(self._folded(1), 2))

    def quantile(self, q: float) -> float:
        """The smallest |a| with at least ceil(q n) of the n finite values at or below it; NaN where n is 0.

        Raises:
            ValueError: where q is not above 0 and at most 1.

        """
        if not 0 < q <= 1:
            raise ValueError(f"quantile {q} is not above 0 and at most 1")
        if not self.finite:
            return math.nan
        values, counts = self.magnitudes
        rank = math.ceil(Fraction(str(q)) * self.finite)  # 0.999 means 999/1000, not the float64 next to it
        return float(values[np.searchsorted(np.cumsum(counts), rank)])

    def top(self, n: int) -> list[float]:
        """The n largest |a| with their signs, descending; of equal |a| the positive ones first."""
        values, counts = self.signed
        order = np.lexsort((-values, -np.abs(values)))
        needed = int(np.searchsorted(np.cumsum(counts[order]), n)) + 1
        chosen = order[:needed]
        return [float(value) for value in np.repeat(values[chosen], np.minimum(counts[chosen], n))[:n]]

    def _folded(self, sign: Literal[1, -1]) -> Ints:
        """Counts by magnitude, finite ones: of both signs together, or the positive ones less the negative ones."""
        half = PATTERNS // 2
        return self.counts[: self.infinity] + sign * self.counts[half : half + self.infinity]

    def _values(self, magnitudes: npt.NDArray[np.intp]) -> Floats:
        if self.dtype == "bfloat16":  # numpy lacks it: it is the upper half of a float32
            return (magnitudes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return magnitudes.astype(np.uint16).view(np.float16).astype(np.float64)

    def _sum(self, counts: Ints, power: Literal[1, 2]) -> Fraction:
        """The exact sum of counts * |a|^power, in integers by exponent; of counts in two halves: no product overflows."""
        bits, lowest = _LAYOUTS[self.dtype]
        mantissa = np.arange(1 << bits, dtype=np.int64)
        total = 0
        for shift, half in ((31, counts >> 31), (0, counts & ((1 << 31) - 1))):
            table = half.reshape(-1, 1 << bits)  # one row an exponent
            for exponent in np.flatnonzero(table.any(axis=1)):
                whole = mantissa + (1 << bits) if exponent else mantissa
                total += int(table[exponent] @ whole**power) << (max(int(exponent) - 1, 0) * power + shift)
        return Fraction(total) * Fraction(2) ** (lowest * power)
