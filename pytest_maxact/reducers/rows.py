"""What a kernel fills in and reducers work on: figures of a batch, one a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

from pytest_maxact.reducers.encoding import Encoding

PATTERNS = 1 << 16
TOP = 100
NOWHERE = torch.iinfo(torch.int64).max
UNTRACED = 0x7FFFFFFF << 32  # the place of rows whose token is not known, beyond all others
FEATURE_BITS = 29  # of a fault; above them is its kind
MINUS_INFINITY = 2  # the kind; NaN is 0, inf 1
FAULTLESS = 3 << FEATURE_BITS  # beyond all faults


@dataclass(frozen=True)
class Totals:
    """What kernels add to over all batches, of S sites.

    counts: int64 [S, 65536], how often each 16-bit pattern was seen. float32 values are rounded to bfloat16 for it, its NaN
        counted as 0x7FC0, those beyond bfloat16's range as infinite.
    top: int64 [S, 100], the largest finite |x| as `rank` numbers, descending; -1 where there are fewer. For float32 only,
        whose histogram does not tell.
    """

    counts: torch.Tensor
    top: torch.Tensor | None

    @classmethod
    def zeros(cls, encoding: Encoding, sites: int, device: torch.device) -> Totals:
        """Nothing seen yet."""
        counts = torch.zeros((sites, PATTERNS), dtype=torch.int64, device=device)
        top = None if encoding.exact else torch.full((sites, TOP), -1, dtype=torch.int64, device=device)
        return cls(counts, top)

    def merge(self, other: Totals) -> Totals:
        """Those of both streams together."""
        top = None
        if self.top is not None and other.top is not None:
            top = torch.cat([self.top, other.top], -1).topk(TOP).values
        return Totals(self.counts + other.counts, top)


@dataclass(frozen=True)
class Wide:
    """What a histogram of 16-bit patterns cannot tell of float32 values.

    high, low: float32 [S, N], the largest and the smallest finite value; -inf and inf where there is none.
    nan, inf: int32 [S, N], how many values are NaN, and infinite.
    sums: float64 [S, N, 3], sums over the row's finite values of x, |x| and x^2, each summand rounded to a fixed multiple of
        the row's largest (2^-44 and 2^-43 of its octave), so that every order of adding gives the same bits.
    top: as in `Totals`, to be added to.
    """

    high: torch.Tensor
    low: torch.Tensor
    nan: torch.Tensor
    inf: torch.Tensor
    sums: torch.Tensor
    top: torch.Tensor

    @classmethod
    def empty(cls, shape: tuple[int, int], top: torch.Tensor) -> Wide:
        """Room for S sites and N rows, and the largest so far."""
        device = top.device
        return cls(
            high=torch.empty(shape, dtype=torch.float32, device=device),
            low=torch.empty(shape, dtype=torch.float32, device=device),
            nan=torch.empty(shape, dtype=torch.int32, device=device),
            inf=torch.empty(shape, dtype=torch.int32, device=device),
            sums=torch.empty((*shape, 3), dtype=torch.float64, device=device),
            top=top,
        )

    @classmethod
    def joined(cls, parts: Sequence[Wide]) -> Wide | None:
        """Those of several calls; None of none."""
        if not parts:
            return None
        figures = {
            name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("high", "low", "nan", "inf", "sums")
        }
        return cls(**figures, top=parts[0].top)

    def __getitem__(self, site: int) -> Wide:
        return Wide(**{field.name: getattr(self, field.name)[site] for field in fields(self)})


@dataclass(frozen=True)
class Rows:
    """Figures of S sites of one dtype in a batch of N rows, on the sites' device; `rows[i]` is one site's, without the S.

    real: bool [N], False for padding, of which no figure shows anything.
    place: int64 [N], the row's token: sample index * 2^32 + position among its real tokens; `UNTRACED` where that is not
        known, `NOWHERE` for padding.
    largest: [S, N] in the dtype's integer, magnitude of the row's largest finite |x|; -1 where there is none.
    spot: int32 [S, N], where that stands: twice the feature (of equals the lowest), plus one for a negative value. Kernels
        owe it only for rows that hold the tensor's largest.
    median: [S, N] in the dtype's integer, magnitude of the lower median of |x|; -1 where the row holds a NaN or infinity.
        None for sites that are not judged by the Sun criterion.
    fault: int32 [S, N], the row's first value that is not finite: its kind * 2^29 + feature, so that a NaN comes before
        inf and that before -inf, and of one kind the lowest feature. `FAULTLESS` where there is none, which is there already:
        kernels write for broken rows only, and what they do for healthy ones costs nothing more.
    counts: as in `Totals`, to be added to.
    wide: for float32 only.
    image: bool [N], tokens that stand for images; None where there are none.
    """

    encoding: Encoding
    real: torch.Tensor
    place: torch.Tensor
    largest: torch.Tensor
    spot: torch.Tensor
    median: torch.Tensor | None
    fault: torch.Tensor
    counts: torch.Tensor
    wide: Wide | None
    image: torch.Tensor | None = None

    @classmethod
    def empty(
        cls,
        encoding: Encoding,
        real: torch.Tensor,
        place: torch.Tensor,
        totals: Totals,
        *,
        median: bool,
        image: torch.Tensor | None = None,
    ) -> Rows:
        """Room for the figures of a batch, beside the totals so far."""
        shape, device = (len(totals.counts), len(real)), totals.counts.device
        return cls(
            encoding=encoding,
            real=real,
            place=place,
            largest=torch.empty(shape, dtype=encoding.integer, device=device),
            spot=torch.zeros(shape, dtype=torch.int32, device=device),
            median=torch.empty(shape, dtype=encoding.integer, device=device) if median else None,
            fault=torch.full(shape, FAULTLESS, dtype=torch.int32, device=device),
            counts=totals.counts,
            wide=None if totals.top is None else Wide.empty(shape, totals.top),
            image=image,
        )

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of several calls of the same sites as those of one."""
        first = parts[0]
        if len(parts) == 1:
            return first
        images = [part.image for part in parts if part.image is not None]
        medians = [part.median for part in parts if part.median is not None]
        return cls(
            encoding=first.encoding,
            real=torch.cat([part.real for part in parts]),
            place=torch.cat([part.place for part in parts]),
            largest=torch.cat([part.largest for part in parts], -1),
            spot=torch.cat([part.spot for part in parts], -1),
            median=torch.cat(medians, -1) if medians else None,
            fault=torch.cat([part.fault for part in parts], -1),
            counts=first.counts,
            wide=Wide.joined([part.wide for part in parts if part.wide is not None]),
            image=torch.cat(images) if images else None,
        )

    def __getitem__(self, site: int) -> Rows:
        return Rows(
            self.encoding,
            self.real,
            self.place,
            self.largest[site],
            self.spot[site],
            None if self.median is None else self.median[site],
            self.fault[site],
            self.counts[site],
            None if self.wide is None else self.wide[site],
            self.image,
        )


def rank(bits: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """int64 in the order of |x|, positive before negative: twice the magnitude, plus one if positive; -1 if not finite."""
    wide = bits.to(torch.int64)
    magnitude = wide & encoding.magnitude_mask
    positive = (wide >= 0) | (magnitude == 0)
    return torch.where(magnitude < encoding.infinity, magnitude * 2 + positive, -1)


def keep_largest(bits: torch.Tensor, rows: Rows) -> None:
    """Add a float32 tensor's bits [N, d], whose rows are judged already, to `top`; on a GPU without waiting for it."""
    assert rows.wide is not None
    top, wide = rows.wide.top, rows.wide
    if bits.device.type == "cpu":
        figures = (rows.largest.numpy(), wide.high.numpy(), wide.low.numpy())
        found = torch.from_numpy(_candidates(bits.numpy(), *figures, max(int(top.numpy()[-1]), -1)))
        if len(found) == 0:
            return
    else:
        best = rows.largest.to(torch.int64) * 2 + (wide.high >= -wide.low)
        chosen = best.topk(min(TOP, len(best)), sorted=False)
        found = torch.where(chosen.values[:, None] < 0, -1, bits[chosen.indices]).flatten()
    top.copy_(torch.cat([top, rank(found, rows.encoding)]).topk(TOP).values)


def _candidates(
    bits: npt.NDArray[np.int32],
    largest: npt.NDArray[np.int32],
    high: npt.NDArray[np.float32],
    low: npt.NDArray[np.float32],
    least: int,
) -> npt.NDArray[np.int32]:
    """Values that may be among the 100 largest where the 100th so far has rank `least`: soon there are very few."""
    rows = np.flatnonzero(largest >= max(least, 0) >> 1)
    best = largest[rows].astype(np.int64) * 2 + (high[rows] >= -low[rows])
    rows, best = rows[best > least], best[best > least]
    if len(rows) >= TOP:
        chosen = np.argpartition(best, len(best) - TOP)[len(best) - TOP :]
        rows, least = rows[chosen], int(best[chosen].min())  # a hundred rows have a value as large
    values = bits[rows]
    return values[(values & np.int32(0x7FFFFFFF)) >= max(least, 0) >> 1]
