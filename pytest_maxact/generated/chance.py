"""Random choices that are the same on every machine and in every Python, for texts that are made instead of stored."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """A stream of choices that follows from a name alone.

    Of Python's generator it uses `random()` and `getrandbits()`, whose values every version gives alike; what is built on
    them here is arithmetic on whole numbers and products of two floats, so no platform's rounding can change it.
    """

    def __init__(self, name: str) -> None:
        self._random = random.Random(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big"))

    def below(self, count: int) -> int:
        """A whole number from 0 to `count` - 1."""
        return int(self._random.random() * count)

    def between(self, least: int, most: int) -> int:
        """A whole number from `least` to `most`, both included."""
        return least + int(self._random.random() * (most - least + 1))

    def odds(self, percent: int) -> bool:
        """True in so many of a hundred cases."""
        return self._random.random() * 100 < percent

    def pick(self, values: Sequence[T]) -> T:
        """One of the values."""
        return values[int(self._random.random() * len(values))]

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """All values in some order."""
        left = list(values)
        for place in range(len(left) - 1, 0, -1):
            other = self.below(place + 1)
            left[place], left[other] = left[other], left[place]
        return left

    def some(self, values: Sequence[T], count: int) -> list[T]:
        """Different ones of the values, `count` of them or all there are."""
        left = list(values)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]

    def bits(self, count: int) -> int:
        """A whole number of so many bits."""
        return self._random.getrandbits(count)
