"""The kernel for CPUs, compiled by numba: every row is read once and judged while it is in the cache."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import torch

from pytest_maxact.reducers.kernels.eager import NAN_BIN
from pytest_maxact.reducers.rows import PATTERNS, Rows, largest_of

# Of 32 bits, so that numba's arithmetic stays there.
MAGNITUDE, LOWER, HALF, ONE = np.int32(0x7FFFFFFF), np.int32(0xFFFF), np.int32(0x7FFF), np.int32(1)
SIGN, UPPER = np.int32(31), np.int32(16)
LEAST, GREATEST = np.int32(-(2**31)), np.int32(2**31 - 1)

_config: Any = numba.config
if _config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

_compiled: Any = numba.njit(nogil=True, cache=True, boundscheck=False)


def scan(activations: torch.Tensor, rows: Rows) -> None:
    """Fill in one site's figures; as `eager.scan`, for tensors on a CPU."""
    width = activations.shape[-1]
    bits = activations.detach().reshape(-1, width).contiguous().view(rows.encoding.integer)
    median = rows.largest[:0] if rows.median is None else rows.median
    figures = [tensor.numpy() for tensor in (bits, rows.real, rows.largest, rows.spot, median)]
    infinity = rows.encoding.infinity
    if rows.wide is None:
        parts = _in_threads(len(bits), lambda start, stop: _scan16(*figures, infinity, start, stop))
    else:
        wide = rows.wide
        values = bits.view(torch.float32).numpy()
        more = [tensor.numpy() for tensor in (wide.high, wide.low, wide.nan, wide.inf, wide.sums)]
        parts = _in_threads(len(bits), lambda start, stop: _scan32(values, *figures, *more, infinity, start, stop))
    for counts in parts:
        rows.counts.add_(torch.from_numpy(counts))
    if rows.wide is not None:
        rows.wide.top.copy_(largest_of(bits, rows))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="maxact")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has the pool and none of its threads


def _in_threads(rows: int, part: Any) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Run part(start, stop) over equal shares of the rows, the last one in this thread."""
    threads = max(1, min(torch.get_num_threads(), rows))
    cuts = [rows * share // threads for share in range(threads + 1)]
    others = [_pool(threads).submit(part, *cuts[share : share + 2]) for share in range(threads - 1)]
    mine = part(*cuts[-2:])
    return [*(other.result() for other in others), mine]


@_compiled
def _of_rank(numbers, top, rank):
    """The number of a rank among int16 or int32 numbers from 0 to `top`, by a count for each bit from the highest."""
    kind = numbers.dtype.type
    found, bit = 0, 31
    while bit >= 0 and (top >> bit) == 0:
        bit -= 1
    narrow = len(numbers) <= 32767  # counted in 16 bits twice as many fit a vector
    while bit >= 0:
        candidate = kind(found | (1 << bit))
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
def _scan16(bits, real, largest, spot, median, infinity, start, stop):
    width = bits.shape[1]
    magnitude = np.empty(width, np.int16)
    counts = np.zeros(PATTERNS, np.int64)
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
            median[i] = -1 if broken else _of_rank(magnitude, top, (width - 1) // 2)
        for j in range(width):
            counts[np.uint16(row[j])] += 1
    return counts


@_compiled
def _median32(magnitude, top, upper, lower):
    """Lower median of int32 magnitudes: its upper 16 bits, then the lower ones among the few that share those."""
    rank = (len(magnitude) - 1) // 2
    for j in range(len(magnitude)):
        upper[j] = magnitude[j] >> UPPER
    most = np.int16(_of_rank(upper, top >> UPPER, rank))
    same = 0
    for j in range(len(magnitude)):
        lower[same] = magnitude[j] & LOWER
        same += upper[j] == most
        rank -= upper[j] < most
    return (np.int64(most) << 16) | _of_rank(lower[:same], LOWER, rank)


@_compiled
def _add_up(values, top, shifted, units, sums):
    """The row's sums, as `eager._sums` explains; `units` shows the bits of the scratch row `shifted`."""
    exponent = max(np.int64(top) >> 23, 1) - 127
    shift, square_shift = 1.5 * 2.0 ** (exponent + 8), 1.5 * 2.0 ** (2 * exponent + 9)
    shifted[0] = shift
    offset = units[0]
    shifted[0] = square_shift
    square_offset = units[0]
    total, absolute, squares = np.int64(0), np.int64(0), np.int64(0)
    for j in range(len(values)):
        shifted[j] = np.float64(values[j]) + shift
    for j in range(len(values)):
        total += units[j] - offset
        absolute += abs(units[j] - offset)
    for j in range(len(values)):
        shifted[j] = np.float64(values[j]) * np.float64(values[j]) + square_shift
    for j in range(len(values)):
        squares += units[j] - square_offset
    unit, square_unit = 2.0 ** (exponent - 44), 2.0 ** (2 * exponent - 43)
    sums[0], sums[1], sums[2] = total * unit, absolute * unit, squares * square_unit


@_compiled
def _scan32(values, bits, real, largest, spot, median, high, low, nan, inf, sums, infinity, start, stop):
    width = bits.shape[1]
    magnitude = np.empty(width, np.int32)
    finite = np.empty(width, np.int32)
    finite_values = finite.view(np.float32)
    upper = np.empty(width, np.int16)
    lower = np.empty(width, np.int32)
    rounded = np.empty(width, np.uint16)
    shifted = np.empty(width, np.float64)
    units = shifted.view(np.int64)
    counts = np.zeros(PATTERNS, np.int64)
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
        top = np.int32(0)
        for j in range(width):
            magnitude[j] = row[j] & MAGNITUDE
            top = max(top, magnitude[j])
        broken = top >= infinity
        nan[i] = inf[i] = 0
        if broken:
            top = np.int32(-1)
            for j in range(width):
                finite[j] = row[j] if magnitude[j] < infinity else 0
                if magnitude[j] < infinity:
                    top = max(top, magnitude[j])
                elif magnitude[j] == infinity:
                    inf[i] += 1
                else:
                    nan[i] += 1
            row, x = finite, finite_values
        largest[i] = top
        if top >= best and top >= 0:
            best = top
            j = 0
            while magnitude[j] != top:
                j += 1
            spot[i] = 2 * j + (bits[i, j] < 0)

        high[i], low[i] = -np.inf, np.inf
        if broken:
            for j in range(width):
                if magnitude[j] < infinity:
                    high[i], low[i] = max(high[i], x[j]), min(low[i], x[j])
        else:
            high_key, low_key = LEAST, GREATEST
            for j in range(width):
                key = row[j] ^ ((row[j] >> SIGN) & MAGNITUDE)  # in the order of the values
                high_key, low_key = max(high_key, key), min(low_key, key)
            ends[0] = high_key ^ ((high_key >> SIGN) & MAGNITUDE)
            ends[1] = low_key ^ ((low_key >> SIGN) & MAGNITUDE)
            high[i], low[i] = end_values[0], end_values[1]

        if len(median):
            median[i] = -1 if broken else _median32(magnitude, top, upper, lower)
        _add_up(x, top, shifted, units, sums[i])

        for j in range(width):  # to the nearest bfloat16, of two the even one
            rounded[j] = np.uint32(bits[i, j] + HALF + ((bits[i, j] >> UPPER) & ONE)) >> UPPER
        if broken:
            for j in range(width):
                if magnitude[j] > infinity:
                    rounded[j] = NAN_BIN
        for j in range(width):
            counts[rounded[j]] += 1
    return counts
