"""SQNR and overflow tell whether a site survives a number format: against torch's casts, exhaustively, and exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_maxact import formats
from pytest_maxact.formats import FORMATS, best_threshold, int_sqnr, sqnr
from pytest_maxact.histogram import Histogram
from tests.test_histogram import every_dtype, finite_values, histogram_of, patterns_of, probabilities, tensors

FLOATS = {
    "float16": (formats.FLOAT16, torch.float16),
    "fp8_e4m3": (formats.FP8_E4M3, torch.float8_e4m3fn),
    "fp8_e5m2": (formats.FP8_E5M2, torch.float8_e5m2),
}
every_float = pytest.mark.parametrize(("floating", "target"), FLOATS.values(), ids=FLOATS)
KEYS = {
    *("int8_maxabs", "int8_p999", "int6_maxabs", "int6_p999", "int4_maxabs", "int4_p999"),
    *("fp8_e4m3", "fp8_e4m3_scaled", "fp8_e5m2", "fp8_e5m2_scaled"),
}


def cast(magnitudes: torch.Tensor, target: torch.dtype) -> torch.Tensor:
    """What torch makes of each |a| in a format, as float64."""
    return magnitudes.to(torch.float32).to(target).to(torch.float64)


def overflowing(magnitudes: torch.Tensor, target: torch.dtype) -> torch.Tensor:
    """Which |a| torch rounds beyond the largest finite value.

    They become infinite, but in E4M3, without infinities, NaN or 448 depending on torch's release. There a cast of |a| / 256,
    which has the same mantissa, tells: it is exact to undo.
    """
    if target is torch.float8_e4m3fn:
        return ~(cast(magnitudes.to(torch.float64) / 256, target) * 256 <= 448) & ~magnitudes.isnan()
    return cast(magnitudes, target).isinf()


# --- Rounding and overflow of float formats.


@every_dtype
@every_float
def test_rounding_is_torch_s_cast_for_every_bit_pattern(
    dtype: torch.dtype, floating: formats.FloatFormat, target: torch.dtype
) -> None:
    patterns = patterns_of(dtype)
    finite = patterns[patterns.isfinite()].abs()
    over = overflowing(finite, target)
    expected = torch.where(over, torch.finfo(target).max, cast(finite, target))
    found = floating.quantize(finite.to(torch.float64).numpy())
    assert found.tobytes() == expected.numpy().tobytes()
    assert len(np.unique(found)) >= (120 if target != torch.float16 else 4000), "a good part of the format was met"


@every_dtype
@every_float
def test_overflow_is_that_of_torch_s_cast_for_every_bit_pattern(
    dtype: torch.dtype, floating: formats.FloatFormat, target: torch.dtype
) -> None:
    magnitudes = patterns_of(dtype).abs()
    expected = overflowing(magnitudes, target)
    assert floating.overflows(magnitudes.to(torch.float64).numpy()).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("name", "last", "first"),
    [
        ("float16", math.nextafter(65520.0, 0.0), 65520.0),
        ("fp8_e5m2", math.nextafter(61440.0, 0.0), 61440.0),
        ("fp8_e4m3", 464.0, math.nextafter(464.0, 500.0)),
    ],
)
def test_overflow_begins_where_half_a_step_beyond_the_largest_value_rounds_away(name: str, last: float, first: float) -> None:
    floating, target = FLOATS[name]
    assert FORMATS[name].floating is floating
    assert floating.largest == torch.finfo(target).max
    assert floating.overflows([0.0, floating.largest, last, first, 1e38, math.inf]).tolist() == [False] * 3 + [True] * 3
    assert floating.quantize(np.array([last, first, 1e38])).tolist() == [floating.largest] * 3

    last32, first32 = (torch.tensor(value, dtype=torch.float32) for value in (last, first))
    if name == "fp8_e4m3":
        first32 = torch.nextafter(last32, torch.tensor(math.inf))
    else:
        last32 = torch.nextafter(first32, torch.tensor(0.0))
    assert overflowing(torch.stack([last32, first32]), target).tolist() == [False, True], "so does torch"


@every_float
def test_nan_does_not_overflow(floating: formats.FloatFormat, target: torch.dtype) -> None:
    assert not floating.overflows(math.nan)


def test_formats_have_their_names_and_figures() -> None:
    assert {name: (form.floating and form.floating.largest, form.sqnr_keys) for name, form in FORMATS.items()} == {
        "float16": (65504.0, ()),
        "fp8_e4m3": (448.0, ("fp8_e4m3",)),
        "fp8_e5m2": (57344.0, ("fp8_e5m2",)),
        "int8": (None, ("int8_maxabs", "int8_p999")),
    }


# --- SQNR, over the values themselves in fractions: any bit pattern, any range.


def exact_decibels(values: list[Fraction], distances: list[Fraction]) -> float:
    signal, noise = sum(value**2 for value in values), sum(distance**2 for distance in distances)
    if not signal:
        return math.nan
    return 10 * math.log10(Fraction(signal) / noise) if noise else math.inf


def exact_int_sqnr(values: list[Fraction], bits: int, threshold: float) -> float:
    if not values or not threshold:
        return exact_decibels(values, values)
    levels = 2 ** (bits - 1) - 1
    scale = Fraction(threshold) / levels
    return exact_decibels(values, [value - max(-levels, min(round(value / scale), levels)) * scale for value in values])


def exact_fp8_sqnr(values: list[Fraction], target: torch.dtype, scale: Fraction) -> float:
    """By the distance to the nearest of all numbers of the format, as torch decodes them."""
    numbers = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(target).to(torch.float64)
    grid = [Fraction(number) * scale for number in numbers[numbers.isfinite()].tolist()]
    distance = {value: min(abs(value - number) for number in grid) for value in set(values)}
    return exact_decibels(values, [distance[value] for value in values])


def close(value: float) -> object:
    return pytest.approx(value, rel=0, abs=1e-6, nan_ok=True)


@settings(deadline=None, max_examples=50)
@given(tensor=tensors())
def test_every_figure_is_the_sqnr_of_the_definition(tensor: torch.Tensor) -> None:
    histogram, values = histogram_of(tensor), [Fraction(value) for value in finite_values(tensor)]
    maxabs, p999 = histogram.quantile(1), histogram.quantile(0.999)
    expected = {}
    for bits in (8, 6, 4):
        expected[f"int{bits}_maxabs"] = exact_int_sqnr(values, bits, maxabs)
        expected[f"int{bits}_p999"] = exact_int_sqnr(values, bits, p999)
    for name in ("fp8_e4m3", "fp8_e5m2"):
        floating, target = FLOATS[name]
        scale = Fraction(maxabs) / Fraction(floating.largest) if values else Fraction(1)
        expected[name] = exact_fp8_sqnr(values, target, Fraction(1))
        expected[f"{name}_scaled"] = exact_fp8_sqnr(values, target, scale)
    found = sqnr(histogram)
    assert set(found) == set(expected) == KEYS
    for key, figure in expected.items():
        assert found[key] == close(figure), key


@settings(deadline=None, max_examples=50)
@given(tensor=tensors(), q=probabilities, bits=st.sampled_from([2, 4, 6, 8]))
def test_the_sqnr_of_an_arbitrary_quantile_is_that_of_the_definition(tensor: torch.Tensor, q: float, bits: int) -> None:
    histogram, values = histogram_of(tensor), [Fraction(value) for value in finite_values(tensor)]
    threshold = histogram.quantile(q)
    assert int_sqnr(histogram, bits, threshold) == close(exact_int_sqnr(values, bits, threshold))


# --- SQNR, against quantization of whole tensors.


@st.composite
def activations(draw: st.DrawFn, most: int = 20_000) -> torch.Tensor:
    """What sites hold: a bulk, tails of some weight, zeros, a few outliers."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    size = draw(st.integers(most // 10, most))
    tail, scale = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])), draw(st.sampled_from([1e-3, 1.0, 30.0]))
    values = torch.randn(size, generator=generator) * torch.exp(torch.randn(size, generator=generator) * tail) * scale
    if draw(st.booleans()):
        values = values.relu()
    outliers = torch.randint(size, (draw(st.integers(0, size // 500)),), generator=generator)
    values[outliers] *= draw(st.sampled_from([10.0, 100.0, 300.0]))
    return values.clamp(-6e4, 6e4).to(draw(st.sampled_from([torch.bfloat16, torch.float16])))


def decibels(values: torch.Tensor, quantized: torch.Tensor) -> float:
    return float(10 * torch.log10((values**2).sum() / ((values - quantized) ** 2).sum()))


@settings(deadline=None, max_examples=60)
@given(tensor=activations(), q=st.floats(0.3, 1))
def test_integer_sqnr_of_a_tensor_is_that_of_quantizing_it(tensor: torch.Tensor, q: float) -> None:
    histogram, values = histogram_of(tensor), tensor.to(torch.float64)
    ranked = values.abs().sort().values
    figures = sqnr(histogram)
    for bits in (4, 6, 8):
        levels = 2 ** (bits - 1) - 1
        for policy, quantile in (("maxabs", 1.0), ("p999", 0.999), (None, q)):
            threshold = float(ranked[math.ceil(Fraction(repr(quantile)) * len(ranked)) - 1])
            scale = threshold / levels
            quantized = torch.clamp(torch.round(values / scale), -levels, levels) * scale if threshold else 0 * values
            assert int_sqnr(histogram, bits, threshold) == close(decibels(values, quantized))
            if policy is not None:
                assert figures[f"int{bits}_{policy}"] == int_sqnr(histogram, bits, threshold)


@settings(deadline=None, max_examples=40)
@given(tensor=activations())
@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_fp8_sqnr_of_a_tensor_is_that_of_casting_it(name: str, tensor: torch.Tensor) -> None:
    floating, target = FLOATS[name]
    values, figures = tensor.to(torch.float64), sqnr(histogram_of(tensor))
    scale = values.abs().max() / floating.largest
    saturated = values.clamp(-floating.largest, floating.largest)
    assert figures[name] == close(decibels(values, cast(saturated, target)))
    assert figures[f"{name}_scaled"] == close(decibels(values, cast(values / scale, target) * scale))


# --- SQNR at the edges.


@every_dtype
@pytest.mark.parametrize(
    "values",
    [[], [math.nan], [math.inf, math.nan], [0.0, -0.0], [0.0, math.inf]],
    ids=["empty", "NaN", "inf", "zeros", "zero, inf"],
)
def test_without_a_finite_value_other_than_0_there_is_no_sqnr(dtype: torch.dtype, values: list[float]) -> None:
    histogram = histogram_of(torch.tensor(values, dtype=dtype))
    figures = sqnr(histogram)
    assert set(figures) == KEYS
    assert all(map(math.isnan, figures.values()))
    threshold = best_threshold(histogram, 8)
    assert threshold == 0 if 0.0 in values else math.isnan(threshold)
    assert math.isnan(int_sqnr(histogram, 8, threshold))


@every_dtype
def test_a_single_magnitude_loses_nothing_to_a_scale_of_its_own(dtype: torch.dtype) -> None:
    for value in patterns_of(dtype)[patterns_of(dtype) > 0][::97]:
        if value.isinf():
            continue
        histogram = histogram_of(torch.stack([value, -value, value]))
        figures = sqnr(histogram)
        assert {figures[key] for key in KEYS - {"fp8_e4m3", "fp8_e5m2"}} == {math.inf}
        assert best_threshold(histogram, 4) == value.item()


def test_infinities_and_nan_do_not_change_the_figures_of_finite_values() -> None:
    values = torch.tensor([0.3, -7.0, 2.0, 1e38], dtype=torch.bfloat16)
    broken = torch.cat([values, torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.bfloat16)])
    assert sqnr(histogram_of(broken)) == sqnr(histogram_of(values))


def test_the_largest_and_smallest_values_of_bfloat16_meet_without_a_warning() -> None:
    histogram = histogram_of(torch.tensor([1, 2**15 - 2**7 - 1], dtype=torch.int16).view(torch.bfloat16))
    figures = sqnr(histogram)
    assert figures["int8_maxabs"] > 1000, "only the smallest number was lost"
    assert figures["fp8_e4m3"] == pytest.approx(0, abs=1e-6), "the largest one was clipped to 448"
    smallest = float(histogram.magnitudes[0][0])
    assert int_sqnr(histogram, 8, smallest) == pytest.approx(0, abs=1e-6)
    assert formats.FLOAT16.overflows(histogram.magnitudes[0]).tolist() == [False, True]


def test_a_site_almost_all_zero_is_clipped_to_nothing_by_its_percentile() -> None:
    tensor = torch.zeros(10_000, dtype=torch.bfloat16)
    tensor[0] = 5.0
    assert sqnr(histogram_of(tensor))["int8_p999"] == 0
    assert best_threshold(histogram_of(tensor), 8) == 5.0


def test_a_value_halfway_between_levels_goes_to_the_even_one() -> None:
    # Levels -7 to 7 at a scale of 1: 0.5 -> 0 and 1.5 -> 2 lose a quarter each.
    histogram = histogram_of(torch.tensor([7.0, 0.5, -1.5], dtype=torch.float16))
    assert sqnr(histogram)["int4_maxabs"] == pytest.approx(10 * math.log10((49 + 0.25 + 2.25) / 0.5))


# --- The best threshold.


def by_sweep(histogram: Histogram, bits: int) -> float:
    """The threshold of the highest SQNR among every distinct |a|; of equals the largest."""
    return max((float(value) for value in histogram.magnitudes[0]), key=lambda value: (int_sqnr(histogram, bits, value), value))


@settings(deadline=None, max_examples=40)
@given(tensor=activations(most=2000), bits=st.sampled_from([4, 6, 8]))
def test_the_best_threshold_is_that_of_a_sweep_over_every_value(tensor: torch.Tensor, bits: int) -> None:
    histogram = histogram_of(tensor)
    best = best_threshold(histogram, bits)
    assert best == by_sweep(histogram, bits)
    for q in (1, 0.999):
        assert int_sqnr(histogram, bits, best) >= int_sqnr(histogram, bits, histogram.quantile(q))


@settings(deadline=None, max_examples=50)
@given(tensor=tensors(), bits=st.sampled_from([2, 4, 8]))
def test_the_best_threshold_of_any_values_is_that_of_a_sweep(tensor: torch.Tensor, bits: int) -> None:
    histogram = histogram_of(tensor)
    if any(finite_values(tensor)):
        assert best_threshold(histogram, bits) == by_sweep(histogram, bits)


@pytest.mark.parametrize(
    ("counts", "bits", "best"),
    [
        ({1.0: 1, 2.0: 1}, 2, 2.0),
        ({1.0: 10**12 + 1, 2.0: 10**12}, 2, 1.0),
        ({126.0: 10**12, 127.0: 1}, 8, 127.0),
    ],
    ids=["equal", "one of 10^12 loses more", "one of 10^12 loses anything"],
)
def test_thresholds_too_close_for_sums_in_float64_are_told_apart(counts: dict[float, int], bits: int, best: float) -> None:
    histogram = histogram_of(torch.tensor(list(counts), dtype=torch.bfloat16))
    histogram.counts[histogram.counts > 0] = list(counts.values())  # patterns ascend with values
    assert best_threshold(histogram, bits) == best


@every_dtype
def test_the_best_threshold_of_thousands_of_magnitudes_is_not_worse_than_any_other(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    size = 300_000
    values = torch.randn(size, generator=generator) * torch.exp(1.5 * torch.randn(size, generator=generator))
    histogram = histogram_of(values.to(dtype))
    magnitudes = histogram.magnitudes[0]
    assert len(magnitudes) > 2500
    for bits in (4, 8):
        best = int_sqnr(histogram, bits, best_threshold(histogram, bits))
        policies = [histogram.quantile(q) for q in (1, 0.9999, 0.999, 0.99, 0.9)]
        assert best > int_sqnr(histogram, bits, histogram.quantile(1))
        for threshold in [*policies, *magnitudes[1::37]]:
            assert best >= int_sqnr(histogram, bits, threshold)
