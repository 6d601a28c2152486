"""Every statistic of a site's distribution comes from its histogram: each against its definition over the values themselves."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_maxact.histogram import PATTERNS, Histogram, Moments

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def histogram_of(tensor: torch.Tensor) -> Histogram:
    """A histogram counted here and now, apart from the code that counts a site."""
    patterns = tensor.flatten().view(torch.int16).to(torch.int64) % PATTERNS
    [name] = [name for name, dtype in DTYPES.items() if dtype == tensor.dtype]
    return Histogram(name, np.bincount(patterns.numpy(), minlength=PATTERNS))  # type: ignore[arg-type]


def finite_values(tensor: torch.Tensor) -> list[float]:
    """The finite values, ascending; sums of zeros of either sign are 0.0."""
    return sorted(value + 0.0 for value in tensor.to(torch.float64).flatten().tolist() if math.isfinite(value))


def patterns_of(dtype: torch.dtype) -> torch.Tensor:
    """Each of the 65,536 bit patterns once."""
    return torch.arange(-PATTERNS // 2, PATTERNS // 2, dtype=torch.int16).view(dtype)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Up to 60 values of either dtype from a small pool: any bit pattern, its opposite, and what is special about floats."""
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    info = torch.finfo(dtype)
    special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        info.max,
        info.min,
        info.tiny,
        info.smallest_normal / 2,
        math.inf,
        -math.inf,
        math.nan,
    ]
    pattern = st.integers(-PATTERNS // 2, PATTERNS // 2 - 1).map(lambda bits: torch.tensor(bits, dtype=torch.int16).view(dtype))
    value = pattern | st.sampled_from([torch.tensor(number, dtype=dtype) for number in special])
    pool = torch.stack(draw(st.lists(value, min_size=1, max_size=8)))
    pool = torch.cat([pool, -pool])
    picks = draw(st.lists(st.integers(0, len(pool) - 1), max_size=60))
    return pool[torch.tensor(picks, dtype=torch.int64)]


def expected_moments(weights: dict[Fraction, int]) -> Moments:
    """The definitions over values and how often each occurs, rounded at the end."""
    n = sum(weights.values())
    if not n:
        return Moments(math.nan, math.nan, math.nan, math.nan)
    mean = sum(value * count for value, count in weights.items()) / Fraction(n)
    variance = sum((value - mean) ** 2 * count for value, count in weights.items()) / n
    square = sum(value**2 * count for value, count in weights.items()) / n
    absolute = sum(abs(value) * count for value, count in weights.items()) / Fraction(n)
    return Moments(float(mean), math.sqrt(variance), math.sqrt(square), float(absolute))


@settings(deadline=None, max_examples=120)
@given(tensor=tensors())
def test_totals_values_and_moments_are_those_of_the_values(tensor: torch.Tensor) -> None:
    histogram = histogram_of(tensor)
    every, finite = tensor.to(torch.float64).tolist(), finite_values(tensor)
    assert histogram.finite == len(finite)
    assert histogram.inf == sum(map(math.isinf, every))
    assert histogram.nan == sum(map(math.isnan, every))
    for (values, counts), expected in (
        (histogram.signed, finite),
        (histogram.magnitudes, sorted(map(abs, finite))),
    ):
        assert np.all(counts > 0)
        assert np.all(np.diff(values) > 0), "distinct and ascending"
        assert repr(np.repeat(values, counts).tolist()) == repr(expected)  # repr tells -0.0 from 0.0
    weights = {Fraction(value): finite.count(value) for value in finite}
    assert repr(histogram.moments()) == repr(expected_moments(weights))


@settings(deadline=None, max_examples=100)
@given(tensor=tensors(), counts=st.lists(st.integers(1, 10**9), min_size=16, max_size=16))
def test_moments_of_as_many_values_as_a_long_run_has_are_exact(tensor: torch.Tensor, counts: list[int]) -> None:
    histogram = histogram_of(tensor)
    seen = np.flatnonzero(histogram.counts)
    histogram.counts[seen] = counts[: len(seen)]
    values = torch.from_numpy(seen.astype(np.uint16).view(np.int16)).view(tensor.dtype).to(torch.float64).tolist()
    weights: dict[Fraction, int] = {}
    for value, count in zip(values, counts, strict=False):  # 0.0 and -0.0 are one value
        if math.isfinite(value):
            weights[Fraction(value)] = weights.get(Fraction(value), 0) + count
    assert repr(histogram.moments()) == repr(expected_moments(weights))


@every_dtype
def test_every_bit_pattern_is_taken_for_the_value_that_torch_takes_it_for(dtype: torch.dtype) -> None:
    histogram = histogram_of(patterns_of(dtype))
    every = patterns_of(dtype).to(torch.float64)
    finite = every[every.isfinite()]
    assert histogram.signed[0].tolist() == sorted(set(finite.tolist()))
    assert histogram.magnitudes[0].tolist() == sorted(set(finite.abs().tolist()))
    assert set(histogram.magnitudes[1].tolist()) == {2}, "both signs"
    assert (histogram.finite, histogram.inf, histogram.nan) == (len(finite), 2, int(every.isnan().sum()))


probabilities = st.floats(0, 1, exclude_min=True) | st.sampled_from([0.001, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0])


@settings(deadline=None, max_examples=150)
@given(tensor=tensors(), q=probabilities | st.tuples(st.integers(1, 60), st.integers(1, 60)).map(lambda p: min(p) / max(p)))
def test_a_quantile_is_the_ceil_q_n_th_smallest_magnitude(tensor: torch.Tensor, q: float) -> None:
    magnitudes = sorted(map(abs, finite_values(tensor)))
    found = histogram_of(tensor).quantile(q)
    if not magnitudes:
        assert math.isnan(found)
        return
    rank = math.ceil(Fraction(repr(q)) * len(magnitudes))
    assert found == magnitudes[rank - 1]


@pytest.mark.parametrize(
    ("q", "n", "rank"),
    [
        (0.999, 1000, 999),
        (0.9991, 1000, 1000),
        (0.9, 1000, 900),
        (0.07, 100, 7),
        (0.56, 100, 56),
        (1e-9, 1000, 1),
        (1, 1000, 1000),
    ],
)
def test_a_quantile_has_the_rank_that_its_decimal_says(q: float, n: int, rank: int) -> None:
    tensor = patterns_of(torch.float16)[PATTERNS // 2 + 1 :][:n]  # positive, ascending
    assert histogram_of(tensor).quantile(q) == tensor[rank - 1].item()


@pytest.mark.parametrize("q", [0.0, -0.5, math.nextafter(1, 2), math.nan])
def test_a_quantile_outside_0_to_1_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="is not above 0 and at most 1"):
        histogram_of(torch.ones(3, dtype=torch.float16)).quantile(q)


@settings(deadline=None, max_examples=120)
@given(tensor=tensors(), n=st.integers(0, 70))
def test_the_top_values_are_those_of_a_sort_by_magnitude_with_positive_ones_first(tensor: torch.Tensor, n: int) -> None:
    expected = sorted(finite_values(tensor), key=lambda value: (-abs(value), value < 0))[:n]
    assert repr(histogram_of(tensor).top(n)) == repr(expected)


@every_dtype
@pytest.mark.parametrize(
    "values", [[], [math.nan], [math.inf, -math.inf, math.nan]], ids=["empty", "only NaN", "nothing finite"]
)
def test_without_a_finite_value_there_is_nothing_to_say(dtype: torch.dtype, values: list[float]) -> None:
    histogram = histogram_of(torch.tensor(values, dtype=dtype))
    assert (histogram.finite, histogram.inf, histogram.nan) == (0, max(len(values) - 1, 0), min(len(values), 1))
    assert repr(histogram.moments()) == "Moments(mean=nan, std=nan, rms=nan, abs_mean=nan)"
    assert math.isnan(histogram.quantile(0.5))
    assert histogram.top(3) == []


def test_histograms_are_equal_where_dtype_counts_and_exactness_are() -> None:
    one = torch.ones(3, dtype=torch.bfloat16)
    histogram = histogram_of(one)
    assert histogram == histogram_of(one)
    assert histogram != histogram_of(2 * one)
    assert histogram != Histogram("float16", histogram.counts)
    assert histogram != Histogram("bfloat16", histogram.counts, exact=False)
