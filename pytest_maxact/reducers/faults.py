"""Where each site's first NaN or infinity stands."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pytest_maxact.reducers.peak import PeakAt, token_of
from pytest_maxact.reducers.rows import FAULTLESS, FEATURE_BITS, MINUS_INFINITY, NOWHERE, Rows

KINDS = (math.nan, math.inf, -math.inf)


@dataclass(frozen=True)
class Faults:
    """The state over S sites, int64 [S] each: `place` and `fault` as in `Rows`; both `NOWHERE` until there is one.

    The lowest (sample, position) wins, there a NaN, then the lowest feature: whatever order batches came in.
    """

    place: torch.Tensor
    fault: torch.Tensor

    @classmethod
    def zeros(cls, sites: int, device: torch.device) -> Faults:
        """Nothing seen yet."""
        nowhere = torch.full((sites,), NOWHERE, dtype=torch.int64, device=device)
        return cls(nowhere, nowhere)

    def update(self, rows: Rows, routers: torch.Tensor) -> Faults:
        """The state after these rows too; `routers`, bool [S], are sites where -inf is no fault: it keeps an expert out."""
        if rows.fault.device.type == "cpu" and not bool((rows.fault < FAULTLESS).any()):  # on a GPU asking would wait for it
            return self
        fault = rows.fault.to(torch.int64)
        held = (fault < FAULTLESS) & ~(routers[:, None] & (fault >> FEATURE_BITS == MINUS_INFINITY))
        places = torch.where(held, rows.place, NOWHERE)
        place = places.amin(-1)
        # A routed token has several rows: the lowest fault wins, whatever their order.
        first = torch.where(held & (places == place[:, None]), fault, NOWHERE).amin(-1)
        return self.merge(Faults(place, first))

    def merge(self, other: Faults) -> Faults:
        """The state of both streams together."""
        earlier = (other.place < self.place) | ((other.place == self.place) & (other.fault < self.fault))
        return Faults(torch.where(earlier, other.place, self.place), torch.where(earlier, other.fault, self.fault))

    def finish(self) -> list[PeakAt | None]:
        """The value, which is not finite, and its place for each site; None where all were finite."""
        found = zip(self.place.tolist(), self.fault.tolist(), strict=True)
        return [None if fault == NOWHERE else _fault(place, fault) for place, fault in found]


def _fault(place: int, fault: int) -> PeakAt:
    sample, position = token_of(place)
    return PeakAt(KINDS[fault >> FEATURE_BITS], sample, position, fault % (1 << FEATURE_BITS))
