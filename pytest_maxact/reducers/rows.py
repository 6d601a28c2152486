"""What a kernel fills in and reducers work on: figures of a batch, one a token."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

from pytest_maxact.reducers.encoding import Encoding

PATTERNS = 1 << 16
TOP = 100
NOWHERE = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Wide:
    """What a histogram of 16-bit patterns cannot tell of float32 values. All but `top` one a row.

    high, low: float32 [S, N], the largest and the smallest finite value; -inf and inf where there is none.
    nan, inf: int32 [S, N], how many values are NaN, and infinite.
    sums: float64 [S, N, 3], sums over the row's finite values of x, |x| and x^2, each summand rounded to a fixed multiple of
        the row's largest (2^-44 and 2^-43 of its octave), so that every order of adding gives the same bits.
    top: int64 [S, 100], the largest finite |x| of the tensor as `rank` numbers, descending; -1 where there are fewer.
    """

    high: torch.Tensor
    low: torch.Tensor
    nan: torch.Tensor
    inf: torch.Tensor
    sums: torch.Tensor
    top: torch.Tensor

    @classmethod
    def empty(cls, shape: tuple[int, int], device: torch.device) -> Wide:
        """Room for S sites and N rows."""
        return cls(
            high=torch.empty(shape, dtype=torch.float32, device=device),
            low=torch.empty(shape, dtype=torch.float32, device=device),
            nan=torch.empty(shape, dtype=torch.int32, device=device),
            inf=torch.empty(shape, dtype=torch.int32, device=device),
            sums=torch.empty((*shape, 3), dtype=torch.float64, device=device),
            top=torch.empty((shape[0], TOP), dtype=torch.int64, device=device),
        )

    def __getitem__(self, site: int) -> Wide:
        return Wide(**{field.name: getattr(self, field.name)[site] for field in fields(self)})


@dataclass(frozen=True)
class Rows:
    """Figures of S sites of one dtype in a batch of N rows, on the sites' device; `rows[i]` is one site's, without the S.

    real: bool [N], False for padding, of which no figure shows anything.
    place: int64 [N], the row's token: sample index * 2^32 + position among its real tokens; `NOWHERE` for padding.
    largest: [S, N] in the dtype's integer, magnitude of the row's largest finite |x|; -1 where there is none.
    spot: int32 [S, N], where that stands: twice the feature (of equals the lowest), plus one for a negative value. Kernels
        owe it only for rows that hold the tensor's largest.
    median: [S, N] in the dtype's integer, magnitude of the lower median of |x|; -1 where the row holds a NaN or infinity.
        None for sites that are not judged by the Sun criterion.
    counts: int64 [S, 65536], running totals over all batches of each 16-bit pattern. float32 values are rounded to bfloat16
        for it, its NaN counted as 0x7FC0, those beyond bfloat16's range as infinite.
    wide: for float32 only.
    """

    encoding: Encoding
    real: torch.Tensor
    place: torch.Tensor
    largest: torch.Tensor
    spot: torch.Tensor
    median: torch.Tensor | None
    counts: torch.Tensor
    wide: Wide | None

    @classmethod
    def empty(cls, encoding: Encoding, real: torch.Tensor, place: torch.Tensor, counts: torch.Tensor, *, median: bool) -> Rows:
        """Room for the figures of a batch; `counts` are the totals so far, which kernels add to."""
        shape, device = (len(counts), len(real)), counts.device
        return cls(
            encoding=encoding,
            real=real,
            place=place,
            largest=torch.empty(shape, dtype=encoding.integer, device=device),
            spot=torch.zeros(shape, dtype=torch.int32, device=device),
            median=torch.empty(shape, dtype=encoding.integer, device=device) if median else None,
            counts=counts,
            wide=None if encoding.exact else Wide.empty(shape, device),
        )

    def __getitem__(self, site: int) -> Rows:
        return Rows(
            self.encoding,
            self.real,
            self.place,
            self.largest[site],
            self.spot[site],
            None if self.median is None else self.median[site],
            self.counts[site],
            None if self.wide is None else self.wide[site],
        )


def rank(bits: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """int64 in the order of |x|, positive before negative: twice the magnitude, plus one if positive; -1 if not finite."""
    wide = bits.to(torch.int64)
    magnitude = wide & encoding.magnitude_mask
    positive = (wide >= 0) | (magnitude == 0)
    return torch.where(magnitude < encoding.infinity, magnitude * 2 + positive, -1)


def largest_of(bits: torch.Tensor, rows: Rows) -> torch.Tensor:
    """The `top` of a float32 tensor's bits [N, d], found in its 100 largest rows only; on a GPU without waiting for it."""
    assert rows.wide is not None
    extremes = torch.stack([rows.wide.high, rows.wide.low]).view(rows.encoding.integer)
    best = torch.where(rows.largest < 0, -1, rank(extremes, rows.encoding).amax(0))
    if bits.device.type == "cpu":
        found = _largest_on_cpu(bits.numpy(), best.numpy(), rows.encoding)
    else:
        chosen = best.topk(min(TOP, len(best)), sorted=False)
        numbers = torch.where(chosen.values[:, None] < 0, -1, rank(bits[chosen.indices], rows.encoding)).flatten()
        found = numbers.topk(min(TOP, len(numbers))).values
    return torch.nn.functional.pad(found, (0, TOP - len(found)), value=-1)


def _largest_on_cpu(bits: npt.NDArray[np.int32], best: npt.NDArray[np.int64], encoding: Encoding) -> torch.Tensor:
    """The same where a comparison is cheaper than a selection: what is below the last row's best is not among the largest."""
    rows = min(TOP, len(best))
    chosen = np.argpartition(best, len(best) - rows)[len(best) - rows :]
    chosen = chosen[best[chosen] >= 0]
    values = bits[chosen]
    floor = int(best[chosen].min()) >> 1 if len(chosen) == TOP else 0
    numbers = rank(torch.from_numpy(values[(values & encoding.magnitude_mask) >= floor]), encoding).sort(descending=True).values
    return numbers[:TOP]
