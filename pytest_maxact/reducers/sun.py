"""Figures of the Sun criterion (arXiv 2402.17762): a token passes where max|x| > 100 and max|x| / median|x| > 1000."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pytest_maxact.record import MASSIVE_ABS, MASSIVE_RATIO, SunFigures
from pytest_maxact.reducers.exact import ExactSum
from pytest_maxact.reducers.rows import NOWHERE, Rows


@dataclass(frozen=True)
class Tokens:
    """One token for each of S sites: float64 [S] its max|x|, lower median of |x| and their ratio, int64 [S] its place."""

    largest: torch.Tensor
    median: torch.Tensor
    ratio: torch.Tensor
    place: torch.Tensor

    @classmethod
    def none(cls, sites: int, device: torch.device) -> Tokens:
        """No token yet."""
        nothing = torch.full((sites,), -1.0, dtype=torch.float64, device=device)
        return cls(nothing, nothing, nothing, torch.full((sites,), NOWHERE, dtype=torch.int64, device=device))

    def first(self, by: torch.Tensor) -> Tokens:
        """Of n tokens a site (the fields being [S, n]) the one with the largest `by`; of equals the lowest place."""
        ties = by == by.amax(-1, keepdim=True)
        row = torch.where(ties, self.place, NOWHERE).argmin(-1, keepdim=True)
        return Tokens(*(field.gather(-1, row).squeeze(-1) for field in (self.largest, self.median, self.ratio, self.place)))

    def beside(self, other: Tokens) -> Tokens:
        """Both, as two tokens a site."""
        return Tokens(
            torch.stack([self.largest, other.largest], -1),
            torch.stack([self.median, other.median], -1),
            torch.stack([self.ratio, other.ratio], -1),
            torch.stack([self.place, other.place], -1),
        )


@dataclass(frozen=True)
class Sun:
    """The state over the tokens of S sites that hold no NaN or infinity; every tensor begins with [S].

    peak: the token with the largest |x|; steepest: the one with the largest ratio.
    """

    tokens: torch.Tensor
    passing: torch.Tensor
    infinite: torch.Tensor
    margin: torch.Tensor
    peak: Tokens
    steepest: Tokens
    ratios: ExactSum
    squares: ExactSum

    @classmethod
    def zeros(cls, sites: int, device: torch.device) -> Sun:
        """No token seen yet."""
        nothing = torch.zeros(sites, dtype=torch.int64, device=device)
        token, total = Tokens.none(sites, device), ExactSum.zeros(sites, device)
        return cls(nothing, nothing, nothing, nothing.to(torch.float64), token, token, total, total)

    def update(self, rows: Rows) -> Sun:
        """The state after these rows too; they must hold medians."""
        assert rows.median is not None, "these sites were scanned without medians"
        judged = rows.median >= 0
        largest = rows.encoding.values(rows.largest.clamp(min=0))
        median = rows.encoding.values(rows.median.clamp(min=0))
        ratio = torch.where(largest > 0, largest / median, 0.0)
        # Not by the ratio: largest and 1000 * median are exact, their quotient is rounded.
        passes = judged & (largest > MASSIVE_ABS) & (largest > MASSIVE_RATIO * median)
        finite = judged & ratio.isfinite()
        margin = torch.minimum(largest / MASSIVE_ABS, ratio / MASSIVE_RATIO)
        place = torch.where(judged, rows.place, NOWHERE)
        found = Tokens(torch.where(judged, largest, -1.0), median, torch.where(judged, ratio, -1.0), place)
        summed = torch.where(finite, ratio, 0.0)
        return Sun(
            tokens=self.tokens + judged.sum(-1),
            passing=self.passing + passes.sum(-1),
            infinite=self.infinite + (judged & ~finite).sum(-1),
            margin=torch.maximum(self.margin, torch.where(judged, margin, 0.0).amax(-1)),
            peak=(both := self.peak.beside(found.first(found.largest))).first(both.largest),
            steepest=(both := self.steepest.beside(found.first(found.ratio))).first(both.ratio),
            ratios=self.ratios.update(summed),
            squares=self.squares.update(summed.square()),
        )

    def merge(self, other: Sun) -> Sun:
        """The state of both streams together."""
        return Sun(
            tokens=self.tokens + other.tokens,
            passing=self.passing + other.passing,
            infinite=self.infinite + other.infinite,
            margin=torch.maximum(self.margin, other.margin),
            peak=(both := self.peak.beside(other.peak)).first(both.largest),
            steepest=(both := self.steepest.beside(other.steepest)).first(both.ratio),
            ratios=self.ratios.merge(other.ratios),
            squares=self.squares.merge(other.squares),
        )

    def finish(self) -> list[SunFigures | None]:
        """Figures for each site, None where no token could be judged.

        A single infinite ratio makes the mean infinite and leaves no deviation.
        """
        ratios, squares = self.ratios.finish(), self.squares.finish()
        columns = [self.tokens, self.passing, self.infinite, self.margin, self.peak.median, self.peak.ratio]
        columns += [self.steepest.ratio, self.steepest.largest, self.steepest.median]
        figures: list[SunFigures | None] = []
        for site, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            tokens, passing, infinite, margin, peak_median, peak_ratio, max_ratio, max_ratio_abs, max_ratio_median = row
            if not tokens:
                figures.append(None)
                continue
            mean, std = math.inf, math.nan
            if not infinite:
                exact_mean = ratios[site] / tokens
                mean = float(exact_mean)
                # The squares were rounded one by one, so equal ratios can leave a tiny negative rest.
                std = math.sqrt(max(0.0, float(squares[site] / tokens - exact_mean**2)))
            figures.append(
                SunFigures(
                    tokens=tokens,
                    passing=passing,
                    peak_token_median=peak_median,
                    peak_token_ratio=peak_ratio,
                    max_ratio=max_ratio,
                    max_ratio_abs=max_ratio_abs,
                    max_ratio_median=max_ratio_median,
                    mean_ratio=mean,
                    std_ratio=std,
                    margin=margin,
                )
            )
        return figures
