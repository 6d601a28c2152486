"""The peak of every sample: at each `hidden` layer, and over all sites that are part of M."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pytest_maxact.reducers.rows import UNTRACED, Rows


@dataclass(frozen=True)
class SamplePeaks:
    """The state over n samples, float64; -1 where a sample held no finite value.

    hidden: [H, n], one row for each of H sites. model: [n].
    """

    hidden: torch.Tensor
    model: torch.Tensor

    @classmethod
    def zeros(cls, hidden: int, samples: int, device: torch.device) -> SamplePeaks:
        """Nothing seen yet."""
        nothing = torch.full((hidden + 1, samples), -1.0, dtype=torch.float64, device=device)
        return cls(nothing[:-1], nothing[-1])

    def update(self, rows: Rows, samples: torch.Tensor, hidden: torch.Tensor, part_of_m: torch.Tensor) -> None:
        """Take in a batch of B whole samples; in place, since a copy of the state costs more than the batch.

        Args:
            rows: figures of S sites and B * T rows.
            samples: int64 [B], which samples they are.
            hidden: int64 [H], which of the S sites are `hidden`.
            part_of_m: bool [S].

        """
        keys = rows.largest.reshape(len(rows.largest), len(samples), -1).amax(-1)
        self._raise(_values(rows, keys), samples, hidden, part_of_m)

    def update_traced(self, rows: Rows, hidden: torch.Tensor, part_of_m: torch.Tensor) -> None:
        """Take in rows in any order and number, whose samples follow from their places; those of unknown ones are left out."""
        known = rows.place < UNTRACED
        self._raise(_values(rows, rows.largest[:, known]), rows.place[known] >> 32, hidden, part_of_m)

    def _raise(self, values: torch.Tensor, samples: torch.Tensor, hidden: torch.Tensor, part_of_m: torch.Tensor) -> None:
        """To float64 [S, R] where it is larger; `samples`, int64 [R], may name one twice."""
        self.hidden.scatter_reduce_(1, samples.expand(len(hidden), -1), values[hidden], "amax")
        self.model.scatter_reduce_(0, samples, torch.where(part_of_m[:, None], values, -1.0).amax(0), "amax")

    def merge(self, other: SamplePeaks) -> SamplePeaks:
        """The state of both streams together."""
        return SamplePeaks(torch.maximum(self.hidden, other.hidden), torch.maximum(self.model, other.model))


def _values(rows: Rows, keys: torch.Tensor) -> torch.Tensor:
    return torch.where(keys < 0, -1.0, rows.encoding.values(keys.clamp(min=0)))
