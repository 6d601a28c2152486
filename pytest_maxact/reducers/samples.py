"""The peak of every sample: at each `hidden` layer, and over all sites that are part of M with its position."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pytest_maxact.reducers.rows import NOWHERE, UNTRACED, Rows

POSITION = 0xFFFFFFFF  # the bits of a place that are the position


@dataclass(frozen=True)
class SamplePeaks:
    """The state over n samples, peaks in float64; -1 where a sample held no finite value.

    hidden: [H, n], one row for each of H sites. model: [n].
    place: int64 [n], where `model` stands: the site's number in its group * 2^32 + position among the sample's real tokens,
        of equals the lowest; `NOWHERE` where there is none.
    """

    hidden: torch.Tensor
    model: torch.Tensor
    place: torch.Tensor

    @classmethod
    def zeros(cls, hidden: int, samples: int, device: torch.device) -> SamplePeaks:
        """Nothing seen yet."""
        nothing = torch.full((hidden + 1, samples), -1.0, dtype=torch.float64, device=device)
        return cls(nothing[:-1], nothing[-1], torch.full((samples,), NOWHERE, device=device))

    def update(self, rows: Rows, samples: torch.Tensor, hidden: torch.Tensor, part_of_m: torch.Tensor) -> None:
        """Take in a batch of B whole samples; in place, since a copy of the state costs more than the batch.

        Args:
            rows: figures of S sites and B * T rows.
            samples: int64 [B], which samples they are.
            hidden: int64 [H], which of the S sites are `hidden`.
            part_of_m: bool [S].

        """
        tokens = rows.largest.reshape(len(rows.largest), len(samples), -1)
        values = _values(rows, tokens.amax(-1))
        best, site = torch.where(part_of_m[:, None], values, -1.0).max(0)  # the first of equals
        there = tokens[site, torch.arange(len(site), device=site.device)]
        holds = there == there.amax(-1, keepdim=True)
        place = torch.where(holds, rows.place.reshape(holds.shape), NOWHERE).amin(-1)
        self._raise(samples, values[hidden], best, (site << 32) + (place & POSITION))

    def update_traced(self, rows: Rows, hidden: torch.Tensor, part_of_m: torch.Tensor) -> None:
        """Take in rows in any order and number, whose samples follow from their places; those of unknown ones are left out."""
        known = rows.place < UNTRACED
        values, place = _values(rows, rows.largest[:, known]), rows.place[known]
        best, site = torch.where(part_of_m[:, None], values, -1.0).max(0)
        self._raise(place >> 32, values[hidden], best, (site << 32) + (place & POSITION))

    def _raise(self, samples: torch.Tensor, hidden: torch.Tensor, best: torch.Tensor, place: torch.Tensor) -> None:
        """To `hidden`, [H, R], and `best`, [R], where they are larger; `samples`, int64 [R], may name one twice."""
        self.hidden.scatter_reduce_(1, samples.expand(len(hidden), -1), hidden, "amax")
        before = self.model[samples]
        self.model.scatter_reduce_(0, samples, best, "amax")
        now = self.model[samples]
        self.place.scatter_(0, samples, torch.where(now > before, NOWHERE, self.place[samples]))
        holds = (best == now) & (best >= 0)
        self.place.scatter_reduce_(0, samples, torch.where(holds, place, NOWHERE), "amin")

    def merge(self, other: SamplePeaks) -> SamplePeaks:
        """The state of both streams together."""
        model = torch.maximum(self.model, other.model)
        mine = torch.where(self.model == model, self.place, NOWHERE)
        theirs = torch.where(other.model == model, other.place, NOWHERE)
        return SamplePeaks(torch.maximum(self.hidden, other.hidden), model, torch.minimum(mine, theirs))


def _values(rows: Rows, keys: torch.Tensor) -> torch.Tensor:
    return torch.where(keys < 0, -1.0, rows.encoding.values(keys.clamp(min=0)))
