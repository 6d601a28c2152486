"""Sums of floats that do not depend on the order of the summands."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch

# frexp gives exponents from -1073 to 1024; a slot each.
_LOWEST_EXPONENT = -1073
_SLOTS = 1024 - _LOWEST_EXPONENT + 1
_MANTISSA = 53
_HALF = 26  # a mantissa is summed as two halves, so that 2^36 summands fit in an int64


@dataclass(frozen=True)
class ExactSum:
    """S exact sums of finite float64 numbers: integer sums of their mantissas, one for each exponent.

    Integer addition is associative and commutative, so any split and any order give the same state.
    """

    halves: torch.Tensor  # int64 [2, S, slots]

    @classmethod
    def zeros(cls, sites: int, device: torch.device) -> ExactSum:
        """S empty sums."""
        return cls(torch.zeros((2, sites, _SLOTS), dtype=torch.int64, device=device))

    def update(self, numbers: torch.Tensor) -> ExactSum:
        """The sums with these numbers (float64 [S, n], finite) added."""
        mantissa, exponent = torch.frexp(numbers)
        whole = (mantissa * 2.0**_MANTISSA).to(torch.int64)
        slot = exponent.to(torch.int64) - _LOWEST_EXPONENT
        high, low = self.halves
        return ExactSum(
            torch.stack(
                [
                    high.scatter_add(-1, slot, whole >> _HALF),
                    low.scatter_add(-1, slot, whole & ((1 << _HALF) - 1)),
                ]
            )
        )

    def merge(self, other: ExactSum) -> ExactSum:
        """The sums of both."""
        return ExactSum(self.halves + other.halves)

    def finish(self) -> list[Fraction]:
        """The S sums as fractions, nothing lost."""
        totals = []
        for high, low in self.halves.cpu().numpy().swapaxes(0, 1):
            used = (high.astype(bool) | low.astype(bool)).nonzero()[0]
            total = sum(((int(high[slot]) << _HALF) + int(low[slot])) << int(slot) for slot in used)
            totals.append(Fraction(total) * Fraction(2) ** (_LOWEST_EXPONENT - _MANTISSA))
        return totals
