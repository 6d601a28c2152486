"""Signed extremes with the location of max|a|, and counts of NaN and infinities."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pytest_maxact.reducers.rows import Rows


@dataclass(frozen=True)
class PeakAt:
    """max|a| with its sign and place. Of equals the lowest (sample, position, feature) wins."""

    signed: float
    sample: int
    position: int
    feature: int

    @property
    def rank(self) -> tuple[float, int, int, int]:
        """Sorts the winner first."""
        return (-abs(self.signed), self.sample, self.position, self.feature)


@dataclass(frozen=True)
class Extrema:
    """The state of the reducer, and its result: extremes are None until a finite value has been seen."""

    count: int = 0
    nan: int = 0
    inf: int = 0
    largest: float | None = None
    smallest: float | None = None
    peak: PeakAt | None = None

    def update(self, rows: Rows) -> Extrema:
        """The state after these rows too."""
        return self.merge(_of(rows))

    def merge(self, other: Extrema) -> Extrema:
        """The state of both streams together."""
        if other.peak is None or self.peak is None:
            seen = self if other.peak is None else other
            return replace(seen, count=self.count + other.count, nan=self.nan + other.nan, inf=self.inf + other.inf)
        assert self.largest is not None
        assert other.largest is not None
        assert self.smallest is not None
        assert other.smallest is not None
        return Extrema(
            count=self.count + other.count,
            nan=self.nan + other.nan,
            inf=self.inf + other.inf,
            largest=max(self.largest, other.largest),
            smallest=min(self.smallest, other.smallest),
            peak=min(self.peak, other.peak, key=lambda peak: peak.rank),
        )

    def finish(self) -> Extrema:
        """The result."""
        return self


def _of(rows: Rows) -> Extrema:
    counts = Extrema(count=len(rows.sample) * rows.width, nan=int(rows.nan.sum()), inf=int(rows.inf.sum()))
    if rows.peak is None:
        return counts
    peak = rows.peak
    return replace(
        counts,
        largest=float(rows.signed(rows.max_key[rows.has_finite]).max()),
        smallest=float(rows.signed(rows.min_key[rows.has_finite]).min()),
        peak=PeakAt(float(rows.signed(np.array([peak.key]))[0]), peak.sample, peak.position, peak.feature),
    )
