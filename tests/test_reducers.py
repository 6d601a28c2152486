"""Every figure of the record comes from these reducers: against a slow oracle, to the bit, however the stream is cut."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_maxact.record import Component, Site, SunFigures
from pytest_maxact.reducers.encoding import ENCODINGS
from pytest_maxact.reducers.exact import ExactSum
from pytest_maxact.reducers.faults import Faults
from pytest_maxact.reducers.group import SiteGroup, SiteResult
from pytest_maxact.reducers.kernels import eager
from pytest_maxact.reducers.peak import PeakAt, Peaks
from pytest_maxact.reducers.rows import NOWHERE, TOP, UNTRACED, Rows, Totals
from pytest_maxact.reducers.samples import SamplePeaks
from pytest_maxact.reducers.sun import Sun
from pytest_maxact.reducers.wide import WideState
from tests.test_kernels import (
    INTEGERS,
    Scan,
    bits_of,
    every_dtype,
    every_kernel,
    heavy_tailed,
    histogram_pattern,
    kind_of,
    octave,
    pools,
    scan_of,
    spoiled,
)

CPU = torch.device("cpu")
QUANTILES = (0.001, 0.25, 0.5, 0.9, 0.999, 1.0)
Place = tuple[int, int]  # sample, position
JUDGED = [
    Site(component="embedding"),
    Site(component="attention", layer=0),
    Site(component="mlp", layer=0),
    Site(component="hidden", layer=0),
    Site(component="hidden", layer=1),
    Site(component="final_norm"),
]
OTHERS = [Site(component="gate", layer=0), Site(component="router", layer=0), Site(component="router", layer=1)]


@dataclass(frozen=True)
class Stream:
    """Tokens of some sites: of each site activations [n, d], d its own, and where the n rows come from."""

    sites: list[Site]
    activations: list[torch.Tensor]
    places: list[Place]

    @property
    def dtype(self) -> torch.dtype:
        """Of all sites."""
        return self.activations[0].dtype

    @property
    def judged(self) -> bool:
        """Whether the sites have Sun figures."""
        return self.sites[0] in JUDGED

    @property
    def samples(self) -> int:
        """How many samples a run would have: two after the last one too, of which nothing is seen."""
        return max(sample for sample, _ in self.places) + 3

    def part(self, rows: Sequence[int]) -> Stream:
        """Some of the rows, in the order given."""
        chosen = [activations[list(rows)] for activations in self.activations]
        return Stream(self.sites, chosen, [self.places[row] for row in rows])


def stream_of(values: Sequence[Sequence[float]], dtype: torch.dtype, component: Component = "hidden") -> Stream:
    """Rows of one sample at one site."""
    places = [(0, position) for position in range(len(values))]
    layer = None if component in ("embedding", "final_norm") else 0
    return Stream([Site(component=component, layer=layer)], [torch.tensor(values, dtype=dtype)], places)


# --- What is tested: batches, scanned and reduced.


@dataclass(frozen=True)
class Batch:
    """Rows of B samples of T tokens each; -1 for padding, of which garbage is scanned."""

    samples: list[int]
    rows: list[int]


def filled(stream: Stream, site: int, rows: Sequence[int]) -> torch.Tensor:
    """A site's activations of a batch, garbage in the padding that no figure may show."""
    source = stream.activations[site]
    activations = torch.empty((len(rows), source.shape[-1]), dtype=source.dtype)
    activations[0::3], activations[1::3], activations[2::3] = math.nan, torch.finfo(source.dtype).max, math.inf
    chosen = torch.tensor(rows)
    bits_of(activations)[chosen >= 0] = bits_of(source)[chosen[chosen >= 0]]  # as floats some NaN would change their bits
    return activations


def real_and_place(stream: Stream, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = [sample << 32 | position for sample, position in stream.places]
    return torch.tensor(rows) >= 0, torch.tensor([NOWHERE if row < 0 else numbers[row] for row in rows])


def in_one_batch(stream: Stream) -> Batch:
    """Everything, padded behind each sample but the longest; an all-padded row of its own if all are equally long."""
    members = {sample: [row for row, (of, _) in enumerate(stream.places) if of == sample] for sample, _ in stream.places}
    longest = max(map(len, members.values())) + (len({len(rows) for rows in members.values()}) == 1)
    return Batch(list(members), [row for rows in members.values() for row in (rows + [-1] * longest)[:longest]])


def group_of(stream: Stream, batches: Sequence[Batch], scan: Scan = eager.scan) -> SiteGroup:
    """A group that took all batches."""
    group = SiteGroup(ENCODINGS[stream.dtype], stream.sites, CPU, samples=stream.samples, judged_by_sun=stream.judged)
    for batch in batches:
        group.begin(*real_and_place(stream, batch.rows))
        spoiled(group.rows)
        for site, view in enumerate(group.views):
            activations = filled(stream, site, batch.rows)
            scan(activations.reshape(len(batch.samples), -1, activations.shape[-1]), view)
        group.take(torch.tensor(batch.samples))
    return group


def result_of(stream: Stream) -> SiteResult:
    """The result of a stream's only site."""
    [result] = group_of(stream, [in_one_batch(stream)]).finish()
    return result


def sun_of(stream: Stream) -> SunFigures:
    """The Sun figures of a stream's only site, which must have some."""
    sun = result_of(stream).sun
    assert sun is not None
    return sun


def everything(group: SiteGroup) -> str:
    """All that a group learned with every bit: repr tells -0.0 from 0.0 and takes NaN for NaN."""
    figures: list[Any] = []
    for result in group.finish():
        counts = result.histogram.counts
        histogram = (
            result.histogram.dtype,
            result.histogram.exact,
            np.flatnonzero(counts).tolist(),
            counts[counts > 0].tolist(),
        )
        figures.append(vars(result) | {"histogram": histogram})
    hidden = {layer: peaks.tolist() for layer, peaks in group.hidden_peaks().items()}
    return repr((figures, hidden, group.sample_peaks().tolist(), group.sample_places().tolist()))


# --- The oracle: the definitions in plain Python, value by value.


def values_of(stream: Stream, site: int) -> list[tuple[Place, list[float]]]:
    return list(zip(stream.places, stream.activations[site].to(torch.float64).tolist(), strict=True))


def finite_values(stream: Stream, site: int) -> list[float]:
    return [value for _, row in values_of(stream, site) for value in row if math.isfinite(value)]


def expected_peak(stream: Stream, site: int) -> PeakAt | None:
    found = [
        (-abs(value), sample, position, feature, -value)
        for (sample, position), row in values_of(stream, site)
        for feature, value in enumerate(row)
        if math.isfinite(value)
    ]
    if not found:
        return None
    _, sample, position, feature, negated = min(found)
    return PeakAt(0.0 - negated, sample, position, feature)  # a peak of zero has no sign


def expected_fault(stream: Stream, site: int, *, traced: bool = True) -> PeakAt | None:
    """Of the first token with one the first value that is not finite, NaN before others; a router's -inf is none."""
    router = stream.sites[site].component == "router"
    found = [
        (place if traced else (), kind_of(value), feature)
        for place, row in values_of(stream, site)
        for feature, value in enumerate(row)
        if not math.isfinite(value) and not (router and value == -math.inf)
    ]
    if not found:
        return None
    place, kind, feature = min(found)
    sample, position = place or (None, None)
    return PeakAt([math.nan, math.inf, -math.inf][kind], sample, position, feature)


def assert_moments(result: SiteResult, stream: Stream, site: int) -> None:
    """16-bit ones to the bit; float32 ones as near as the rounding of summands allows."""
    values = [Fraction(value) for value in finite_values(stream, site)]
    found = result.moments
    if not values:
        assert all(map(math.isnan, vars(found).values()))
        return
    mean, absolute = sum(values, Fraction()) / len(values), sum(map(abs, values), Fraction()) / len(values)
    square = sum((value**2 for value in values), Fraction()) / len(values)
    variance = square - mean**2
    if stream.dtype != torch.float32:
        sure = (float(mean), math.sqrt(variance), math.sqrt(square), float(absolute))
        assert repr((found.mean, found.std, found.rms, found.abs_mean)) == repr(sure)
        return
    octaves = [(octave(max(map(abs, row), default=0.0)), len(row)) for row in finite_rows(stream, site)]
    # Half a unit of each summand, and the rounding to float64 of each row's sum and of the result.
    error = sum((Fraction(2) ** (e - 45) * count for e, count in octaves), Fraction()) / len(values)
    square_error = sum((Fraction(2) ** (2 * e - 44) * count for e, count in octaves), Fraction()) / len(values)
    error, square_error = error + absolute / 2**51, square_error + square / 2**50
    assert abs(Fraction(found.mean) - mean) <= error
    assert abs(Fraction(found.abs_mean) - absolute) <= error
    assert abs(Fraction(found.rms) ** 2 - square) <= square_error
    assert abs(Fraction(found.std) ** 2 - variance) <= square_error + 2 * (abs(mean) + error) * error


def finite_rows(stream: Stream, site: int) -> list[list[float]]:
    return [[value for value in row if math.isfinite(value)] for _, row in values_of(stream, site)]


def assert_histogram(result: SiteResult, stream: Stream, site: int) -> None:
    """Counts by pattern, and quantiles of |a| with it: of float32 values as rounded to bfloat16."""
    tensor, mask = stream.activations[site].flatten(), (1 << 8 * stream.dtype.itemsize) - 1
    values = tensor.to(torch.float64).tolist()
    patterns = [
        histogram_pattern(pattern & mask, value, stream.dtype)
        for pattern, value in zip(bits_of(tensor).tolist(), values, strict=True)
    ]
    found = result.histogram
    assert found.exact == (stream.dtype != torch.float32)
    assert found.dtype == ("float16" if stream.dtype == torch.float16 else "bfloat16")
    assert {pattern: int(found.counts[pattern]) for pattern in np.flatnonzero(found.counts).tolist()} == Counter(patterns)

    binned = torch.float16 if stream.dtype == torch.float16 else torch.bfloat16
    numbers = torch.tensor(patterns, dtype=torch.int32).to(torch.int16).view(binned).to(torch.float64).abs().tolist()
    magnitudes = sorted(number for number in numbers if math.isfinite(number))
    for q in QUANTILES:
        if magnitudes:
            assert found.quantile(q) == magnitudes[math.ceil(Fraction(str(q)) * len(magnitudes)) - 1]
        else:
            assert math.isnan(found.quantile(q))


@dataclass(frozen=True)
class Judged:
    """What the Sun criterion looks at in one token."""

    largest: float
    median: float
    ratio: float
    place: Place


def judged_tokens(stream: Stream, site: int) -> list[Judged]:
    tokens = []
    for place, row in values_of(stream, site):
        if not all(map(math.isfinite, row)):
            continue
        magnitudes = sorted(map(abs, row))
        largest, median = magnitudes[-1], magnitudes[(len(row) - 1) // 2]
        ratio = 0.0 if largest == 0 else math.inf if median == 0 else largest / median
        tokens.append(Judged(largest, median, ratio, place))
    return tokens


def assert_sun(found: SunFigures | None, stream: Stream, site: int) -> None:
    tokens = judged_tokens(stream, site)
    if not tokens or not stream.judged:
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
    if math.inf in ratios:
        assert found.mean_ratio == math.inf
        assert math.isnan(found.std_ratio)
        return
    mean = sum(map(Fraction, ratios), Fraction()) / len(ratios)
    variance = sum(((Fraction(ratio) - mean) ** 2 for ratio in ratios), Fraction()) / len(ratios)
    assert found.mean_ratio == float(mean)
    # A rounded square moves the variance by 2^-53 of the largest square at most.
    assert found.std_ratio == pytest.approx(math.sqrt(variance), rel=1e-9, abs=2e-8 * max(ratios))


def assert_result(result: SiteResult, stream: Stream, site: int) -> None:
    every = stream.activations[site].to(torch.float64).flatten().tolist()
    finite = finite_values(stream, site)
    assert int(result.histogram.counts.sum()) == len(every)
    assert (result.nan, result.inf) == (sum(map(math.isnan, every)), sum(map(math.isinf, every)))
    extremes = (max(finite) + 0.0, min(finite) + 0.0) if finite else (None, None)
    assert repr((result.high, result.low)) == repr(extremes)
    assert repr(result.peak) == repr(expected_peak(stream, site))
    assert repr(result.fault) == repr(expected_fault(stream, site))
    top = sorted((value + 0.0 for value in finite), key=lambda value: (-abs(value), -value))[:TOP]
    assert repr(result.top) == repr(top)
    assert_moments(result, stream, site)
    assert_histogram(result, stream, site)
    assert_sun(result.sun, stream, site)


def assert_sample_peaks(group: SiteGroup, stream: Stream) -> None:
    """By sample: of each `hidden` site, and of all sites that are part of M with the first place of it."""
    model = [(1.0, NOWHERE)] * stream.samples  # negated, so that the least is the largest and the first
    hidden: dict[int | None, list[float]] = {}
    for index, site in enumerate(stream.sites):
        peaks = [-1.0] * stream.samples
        for (sample, _), row in values_of(stream, index):
            peaks[sample] = max([peaks[sample], *(abs(value) for value in row if math.isfinite(value))])
        if site.component == "hidden":
            hidden[site.layer] = [math.nan if peak < 0 else peak for peak in peaks]
        if site.component != "router":
            for (sample, position), row in values_of(stream, index):
                found = [(-abs(value), index << 32 | position) for value in row if math.isfinite(value)]
                model[sample] = min([model[sample], *found])
    assert list(zip((-group.sample_peaks()).tolist(), group.sample_places().tolist(), strict=True)) == model
    assert repr({layer: peaks.tolist() for layer, peaks in group.hidden_peaks().items()}) == repr(hidden)


# --- Streams to try.


@st.composite
def streams(draw: st.DrawFn, most_sites: int = 3) -> Stream:
    """A few samples of a few tokens at a few sites, their values from a small pool so that ties abound."""
    dtype = draw(st.sampled_from(list(INTEGERS)))
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    places = [(3 * sample, position) for sample, length in enumerate(lengths) for position in range(length)]
    known = draw(st.sampled_from([JUDGED, OTHERS]))
    sites = draw(st.lists(st.sampled_from(known), min_size=1, max_size=most_sites, unique=True))
    pool = draw(pools(dtype))
    activations = []
    for _ in sites:
        width = draw(st.integers(1, 6))
        size = len(places) * width
        picks = draw(st.lists(st.integers(0, len(pool) - 1), min_size=size, max_size=size))
        activations.append(pool[torch.tensor(picks)].reshape(len(places), width))
    return Stream(sites, activations, places)


@st.composite
def batches_of(draw: st.DrawFn, stream: Stream) -> list[Batch]:
    """Whole samples in batches, in any order, padded anywhere."""
    samples = draw(st.permutations(sorted({sample for sample, _ in stream.places})))
    cuts = sorted(draw(st.lists(st.integers(1, len(samples)), max_size=2)))
    batches = []
    for start, end in zip([0, *cuts], [*cuts, len(samples)], strict=True):
        if start == end:
            continue
        members = [[row for row, (of, _) in enumerate(stream.places) if of == sample] for sample in samples[start:end]]
        longest = max(map(len, members)) + draw(st.integers(0, 2))
        rows: list[int] = []
        for member in members:
            rows += draw(st.permutations([*member, *[-1] * (longest - len(member))]))
        batches.append(Batch(list(samples[start:end]), rows))
    return batches


# --- Groups from end to end.


@every_kernel
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_group_s_figures_are_those_of_the_definitions(kernel: str, data: st.DataObject) -> None:
    stream = data.draw(streams())
    group = group_of(stream, data.draw(batches_of(stream)), scan_of(kernel))
    results = group.finish()
    assert len(results) == len(stream.sites)
    for site, result in enumerate(results):
        assert_result(result, stream, site)
    assert_sample_peaks(group, stream)


@every_kernel
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_no_batching_changes_a_bit_of_a_group_s_figures(kernel: str, data: st.DataObject) -> None:
    stream = data.draw(streams())
    whole = everything(group_of(stream, [in_one_batch(stream)]))
    assert everything(group_of(stream, data.draw(batches_of(stream)), scan_of(kernel))) == whole


@every_kernel
@every_dtype
def test_a_longer_stream_of_several_sites_gives_the_definitions_figures(kernel: str, dtype: torch.dtype) -> None:
    places = [(sample, position) for sample in range(12) for position in range(5 + sample)]
    for sites in (JUDGED, OTHERS):
        activations = [heavy_tailed(dtype, len(places), 13 + site) * 2.0 ** (-site) for site in range(len(sites))]
        activations[0][::17, 3], activations[1][::13, 5], activations[1][4::13, 5] = math.nan, math.inf, -math.inf
        stream = Stream(sites, activations, places)
        whole = in_one_batch(stream)
        length = len(whole.rows) // 12
        cuts = [(0, 5), (5, 6), (6, 12)]
        batches = [Batch(whole.samples[a:b], whole.rows[a * length : b * length]) for a, b in cuts]
        group = group_of(stream, batches[::-1], scan_of(kernel))
        for site, result in enumerate(group.finish()):
            assert_result(result, stream, site)
            assert len(result.top) == TOP
            if dtype == torch.float32:
                assert_close_to_exact(result, finite_values(stream, site))
        assert_sample_peaks(group, stream)
        assert everything(group) == everything(group_of(stream, [whole]))


def assert_close_to_exact(result: SiteResult, values: list[float]) -> None:
    numbers = [Fraction(value) for value in values]
    square = sum((number**2 for number in numbers), Fraction()) / len(numbers)
    mean = sum(numbers, Fraction()) / len(numbers)
    assert result.moments.mean == pytest.approx(float(mean), rel=1e-9)
    assert result.moments.rms == pytest.approx(math.sqrt(square), rel=1e-12)
    assert result.moments.std == pytest.approx(math.sqrt(square - mean**2), rel=1e-12)
    assert result.moments.abs_mean == pytest.approx(math.fsum(map(abs, values)) / len(values), rel=1e-12)


@every_dtype
def test_no_batch_at_all_leaves_every_figure_empty(dtype: torch.dtype) -> None:
    stream = stream_of([[1.0]], dtype)
    group = group_of(stream, [])
    [result] = group.finish()
    assert (result.high, result.low, result.peak, result.sun, result.nan, result.inf) == (None, None, None, None, 0, 0)
    assert result.top == []
    assert all(map(math.isnan, vars(result.moments).values()))
    assert not result.histogram.counts.any()
    assert np.isnan(group.hidden_peaks()[0]).all()
    assert set(group.sample_peaks().tolist()) == {-1.0}


@every_dtype
def test_nothing_but_nan_and_infinities_leaves_no_extremes_and_no_ratio(dtype: torch.dtype) -> None:
    stream = stream_of([[math.nan, math.inf, -math.inf], [math.nan] * 3], dtype)
    result = result_of(stream)
    assert (result.nan, result.inf, result.high, result.low, result.peak, result.sun) == (4, 2, None, None, None, None)
    assert_result(result, stream, 0)


@every_dtype
def test_infinities_and_nan_of_either_sign_are_counted_beside_finite_values(dtype: torch.dtype) -> None:
    result = result_of(stream_of([[math.inf, -3, math.nan], [-math.nan, 2, -math.inf], [4, 0, -4]], dtype))
    assert (result.nan, result.inf, result.high, result.low, result.peak) == (2, 2, 4, -4, PeakAt(4.0, 0, 2, 0))
    assert result.top == [4, -4, -3, 2, 0]
    assert result.sun is not None
    assert result.sun.tokens == 1


@every_dtype
def test_all_negative_values_have_a_negative_maximum(dtype: torch.dtype) -> None:
    result = result_of(stream_of([[-3, -8, -2], [-5, -4, -6]], dtype))
    assert (result.high, result.low, result.peak) == (-2, -8, PeakAt(-8.0, 0, 0, 1))
    assert result.top == [-8, -6, -5, -4, -3, -2]


@every_dtype
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zeros_are_a_peak_without_sign_and_a_ratio_of_zero(dtype: torch.dtype, zero: float) -> None:
    result = result_of(stream_of([[zero] * 4] * 2, dtype))
    assert repr((result.high, result.low, result.peak)) == repr((0.0, 0.0, PeakAt(0.0, 0, 0, 0)))
    assert repr(result.top) == repr([0.0] * 8)
    assert repr(tuple(vars(result.moments).values())) == repr((0.0,) * 4)
    assert result.sun is not None
    assert (result.sun.tokens, result.sun.passing) == (2, 0)
    figures = (
        result.sun.max_ratio,
        result.sun.mean_ratio,
        result.sun.std_ratio,
        result.sun.margin,
        result.sun.peak_token_ratio,
    )
    assert repr(figures) == repr((0.0,) * 5)


@every_dtype
@pytest.mark.parametrize("value", [1 + 2**-23, -1 - 2**-22, 3e-45, 0.1, -3.0])
def test_values_that_are_all_the_same_deviate_by_next_to_nothing(dtype: torch.dtype, value: float) -> None:
    stream = stream_of([[value] * 3] * 2, dtype)
    result = result_of(stream)
    number = stream.activations[0][0, 0].item()
    assert result.moments.mean == pytest.approx(number, rel=1e-12)
    assert 0 <= result.moments.std <= 1e-6 * abs(number)  # the summands' rounding is 2^-43 of their square
    assert_moments(result, stream, 0)


def test_float32_keeps_what_a_histogram_of_16_bits_cannot_tell() -> None:
    largest, beside = torch.finfo(torch.float32).max, 1 + 2**-20
    result = result_of(stream_of([[beside, -largest, 1.0, 2**-140]], torch.float32))
    assert (result.high, result.low, result.inf, result.peak) == (beside, -largest, 0, PeakAt(-largest, 0, 0, 1))
    assert result.top == [-largest, beside, 1.0, 2**-140]
    assert result.histogram.inf == 1, "in bfloat16 it is infinite"


# --- The Sun criterion.


@every_dtype
def test_a_median_of_zero_makes_ratio_and_mean_infinite_and_leaves_no_deviation(dtype: torch.dtype) -> None:
    figures = sun_of(stream_of([[3, 0, 0, 0], [2, 2, 2, 1]], dtype))
    assert (figures.max_ratio, figures.max_ratio_abs, figures.max_ratio_median) == (math.inf, 3, 0)
    assert figures.mean_ratio == math.inf
    assert math.isnan(figures.std_ratio)
    assert figures.margin == 0.03


@every_dtype
def test_the_median_of_an_even_width_is_the_lower_one(dtype: torch.dtype) -> None:
    figures = sun_of(stream_of([[-8, 1, 2, -4]], dtype))
    assert (figures.peak_token_median, figures.peak_token_ratio) == (2, 4)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("batches", [1, 3])
def test_of_tokens_with_the_same_ratio_the_first_is_reported_wherever_it_stands(order: Sequence[int], batches: int) -> None:
    rows = torch.tensor([[4.0, 2.0, 2.0], [8.0, 4.0, 4.0], [2.0, 1.0, 1.0]])
    stream = Stream([JUDGED[3]], [rows], [(2, 0), (1, 5), (1, 4)])
    sun = Sun.zeros(1, CPU)
    for part in [list(order)] if batches == 1 else [[row] for row in order]:
        sun = sun.update(rows_of(stream.part(part)))
    [figures] = sun.finish()
    assert figures is not None
    assert (figures.max_ratio, figures.max_ratio_abs, figures.max_ratio_median) == (2, 2, 1)
    assert (figures.peak_token_median, figures.peak_token_ratio) == (4, 2)


def test_of_tokens_with_the_same_largest_value_the_first_one_s_median_is_reported() -> None:
    rows = torch.tensor([[8.0, 2.0, 2.0], [8.0, 4.0, -4.0], [1.0, -8.0, 1.0]])
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        stream = Stream([JUDGED[3]], [rows], [(2, 0), (1, 5), (7, 4)]).part(order)
        assert (sun_of(stream).peak_token_median, sun_of(stream).peak_token_ratio) == (4, 2)


@every_dtype
@pytest.mark.parametrize(("largest", "median"), [(1000.0, 1.0), (100.0, 0.0625)], ids=["ratio 1000", "value 100"])
def test_a_token_at_exactly_a_limit_does_not_pass_and_the_next_value_does(
    dtype: torch.dtype, largest: float, median: float
) -> None:
    at = torch.tensor([[median, -largest, median]], dtype=dtype)
    above = (at.view(INTEGERS[dtype]) + torch.tensor([0, 1, 0])).to(INTEGERS[dtype]).view(dtype)
    for row, passing in ((at, 0), (above, 1)):
        figures = sun_of(Stream([JUDGED[0]], [row], [(0, 0)]))
        assert figures.passing == passing
        assert (figures.margin > 1) == bool(passing)


def test_next_to_1000_times_the_median_each_float32_value_is_judged_right() -> None:
    median = torch.tensor(1.1, dtype=torch.float32)
    products = torch.tensor([[1000 * median.item()]], dtype=torch.float64).to(torch.float32)
    for step in (-1, 0, 1):
        largest = (products.view(torch.int32) + step).view(torch.float32)
        stream = Stream([JUDGED[0]], [torch.cat([largest, median.expand(1, 2)], 1)], [(0, 0)])
        assert_sun(sun_of(stream), stream, 0)


@every_dtype
@pytest.mark.parametrize("value", [0.1, 7.3, 1000.0])
def test_equal_ratios_deviate_by_nothing(dtype: torch.dtype, value: float) -> None:
    figures = sun_of(stream_of([[value, 0.3, 0.3, 0.3]] * 7, dtype))
    assert figures.std_ratio == pytest.approx(0, abs=1e-7 * figures.mean_ratio)


def test_the_largest_ratio_float32_can_have_is_a_number_and_can_be_squared() -> None:
    figures = sun_of(stream_of([[3e38, 1e-45, 1e-45], [2, 1, 1]], torch.float32))
    assert figures.max_ratio > 1e83
    assert figures.mean_ratio == pytest.approx(figures.max_ratio / 2)
    assert figures.std_ratio == pytest.approx(figures.max_ratio / 2)


def test_the_margin_counts_only_tokens_that_are_judged() -> None:
    figures = sun_of(stream_of([[5000, 1, 1, math.nan], [200, 4, 4, 2], [90, 0.5, 0.5, 0.5]], torch.bfloat16))
    assert (figures.tokens, figures.passing) == (2, 0)
    assert figures.margin == 0.18


def test_sites_scanned_without_medians_have_no_sun_figures_to_update() -> None:
    stream = stream_of([[1.0, 2.0]], torch.float32)
    rows = rows_of(stream, median=False)
    with pytest.raises(AssertionError, match="without medians"):
        Sun.zeros(1, CPU).update(rows)


# --- States, cut at any token and merged in any order.


def rows_of(stream: Stream, real: Sequence[bool] | None = None, *, median: bool = True) -> Rows:
    """Rows of some tokens; where `real` is False stands a padded one."""
    numbers = iter(range(len(stream.places)))
    rows = [next(numbers) if is_real else -1 for is_real in ([True] * len(stream.places) if real is None else real)]
    mask, place = real_and_place(stream, rows)
    totals = Totals.zeros(ENCODINGS[stream.dtype], len(stream.sites), CPU)
    found = spoiled(Rows.empty(ENCODINGS[stream.dtype], mask, place, totals, median=median))
    for site in range(len(stream.sites)):
        eager.scan(filled(stream, site, rows), found[site])
    return found


@dataclass(frozen=True)
class States:
    """What reducers hold, `samples` aside, whose batches are whole samples."""

    peaks: Peaks
    faults: Faults
    sun: Sun
    wide: WideState | None

    @classmethod
    def zeros(cls, stream: Stream) -> States:
        """Nothing seen yet."""
        sites = len(stream.sites)
        wide = WideState.zeros(sites, CPU) if stream.dtype == torch.float32 else None
        return cls(Peaks.zeros(sites, CPU), Faults.zeros(sites, CPU), Sun.zeros(sites, CPU), wide)

    def update(self, rows: Rows) -> States:
        """The states after these rows too."""
        wide = None if self.wide is None else self.wide.update(rows)
        faults = self.faults.update(rows, torch.arange(len(rows.fault)) % 2 > 0)  # every other site is taken for a router
        return States(self.peaks.update(rows), faults, self.sun.update(rows), wide)

    def merge(self, other: States) -> States:
        """The states of both."""
        wide = None if self.wide is None or other.wide is None else self.wide.merge(other.wide)
        return States(self.peaks.merge(other.peaks), self.faults.merge(other.faults), self.sun.merge(other.sun), wide)

    def finish(self, stream: Stream) -> str:
        """All results with every bit; `stream` is everything they saw."""
        counts = [len(finite_values(stream, site)) for site in range(len(stream.sites))]
        no_top = torch.full((len(stream.sites), TOP), -1)  # kernels keep it, in totals that states know nothing of
        wide = None if self.wide is None else self.wide.finish(counts, no_top)
        return repr((self.peaks.finish(ENCODINGS[stream.dtype]), self.faults.finish(), self.sun.finish(), wide))


@settings(deadline=None, max_examples=150)
@given(stream=streams(most_sites=2), data=st.data())
def test_no_split_order_padding_or_merge_tree_changes_a_bit(stream: Stream, data: st.DataObject) -> None:
    nothing = States.zeros(stream)
    whole = nothing.update(rows_of(stream)).finish(stream)

    order = data.draw(st.permutations(range(len(stream.places))), label="order of the rows")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=4), label="cuts"))
    parts = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    batches = []
    for part in parts:
        padded = data.draw(st.integers(1, 4), label="padded rows")  # at least one: a part may be empty
        real = data.draw(st.permutations([True] * len(part) + [False] * padded), label="real")
        batches.append(rows_of(stream.part(part), real))

    assert reduce(States.update, batches, nothing).finish(stream) == whole, "one update after the other"

    states = [nothing.update(rows) for rows in batches]
    while len(states) > 1:
        first = states.pop(data.draw(st.integers(0, len(states) - 1), label="merge"))
        second = states.pop(data.draw(st.integers(0, len(states) - 1), label="with"))
        states.append(first.merge(second))
    assert states[0].finish(stream) == whole, "a merge tree"


@every_dtype
def test_merging_with_nothing_changes_nothing(dtype: torch.dtype) -> None:
    stream = stream_of([[1, -2, 0.5], [math.nan, 3, -7]], dtype)
    nothing = States.zeros(stream)
    state = nothing.update(rows_of(stream))
    assert state.merge(nothing).finish(stream) == nothing.merge(state).finish(stream) == state.finish(stream)


@every_dtype
def test_a_state_is_not_changed_by_what_is_made_of_it(dtype: torch.dtype) -> None:
    first, second = stream_of([[1, -2, 0.5]], dtype), stream_of([[5, 9, -7]], dtype)
    nothing = States.zeros(first)
    state = nothing.update(rows_of(first))
    before = [nothing.finish(first), state.finish(first)]
    state.update(rows_of(second))
    state.merge(nothing.update(rows_of(second)))
    assert [nothing.finish(first), state.finish(first)] == before


@every_dtype
def test_a_peak_of_a_later_batch_wins_a_tie_where_it_stands_first(dtype: torch.dtype) -> None:
    rows = torch.tensor([[1, 7, -7], [-7, 1, 1], [0, 0, 7]], dtype=dtype)
    places = [(3, 1), (3, 0), (2, 9)]
    stream = Stream([JUDGED[3]], [rows], places)
    peaks = Peaks.zeros(1, CPU)
    found = []
    for row in range(3):
        peaks = peaks.update(rows_of(stream.part([row])))
        found += peaks.finish(ENCODINGS[dtype])
    assert found == [PeakAt(7.0, 3, 1, 1), PeakAt(-7.0, 3, 0, 0), PeakAt(7.0, 2, 9, 2)]


def test_places_of_the_longest_sample_and_the_last_one_are_told_apart() -> None:
    longest = 2**32 - 1
    rows = torch.tensor([[2.0], [2.0], [3.0]])
    for places, expected in (
        ([(5, longest), (6, 0), (9, 9)], (9, 9)),
        ([(2**30, 1), (2**30, 0), (2**30, longest)], (2**30, longest)),
    ):
        [peak] = Peaks.zeros(1, CPU).update(rows_of(Stream([JUDGED[3]], [rows], places))).finish(ENCODINGS[torch.float32])
        assert peak is not None
        assert (peak.sample, peak.position) == expected


# --- Peaks of samples.


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_sample_peaks_do_not_depend_on_batches_or_merges(data: st.DataObject) -> None:
    stream = data.draw(streams())
    hidden = torch.tensor([i for i, site in enumerate(stream.sites) if site.component == "hidden"], dtype=torch.int64)
    part_of_m = torch.tensor([site.part_of_m for site in stream.sites])

    def take(state: SamplePeaks, batch: Batch) -> None:
        mask, place = real_and_place(stream, batch.rows)
        totals = Totals.zeros(ENCODINGS[stream.dtype], len(stream.sites), CPU)
        rows = Rows.empty(ENCODINGS[stream.dtype], mask, place, totals, median=False)
        for site in range(len(stream.sites)):
            eager.scan(filled(stream, site, batch.rows), rows[site])
        state.update(rows, torch.tensor(batch.samples), hidden, part_of_m)

    def nothing() -> SamplePeaks:
        return SamplePeaks.zeros(len(hidden), stream.samples, CPU)

    whole, merged = nothing(), nothing()
    take(whole, in_one_batch(stream))
    for batch in data.draw(batches_of(stream)):
        part = nothing()
        take(part, batch)
        merged = merged.merge(part) if data.draw(st.booleans(), label="in order") else part.merge(merged)
    assert torch.equal(merged.hidden, whole.hidden)
    assert torch.equal(merged.model, whole.model)
    assert torch.equal(merged.place, whole.place)


@every_dtype
def test_each_sample_has_its_own_peak_and_a_router_is_none_of_the_model(dtype: torch.dtype) -> None:
    places = [(0, 0), (0, 1), (2, 0), (4, 0)]
    gate = torch.tensor([[1, -2], [-3, 0], [math.nan, 5], [math.nan, math.inf]], dtype=dtype)
    group = group_of(stream := Stream(OTHERS[:2], [gate, gate * 10], places), [in_one_batch(stream)])
    assert group.sample_peaks().tolist() == [3, -1, 5, -1, -1, -1, -1]
    assert group.hidden_peaks() == {}

    stream = Stream([JUDGED[4], JUDGED[2], JUDGED[3]], [gate, gate / 2, gate * 2], places)
    group = group_of(stream, [in_one_batch(stream)])
    assert group.sample_peaks().tolist() == [6, -1, 10, -1, -1, -1, -1]
    hidden = {layer: peaks.tolist() for layer, peaks in group.hidden_peaks().items()}
    nan = math.nan
    assert repr(hidden) == repr({1: [3.0, nan, 5.0, nan, nan, nan, nan], 0: [6.0, nan, 10.0, nan, nan, nan, nan]})


# --- Sites with a group of their own: called several times, their rows routed tokens, or of no known token.

ROUTED = Site(component="gate", layer=3)


def in_calls(stream: Stream, calls: Sequence[Sequence[int]], *, traced: bool = True) -> SiteGroup:
    """A group of one site, whose rows come in several calls of one batch; -1 for a padded one."""
    group = SiteGroup(ENCODINGS[stream.dtype], stream.sites, CPU, samples=stream.samples, judged_by_sun=False)
    group.begin(torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64))  # the batch's tokens, which say nothing
    for rows in calls:
        real, place = real_and_place(stream, rows)
        if not traced:
            place = torch.full_like(place, UNTRACED)
        eager.scan(filled(stream, 0, rows), group.part(real, place))
    group.take(torch.tensor([0]))
    return group


@st.composite
def routed(draw: st.DrawFn, dtype: torch.dtype) -> Stream:
    """Rows of experts: any token, any number of times, in any order."""
    places = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=8))
    values = st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, -2.5, math.nan, math.inf]), min_size=3, max_size=3)
    rows = [draw(values) for _ in places]
    return Stream([ROUTED], [torch.tensor(rows, dtype=dtype)], places)


def cut(order: Sequence[int], data: st.DataObject) -> list[list[int]]:
    places = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=3)))
    return [list(order[start:end]) for start, end in itertools.pairwise([0, *places, len(order)])]


@every_dtype
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_rows_in_several_calls_give_what_one_call_gives(dtype: torch.dtype, data: st.DataObject) -> None:
    stream = data.draw(routed(dtype))
    rows = [*range(len(stream.places)), -1]
    whole = in_calls(stream, [rows])
    several = in_calls(stream, [part for part in cut(data.draw(st.permutations(rows)), data) if part])
    assert everything(several) == everything(whole)
    [result] = several.finish()
    expected = expected_peak(stream, 0)
    assert result.peak == expected
    assert repr(result.fault) == repr(expected_fault(stream, 0))
    assert_sample_peaks(several, stream)


@every_dtype
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_rows_of_no_known_token_have_a_peak_without_a_place_whatever_their_order(
    dtype: torch.dtype, data: st.DataObject
) -> None:
    stream = data.draw(routed(dtype))
    order = data.draw(st.permutations(range(len(stream.places))))
    group = in_calls(stream, [part for part in cut(order, data) if part], traced=False)
    assert everything(group) == everything(in_calls(stream, [range(len(order))], traced=False))
    [result] = group.finish()
    assert repr(result.fault) == repr(expected_fault(stream, 0, traced=False))
    finite = finite_values(stream, 0)
    assert group.sample_peaks().tolist() == [-1] * stream.samples
    assert group.sample_places().tolist() == [NOWHERE] * stream.samples
    if not finite:
        assert result.peak is None
        return
    assert result.peak is not None
    largest = max(map(abs, finite))
    spots = [(i, v) for _, row in values_of(stream, 0) for i, v in enumerate(row) if abs(v) == largest]
    feature = min(i for i, _ in spots)
    assert (result.peak.sample, result.peak.position, result.peak.feature) == (None, None, feature)
    assert result.peak.signed in [value + 0.0 for i, value in spots if i == feature]
    assert result.histogram.counts.sum() == stream.activations[0].numel()


def test_of_equal_peaks_one_whose_token_is_known_wins() -> None:
    stream = Stream([ROUTED], [torch.tensor([[3.0, 0.0], [0.0, -3.0]])], [(0, 0), (2, 7)])
    for order in ([0, 1], [1, 0]):
        group = SiteGroup(ENCODINGS[torch.float32], [ROUTED], CPU, samples=3, judged_by_sun=False)
        group.begin(*real_and_place(stream, [0, 1]))
        for row in order:
            real, place = real_and_place(stream, [row])
            eager.scan(filled(stream, 0, [row]), group.part(real, torch.full_like(place, UNTRACED) if row == 0 else place))
        group.take(torch.tensor([0]))
        [result] = group.finish()
        assert result.peak == PeakAt(-3.0, 2, 7, 1)
        assert group.sample_peaks().tolist() == [-1, -1, 3]


# --- Exact sums.

# Exponents drawn evenly: hypothesis' own floats seldom leave the neighbourhood of one.
magnitudes = st.floats(0, allow_infinity=False, allow_nan=False) | st.builds(
    math.ldexp, st.floats(0.5, 1, exclude_max=True), st.integers(-1073, 1024)
)
numbers = magnitudes | magnitudes.map(lambda number: -number)


def exact(summands: Sequence[Sequence[float]]) -> ExactSum:
    """Exact sums of lists of the same length."""
    return ExactSum.zeros(len(summands), CPU).update(torch.tensor(summands, dtype=torch.float64))


@settings(deadline=None, max_examples=150)
@given(pairs=st.lists(st.tuples(numbers, numbers), max_size=30), data=st.data())
def test_exact_sums_are_the_sums_of_fractions_in_any_split_and_order(
    pairs: list[tuple[float, float]], data: st.DataObject
) -> None:
    def both(chosen: Sequence[tuple[float, float]]) -> list[list[float]]:
        return [[pair[side] for pair in chosen] for side in (0, 1)]

    total = exact(both(pairs))
    assert total.finish() == [sum(map(Fraction, summands)) for summands in both(pairs)]
    shuffled = data.draw(st.permutations(pairs))
    cut = data.draw(st.integers(0, len(pairs)))
    first, second = exact(both(shuffled[:cut])), exact(both(shuffled[cut:]))
    rest = torch.tensor(both(shuffled[cut:]), dtype=torch.float64)
    for state in (first.merge(second), second.merge(first), first.update(rest)):
        assert torch.equal(state.halves, total.halves)


@pytest.mark.parametrize("sign", [1, -1])
def test_exact_sums_of_many_full_mantissas_lose_nothing(sign: int) -> None:
    full = sign * math.nextafter(1.0, 0.0)
    state = ExactSum.zeros(2, CPU)
    for _ in range(3):
        state = state.update(torch.full((2, 1 << 16), full, dtype=torch.float64))
    assert state.finish() == [(3 << 16) * Fraction(full)] * 2


@pytest.mark.parametrize(
    ("summands", "total"),
    [
        ([1.0, 5e-324], Fraction(1) + Fraction(5e-324)),
        ([1e308, 1.0, -1e308], Fraction(1)),
        ([-5e-324, 1.7976931348623157e308], Fraction(1.7976931348623157e308) - Fraction(5e-324)),
        ([2.0**52 + 2**26, -(2.0**52) - 1], Fraction(2**26 - 1)),  # the upper halves of the mantissas cancel
        ([-0.0, 0.0], Fraction(0)),
        ([], Fraction(0)),
    ],
)
def test_exact_sums_keep_the_smallest_beside_the_largest(summands: list[float], total: Fraction) -> None:
    assert (
        exact([summands, [2 * number for number in summands if abs(number) < 1e300] + [0.0] * 0]).finish()[0] == total
        if (all(abs(number) < 1e300 for number in summands))
        else exact([summands]).finish() == [total]
    )


def test_a_sum_s_updates_reach_its_own_site_only() -> None:
    state = exact([[1.0, 2.0], [-4.0, 0.5], [0.0, 0.0]]).update(torch.tensor([[0.0], [1.0], [-3.0]], dtype=torch.float64))
    assert state.finish() == [3, Fraction(-5, 2), -3]
