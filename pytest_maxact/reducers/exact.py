"""Sums of floats that do not depend on the order of the summands."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from pytest_maxact.reducers.rows import Floats, Ints

# frexp gives exponents from -1073 to 1024; a slot each.
_LOWEST_EXPONENT = -1073
_SLOTS = 1024 - _LOWEST_EXPONENT + 1
_HALF = 26  # a 53-bit mantissa is summed as two halves: 2^36 summands fit in an int64, 2^26 of an update in a float64


def _zeros() -> Ints:
    return np.zeros((2, _SLOTS), dtype=np.int64)


@dataclass(frozen=True)
class ExactSum:
    """The exact sum of finite non-negative float64 numbers: integer sums of their mantissas, one for each exponent.

    Integer addition is associative and commutative, so any split and any order give the same state.
    """

    halves: Ints = field(default_factory=_zeros)

    def update(self, numbers: Floats) -> ExactSum:
        """The sum with these numbers (shape [n], finite, >= 0) added."""
        mantissa, exponent = np.frexp(numbers)
        whole = np.ldexp(mantissa, 2 * _HALF + 1).astype(np.int64)
        slot = exponent.astype(np.int64) - _LOWEST_EXPONENT
        high = np.bincount(slot, weights=whole >> _HALF, minlength=_SLOTS)
        low = np.bincount(slot, weights=whole & ((1 << _HALF) - 1), minlength=_SLOTS)
        return self.merge(ExactSum(np.stack([high, low]).astype(np.int64)))

    def merge(self, other: ExactSum) -> ExactSum:
        """The sum of both."""
        return ExactSum(self.halves + other.halves)

    def finish(self) -> Fraction:
        """The sum as a fraction, nothing lost."""
        total = Fraction(0)
        for slot in np.flatnonzero(self.halves.any(axis=0)):
            whole = (int(self.halves[0, slot]) << _HALF) + int(self.halves[1, slot])
            total += whole * Fraction(2) ** (int(slot) + _LOWEST_EXPONENT - 2 * _HALF - 1)
        return total

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExactSum) and np.array_equal(self.halves, other.halves)

    __hash__ = None  # type: ignore[assignment]
