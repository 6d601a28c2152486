"""What float32 sites need beside their histogram, whose 16 bits are not all of a value."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pytest_maxact.histogram import Moments
from pytest_maxact.reducers.encoding import ENCODINGS
from pytest_maxact.reducers.exact import ExactSum
from pytest_maxact.reducers.rows import Rows


@dataclass(frozen=True)
class WideFigures:
    """The result for one site. Extremes are -inf and inf where no value was finite; `top` as `Histogram.top` gives it."""

    high: float
    low: float
    nan: int
    inf: int
    moments: Moments
    top: list[float]


@dataclass(frozen=True)
class WideState:
    """The state over S sites: float32 [S] extremes, int64 [S] counts, exact sums of x, |x| and x^2."""

    high: torch.Tensor
    low: torch.Tensor
    nan: torch.Tensor
    inf: torch.Tensor
    sums: tuple[ExactSum, ExactSum, ExactSum]

    @classmethod
    def zeros(cls, sites: int, device: torch.device) -> WideState:
        """Nothing seen yet."""
        none = torch.full((sites,), -torch.inf, dtype=torch.float32, device=device)
        count = torch.zeros(sites, dtype=torch.int64, device=device)
        total = ExactSum.zeros(sites, device)
        return cls(none, -none, count, count, (total, total, total))

    def update(self, rows: Rows) -> WideState:
        """The state after these rows too."""
        wide, real = rows.wide, rows.real
        assert wide is not None
        total, absolute, squares = (
            exact.update(torch.where(real, wide.sums[..., power], 0.0)) for power, exact in enumerate(self.sums)
        )
        return self._with(
            torch.where(real, wide.high, -torch.inf).amax(-1),
            torch.where(real, wide.low, torch.inf).amin(-1),
            torch.where(real, wide.nan, 0).sum(-1),
            torch.where(real, wide.inf, 0).sum(-1),
            (total, absolute, squares),
        )

    def merge(self, other: WideState) -> WideState:
        """The state of both streams together."""
        total, absolute, squares = (mine.merge(theirs) for mine, theirs in zip(self.sums, other.sums, strict=True))
        return self._with(other.high, other.low, other.nan, other.inf, (total, absolute, squares))

    def finish(self, counts: list[int], top: torch.Tensor) -> list[WideFigures]:
        """Figures for each site; `counts` are how many values were finite, `top` as in `Totals`."""
        sums = [exact.finish() for exact in self.sums]
        encoding = ENCODINGS[torch.float32]
        magnitudes, negative = encoding.values(top.clamp(min=0) >> 1), top % 2 == 0
        tops = torch.where(negative, -magnitudes, magnitudes)
        return [
            WideFigures(
                high=float(self.high[site]) + 0.0,
                low=float(self.low[site]) + 0.0,
                nan=int(self.nan[site]),
                inf=int(self.inf[site]),
                # Rounded squares can sum to less than the squared sum of |x| allows, and a variance must not be negative.
                moments=Moments.of(count, sums[0][site], sums[1][site], max(sums[2][site], sums[1][site] ** 2 / max(count, 1))),
                top=tops[site][top[site] >= 0].tolist(),
            )
            for site, count in enumerate(counts)
        ]

    def _with(
        self,
        high: torch.Tensor,
        low: torch.Tensor,
        nan: torch.Tensor,
        inf: torch.Tensor,
        sums: tuple[ExactSum, ExactSum, ExactSum],
    ) -> WideState:
        return WideState(
            torch.maximum(self.high, high),
            torch.minimum(self.low, low),
            self.nan + nan,
            self.inf + inf,
            sums,
        )
