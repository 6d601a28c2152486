"""Where the largest |a| of each site stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pytest_maxact.reducers.encoding import Encoding
from pytest_maxact.reducers.rows import NOWHERE, UNTRACED, Rows


@dataclass(frozen=True)
class PeakAt:
    """max|a| with its sign, or a value that is not finite, and its place; None for both where the token is not known."""

    signed: float
    sample: int | None
    position: int | None
    feature: int


@dataclass(frozen=True)
class Peaks:
    """The state over S sites, int64 [S] each: `largest`, `place` and `spot` as in `Rows`; -1 and `NOWHERE` until there is one.

    Of equal values the lowest (sample, position, feature) wins.
    """

    largest: torch.Tensor
    place: torch.Tensor
    spot: torch.Tensor

    @classmethod
    def zeros(cls, sites: int, device: torch.device) -> Peaks:
        """Nothing seen yet."""
        nothing = torch.full((sites,), -1, dtype=torch.int64, device=device)
        return cls(nothing, torch.full_like(nothing, NOWHERE), nothing)

    def update(self, rows: Rows) -> Peaks:
        """The state after these rows too."""
        largest = rows.largest.to(torch.int64)
        best = largest.amax(-1)
        # A routed token has several rows, and so has what is of no known token: the lowest spot wins, whatever their order.
        places = torch.where(largest == best[:, None], rows.place, NOWHERE)
        place = places.amin(-1)
        spot = torch.where(places == place[:, None], rows.spot.to(torch.int64), NOWHERE).amin(-1)
        return self.merge(Peaks(best, torch.where(best < 0, NOWHERE, place), torch.where(best < 0, -1, spot)))

    def merge(self, other: Peaks) -> Peaks:
        """The state of both streams together."""
        earlier = (other.place < self.place) | ((other.place == self.place) & (other.spot < self.spot))
        wins = (other.largest > self.largest) | ((other.largest == self.largest) & earlier)
        return Peaks(
            torch.where(wins, other.largest, self.largest),
            torch.where(wins, other.place, self.place),
            torch.where(wins, other.spot, self.spot),
        )

    def finish(self, encoding: Encoding) -> list[PeakAt | None]:
        """A peak for each site, None where no value was finite."""
        values = encoding.values(self.largest.clamp(min=0)).tolist()
        found = zip(values, self.largest.tolist(), self.place.tolist(), self.spot.tolist(), strict=True)
        return [None if largest < 0 else _peak(value, place, spot) for value, largest, place, spot in found]


def token_of(place: int) -> tuple[int, int] | tuple[None, None]:
    """Sample and position of a place as in `Rows`; None of one that cannot be traced."""
    return (None, None) if place >= UNTRACED else (place >> 32, place & 0xFFFFFFFF)


def _peak(value: float, place: int, spot: int) -> PeakAt:
    sample, position = token_of(place)
    return PeakAt(0.0 - value if spot % 2 else value, sample, position, spot // 2)
