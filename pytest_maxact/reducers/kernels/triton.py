"""The kernel for CUDA devices, compiled by Triton: every row is read once and judged while it is in registers.

A program takes tiles of a few rows, one after another, and loads the next tile while it works on this one. Of each tile it
makes a histogram in shared memory, which it adds up in registers and gives to `Rows.counts` when it is through.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from pytest_maxact.reducers.encoding import Encoding
from pytest_maxact.reducers.kernels import eager
from pytest_maxact.reducers.rows import FAULTLESS, FEATURE_BITS, Rows, keep_largest

WARPS = 16
PART = 32 * WARPS
# 512 threads have 128 registers each: for 32 values of 16 bits or 16 of 32 bits, the next tile's and a share of the histogram.
# By ptxas for sm_90 little is spilled so; with 32 warps more is.
TILE = {16: 16384, 32: 8192}
WIDEST = 32768  # a spot of 16 bits fits beside a magnitude in 32
INTERPRETED_PROGRAMS = 2

# The magnitudes of the histogram in shared memory, by exponents of two; others go to `Rows.counts` one by one.
# bfloat16, 32 octaves of 128 numbers: outside is one of 100,000 values of 27 checkpoints (arXiv 2605.15572, by quantiles).
# float16, 8 octaves of 1,024: outside is about one of five. 16 octaves would take 128 KB, and many devices have 99.
WINDOWS = {"bfloat16": (-20, 12), "float16": (-6, 2)}
# Before 3.8 Triton makes histograms by ballots; of thousands of bins it took 40 s to compile one, which spilled 8 KB a thread.
# There the window is empty.
HAS_WINDOWS = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 8)


def scan(activations: torch.Tensor, rows: Rows) -> None:
    """Fill in one site's figures without waiting for the device; as `eager.scan`, for tensors on CUDA devices."""
    width, encoding, wide = activations.shape[-1], rows.encoding, rows.wide
    if width > WIDEST:
        eager.scan(activations, rows)
        return
    # As integers: of floats whose sign bit is cleared the compiler makes abs(), which loses what a NaN carries.
    bits = activations.detach().reshape(-1, width).contiguous().view(encoding.integer)
    if len(bits) == 0:
        return
    parameters = _parameters(width, encoding)
    programs = min(_programs(bits.device), triton.cdiv(len(bits), parameters["ROWS"]))
    with torch.cuda.device_of(bits):
        _scan[(programs,)](
            bits,
            rows.real,
            rows.largest,
            rows.spot,
            rows.fault,
            rows.median,
            rows.counts,
            *((None,) * 5 if wide is None else (wide.high, wide.low, wide.nan, wide.inf, wide.sums)),
            len(bits),
            **parameters,
        )
    if wide is not None:
        keep_largest(bits, rows)


@cache
def _programs(device: torch.device) -> int:
    """One a multiprocessor, whose registers it fills."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def _parameters(width: int, encoding: Encoding) -> dict[str, Any]:
    """What a launch for rows of this width takes besides tensors."""
    block = max(16, triton.next_power_of_2(width))
    mantissa, bias = {"bfloat16": (7, 127), "float16": (10, 15)}[encoding.binned]
    low, high = WINDOWS[encoding.binned]
    return {
        "WIDTH": width,
        "BLOCK": block,
        "ROWS": max(1, TILE[encoding.bits] // block),
        "LINE": min(block, 32 * 128 // encoding.bits),
        "BITS": encoding.bits,
        "INFINITY": encoding.infinity,
        "FEATURE_BITS": FEATURE_BITS,
        "FAULTLESS": FAULTLESS,
        "FIRST": (low + bias) << mantissa if HAS_WINDOWS else 0,
        "SPAN": (high - low) << mantissa if HAS_WINDOWS else 1,
        "PART": PART,
        "num_warps": WARPS,
        "enable_fp_fusion": True,  # a product here is exact; said, because Triton 3.9 warns where it is not
    }


@triton.jit
def _load(bits, real, first, n, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, LINE: tl.constexpr):
    """The tile [ROWS, BLOCK] from row `first` on; zeros instead of padding and beyond the width.

    It is loaded as [BLOCK / LINE, ROWS, LINE], where a warp takes LINE values, 16 bytes a thread, and Triton gives warps rows
    before it gives them more lines: all values of a thread are of one row then, which takes a warp one step to reduce.
    """
    row = first + tl.arange(0, ROWS)[None, :, None]
    feature = LINE * tl.arange(0, BLOCK // LINE)[:, None, None] + tl.arange(0, LINE)[None, None, :]
    is_real = tl.load(real + row, mask=row < n, other=0) != 0
    tile = tl.load(bits + (row.to(tl.int64) * WIDTH + feature), mask=is_real & (feature < WIDTH), other=0)
    return tl.reshape(tl.permute(tile, (1, 0, 2)), [ROWS, BLOCK])


@triton.jit
def _pattern(bits, BITS: tl.constexpr, INFINITY: tl.constexpr):
    """Which of the 65,536 patterns a value counts as: its magnitude, and 1 for a negative one."""
    if BITS == 16:
        return bits & 0x7FFF, (bits >> 31) & 1
    magnitude = bits & 0x7FFFFFFF
    is_nan = magnitude > INFINITY
    magnitude = tl.where(is_nan, 0x7FC00000, magnitude)
    rounded = (magnitude + 0x7FFF + ((magnitude >> 16) & 1)) >> 16  # to the nearest bfloat16, of two the even one
    return rounded, tl.where(is_nan, 0, (bits >> 31) & 1)


@triton.jit
def _count_strays(
    bits,
    real,
    counts,
    first,
    stray,
    n,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    BITS: tl.constexpr,
    INFINITY: tl.constexpr,
    FIRST: tl.constexpr,
    SPAN: tl.constexpr,
    PART: tl.constexpr,
):
    """Count what lies outside the window straight into `counts`; how many that were, positive and negative.

    `stray` is the largest magnitude of them. It goes in one addition, for tensors that are all NaN: additions to one place
    wait for each other. The tile is read again, from the cache: to spread it from registers would take more of those.
    """
    positive, negative = tl.zeros([PART], tl.int32), tl.zeros([PART], tl.int32)
    equal, negative_equal = tl.zeros([PART], tl.int32), tl.zeros([PART], tl.int32)
    one = tl.full([PART], 1, tl.int64)
    for start in range(0, ROWS * BLOCK, PART):
        at = start + tl.arange(0, PART)
        row, feature = first + at // BLOCK, at % BLOCK
        is_real = tl.load(real + row, mask=row < n, other=0) != 0
        value = tl.load(bits + (row.to(tl.int64) * WIDTH + feature), mask=(row < n) & (feature < WIDTH), other=0)
        magnitude, sign = _pattern(value.to(tl.int32), BITS, INFINITY)
        astray = is_real & (magnitude > 0) & ((magnitude <= FIRST) | (magnitude >= FIRST + SPAN))
        positive += (astray & (sign == 0)).to(tl.int32)
        negative += (astray & (sign == 1)).to(tl.int32)
        equal += (astray & (magnitude == stray) & (sign == 0)).to(tl.int32)
        negative_equal += (astray & (magnitude == stray) & (sign == 1)).to(tl.int32)
        tl.atomic_add(counts + (magnitude + (sign << 15)), one, mask=astray & (magnitude != stray), sem="relaxed")
    tl.atomic_add(counts + stray, tl.sum(equal).to(tl.int64), sem="relaxed")
    tl.atomic_add(counts + (stray + 32768), tl.sum(negative_equal).to(tl.int64), sem="relaxed")
    return tl.sum(positive), tl.sum(negative)


@triton.jit
def _find_faults(
    bits,
    real,
    fault,
    first,
    n,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    BITS: tl.constexpr,
    INFINITY: tl.constexpr,
    FEATURE_BITS: tl.constexpr,
    FAULTLESS: tl.constexpr,
    PART: tl.constexpr,
):
    """Lower `Rows.fault` where rows of a tile hold what is not finite. As in `_count_strays` the tile is read again."""
    line: tl.constexpr = BLOCK if BLOCK < PART else PART
    for start in range(0, ROWS * BLOCK, PART):
        at = start + tl.reshape(tl.arange(0, PART), [PART // line, line])
        row, feature = first + at // BLOCK, at % BLOCK
        is_real = tl.load(real + row, mask=row < n, other=0) != 0
        value = tl.load(bits + (row.to(tl.int64) * WIDTH + feature), mask=is_real & (feature < WIDTH), other=0).to(tl.int32)
        magnitude = value & (0x7FFF if BITS == 16 else 0x7FFFFFFF)
        kind = tl.where(magnitude > INFINITY, 0, 1 + ((value >> 31) & 1))
        found = tl.min(tl.where(magnitude < INFINITY, FAULTLESS, (kind << FEATURE_BITS) + feature), 1)
        tl.atomic_min(fault + tl.min(row, 1), found, mask=found < FAULTLESS, sem="relaxed")


@triton.jit
def _float64(exponent, fraction: tl.constexpr):
    """Bits of a power of two, times 1 + fraction / 2."""
    return ((exponent + 1023) << 52) + (fraction << 51)


@triton.jit
def _sums(values, finite, largest):
    """Sums of x, |x| and x^2 of each row, as `eager._sums` explains."""
    exponent = tl.maximum(largest >> 23, 1).to(tl.int64) - 127
    shift, square_shift = _float64(exponent + 8, 1), _float64(2 * exponent + 9, 1)
    x = tl.where(finite, values, 0).to(tl.float32, bitcast=True).to(tl.float64)
    units = (x + shift.to(tl.float64, bitcast=True)[:, None]).to(tl.int64, bitcast=True) - shift[:, None]
    squares = (x * x + square_shift.to(tl.float64, bitcast=True)[:, None]).to(tl.int64, bitcast=True) - square_shift[:, None]
    unit = _float64(exponent - 44, 0).to(tl.float64, bitcast=True)
    square_unit = _float64(2 * exponent - 43, 0).to(tl.float64, bitcast=True)
    return (
        tl.sum(units, 1).to(tl.float64) * unit,
        tl.sum(tl.abs(units), 1).to(tl.float64) * unit,
        tl.sum(squares, 1).to(tl.float64) * square_unit,
    )


@triton.jit
def _order(bits):
    """float32 bits as integers in the order of the values, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit(
    # Else each alignment of each site's views, and some numbers of rows, would be compiled for.
    do_not_specialize=["n"],
    do_not_specialize_on_alignment=[
        "real",
        "largest",
        "spot",
        "fault",
        "median",
        "counts",
        "high",
        "low",
        "nan",
        "inf",
        "sums",
    ],
)
def _scan(
    bits,
    real,
    largest,
    spot,
    fault,
    median,
    counts,
    high,
    low,
    nan,
    inf,
    sums,
    n,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    LINE: tl.constexpr,
    BITS: tl.constexpr,
    INFINITY: tl.constexpr,
    FEATURE_BITS: tl.constexpr,
    FAULTLESS: tl.constexpr,
    FIRST: tl.constexpr,
    SPAN: tl.constexpr,
    PART: tl.constexpr,
):
    """Fill in `Rows` of n rows of WIDTH integers; `median`, and for 16 bits what is in `Wide`, may be None.

    The histogram has SPAN bins for magnitudes from FIRST on, twice for the sign. The first bin of either sign is that of
    zeros; it also takes what is not a value of the window, which is subtracted in the end.
    """
    bin = tl.arange(0, 2 * SPAN)
    feature = tl.arange(0, BLOCK)[None, :]
    bins = tl.zeros([2 * SPAN], tl.int32)
    padding = tl.zeros([ROWS], tl.int32)
    step = tl.num_programs(0)
    following = _load(bits, real, tl.program_id(0) * ROWS, n, WIDTH, BLOCK, ROWS, LINE)
    for tile in range(tl.program_id(0), tl.cdiv(n, ROWS), step):
        values = following.to(tl.int32)
        following = _load(bits, real, (tile + step) * ROWS, n, WIDTH, BLOCK, ROWS, LINE)
        row = tile * ROWS + tl.arange(0, ROWS)
        inside = row < n
        is_real = tl.load(real + row, mask=inside, other=0) != 0
        padding += BLOCK - tl.where(is_real, WIDTH, 0)

        pattern, sign = _pattern(values, BITS, INFINITY)
        above = pattern - FIRST
        counted = (above > 0) & (above < SPAN)
        # The bitwise "and" changes nothing, but shows the compiler that bins are within bounds: else it tests each.
        which = (tl.where(counted, above, 0) & (SPAN - 1)) | (sign * SPAN)
        bins += tl.histogram(tl.reshape(which, [ROWS * BLOCK]), 2 * SPAN)
        stray = tl.max(tl.where(counted, 0, pattern))

        # The largest magnitude and its spot. Zeros beyond the width lose to all features, which come before them.
        negative = (values >> 31) & 1
        if BITS == 16:
            magnitude = pattern
            key = (magnitude << 16) + (0xFFFF - 2 * feature - negative)
            best = tl.max(key, 1)
            broken = (best >> 16) >= INFINITY
        else:
            magnitude = values & 0x7FFFFFFF
            finite = (magnitude < INFINITY) & (feature < WIDTH)
            top = tl.max(tl.where(finite, magnitude, -1), 1)
            where = tl.min(tl.where(magnitude == top[:, None], 2 * feature + negative, 0x7FFFFFFF), 1)
            where = tl.where(top < 0, 0, where)
        if stray > 0:
            first = tile * ROWS
            positive_strays, negative_strays = _count_strays(
                bits, real, counts, first, stray, n, WIDTH, BLOCK, ROWS, BITS, INFINITY, FIRST, SPAN, PART
            )
            bins -= tl.where(bin == 0, positive_strays, tl.where(bin == SPAN, negative_strays, 0))
            if BITS == 16:
                if stray >= INFINITY:
                    best = tl.max(tl.where((magnitude < INFINITY) & (feature < WIDTH), key, -1), 1)
            # Of 32 bits it is rounded to 16, and may be finite.
            if stray >= (INFINITY if BITS == 16 else INFINITY >> 16):
                _find_faults(bits, real, fault, first, n, WIDTH, BLOCK, ROWS, BITS, INFINITY, FEATURE_BITS, FAULTLESS, PART)
        if BITS == 16:
            top = best >> 16
            where = 0xFFFF - (best & 0xFFFF)
        else:
            most = _order(tl.max(tl.where(finite, _order(values), -0x7FFFFFFF), 1)).to(tl.float32, bitcast=True)
            least = _order(tl.min(tl.where(finite, _order(values), 0x7FFFFFFF), 1)).to(tl.float32, bitcast=True)
            tl.store(high + row, tl.where(top < 0, float("-inf"), most), mask=inside)
            tl.store(low + row, tl.where(top < 0, float("inf"), least), mask=inside)
            nans = tl.sum((magnitude > INFINITY).to(tl.int32), 1)
            infs = tl.sum((magnitude == INFINITY).to(tl.int32), 1)
            tl.store(nan + row, nans, mask=inside)
            tl.store(inf + row, infs, mask=inside)
            broken = (nans + infs) > 0
            total, absolute, squares = _sums(values, finite, top)
            at = 3 * row.to(tl.int64)
            tl.store(sums + at, total, mask=inside)
            tl.store(sums + (at + 1), absolute, mask=inside)
            tl.store(sums + (at + 2), squares, mask=inside)
        tl.store(largest + row, tl.where(is_real, top, -1).to(largest.dtype.element_ty), mask=inside)
        tl.store(spot + row, where, mask=inside)

        if median is not None:  # by a count for each bit from the highest; zeros beyond the width come before all
            found = tl.zeros([ROWS], tl.int32)
            for bit in range(BITS - 1):
                candidate = found + (1 << (BITS - 2 - bit))
                less = -tl.sum((magnitude - candidate[:, None]) >> 31, 1)
                found = tl.where(less <= (WIDTH - 1) // 2 + (BLOCK - WIDTH), candidate, found)
            found = tl.where(is_real & (broken == 0), found, -1)
            tl.store(median + row, found.to(median.dtype.element_ty), mask=inside)

    bins -= tl.where(bin == 0, tl.sum(padding), 0)
    slot = bin % SPAN
    pattern = tl.where(slot == 0, 0, FIRST + slot) + (bin // SPAN << 15)
    tl.atomic_add(counts + pattern, bins.to(tl.int64), mask=bins != 0, sem="relaxed")
