"""The kernel for CPUs, compiled by numba: every row is read once and judged while it is in the cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from pytest_maxact.reducers.kernels.eager import NAN_BIN
from pytest_maxact.reducers.kernels.threads import in_threads
from pytest_maxact.reducers.rows import FAULTLESS, FEATURE_BITS, PATTERNS, Rows, keep_largest

# Of 32 bits, so that numba's arithmetic stays there.
MAGNITUDE, LOWER, HALF, ONE = np.int32(0x7FFFFFFF), np.int32(0xFFFF), np.int32(0x7FFF), np.int32(1)
SIGN, UPPER, LEAST = np.int32(-(2**31)), np.int32(16), np.int32(-(2**15))
COUNTED = 2**30  # by 32-bit counts, which take half the cache of larger ones
SHARE = 2**17  # values that a thread takes at once, some tenths of a millisecond

_config: Any = numba.config
if _config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

Counts = npt.NDArray[np.int32]

_compiled: Any = numba.njit(nogil=True, cache=True, boundscheck=False)


def scan(activations: torch.Tensor, rows: Rows) -> None:
    """Fill in one site's figures; as `eager.scan`, for tensors on a CPU."""
    width = activations.shape[-1]
    bits = activations.detach().reshape(-1, width).contiguous().view(rows.encoding.integer)
    median = rows.largest[:0] if rows.median is None else rows.median
    figures = [tensor.numpy() for tensor in (bits, rows.real, rows.largest, rows.spot, rows.fault, median)]
    infinity = rows.encoding.infinity
    if rows.wide is None:
        parts = _counted(bits.shape, lambda counts, start, stop: _scan16(*figures, counts, infinity, start, stop))
    else:
        wide = rows.wide
        values = bits.view(torch.float32).numpy()
        more = [tensor.numpy() for tensor in (wide.high, wide.low, wide.nan, wide.inf, wide.sums)]
        parts = _counted(bits.shape, lambda counts, *share: _scan32(values, *figures, *more, counts, infinity, *share))
    for counts in parts:
        totals = rows.counts.numpy()
        totals += counts  # by torch it would be parallel, and waking its threads costs more
    if rows.wide is not None:
        keep_largest(bits, rows)


def _counted(shape: torch.Size, part: Any) -> list[Counts]:
    """Run part(counts, start, stop) over all rows in torch's threads; the counts that they added to.

    The shares are small and whoever is free takes the next one, since a thread may have less than a core.
    """
    rows, width = shape
    size = max(1, SHARE // width)
    shares = deque((start, min(start + size, rows)) for start in range(0, rows, size))

    def work() -> list[Counts]:
        found, room = list[Counts](), 0
        for start, stop in _taken_from(shares):
            values = (stop - start) * width
            if room < values:
                found.append(np.zeros(PATTERNS, np.int32))
                room = COUNTED
            room -= values
            part(found[-1], start, stop)
        return found

    if len(shares) <= 1:  # not worth waking a thread
        return work()
    return [counts for found in in_threads(work) for counts in found]


def _taken_from(shares: deque[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    with suppress(IndexError):  # another thread may take the last one
        while True:
            yield shares.popleft()


@_compiled
def _of_rank(numbers, base, span, rank):
    """What the number of a rank has above `base`, `span` at most; by a count for each bit from the highest."""
    kind = numbers.dtype.type
    found, bit = 0, 31
    while bit >= 0 and (span >> bit) == 0:
        bit -= 1
    narrow = len(numbers) <= 32767  # counted in 16 bits twice as many fit a vector
    while bit >= 0:
        candidate = kind(base + (found | (1 << bit)))
        if narrow:
            short = np.int16(0)
            for j in range(len(numbers)):
                short = np.int16(short + np.int16(numbers[j] < candidate))
            below = np.int64(short)
        else:
            below = np.int64(0)
            for j in range(len(numbers)):
                below += np.int64(numbers[j] < candidate)
        if below <= rank:
            found |= 1 << bit
        bit -= 1
    return found


@_compiled
def _first_fault(row, magnitude_mask, infinity):
    """The fault of a row of bits that holds one, as `Rows.fault`."""
    first = FAULTLESS
    for j in range(len(row)):
        magnitude = row[j] & magnitude_mask
        if magnitude >= infinity:
            kind = 0 if magnitude > infinity else 1 + (row[j] < 0)
            first = min(first, (kind << FEATURE_BITS) + j)
    return first


@_compiled
def _scan16(bits, real, largest, spot, fault, median, counts, infinity, start, stop):
    width = bits.shape[1]
    magnitude = np.empty(width, np.int16)
    best = -1
    for i in range(start, stop):
        if not real[i]:
            largest[i] = -1
            if len(median):
                median[i] = -1
            continue
        row = bits[i]
        top = np.int16(0)
        for j in range(width):
            magnitude[j] = row[j] & np.int16(0x7FFF)
            top = max(top, magnitude[j])
        broken = top >= infinity
        if broken:
            fault[i] = _first_fault(row, np.int16(0x7FFF), infinity)
            top = np.int16(-1)
            for j in range(width):
                if magnitude[j] < infinity:
                    top = max(top, magnitude[j])
        largest[i] = top
        if top >= best and top >= 0:
            best = top
            j = 0
            while magnitude[j] != top:
                j += 1
            spot[i] = 2 * j + (row[j] < 0)
        if len(median):
            median[i] = -1 if broken else _of_rank(magnitude, 0, top, (width - 1) // 2)
        for j in range(width):
            counts[np.uint16(row[j])] += 1


@_compiled
def _median32(row, top, half):
    """Lower median of |x| of float32 bits: its upper half, then its lower, for which all others stand below or above.

    Halves, in the scratch row `half`, because twice as many fill a vector.
    """
    width = len(row)
    rank = (width - 1) // 2
    for j in range(width):
        half[j] = (row[j] & MAGNITUDE) >> UPPER
    upper = _of_rank(half, 0, top >> UPPER, rank)
    first = np.int32(upper << 16)
    for j in range(width):
        half[j] = min(max((row[j] & MAGNITUDE) - first, 0), LOWER) + LEAST
    return (np.int64(upper) << 16) | _of_rank(half, LEAST, LOWER, rank)


@_compiled
def _signed_ends(row):
    """The largest of float32 bits read as signed, and as unsigned: the largest float and the smallest, if signs differ.

    Comparisons of integers fill vectors; those of floats do not, for their NaN.
    """
    signed, unsigned = SIGN, np.uint32(0)
    for j in range(len(row)):
        signed = max(signed, row[j])
        unsigned = max(unsigned, np.uint32(row[j]))
    return signed, np.int32(unsigned)


@_compiled
def _least_magnitude(row):
    least = MAGNITUDE
    for j in range(len(row)):
        least = min(least, row[j] & MAGNITUDE)
    return least


@_compiled
def _add_up(values, top, sums):
    """The row's sums, as `eager._sums` explains."""
    exponent = max(np.int64(top) >> 23, 1) - 127
    shift, square_shift = np.float64(1.5 * 2.0 ** (exponent + 8)), np.float64(1.5 * 2.0 ** (2 * exponent + 9))
    total, absolute, squares = np.int64(0), np.int64(0), np.int64(0)
    for j in range(len(values)):
        value = np.float64(values[j])
        total += np.float64(value + shift).view(np.int64)
        absolute += np.float64(abs(value) + shift).view(np.int64)
        squares += np.float64(value * value + square_shift).view(np.int64)
    offset, square_offset = len(values) * shift.view(np.int64), len(values) * square_shift.view(np.int64)
    unit, square_unit = 2.0 ** (exponent - 44), 2.0 ** (2 * exponent - 43)
    sums[0], sums[1], sums[2] = (total - offset) * unit, (absolute - offset) * unit, (squares - square_offset) * square_unit


@_compiled
def _scan32(values, bits, real, largest, spot, fault, median, high, low, nan, inf, sums, counts, infinity, start, stop):
    width = bits.shape[1]
    finite = np.empty(width, np.int32)
    finite_values = finite.view(np.float32)
    half = np.empty(width, np.int16)
    rounded = np.empty(width, np.uint16)
    ends = np.empty(2, np.int32)
    end_values = ends.view(np.float32)
    best = -1
    for i in range(start, stop):
        if not real[i]:
            largest[i] = -1
            if len(median):
                median[i] = -1
            continue
        row, x = bits[i], values[i]
        ends[0], ends[1] = _signed_ends(row)
        top = max(ends[0], ends[1] & MAGNITUDE)
        broken = top >= infinity
        nan[i] = inf[i] = 0
        if broken:
            fault[i] = _first_fault(row, MAGNITUDE, infinity)
            top = np.int32(-1)
            high[i], low[i] = -np.inf, np.inf
            for j in range(width):
                magnitude = row[j] & MAGNITUDE
                finite[j] = row[j] if magnitude < infinity else 0
                if magnitude < infinity:
                    top = max(top, magnitude)
                    high[i], low[i] = max(high[i], x[j]), min(low[i], x[j])
                elif magnitude == infinity:
                    inf[i] += 1
                else:
                    nan[i] += 1
            row, x = finite, finite_values
        else:
            if ends[0] < 0:
                ends[0] = _least_magnitude(row) | SIGN
            if ends[1] >= 0:
                ends[1] = _least_magnitude(row)
            high[i], low[i] = end_values[0], end_values[1]
        largest[i] = top
        if top >= best and top >= 0:
            best = top
            j = 0
            while bits[i, j] & MAGNITUDE != top:
                j += 1
            spot[i] = 2 * j + (bits[i, j] < 0)
        if len(median):
            median[i] = -1 if broken else _median32(row, top, half)
        _add_up(x, top, sums[i])

        for j in range(width):  # to the nearest bfloat16, of two the even one
            rounded[j] = np.uint32(bits[i, j] + HALF + ((bits[i, j] >> UPPER) & ONE)) >> UPPER
        if broken:
            for j in range(width):
                if bits[i, j] & MAGNITUDE > infinity:
                    rounded[j] = NAN_BIN
        for j in range(width):
            counts[rounded[j]] += 1
