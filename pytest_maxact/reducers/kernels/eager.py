"""The kernel in plain PyTorch: right on every CPU and GPU, and the measure of the faster ones."""

from __future__ import annotations

import numpy as np
import torch

from pytest_maxact.reducers.encoding import Encoding
from pytest_maxact.reducers.rows import FAULTLESS, FEATURE_BITS, PATTERNS, Rows, Wide, keep_largest

# Temporaries beyond the cache cost more than the arithmetic.
CHUNK_BYTES = 2 * 1024**2
NAN_BIN = 0x7FC0


def scan(activations: torch.Tensor, rows: Rows) -> None:
    """Fill in one site's figures.

    Args:
        activations: N rows of d features, shape [..., d], of the dtype of `rows`.
        rows: one site's, its tensors without the leading S.

    """
    width = activations.shape[-1]
    bits = activations.detach().reshape(-1, width).view(rows.encoding.integer)
    step = max(1, CHUNK_BYTES // (width * bits.element_size()))
    for start in range(0, len(bits), step):
        _scan_chunk(bits[start : start + step], rows, slice(start, start + step))
    _find_spots(bits, rows)
    if rows.wide is not None:
        keep_largest(bits, rows)


def _scan_chunk(bits: torch.Tensor, rows: Rows, part: slice) -> None:
    encoding, real = rows.encoding, rows.real[part]
    padded = not bool(real.all())
    if padded:
        bits = bits[real]
    values = bits.view(encoding.dtype)
    ends = None if encoding.exact else (values.amax(-1), values.amin(-1))  # torch.aminmax takes five times as long
    largest = _largest(bits, encoding, ends)
    broken = largest >= encoding.infinity
    finite = None
    if bool(broken.any()):
        magnitude = bits & encoding.magnitude_mask
        finite = magnitude < encoding.infinity
        largest = torch.where(finite, magnitude, -1).amax(-1)
        rows.fault[part][real] = torch.full_like(broken, FAULTLESS, dtype=torch.int32).masked_scatter_(
            broken, _first_fault(bits[broken], encoding)
        )
    figures = [(rows.largest, largest)]
    if rows.median is not None:
        figures.append((rows.median, torch.where(broken, -1, _lower_median(bits & encoding.magnitude_mask, encoding))))
    if rows.wide is not None:
        assert ends is not None
        figures += _wide(values, largest, finite, ends, rows.wide)
    rows.counts.add_(_counts(bits, encoding))
    for target, found in figures:
        if padded:
            target[part] = -1
            target[part][real] = found
        else:
            target[part] = found


def _largest(bits: torch.Tensor, encoding: Encoding, ends: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    """The magnitude of each row's largest |x|, beyond that of infinity where the row holds a NaN."""
    if ends is None:
        return (bits & encoding.magnitude_mask).amax(-1)
    return torch.maximum(ends[0], -ends[1]).view(encoding.integer) & encoding.magnitude_mask


def _first_fault(bits: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """As `Rows.fault`, of rows [n, d]."""
    magnitude = bits & encoding.magnitude_mask
    feature = torch.arange(bits.shape[-1], dtype=torch.int32, device=bits.device)
    kind = torch.where(magnitude > encoding.infinity, 0, 1 + (bits < 0).to(torch.int32))
    return torch.where(magnitude < encoding.infinity, FAULTLESS, (kind << FEATURE_BITS) + feature).amin(-1)


def _counts(bits: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    patterns = bits if encoding.exact else bits.view(encoding.dtype).to(torch.bfloat16)
    counts = torch.bincount(patterns.view(torch.uint16).to(torch.int32).flatten(), minlength=PATTERNS)
    if encoding.exact:
        return counts
    for first in (encoding.infinity >> 16, (encoding.infinity >> 16) + PATTERNS // 2):  # which NaN it gave depends on the CPU
        nan = counts[first + 1 : first + 128]
        total = int(nan.sum())
        nan.zero_()
        counts[NAN_BIN] += total
    return counts


def _lower_median(magnitude: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """Lower median of each row of non-negative integers [n, d]."""
    rank = (magnitude.shape[-1] - 1) // 2
    if magnitude.device.type == "cpu" and encoding.bits == 32:  # vectorized in numpy, for 32 bits and up
        return torch.from_numpy(np.partition(magnitude.numpy(), rank, axis=-1)[:, rank].copy())
    median = magnitude.new_zeros((len(magnitude), 1))
    less = torch.empty_like(magnitude)  # where a magnitude is below the candidate -1, else 0
    counter = magnitude.dtype if magnitude.shape[-1] <= torch.iinfo(magnitude.dtype).max else torch.int32
    for bit in range(encoding.bits - 2, -1, -1):  # by a count for each bit from the highest: a third of torch.median's time
        candidate = median | (1 << bit)
        torch.sub(magnitude, candidate, out=less).bitwise_right_shift_(encoding.bits - 1)  # both are >= 0: no overflow
        median = torch.where(-less.sum(-1, dtype=counter)[:, None] <= rank, candidate, median)
    return median.squeeze(-1)


def _wide(
    values: torch.Tensor,
    largest: torch.Tensor,
    finite: torch.Tensor | None,
    ends: tuple[torch.Tensor, torch.Tensor],
    wide: Wide,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    high, low = ends
    nan = inf = torch.zeros(len(values), dtype=torch.int32, device=values.device)
    if finite is not None:
        nan = values.isnan().sum(-1, dtype=torch.int32)
        inf = (~finite).sum(-1, dtype=torch.int32) - nan
        high, low = values.where(finite, -torch.inf).amax(-1), values.where(finite, torch.inf).amin(-1)
        values = values.where(finite, 0)
    return [(wide.high, high), (wide.low, low), (wide.nan, nan), (wide.inf, inf), (wide.sums, _sums(values, largest))]


def _sums(values: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Shape [n, 3], see `Wide.sums`.

    Adding 1.5 * 2^(e+52) rounds a smaller float64 to a multiple of 2^e, which its lowest bits then count. What the addend's
    own bits come to is taken off the sums, in which int64 may overflow and come back.
    """
    exponent = (largest >> 23).clamp(min=1).to(torch.int64) - 127
    shift, square_shift = _power(exponent + 8, 1.5)[:, None], _power(2 * exponent + 9, 1.5)[:, None]
    wide = values.to(torch.float64)
    shifted = wide + shift
    total = _units(shifted, shift)
    absolute = _units(torch.add(wide.abs_(), shift, out=shifted), shift)
    squares = _units(torch.addcmul(square_shift, wide, wide, out=shifted), square_shift)
    unit, square_unit = _power(exponent - 44), _power(2 * exponent - 43)
    return torch.stack([total * unit, absolute * unit, squares * square_unit], -1)


def _units(shifted: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    return shifted.view(torch.int64).sum(-1) - shift.view(torch.int64).squeeze(-1) * shifted.shape[-1]


def _power(exponent: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
    """2^exponent times a factor, in float64, made of its bits: torch.ldexp goes through float32."""
    return ((exponent + 1023) << 52).view(torch.float64) * factor


def _find_spots(bits: torch.Tensor, rows: Rows) -> None:
    mask = rows.encoding.magnitude_mask
    best = rows.largest.amax() if len(bits) else None
    if best is None or int(best) < 0:
        return
    holders = torch.nonzero(rows.largest == best).squeeze(-1)
    values = bits[holders]
    feature = ((values & mask) == best).to(torch.uint8).argmax(-1)  # the first of equals
    negative = values.gather(-1, feature[:, None]).squeeze(-1) < 0
    rows.spot[holders] = (2 * feature + negative).to(torch.int32)
