"""Every figure of the record comes from these reducers: against a slow oracle, to the bit, however the stream is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_maxact.record import SunFigures
from pytest_maxact.reducers.exact import ExactSum
from pytest_maxact.reducers.extrema import Extrema, PeakAt
from pytest_maxact.reducers.kernels import eager
from pytest_maxact.reducers.rows import Rows, Scan
from pytest_maxact.reducers.sun import Sun

INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
every_dtype = pytest.mark.parametrize("dtype", INTEGERS, ids=lambda dtype: str(dtype).removeprefix("torch."))
Place = tuple[int, int]  # sample, position


@dataclass(frozen=True)
class Stream:
    """Tokens of a site: activations [n, d], and where each row comes from."""

    activations: torch.Tensor
    places: list[Place]

    def part(self, rows: Sequence[int]) -> Stream:
        """Some of the rows, in the order given."""
        return Stream(self.activations[list(rows)], [self.places[row] for row in rows])


def stream_of(values: Sequence[Sequence[float]], dtype: torch.dtype = torch.float32) -> Stream:
    """Rows of one sample."""
    return Stream(torch.tensor(values, dtype=dtype), [(0, position) for position in range(len(values))])


# --- What is tested: scan, bring to the host, reduce.


def rows_of(stream: Stream, real: Sequence[bool] | None = None) -> Rows:
    """Rows of one batch; where `real` is False stands a padded row, of garbage that no figure may show."""
    mask = np.array([True] * len(stream.places) if real is None else real)
    activations = torch.empty((len(mask), stream.activations.shape[-1]), dtype=stream.activations.dtype)
    activations[0::3], activations[1::3], activations[2::3] = math.nan, torch.finfo(activations.dtype).max, math.inf
    activations[torch.from_numpy(mask)] = stream.activations
    sample, position, order = np.zeros((3, len(mask)), dtype=np.int64)
    sample[mask], position[mask] = np.array(stream.places, dtype=np.int64).reshape(-1, 2).T
    order[~mask] = -1
    order[mask] = [sorted(stream.places).index(place) for place in stream.places]
    return Rows.from_scan(eager.scan(activations[None], torch.from_numpy(order), median=True), mask, sample, position)


def reduced(rows: Rows) -> tuple[Extrema, Sun]:
    return Extrema().update(rows), Sun().update(rows)


def plain(scan: Scan) -> dict[str, Any]:
    """A scan's fields, tensors as lists."""
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in vars(scan).items()}


def finished(extrema: Extrema, sun: Sun) -> str:
    """Both results with every bit: repr tells -0.0 from 0.0 and takes NaN for NaN."""
    return repr((extrema.finish(), sun.finish()))


# --- The oracle: the definitions in plain Python, value by value.


def values_of(stream: Stream) -> list[tuple[int, int, list[float]]]:
    rows = stream.activations.to(torch.float64).tolist()
    return [(sample, position, row) for (sample, position), row in zip(stream.places, rows, strict=True)]


def expected_extrema(stream: Stream) -> Extrema:
    count = nan = inf = 0
    largest = smallest = peak = None
    for sample, position, row in values_of(stream):
        for feature, value in enumerate(row):
            count += 1
            nan += math.isnan(value)
            inf += math.isinf(value)
            if not math.isfinite(value):
                continue
            largest = value if largest is None or value > largest else largest
            smallest = value if smallest is None or value < smallest else smallest
            here = (sample, position, feature)
            if peak is None or abs(value) > abs(peak[0]) or (abs(value) == abs(peak[0]) and here < peak[1:]):
                peak = (value, *here)
    return Extrema(count, nan, inf, largest, smallest, None if peak is None else PeakAt(*peak))


@dataclass(frozen=True)
class Judged:
    """What the Sun criterion looks at in one token."""

    largest: float
    median: float
    ratio: float
    place: Place


def judged_tokens(stream: Stream) -> list[Judged]:
    tokens = []
    for sample, position, row in values_of(stream):
        if not all(math.isfinite(value) for value in row):
            continue
        magnitudes = sorted(abs(value) for value in row)
        largest, median = magnitudes[-1], magnitudes[(len(row) - 1) // 2]
        ratio = 0.0 if largest == 0 else math.inf if median == 0 else largest / median
        tokens.append(Judged(largest, median, ratio, (sample, position)))
    return tokens


def assert_sun(found: SunFigures | None, stream: Stream) -> None:
    tokens = judged_tokens(stream)
    if not tokens:
        assert found is None
        return
    assert found is not None
    peak = min(tokens, key=lambda token: (-token.largest, token.place))
    steepest = min(tokens, key=lambda token: (-token.ratio, token.place))
    passing = [t for t in tokens if t.largest > 100 and Fraction(t.largest) > 1000 * Fraction(t.median)]
    ratios = [token.ratio for token in tokens]
    assert found.tokens == len(tokens)
    assert found.passing == len(passing)
    assert (found.peak_token_median, found.peak_token_ratio) == (peak.median, peak.ratio)
    assert (found.max_ratio, found.max_ratio_abs, found.max_ratio_median) == (
        steepest.ratio,
        steepest.largest,
        steepest.median,
    )
    assert found.margin == max(min(token.largest / 100, token.ratio / 1000) for token in tokens)
    if any(math.isinf(ratio * ratio) for ratio in ratios):
        assert found.mean_ratio == math.inf
        assert math.isnan(found.std_ratio)
        return
    mean = sum(map(Fraction, ratios)) / len(ratios)
    variance = sum((Fraction(ratio) - mean) ** 2 for ratio in ratios) / len(ratios)
    assert found.mean_ratio == float(mean)
    # A rounded square moves the variance by 2^-53 of the largest square at most.
    assert found.std_ratio == pytest.approx(math.sqrt(variance), rel=1e-9, abs=2e-8 * max(ratios))


# --- Streams to try.


def bit_patterns(dtype: torch.dtype) -> st.SearchStrategy[torch.Tensor]:
    """Any value at all, every NaN and every subnormal included."""
    info = torch.iinfo(INTEGERS[dtype])
    return st.integers(info.min, info.max).map(lambda bits: torch.tensor(bits, dtype=INTEGERS[dtype]).view(dtype))


def named_values(dtype: torch.dtype) -> st.SearchStrategy[torch.Tensor]:
    finfo = torch.finfo(dtype)
    subnormal = torch.ones((), dtype=INTEGERS[dtype]).view(dtype)
    names = [0.0, -0.0, 1.0, -1.0, 0.5, 100.0, 101.0, -1000.0, 2000.0, finfo.max, finfo.min, finfo.tiny]
    return st.sampled_from([*(torch.tensor(name, dtype=dtype) for name in names), subnormal, -subnormal])


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """A few samples of a few tokens, their values from a small pool so that ties abound."""
    dtype = draw(st.sampled_from(list(INTEGERS)))
    width = draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    places = [(3 * sample, position) for sample, length in enumerate(lengths) for position in range(length)]
    value = named_values(dtype) | bit_patterns(dtype)
    if draw(st.booleans()):
        value = value.filter(lambda number: bool(number.isfinite()))
    elif draw(st.booleans()):
        value = value | st.sampled_from([torch.tensor(broken, dtype=dtype) for broken in (math.nan, math.inf, -math.inf)])
    pool = torch.stack(draw(st.lists(value, min_size=1, max_size=6)))
    size = len(places) * width
    picks = draw(st.lists(st.integers(0, len(pool) - 1), min_size=size, max_size=size))
    return Stream(pool[torch.tensor(picks)].reshape(len(places), width), places)


@settings(deadline=None, max_examples=400)
@given(stream=streams())
def test_figures_are_those_of_the_definitions(stream: Stream) -> None:
    extrema, sun = reduced(rows_of(stream))
    assert extrema.finish() == expected_extrema(stream)
    assert_sun(sun.finish(), stream)


@settings(deadline=None, max_examples=300)
@given(stream=streams(), data=st.data())
def test_no_split_order_padding_or_merge_tree_changes_a_bit(stream: Stream, data: st.DataObject) -> None:
    whole = finished(*reduced(rows_of(stream)))

    order = data.draw(st.permutations(range(len(stream.places))), label="order of the rows")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=4), label="cuts"))
    parts = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    batches = []
    for part in parts:
        padded = data.draw(st.integers(1, 4), label="padded rows")  # at least one: a part may be empty
        real = data.draw(st.permutations([True] * len(part) + [False] * padded), label="real")
        batches.append(rows_of(stream.part(part), real))

    extrema, sun = Extrema(), Sun()
    for rows in batches:
        extrema, sun = extrema.update(rows), sun.update(rows)
    assert finished(extrema, sun) == whole, "one update after the other"

    states = [reduced(rows) for rows in batches]
    while len(states) > 1:
        first = states.pop(data.draw(st.integers(0, len(states) - 1), label="merge"))
        second = states.pop(data.draw(st.integers(0, len(states) - 1), label="with"))
        states.append((first[0].merge(second[0]), first[1].merge(second[1])))
    assert finished(*states[0]) == whole, "a merge tree"


@settings(deadline=None, max_examples=100)
@given(stream=streams(), elements=st.integers(1, 40), median=st.booleans())
def test_chunks_of_a_cpu_scan_change_nothing(stream: Stream, elements: int, median: bool) -> None:
    order = torch.arange(len(stream.places))
    whole = eager.scan(stream.activations, order, median=median)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager, "CPU_CHUNK_ELEMENTS", elements)
        chunked = eager.scan(stream.activations, order, median=median)
    assert (whole.median is None) == (not median)
    assert plain(chunked) == plain(whole)


@every_dtype
def test_nothing_but_nan_and_infinities_leaves_no_extremes_and_no_ratio(dtype: torch.dtype) -> None:
    extrema, sun = reduced(rows_of(stream_of([[math.nan, math.inf, -math.inf], [math.nan] * 3], dtype)))
    assert extrema.finish() == Extrema(count=6, nan=4, inf=2)
    assert sun.finish() is None


@every_dtype
def test_infinities_and_nan_of_either_sign_are_counted_beside_finite_values(dtype: torch.dtype) -> None:
    stream = stream_of([[math.inf, -3, math.nan], [-math.nan, 2, -math.inf], [4, 0, -4]], dtype)
    extrema, sun = reduced(rows_of(stream))
    assert extrema.finish() == Extrema(9, nan=2, inf=2, largest=4, smallest=-4, peak=PeakAt(4.0, 0, 2, 0))
    figures = sun.finish()
    assert figures is not None
    assert figures.tokens == 1


@every_dtype
def test_all_negative_values_have_a_negative_maximum(dtype: torch.dtype) -> None:
    extrema, _ = reduced(rows_of(stream_of([[-3, -8, -2], [-5, -4, -6]], dtype)))
    assert extrema.finish() == Extrema(6, largest=-2, smallest=-8, peak=PeakAt(-8.0, 0, 0, 1))


@every_dtype
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zeros_are_a_peak_without_sign_and_a_ratio_of_zero(dtype: torch.dtype, zero: float) -> None:
    extrema, sun = reduced(rows_of(stream_of([[zero] * 4] * 2, dtype)))
    assert repr(extrema.finish()) == repr(Extrema(8, largest=0.0, smallest=0.0, peak=PeakAt(0.0, 0, 0, 0)))
    figures = sun.finish()
    assert figures is not None
    assert (figures.tokens, figures.passing) == (2, 0)
    assert {figures.max_ratio, figures.mean_ratio, figures.std_ratio, figures.margin, figures.peak_token_ratio} == {0.0}


@every_dtype
def test_a_median_of_zero_makes_ratio_and_mean_infinite_and_leaves_no_deviation(dtype: torch.dtype) -> None:
    _, sun = reduced(rows_of(stream_of([[3, 0, 0, 0], [2, 2, 2, 1]], dtype)))
    figures = sun.finish()
    assert figures is not None
    assert (figures.max_ratio, figures.max_ratio_abs, figures.max_ratio_median) == (math.inf, 3, 0)
    assert figures.mean_ratio == math.inf
    assert math.isnan(figures.std_ratio)
    assert figures.margin == 0.03


@every_dtype
def test_the_median_of_an_even_width_is_the_lower_one(dtype: torch.dtype) -> None:
    _, sun = reduced(rows_of(stream_of([[-8, 1, 2, -4]], dtype)))
    figures = sun.finish()
    assert figures is not None
    assert (figures.peak_token_median, figures.peak_token_ratio) == (2, 4)


def test_of_tokens_with_the_same_ratio_the_first_is_reported_wherever_it_stands() -> None:
    rows = torch.tensor([[4.0, 2.0, 2.0], [8.0, 4.0, 4.0], [2.0, 1.0, 1.0]])
    _, sun = reduced(rows_of(Stream(rows, [(2, 0), (1, 5), (1, 4)])))
    figures = sun.finish()
    assert figures is not None
    assert (figures.max_ratio, figures.max_ratio_abs, figures.max_ratio_median) == (2, 2, 1)


@every_dtype
@pytest.mark.parametrize(("largest", "median"), [(1000.0, 1.0), (100.0, 0.0625)], ids=["ratio 1000", "value 100"])
def test_a_token_at_exactly_a_limit_does_not_pass_and_the_next_value_does(
    dtype: torch.dtype, largest: float, median: float
) -> None:
    at = torch.tensor([[median, -largest, median]], dtype=dtype)
    above = (at.view(INTEGERS[dtype]) + torch.tensor([0, 1, 0])).to(INTEGERS[dtype]).view(dtype)
    for row, passing in ((at, 0), (above, 1)):
        figures = Sun().update(rows_of(Stream(row, [(0, 0)]))).finish()
        assert figures is not None
        assert figures.passing == passing
        assert (figures.margin > 1) == bool(passing)


def test_ratios_too_large_to_be_squared_count_as_infinite() -> None:
    _, sun = reduced(rows_of(stream_of([[1e200, 1e-5, 1e-5], [1e308, 1e307, 1e306]], torch.float64)))
    figures = sun.finish()
    assert figures is not None
    assert figures.max_ratio == 1e200 / 1e-5
    assert figures.mean_ratio == math.inf
    assert math.isnan(figures.std_ratio)


@pytest.mark.parametrize("width", [32767, 32768])
def test_a_row_wider_than_a_16_bit_counter_is_counted_right(width: int) -> None:
    values = torch.arange(width) % 251 - 300  # all different from zero, several hundred of each
    rows = torch.stack([torch.full((width,), math.nan), torch.full((width,), -math.inf), values]).to(torch.bfloat16)
    stream = Stream(rows, [(0, 0), (0, 1), (0, 2)])
    extrema, sun = reduced(rows_of(stream))
    assert extrema.finish() == expected_extrema(stream)
    assert (extrema.nan, extrema.inf) == (width, width)
    assert_sun(sun.finish(), stream)


@every_dtype
def test_memory_layout_does_not_matter(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block = torch.randn(2, 7, 5, 2).to(dtype)
    for view in (block[..., 0], block.permute(3, 2, 0, 1), block[:, ::2].transpose(1, 2), block[:1, :, :, 0].expand(3, -1, -1)):
        assert not view.is_contiguous()
        order = torch.arange(view[..., 0].numel())
        scans = [eager.scan(tensor, order, median=True) for tensor in (view, view.contiguous())]
        assert plain(scans[0]) == plain(scans[1])


def test_a_dtype_without_a_known_layout_is_refused() -> None:
    with pytest.raises(KeyError):
        eager.scan(torch.zeros(2, 3, dtype=torch.int32), torch.arange(2), median=False)


# --- Exact sums.

# Exponents drawn evenly: hypothesis' own floats seldom leave the neighbourhood of one.
numbers = st.floats(0, allow_infinity=False, allow_nan=False) | st.builds(
    math.ldexp, st.floats(0.5, 1, exclude_max=True), st.integers(-1073, 1024)
)


@settings(deadline=None, max_examples=200)
@given(summands=st.lists(numbers, max_size=30), data=st.data())
def test_an_exact_sum_is_the_sum_of_fractions_in_any_split_and_order(summands: list[float], data: st.DataObject) -> None:
    total = ExactSum().update(np.array(summands, dtype=np.float64))
    assert total.finish() == sum(map(Fraction, summands))
    shuffled = data.draw(st.permutations(summands))
    cut = data.draw(st.integers(0, len(summands)))
    first, second = (ExactSum().update(np.array(part, dtype=np.float64)) for part in (shuffled[:cut], shuffled[cut:]))
    assert first.merge(second) == second.merge(first) == first.update(np.array(shuffled[cut:], dtype=np.float64)) == total


def test_an_exact_sum_of_many_full_mantissas_loses_nothing() -> None:
    full = math.nextafter(1.0, 0.0)
    state = ExactSum()
    for _ in range(3):
        state = state.update(np.full(1 << 16, full))
    assert state.finish() == (3 << 16) * Fraction(full)


def test_exact_sums_of_different_numbers_differ() -> None:
    assert ExactSum().update(np.array([1.0, 5e-324])) != ExactSum().update(np.array([1.0]))
