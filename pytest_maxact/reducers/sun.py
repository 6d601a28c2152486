"""Figures of the Sun criterion (arXiv 2402.17762): a token passes where max|x| > 100 and max|x| / median|x| > 1000."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from pytest_maxact.record import SunFigures
from pytest_maxact.reducers.exact import ExactSum
from pytest_maxact.reducers.rows import Rows

MASSIVE_ABS = 100
MASSIVE_RATIO = 1000


@dataclass(frozen=True)
class Token:
    """max|x|, lower median of |x| and their ratio at one token; of equals the lowest (sample, position) wins."""

    largest: float
    median: float
    ratio: float
    sample: int
    position: int


def _by_value(token: Token) -> tuple[float, int, int]:
    return (-token.largest, token.sample, token.position)


def _by_ratio(token: Token) -> tuple[float, int, int]:
    return (-token.ratio, token.sample, token.position)


@dataclass(frozen=True)
class Sun:
    """The state of the reducer over tokens without NaN or infinities."""

    tokens: int = 0
    passing: int = 0
    infinite: int = 0
    margin: float = 0.0
    peak: Token | None = None
    steepest: Token | None = None
    ratios: ExactSum = field(default_factory=ExactSum)
    squares: ExactSum = field(default_factory=ExactSum)

    def update(self, rows: Rows) -> Sun:
        """The state after these rows too; they must hold medians."""
        return self.merge(_of(rows))

    def merge(self, other: Sun) -> Sun:
        """The state of both streams together."""
        peaks = [token for token in (self.peak, other.peak) if token is not None]
        steepest = [token for token in (self.steepest, other.steepest) if token is not None]
        return Sun(
            tokens=self.tokens + other.tokens,
            passing=self.passing + other.passing,
            infinite=self.infinite + other.infinite,
            margin=max(self.margin, other.margin),
            peak=min(peaks, key=_by_value, default=None),
            steepest=min(steepest, key=_by_ratio, default=None),
            ratios=self.ratios.merge(other.ratios),
            squares=self.squares.merge(other.squares),
        )

    def finish(self) -> SunFigures | None:
        """The figures, None where no token could be judged.

        A single infinite ratio, or one whose square float64 cannot hold, makes the mean infinite and leaves no deviation.
        """
        if self.peak is None or self.steepest is None:
            return None
        mean, std = math.inf, math.nan
        if not self.infinite:
            exact_mean = self.ratios.finish() / self.tokens
            mean = float(exact_mean)
            # The squares were rounded one by one, so equal ratios can leave a tiny negative rest.
            std = math.sqrt(max(0.0, float(self.squares.finish() / self.tokens - exact_mean**2)))
        return SunFigures(
            tokens=self.tokens,
            passing=self.passing,
            peak_token_median=self.peak.median,
            peak_token_ratio=self.peak.ratio,
            max_ratio=self.steepest.ratio,
            max_ratio_abs=self.steepest.largest,
            max_ratio_median=self.steepest.median,
            mean_ratio=mean,
            std_ratio=std,
            margin=self.margin,
        )


def _of(rows: Rows) -> Sun:
    assert rows.median is not None, "this site was scanned without medians"
    judged = rows.nan + rows.inf == 0
    if not judged.any():
        return Sun()
    largest = rows.largest[judged]
    median = rows.encoding.values(rows.median[judged])
    sample, position = rows.sample[judged], rows.position[judged]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where(largest > 0, largest / median, 0.0)
        square = np.square(ratio)
        # Not by the ratio: largest and 1000 * median are exact, their quotient is rounded.
        passes = (largest > MASSIVE_ABS) & (largest > MASSIVE_RATIO * median)
    finite = np.isfinite(square)  # only float64 activations have finite ratios beyond 1e154

    def first(keys: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Token:
        row = np.lexsort((position, sample, -keys))[0]
        return Token(float(largest[row]), float(median[row]), float(ratio[row]), int(sample[row]), int(position[row]))

    return Sun(
        tokens=len(largest),
        passing=int(passes.sum()),
        infinite=int((~finite).sum()),
        margin=float(np.minimum(largest / MASSIVE_ABS, ratio / MASSIVE_RATIO).max()),
        peak=first(largest),
        steepest=first(ratio),
        ratios=ExactSum().update(ratio[finite]),
        squares=ExactSum().update(square[finite]),
    )
