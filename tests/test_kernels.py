"""Kernels are interchangeable only if each gives every figure of `Rows` to the bit: against the definitions, and each other."""

from __future__ import annotations

import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_maxact.reducers import kernels
from pytest_maxact.reducers.encoding import ENCODINGS
from pytest_maxact.reducers.kernels import Kernel, Shape, choose, eager
from pytest_maxact.reducers.rows import FAULTLESS, FEATURE_BITS, NOWHERE, PATTERNS, TOP, Rows, Totals

INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
SIXTEEN_BITS = [torch.bfloat16, torch.float16]
WHOLE_BITS = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}  # of the mantissa
Scan = Callable[[torch.Tensor, Rows], None]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


every_dtype = pytest.mark.parametrize("dtype", INTEGERS, ids=name_of)
every_kernel = pytest.mark.parametrize("kernel", ["eager", "numba"])


def scan_of(kernel: str) -> Scan:
    """A kernel's scan; its test is skipped where its compiler is not installed."""
    if kernel == "eager":
        return eager.scan
    pytest.importorskip("numba")
    scan: Scan = import_module(f"pytest_maxact.reducers.kernels.{kernel}").scan
    return scan


# --- What is tested: a scan, its rows and figures as plain numbers.


def spoiled(rows: Rows) -> Rows:
    """The rows with garbage wherever a kernel is to write."""
    of_rows = {"largest": rows.largest, "spot": rows.spot, "median": rows.median, **(vars(rows.wide) if rows.wide else {})}
    for name, tensor in of_rows.items():
        if tensor is not None and name != "top":
            tensor.fill_(12345)
    return rows


def room(dtype: torch.dtype, real: Sequence[bool], *, sites: int = 1, median: bool = True) -> Rows:
    """Room for figures, full of garbage that a kernel must overwrite; some counts are there already."""
    mask = torch.tensor(real, dtype=torch.bool)
    place = torch.where(mask, torch.arange(len(real)), NOWHERE)
    totals = Totals.zeros(ENCODINGS[dtype], sites, torch.device("cpu"))
    totals.counts.copy_(torch.arange(PATTERNS))
    return spoiled(Rows.empty(ENCODINGS[dtype], mask, place, totals, median=median))


def scanned(scan: Scan, activations: torch.Tensor, real: Sequence[bool] | None = None, *, median: bool = True) -> Rows:
    """One site's rows of a batch, scanned."""
    real = [True] * activations[..., 0].numel() if real is None else real
    rows = room(activations.dtype, real, median=median)[0]
    scan(activations, rows)
    return rows


def owed(rows: Rows) -> dict[str, Any]:
    """The figures that a kernel owes, as plain numbers: none of padding, spots of the tensor's largest, no sign of zeros."""
    real = rows.real.nonzero().squeeze(-1).tolist()
    largest = rows.largest.tolist()
    best = max(largest, default=-1)
    added = rows.counts - torch.arange(PATTERNS)
    figures = {
        "largest": largest,
        "spot": {row: int(rows.spot[row]) for row in real if largest[row] == best >= 0},
        "median": None if rows.median is None else rows.median.tolist(),
        "fault": rows.fault.tolist(),
        "counts": {pattern: int(added[pattern]) for pattern in added.nonzero().squeeze(-1).tolist()},
    }
    if rows.wide is None:
        return figures
    wide = rows.wide
    return figures | {
        "high": [float(wide.high[row]) + 0.0 for row in real],
        "low": [float(wide.low[row]) + 0.0 for row in real],
        "nan": [int(wide.nan[row]) for row in real],
        "inf": [int(wide.inf[row]) for row in real],
        "sums": [[number.hex() for number in wide.sums[row].tolist()] for row in real],
        "top": wide.top.tolist(),
    }


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(INTEGERS[tensor.dtype])


# --- The oracle: the definitions in plain Python, value by value.

# Of each bfloat16 pattern without sign; a float32 beyond the last finite one rounds as if the next were 2^128.
BFLOAT16_VALUES = [*torch.arange(0x7F80, dtype=torch.int16).view(torch.bfloat16).tolist(), 2.0**128]


def bfloat16_pattern(pattern: int, value: float) -> int:
    """Of a float32's unsigned pattern and value the pattern of the nearest bfloat16, of two the even one."""
    if math.isnan(value):
        return 0x7FC0
    below = (pattern & 0x7FFFFFFF) >> 16
    if math.isinf(value):
        return pattern >> 16
    above = below + 1
    to_below, to_above = abs(value) - BFLOAT16_VALUES[below], BFLOAT16_VALUES[above] - abs(value)  # exact
    nearest = below if to_below < to_above or (to_below == to_above and below % 2 == 0) else above
    return nearest | (pattern >> 31 << 15)


def histogram_pattern(pattern: int, value: float, dtype: torch.dtype) -> int:
    """Which of the 65,536 counts a value belongs to."""
    return bfloat16_pattern(pattern, value) if dtype == torch.float32 else pattern


def octave(largest: float) -> int:
    """The e of 2^e <= largest < 2^(e+1); the smallest normal number's for those below it."""
    return max(math.frexp(largest)[1] - 1, -126)


def rounded_sums(values: Sequence[float]) -> list[float]:
    """The sums over a row's finite values, each summand to the nearest multiple of a unit, of two the even one.

    A float64 holds float32 values, their squares and both in units exactly, and Python's `round` gives an integer.
    """
    e = octave(max(map(abs, values), default=0.0))
    total = sum(round(math.ldexp(value, 44 - e)) for value in values)
    absolute = sum(round(math.ldexp(abs(value), 44 - e)) for value in values)
    squares = sum(round(math.ldexp(value * value, 43 - 2 * e)) for value in values)
    return [math.ldexp(total, e - 44), math.ldexp(absolute, e - 44), math.ldexp(squares, 2 * e - 43)]


def kind_of(value: float) -> int:
    """What comes first of values that are not finite."""
    return 0 if math.isnan(value) else 1 if value > 0 else 2


def expected(activations: torch.Tensor, real: Sequence[bool], *, median: bool = True) -> dict[str, Any]:
    """What `owed` must be."""
    dtype, width = activations.dtype, activations.shape[-1]
    patterns = bits_of(activations).reshape(-1, width).tolist()
    rows = list(zip(patterns, activations.to(torch.float64).reshape(-1, width).tolist(), real, strict=True))
    mask = (1 << (8 * dtype.itemsize - 1)) - 1
    largest, medians, spots, faults = [], [], [], []
    counts: Counter[int] = Counter()
    figures: dict[str, Any] = {"high": [], "low": [], "nan": [], "inf": [], "sums": [], "top": []}
    for bits, values, is_real in rows:
        finite = [feature for feature, value in enumerate(values) if is_real and math.isfinite(value)]
        peak = min(finite, key=lambda feature: (-abs(values[feature]), feature), default=None)
        largest.append(-1 if peak is None else bits[peak] & mask)
        spots.append(-1 if peak is None else 2 * peak + (bits[peak] < 0))
        middle = sorted(range(width), key=lambda feature: abs(values[feature]))[(width - 1) // 2]
        medians.append(bits[middle] & mask if len(finite) == width else -1)
        broken = [feature for feature, value in enumerate(values) if is_real and not math.isfinite(value)]
        faults.append(min((kind_of(values[feature]) << FEATURE_BITS | feature for feature in broken), default=FAULTLESS))
        if not is_real:
            continue
        for pattern, value in zip(bits, values, strict=True):
            counts[histogram_pattern(pattern & (2 * mask + 1), value, dtype)] += 1
        if dtype != torch.float32:
            continue
        numbers = [values[feature] for feature in finite]
        figures["high"].append(max(numbers, default=-math.inf) + 0.0)
        figures["low"].append(min(numbers, default=math.inf) + 0.0)
        figures["nan"].append(sum(map(math.isnan, values)))
        figures["inf"].append(sum(map(math.isinf, values)))
        figures["sums"].append([number.hex() for number in rounded_sums(numbers)])
        figures["top"] += [(abs(values[feature]), values[feature] >= 0, bits[feature] & mask) for feature in finite]
    top = [2 * magnitude + positive for _, positive, magnitude in sorted(figures["top"], reverse=True)[:TOP]]
    figures["top"] = top + [-1] * (TOP - len(top))
    best = max(largest, default=-1)
    found = {
        "largest": largest,
        "spot": {row: spot for row, spot in enumerate(spots) if largest[row] == best >= 0},
        "median": medians if median else None,
        "fault": faults,
        "counts": dict(sorted(counts.items())),
    }
    return found | figures if dtype == torch.float32 else found


# --- Tensors to try.


def bit_patterns(dtype: torch.dtype) -> st.SearchStrategy[int]:
    """Any value at all, every NaN and every subnormal included."""
    info = torch.iinfo(INTEGERS[dtype])
    return st.integers(info.min, info.max)


def named_values(dtype: torch.dtype) -> st.SearchStrategy[int]:
    """What is special about floats, the limits of the Sun criterion, and for float32 what lies between two bfloat16."""
    finfo = torch.finfo(dtype)
    names = [0.0, -0.0, 1.0, -1.0, 0.5, 100.0, 101.0, -1000.0, 2000.0, finfo.max, finfo.min, finfo.tiny]
    patterns = bits_of(torch.tensor(names, dtype=dtype)).tolist()
    patterns += [1, bits_of(-torch.tensor([1], dtype=INTEGERS[dtype]).view(dtype)).item()]  # the smallest subnormal
    if dtype == torch.float32:
        patterns += [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7F7FFF, 0x7F7F8000, 0x00008000, 0x00018000]
    return st.sampled_from(patterns)


def broken_values(dtype: torch.dtype) -> st.SearchStrategy[int]:
    """NaN of either sign, with a payload too, and infinities."""
    infinity = ENCODINGS[dtype].infinity
    least = torch.iinfo(INTEGERS[dtype]).min
    return st.sampled_from([infinity, infinity + 1, least + infinity, least + infinity + 1, -1])


@st.composite
def pools(draw: st.DrawFn, dtype: torch.dtype) -> torch.Tensor:
    """A few values; often all of them finite."""
    value = named_values(dtype) | bit_patterns(dtype)
    if draw(st.booleans()):
        mask, infinity = ENCODINGS[dtype].magnitude_mask, ENCODINGS[dtype].infinity
        value = value.filter(lambda pattern: pattern & mask < infinity)
    elif draw(st.booleans()):
        value = value | broken_values(dtype)
    return torch.tensor(draw(st.lists(value, min_size=1, max_size=6)), dtype=INTEGERS[dtype]).view(dtype)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Up to 8 rows of up to 9 features, their values from a small pool so that ties abound."""
    dtype = draw(st.sampled_from(list(INTEGERS)))
    rows, width = draw(st.integers(1, 8)), draw(st.integers(1, 9))
    pool = draw(pools(dtype))
    picks = draw(st.lists(st.integers(0, len(pool) - 1), min_size=rows * width, max_size=rows * width))
    return pool[torch.tensor(picks)].reshape(rows, width)


def heavy_tailed(dtype: torch.dtype, *shape: int, broken: float = 0.0) -> torch.Tensor:
    """Values over many octaves, a few of them massive and every fifth row of few different ones; some NaN and infinite."""
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(shape, generator=generator) * torch.exp(2 * torch.randn(shape, generator=generator))
    values[::5] = (values[::5] * 2).round() / 2
    values = torch.where(torch.rand(shape, generator=generator) < 2e-4, values * 4000, values)
    for number, share in ((math.nan, broken), (math.inf, 2 * broken), (-math.inf, 3 * broken)):
        values[torch.rand(shape, generator=generator) < share] = number
    return values.to(dtype)


def ragged(rows: int) -> list[bool]:
    """Which rows of a batch are real: neither a beginning nor an end."""
    return [row % 7 not in (0, 3) for row in range(rows)]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads kernels may use; restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# --- Against the oracle.


@every_kernel
@settings(deadline=None, max_examples=200)
@given(tensor=tensors(), median=st.booleans(), data=st.data())
def test_every_figure_is_that_of_the_definitions(kernel: str, tensor: torch.Tensor, median: bool, data: st.DataObject) -> None:
    real = data.draw(st.lists(st.booleans(), min_size=len(tensor), max_size=len(tensor)), label="real")
    found = owed(scanned(scan_of(kernel), tensor, real, median=median))
    assert found == expected(tensor, real, median=median)


@every_kernel
@every_dtype
def test_every_figure_of_a_larger_tensor_is_that_of_the_definitions(kernel: str, dtype: torch.dtype) -> None:
    tensor = heavy_tailed(dtype, 40, 150, broken=1e-4)
    found = owed(scanned(scan_of(kernel), tensor, ragged(40)))
    assert found == expected(tensor, ragged(40))
    assert -1 in [largest for largest, real in zip(found["median"], ragged(40), strict=True) if real], "a broken row"


@every_kernel
@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=name_of)
@pytest.mark.parametrize("width", [256, 65536], ids=["256 rows", "one row"])
def test_each_of_the_65536_patterns_is_taken_for_its_value(kernel: str, dtype: torch.dtype, width: int) -> None:
    patterns = torch.arange(-PATTERNS // 2, PATTERNS // 2, dtype=torch.int16).view(dtype)
    mixed = patterns[torch.randperm(PATTERNS, generator=torch.Generator().manual_seed(0))]
    finite = torch.where(mixed.isfinite(), mixed, -1)
    # In order the values of a row are close, and rows without NaN and infinities have medians.
    for tensor in (patterns, finite) if width < PATTERNS else (mixed, finite):
        tensor = tensor.reshape(-1, width)
        found = owed(scanned(scan_of(kernel), tensor))
        assert found == expected(tensor, [True] * len(tensor))
    assert owed(scanned(scan_of(kernel), patterns.reshape(-1, width)))["counts"] == dict.fromkeys(range(PATTERNS), 1)


@every_kernel
def test_float32_values_are_counted_as_the_nearest_bfloat16_wherever_they_lie_between_two(kernel: str) -> None:
    lower = torch.tensor([0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    upper = torch.arange(2 - PATTERNS // 2, PATTERNS // 2, 5, dtype=torch.int32)[:, None] << 16
    tensor = torch.cat([upper | lower, (upper + (1 << 16)) | lower]).view(torch.float32)
    found = owed(scanned(scan_of(kernel), tensor, median=False))
    counts = Counter(
        bfloat16_pattern(pattern & 0xFFFFFFFF, value)
        for pattern, value in zip(bits_of(tensor).flatten().tolist(), tensor.flatten().tolist(), strict=True)
    )
    assert found["counts"] == dict(sorted(counts.items()))
    assert found["counts"][0x7F80] > 2, "those beyond the largest bfloat16 too"


@every_kernel
@every_dtype
def test_padding_shows_nowhere_whatever_stands_in_it(kernel: str, dtype: torch.dtype) -> None:
    scan, real = scan_of(kernel), ragged(20)
    tensor = heavy_tailed(dtype, 20, 30)
    found = []
    for garbage in (0.0, -torch.finfo(dtype).max, math.nan, math.inf):
        filled = tensor.where(torch.tensor(real)[:, None], garbage)
        found.append(owed(scanned(scan, filled, real)))
    assert all(figures == found[0] for figures in found[1:])
    assert {number for number, is_real in zip(found[0]["largest"], real, strict=True) if not is_real} == {-1}
    assert {number for number, is_real in zip(found[0]["median"], real, strict=True) if not is_real} == {-1}


@every_kernel
@every_dtype
@pytest.mark.parametrize("rows", [0, 3])
def test_a_batch_without_a_real_token_adds_nothing(kernel: str, dtype: torch.dtype, rows: int) -> None:
    tensor = torch.full((rows, 5), 7.0, dtype=dtype)
    found = owed(scanned(scan_of(kernel), tensor, [False] * rows))
    assert found == expected(tensor, [False] * rows)
    assert found["counts"] == {}


@every_kernel
@every_dtype
def test_totals_run_on_over_batches_and_everything_else_is_the_last_batch_s(kernel: str, dtype: torch.dtype) -> None:
    scan = scan_of(kernel)
    first, second = heavy_tailed(dtype, 6, 50, broken=0.01), heavy_tailed(dtype, 6, 20) / 2
    rows = scanned(scan, first)
    rows.fault.fill_(FAULTLESS)  # as the room of each batch begins
    scan(second, rows)
    found, before, last = owed(rows), expected(first, [True] * 6), expected(second, [True] * 6)
    assert found.pop("counts") == dict(sorted((Counter(before["counts"]) + Counter(last["counts"])).items()))
    if "top" in found:
        assert found.pop("top") == sorted(before["top"] + last["top"], reverse=True)[:TOP]
    assert found == {name: value for name, value in last.items() if name in found}


@every_kernel
@every_dtype
def test_each_site_of_a_group_gets_its_own_figures(kernel: str, dtype: torch.dtype) -> None:
    tensors = [heavy_tailed(dtype, 8, width) * scale for width, scale in ((5, 1), (60, -3), (7, 0.01))]
    rows = room(dtype, ragged(8), sites=3)
    for site in (2, 0, 1):
        scan_of(kernel)(tensors[site], rows[site])
    for site, tensor in enumerate(tensors):
        assert owed(rows[site]) == expected(tensor, ragged(8))


@every_kernel
@every_dtype
@pytest.mark.parametrize("width", [1, 2, 32767, 32768])
def test_rows_at_the_edge_of_a_16_bit_counter_are_counted_right(kernel: str, dtype: torch.dtype, width: int) -> None:
    values = torch.arange(width) % 251 - 300  # all different from zero, several hundred of each
    rows = [values.to(dtype), *(torch.full((width,), number, dtype=dtype) for number in (math.nan, -math.inf, 3.0))]
    tensor = torch.stack([*rows, (values % 7 * 1e-3).to(dtype)])
    assert owed(scanned(scan_of(kernel), tensor)) == expected(tensor, [True] * 5)


@every_kernel
@every_dtype
def test_memory_layout_does_not_matter(kernel: str, dtype: torch.dtype) -> None:
    block = heavy_tailed(dtype, 2, 7, 5, 2)
    for view in (block[..., 0], block.permute(3, 2, 0, 1), block[:, ::2].transpose(1, 2), block[:1, :, :, 0].expand(3, -1, -1)):
        assert not view.is_contiguous()
        real = ragged(view[..., 0].numel())
        assert owed(scanned(scan_of(kernel), view, real)) == expected(view, real)


@every_kernel
@every_dtype
@pytest.mark.parametrize("mode", ["plain", "requires grad", "inference"])
def test_a_scan_leaves_its_input_as_it_is(kernel: str, dtype: torch.dtype, mode: str) -> None:
    with torch.inference_mode(mode == "inference"):
        tensor = heavy_tailed(dtype, 9, 40, broken=0.02).requires_grad_(mode == "requires grad")
        before = bits_of(tensor.detach()).clone()
        found = owed(scanned(scan_of(kernel), tensor, ragged(9)))
        assert found == expected(tensor.detach(), ragged(9))
        assert torch.equal(bits_of(tensor.detach()), before)


@every_kernel
@every_dtype
def test_of_equal_values_the_lowest_feature_stands_for_its_row_with_its_own_sign(kernel: str, dtype: torch.dtype) -> None:
    rows = [[1, -8, 8], [0, 3, -4], [8, -8, 2], [math.inf, 1, -8], [math.nan, 8, -8]]
    figures = owed(scanned(scan_of(kernel), torch.tensor(rows, dtype=dtype)))
    assert figures["spot"] == {0: 3, 2: 0, 3: 5, 4: 2}


# --- The 100 largest of float32 tensors.


def values_of_top(numbers: Sequence[int]) -> list[float]:
    """The values that a `top` stands for."""
    magnitudes = torch.tensor([max(number, 0) >> 1 for number in numbers], dtype=torch.int32).view(torch.float32).tolist()
    return [value if number % 2 else -value for value, number in zip(magnitudes, numbers, strict=True) if number >= 0]


@every_kernel
def test_the_top_of_a_tensor_is_its_100_largest_with_their_signs(kernel: str) -> None:
    values = [(-1) ** index * (index // 3 + 1) for index in range(450)]  # three of each |x|, of both signs
    order = torch.randperm(450, generator=torch.Generator().manual_seed(0))
    for shape in ((1, 450), (450, 1), (9, 50), (150, 3)):  # in rows fewer and more than 100
        tensor = torch.tensor(values, dtype=torch.float32)[order].reshape(shape)
        top = owed(scanned(scan_of(kernel), tensor))["top"]
        assert values_of_top(top) == sorted(values, key=lambda value: (-abs(value), -value))[:100]


@every_kernel
@pytest.mark.parametrize("negative", [99, 100, 101])
def test_of_more_than_100_equal_values_the_positive_ones_stay(kernel: str, negative: int) -> None:
    signs = torch.tensor([-1.0] * negative + [1.0] * 60)
    for shape in ((1, -1), (-1, 1)):
        assert values_of_top(owed(scanned(scan_of(kernel), 5 * signs.reshape(shape)))["top"]) == [5.0] * 60 + [-5.0] * 40


@every_kernel
def test_the_top_is_kept_over_batches(kernel: str) -> None:
    heavy, equal = heavy_tailed(torch.float32, 30, 11), torch.cat([torch.full((20, 8), -3.0), torch.full((13, 8), 3.0)])
    for tensor in (heavy, torch.cat([heavy, heavy]), equal, equal.flip(0), heavy - heavy):
        top = sorted(tensor.flatten().tolist(), key=lambda value: (-abs(value), -value))[:TOP]
        for size in (1, 3, 15, 60):  # with and without 100 values in a batch
            totals = Totals.zeros(ENCODINGS[torch.float32], 1, torch.device("cpu"))
            for batch in torch.split(tensor, size):
                real, place = torch.ones(len(batch), dtype=torch.bool), torch.arange(len(batch))
                rows = spoiled(Rows.empty(ENCODINGS[torch.float32], real, place, totals, median=False))
                scan_of(kernel)(batch, rows[0])
            assert totals.top is not None
            assert values_of_top([number for number in totals.top[0].tolist() if number >= 0]) == top


@every_kernel
def test_the_top_of_fewer_than_100_finite_values_is_all_of_them(kernel: str) -> None:
    tensor = torch.full((3, 60), math.nan)
    tensor[1] = -math.inf
    tensor[::2, 7:20] = torch.arange(13.0) - 6
    top = owed(scanned(scan_of(kernel), tensor))["top"]
    assert values_of_top(top) == [value for size in range(6, 0, -1) for value in (size, size, -size, -size)] + [0, 0]
    assert top[26:] == [-1] * 74


# --- Sums of float32 rows.


def sums_of(kernel: str, tensor: torch.Tensor) -> list[list[float]]:
    wide = scanned(scan_of(kernel), tensor).wide
    assert wide is not None
    found: list[list[float]] = wide.sums.tolist()
    return found


@every_kernel
def test_sums_do_not_depend_on_the_order_of_features(kernel: str) -> None:
    tensor = heavy_tailed(torch.float32, 12, 500, broken=1e-4) * torch.logspace(-42, 30, 12)[:, None]
    generator = torch.Generator().manual_seed(1)
    sums = sums_of(kernel, tensor)
    for _ in range(5):
        shuffled = tensor[:, torch.randperm(500, generator=generator)]
        assert sums_of(kernel, shuffled) == sums


@every_kernel
def test_sums_err_by_no_more_than_half_a_unit_for_each_value(kernel: str) -> None:
    tensor = heavy_tailed(torch.float32, 12, 300) * torch.logspace(-42, 30, 12)[:, None]
    tensor[3], tensor[4] = 1 + 2**-23, torch.finfo(torch.float32).max
    for values, sums in zip(tensor.tolist(), sums_of(kernel, tensor), strict=True):
        numbers = [Fraction(value) for value in values]
        e = octave(max(map(abs, values)))
        unit, square_unit = Fraction(2) ** (e - 44), Fraction(2) ** (2 * e - 43)
        exact = [sum(numbers, Fraction()), sum(map(abs, numbers), Fraction()), sum((n**2 for n in numbers), Fraction())]
        for found, sure, step in zip(sums, exact, (unit, unit, square_unit), strict=True):
            assert abs(Fraction(found) - sure) <= len(values) * step / 2 + abs(sure) / 2**53
        assert sums[1] == pytest.approx(float(exact[1]), rel=1e-10)
        assert sums[2] == pytest.approx(float(exact[2]), rel=1e-10)


# --- Against each other, in parts of any size.


def assert_same(first: Rows, second: Rows) -> None:
    one, other = owed(first), owed(second)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == other[name], name


@every_dtype
@pytest.mark.parametrize("broken", [0.0, 1e-4, 0.05])
def test_both_kernels_give_the_same_bits(dtype: torch.dtype, broken: float, threads: Callable[[int], None]) -> None:
    tensor = heavy_tailed(dtype, 300, 700, broken=broken)
    threads(1)
    sure = scanned(eager.scan, tensor, ragged(300))
    for count in (1, 2, 5):
        threads(count)
        assert_same(scanned(scan_of("numba"), tensor, ragged(300)), sure)


@every_dtype
def test_both_kernels_give_the_same_bits_for_wide_rows(dtype: torch.dtype) -> None:
    tensor = heavy_tailed(dtype, 3, 100_000)
    assert_same(scanned(scan_of("numba"), tensor), scanned(eager.scan, tensor))


@every_dtype
@pytest.mark.parametrize("rows", [1, 3])
def test_more_threads_than_rows_change_nothing(
    dtype: torch.dtype, rows: int, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor, scan = heavy_tailed(dtype, rows, 50, broken=0.01), scan_of("numba")
    monkeypatch.setattr(import_module("pytest_maxact.reducers.kernels.numba"), "SHARE", 50)
    threads(8)
    assert owed(scanned(scan, tensor)) == expected(tensor, [True] * rows)


@settings(deadline=None, max_examples=100)
@given(tensor=tensors(), count=st.integers(2, 4), share=st.integers(1, 40), counted=st.integers(1, 40), data=st.data())
def test_shares_of_threads_change_nothing(
    tensor: torch.Tensor, count: int, share: int, counted: int, data: st.DataObject
) -> None:
    scan = scan_of("numba")
    module = import_module("pytest_maxact.reducers.kernels.numba")
    real = data.draw(st.lists(st.booleans(), min_size=len(tensor), max_size=len(tensor)), label="real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: count)
        patch.setattr(module, "SHARE", share)
        patch.setattr(module, "COUNTED", counted)
        found = owed(scanned(scan, tensor, real))
    assert found == expected(tensor, real)


@settings(deadline=None, max_examples=100)
@given(tensor=tensors(), elements=st.integers(1, 40), data=st.data())
def test_chunks_of_an_eager_scan_change_nothing(tensor: torch.Tensor, elements: int, data: st.DataObject) -> None:
    real = data.draw(st.lists(st.booleans(), min_size=len(tensor), max_size=len(tensor)), label="real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager, "CHUNK_BYTES", elements * 4)
        found = owed(scanned(eager.scan, tensor, real))
    assert found == expected(tensor, real)


def test_a_large_tensor_is_cut_into_chunks_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = eager._scan_chunk

    def counted(bits: torch.Tensor, rows: Rows, part: slice) -> None:
        seen.append(len(bits))
        original(bits, rows, part)

    monkeypatch.setattr(eager, "_scan_chunk", counted)
    tensor = heavy_tailed(torch.bfloat16, 1100, 1000)
    rows = scanned(eager.scan, tensor)
    assert len(seen) > 1
    assert sum(seen) == 1100
    counts = torch.bincount(bits_of(tensor).flatten().to(torch.int64) % PATTERNS, minlength=PATTERNS)
    assert torch.equal(rows.counts - torch.arange(PATTERNS), counts)


# --- Which kernel is chosen.

SHAPES = [Shape(torch.bfloat16, 5, True), Shape(torch.float32, 7, False), Shape(torch.float16, 6, True)]


def chosen(shapes: Sequence[Shape] = SHAPES, device: str = "cpu") -> Kernel:
    """The choice, which must raise no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return choose(torch.device(device), shapes)


def assert_eager(kernel: Kernel, *parts: str) -> None:
    """The eager kernel with one line that says why."""
    assert (kernel.name, kernel.scan) == ("eager", eager.scan)
    assert kernel.note is not None
    assert kernel.note.splitlines() == [kernel.note]
    assert kernel.note.startswith("slower: ")
    for part in parts:
        assert part in kernel.note


def replaced_scan(monkeypatch: pytest.MonkeyPatch, scan: Scan) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(import_module("pytest_maxact.reducers.kernels.numba"), "scan", scan)


def test_on_a_cpu_numba_s_kernel_is_chosen_without_a_note() -> None:
    scan = scan_of("numba")
    assert chosen() == Kernel("numba", scan, None)


@pytest.mark.parametrize(
    ("device", "parts"),
    [
        ("cpu", ["numba is not installed", "pip install numba", "pytest-maxact"]),
        ("cuda", ["triton is not installed", "install triton"]),
    ],
)
def test_without_the_compiler_the_eager_kernel_is_chosen_and_told_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, device: str, parts: list[str]
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(kernels, "version", missing)
    assert_eager(chosen(device=device), *parts)


@pytest.mark.parametrize("version", ["0.59.1", "0.9.0"])
def test_a_compiler_that_is_too_old_is_not_tried(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    def never(activations: torch.Tensor, rows: Rows) -> None:
        pytest.fail("it was tried")

    replaced_scan(monkeypatch, never)
    monkeypatch.setattr(kernels, "version", lambda name: version)
    assert_eager(chosen(), f"numba {version} is older than 0.60")


@pytest.mark.parametrize("version", ["0.60.0", "0.68.1", "0.100.0rc1", "1.0"])
def test_a_compiler_that_is_new_enough_is_taken(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    scan = scan_of("numba")
    monkeypatch.setattr(kernels, "version", lambda name: version)
    assert chosen() == Kernel("numba", scan, None)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Failed in nopython mode pipeline\nwith many\nlines", "Failed in nopython mode pipeline)"),
        ("\n\n  no space left on device\n", "(no space left on device)"),
        ("", "(RuntimeError)"),
        ("x" * 1000, "x" * 100),
    ],
    ids=["lines", "blank lines first", "nothing", "one long line"],
)
def test_a_compiler_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, message: str, told: str) -> None:
    def fails(activations: torch.Tensor, rows: Rows) -> None:
        raise RuntimeError(message)

    replaced_scan(monkeypatch, fails)
    kernel = chosen()
    assert_eager(kernel, "numba cannot be used", told)
    assert len(str(kernel.note)) < 300


def test_a_compiler_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError(f"{name.rpartition('.')[2]} needs another numpy")

    monkeypatch.setattr(kernels, "version", lambda name: "0.61.0")
    monkeypatch.setattr(kernels, "import_module", broken)
    assert_eager(chosen(), "numba cannot be used (numba needs another numpy)")


def test_without_numba_s_compilation_its_kernel_would_be_slow_and_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    monkeypatch.delitem(sys.modules, "pytest_maxact.reducers.kernels.numba", raising=False)
    assert_eager(chosen(), "numba cannot be used (NUMBA_DISABLE_JIT is set)")


def wrong_largest(activations: torch.Tensor, rows: Rows) -> None:
    eager.scan(activations, rows)
    rows.largest[0] += 1


def wrong_counts(activations: torch.Tensor, rows: Rows) -> None:
    eager.scan(activations, rows)
    rows.counts[1] += 1


def sees_padding(activations: torch.Tensor, rows: Rows) -> None:
    rows.real.fill_(True)
    eager.scan(activations, rows)


@pytest.mark.parametrize("scan", [wrong_largest, wrong_counts, sees_padding])
def test_a_kernel_that_gives_wrong_figures_is_not_used(monkeypatch: pytest.MonkeyPatch, scan: Scan) -> None:
    replaced_scan(monkeypatch, scan)
    assert_eager(chosen(), "numba cannot be used (it gave wrong figures)")


@pytest.mark.parametrize("bad", range(len(SHAPES)))
def test_a_kernel_must_work_for_every_shape_of_the_run(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    tried = []

    def fails_for_one(activations: torch.Tensor, rows: Rows) -> None:
        shape = Shape(activations.dtype, activations.shape[-1], rows.median is not None)
        tried.append(shape)
        if shape == SHAPES[bad]:
            raise RuntimeError(f"no registers left for {shape.width}")
        eager.scan(activations, rows)

    replaced_scan(monkeypatch, fails_for_one)
    assert_eager(chosen(), f"no registers left for {SHAPES[bad].width}")
    assert tried == SHAPES[: bad + 1]
    assert chosen(SHAPES[:bad]).name == "numba"


# --- What figures are written in.


@every_dtype
def test_magnitudes_are_in_the_order_of_values_and_stand_for_them(dtype: torch.dtype) -> None:
    encoding = ENCODINGS[dtype]
    step = 1 if encoding.exact else 65521
    magnitudes = torch.cat([torch.arange(0, encoding.infinity, step), torch.tensor([encoding.infinity - 1])])
    values = encoding.values(magnitudes).tolist()
    assert all(smaller < larger for smaller, larger in pairwise(values[:-1]))
    assert values[0] == 0
    assert values[-1] == torch.finfo(dtype).max
    assert encoding.values(torch.tensor([1])).item() == 2.0 ** (math.frexp(torch.finfo(dtype).tiny)[1] - 1 - WHOLE_BITS[dtype])
    assert encoding.values(torch.tensor([encoding.infinity])).item() == math.inf
    assert encoding.values(torch.tensor([encoding.infinity + 1])).isnan().all()
    assert encoding.name == name_of(dtype)


def test_other_dtypes_have_no_encoding() -> None:
    assert set(ENCODINGS) == set(INTEGERS)
