"""What a record says about the trust in its M: against enumeration, simulation and closed forms, since nobody runs it again."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_maxact.corpus import Corpus, Sample
from pytest_maxact.errors import SettingsError
from pytest_maxact.record import Measurement, PartPeak, SampleFigures
from pytest_maxact.runner import measure
from pytest_maxact.validity import (
    LEAST,
    Bootstrap,
    Part,
    Saturation,
    Subset,
    bootstrap,
    brief,
    by_category,
    by_position,
    describe,
    saturation,
    saturation_curve,
    share_at_start,
)
from tests.conftest import tiny_model
from tests.test_record import healthy, measurement
from tests.test_runner import alone

NAN = math.nan


def samples_of(peaks: Iterable[float], categories: str = "", positions: Sequence[int | None] = ()) -> list[SampleFigures]:
    """Samples 0, 1, 2 ... with these peaks; a letter a category."""
    return [
        SampleFigures(
            id=str(number),
            category=categories[number] if categories else None,
            tokens=1,
            peak=float(peak),
            position=positions[number] if positions else None,
        )
        for number, peak in enumerate(peaks)
    ]


# --- The saturation curve.

# Few values, so that there are ties as in bfloat16.
PEAKS = st.lists(st.sampled_from([0.0, 1.0, 24704.0, 24960.0, 1e-30, 3e38]), min_size=1, max_size=9)


@given(PEAKS)
def test_the_curve_is_the_mean_over_all_subsets(peaks: list[float]) -> None:
    for n, found in enumerate(saturation_curve(peaks), 1):
        subsets = list(itertools.combinations(peaks, n))
        expected = sum((Fraction(max(subset)) for subset in subsets), Fraction()) / len(subsets)
        assert found == pytest.approx(float(expected), rel=1e-14, abs=1e-14 * max(peaks))


def test_the_curve_of_many_samples_is_exact() -> None:
    """Of the numbers 1 to N the mean of the largest of n is n (N + 1) / (n + 1)."""
    for count in (2, 1000, 5000):
        n = np.arange(1, count + 1)
        np.testing.assert_allclose(saturation_curve(np.arange(1.0, count + 1)), n * (count + 1) / (n + 1), rtol=1e-13)
    # One sample in 5,000 has 100, the others 0: found by n of them with probability n / 5000.
    np.testing.assert_allclose(saturation_curve([0.0] * 4999 + [100.0]), np.arange(1, 5001) / 50, rtol=1e-12)


def test_the_curve_agrees_with_drawing() -> None:
    random = np.random.default_rng(1)
    peaks = np.exp(random.standard_normal(300)).astype(np.float32).astype(np.float64)
    curve = saturation_curve(peaks)
    for n in (3, 30, 150):
        drawn = [random.permutation(peaks)[:n].max() for _ in range(2000)]
        assert abs(float(np.mean(drawn)) - curve[n - 1]) < 4 * np.std(drawn) / math.sqrt(2000)


def test_the_curve_rises_to_m_whatever_the_order_and_lies_flat_on_ties() -> None:
    peaks = np.random.default_rng(2).exponential(size=500)
    curve = saturation_curve(peaks)
    assert curve[-1] == peaks.max()
    assert curve[0] == pytest.approx(peaks.mean())
    assert (np.diff(curve) > -1e-12).all()
    np.testing.assert_array_equal(saturation_curve(np.sort(peaks)), curve)
    assert saturation_curve([7.0] * 40).tolist() == [7.0] * 40


def test_a_whole_vocabulary_takes_seconds_not_minutes() -> None:
    start = time.perf_counter()
    curve = saturation_curve(np.random.default_rng(3).random(50_000))  # no ties: the slowest case
    assert time.perf_counter() - start < 20
    assert curve[24_999] == pytest.approx(1, abs=1e-3)


# --- Bootstrap.

LETTERS = st.text("abc", min_size=1, max_size=40)


@given(st.data(), LETTERS)
def test_subsets_hold_as_many_of_a_category_as_the_first_samples_of_a_corpus(data: st.DataObject, categories: str) -> None:
    size = data.draw(st.integers(1, len(categories)))
    samples = samples_of(range(len(categories)), categories)
    corpus = Corpus("c", tuple(Sample(id=sample.id, category=sample.category or "", text="x") for sample in samples))
    found = bootstrap(samples, size, 3)
    for subset in found.subsets:
        assert len(set(subset.indices)) == size
        assert list(subset.indices) == sorted(subset.indices)
        assert subset.value == max(samples[index].peak for index in subset.indices)
        assert Counter(categories[index] for index in subset.indices) == corpus.first(size).categories


def test_subsets_are_the_same_for_ever_and_others_for_another_seed() -> None:
    samples = samples_of(range(10), "aabbbbbbbb")
    drawn = [subset.indices for subset in bootstrap(samples, 5, 2).subsets]
    assert drawn == [subset.indices for subset in bootstrap(samples, 5, 7).subsets[:2]]
    assert drawn != [subset.indices for subset in bootstrap(samples, 5, 2, seed=1).subsets]
    assert drawn == [(0, 3, 4, 6, 8), (1, 2, 3, 5, 9)]


def test_every_choice_of_a_category_is_equally_likely() -> None:
    samples = samples_of(range(8), "aaaaabbb")
    drawn = Counter(subset.indices for subset in bootstrap(samples, 3, 6000).subsets)
    assert len(drawn) == math.comb(5, 2) * 3  # two of the five and one of the three
    expected = 6000 / len(drawn)
    assert sum((count - expected) ** 2 / expected for count in drawn.values()) < 62  # chi-squared of 29, 99.97 %


def test_the_mean_of_many_subsets_is_what_the_curve_says() -> None:
    peaks = np.random.default_rng(4).exponential(size=60)
    found = bootstrap(samples_of(peaks), 20, 4000)
    assert abs(found.mean - saturation_curve(peaks)[19]) < 4 * found.std / math.sqrt(4000)


def test_figures_of_a_bootstrap_are_the_papers() -> None:
    # M of gemma-3-4b-it over five subsets of 1,000 samples, from arXiv 2605.15572: a spread of 3.4 %.
    values = [237568.0, 245760.0, 243712.0, 239616.0, 243712.0]
    found = Bootstrap(1000, tuple(Subset((), value) for value in values))
    assert (found.smallest, found.largest, found.mean) == (237568.0, 245760.0, 242073.6)
    assert found.spread == pytest.approx(8192 / 242073.6)
    assert found.std == pytest.approx(np.std(values))
    assert math.isnan(bootstrap(samples_of([0.0]), 1, 1).spread)


def test_samples_without_a_finite_value_are_never_drawn() -> None:
    found = bootstrap(samples_of([NAN, 3.0, NAN, 2.0, 1.0], "aaaab"), 3, 2)
    assert [subset.indices for subset in found.subsets] == [(1, 3, 4)] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((6, 1, 0), r"subsets of 6 samples cannot be drawn from a record of 4 with a finite value: ask for at most that many"),
        ((0, 1, 0), "size=0 cannot be: give at least 1"),
        ((1, 0, 0), "repeats=0 cannot be: give at least 1"),
        ((1, 1, -1), "seed=-1 cannot be: give at least 0"),
    ],
)
def test_a_bootstrap_that_cannot_be_is_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        bootstrap(samples_of([1.0, 2.0, NAN, 3.0, 4.0]), *arguments)


def test_m_of_a_subset_is_what_the_model_gives_when_it_runs_on_that_alone() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    batches = alone([[number, *range(7, 7 + number % 5)] for number in range(40, 60)])
    record = measure(model, batches=batches)
    for subset in bootstrap(record.samples, 6, 3).subsets:
        again = measure(model, batches=[batches[index] for index in subset.indices])
        assert again.peak is not None
        assert again.peak.value == subset.value


# --- By category and by position.


def test_each_category_has_its_own_m_and_the_first_sample_that_holds_it() -> None:
    samples = samples_of([1.0, 5.0, NAN, 5.0, 2.0, NAN], "babbac")
    assert by_category(samples) == [Part("b", 2, 5.0, "3"), Part("a", 2, 5.0, "1")]
    assert by_category(samples_of([1.0])) == []


def test_peaks_are_told_apart_by_the_decade_of_their_position() -> None:
    positions = [0, 9, 1, 10, 0, 99, 100, 12345, None, 0]
    samples = samples_of([3, 1, 2, 7, 4, 7, 5, 6, 99, NAN], positions=positions)
    assert by_position(samples) == [
        Part("0", 2, 4.0, "4"),
        Part("1-9", 2, 2.0, "2"),
        Part("10-99", 2, 7.0, "3"),
        Part("100-999", 1, 5.0, "6"),
        Part("10000-99999", 1, 6.0, "7"),
    ]
    assert share_at_start(samples) == 2 / 8
    assert by_position(samples_of([1.0])) == []
    assert math.isnan(share_at_start(samples_of([1.0])))


# --- The verdict.


def test_the_next_doubling_is_expected_to_add_what_the_last_one_did() -> None:
    peaks = np.random.default_rng(5).exponential(size=64)
    curve, found = saturation_curve(peaks), saturation(samples_of(peaks))
    assert found is not None
    assert (found.samples, found.value, found.half, found.quarter) == (64, peaks.max(), curve[31], curve[15])
    assert found.gain == pytest.approx(curve[63] - curve[31])
    assert found.gain_before == pytest.approx(curve[31] - curve[15])


def test_fifty_nine_samples_reach_beyond_95_percent_of_all_with_95_percent_confidence() -> None:
    """The textbook's number of a one-sided tolerance limit; by simulation, too."""
    assert Saturation(59, 1.0, 1.0, 1.0).share_beyond < 0.05 < Saturation(58, 1.0, 1.0, 1.0).share_beyond
    assert LEAST == 59
    largest = np.random.default_rng(7).random((20_000, 59)).max(axis=1)
    assert (largest > 0.95).mean() == pytest.approx(1 - 0.95**59, abs=0.006)


def test_the_expected_gain_is_right_on_average_where_the_tail_is_exponential_and_an_odd_number_makes_no_step() -> None:
    random = np.random.default_rng(6)
    for count in (40, 41):
        gains = [found.gain for _ in range(1000) if (found := saturation(samples_of(random.exponential(size=count))))]
        assert len(gains) == 1000
        truth = sum(1 / n for n in range(count + 1, 2 * count + 1))  # of harmonic numbers
        assert np.mean(gains) == pytest.approx(truth, rel=0.08)


def test_saturated_is_where_two_doublings_added_at_most_one_bfloat16_step_each() -> None:
    assert Saturation(100, 128.0, 127.0, 126.0).saturated
    assert Saturation(100, 128.0, 126.9, 126.0).saturated is False
    assert Saturation(100, 128.0, 127.0, 125.9).saturated is False  # what is flat only at its end
    assert Saturation(LEAST - 1, 128.0, 128.0, 128.0).saturated is None
    assert Saturation(100, 0.0, 0.0, 0.0).saturated
    assert saturation(samples_of([NAN, 1.0, 2.0, 3.0])) is None


def test_a_corpus_whose_samples_begin_alike_looks_saturated() -> None:
    """Nothing in the peaks tells; the verdict can only say so."""
    positions: list[int | None] = [0] * 100
    record = measurement().model_copy(update={"samples": samples_of([1056.0] * 100, positions=positions)})
    verdict, *_, warning = describe(record)
    assert verdict.startswith("saturated: ")
    assert warning.startswith("100.0% of the samples peak at position 0")


def test_the_verdict_says_what_it_rests_on_and_what_it_cannot_see() -> None:
    peaks = [1e308] * 60 + [NAN]
    record = measurement().model_copy(update={"samples": samples_of(peaks, positions=[0] * 15 + [3] * 45 + [None])})
    assert describe(record) == [
        "saturated: 60 samples give M = 1e+308, half of them 1e+308 on average and a quarter 1e+308; twice as many of the same "
        "kind are expected to add nothing, as the last doubling did (if their tail is no heavier than exponential)",
        "one more of the kind exceeds M with a probability of at most 1/61, and at 95% confidence at most 4.87% of all such "
        "samples do",
        "1 of 61 samples hold no finite value and are left out",
        "25.0% of the samples peak at position 0, where a causal decoder sees the first token alone: first tokens that no "
        "sample begins with may hold more, and nothing here can tell",
    ]
    verdict, _, untraced = describe(record.model_copy(update={"samples": samples_of(range(1, 101))}))
    assert verdict.startswith("not saturated: 100 samples give M = 100.00, half of them 99.02 on average and a quarter 97.12; ")
    assert "expected to add 1.0%, " in verdict
    nearly = describe(record.model_copy(update={"samples": samples_of([1e5] * 99 + [100001])}))
    assert "expected to add less than 0.1%, " in nearly[0]
    assert untraced == (
        "M = 1e+308 is at rows that cannot be traced to samples; this is about the others, of which 100.00 is the largest"
    )
    assert describe(record.model_copy(update={"samples": samples_of([1e308] * 9)})) == [
        "saturation unknown: 9 samples are too few, at least 59 are needed"
    ]
    assert describe(healthy()) == [
        "saturation unknown: fewer than four samples hold a finite value",
        "2 of 2 samples hold no finite value and are left out",
    ]


# --- the summary's word on it


def of_corpora(**corpora: list[float]) -> Measurement:
    """A record over joined corpora, by name the peaks of their samples; each peaks at position 0."""
    parts = [
        PartPeak(corpus=name, samples=len(peaks), tokens=9, value=max(peaks), sample=None, position=0, token=None)
        for name, peaks in corpora.items()
    ]
    samples = [
        SampleFigures(id=f"{name}-{n}", category="x", tokens=1, peak=peak, position=0)
        for name, peaks in corpora.items()
        for n, peak in enumerate(peaks)
    ]
    return healthy().model_copy(update={"parts": parts if len(parts) > 1 else [], "samples": samples})


def told_under(policy: str, record: Measurement) -> str:
    corpus = record.corpus.model_copy(update={"special_tokens": policy, "digest": "d" * 64})
    return brief(record.model_copy(update={"corpus": corpus}))


FLAT, RISING = [1000.0] * 100, [10.0 * n for n in range(1, 101)]


def test_each_corpus_has_its_own_verdict_and_the_vocabulary_none() -> None:
    told = told_under("none", of_corpora(flat=FLAT, rising=RISING, vocabulary=RISING))
    flat, rising = told.split("; ")
    assert flat == "flat is saturated: twice as many samples like these would add nothing"
    assert re.fullmatch(r"rising is not saturated: twice as many samples like these would add \d+\.\d%", rising)
    lines = describe(of_corpora(flat=FLAT, vocabulary=RISING))
    assert lines[0].startswith("flat: saturated: 100 samples give M = 1,000")
    assert not any("vocabulary" in line or "first token" in line for line in lines)


def test_where_the_vocabulary_ran_alone_there_is_nothing_to_expect() -> None:
    record = of_corpora(vocabulary=RISING)
    record = record.model_copy(update={"corpus": record.corpus.model_copy(update={"id": "vocabulary"})})
    assert told_under("none", record) == ""
    first, *others = describe(record)
    assert first.startswith("all there is of the vocabulary ran, each token once")
    assert not any("twice as many" in line or "first token" in line for line in others)


@pytest.mark.parametrize(("policy", "hint"), [("none", True), ("tokenizer", False), ("chat", False)])
def test_the_vocabulary_is_advised_where_first_tokens_vary(policy: str, hint: bool) -> None:
    assert ("100% of the samples peak at position 0, for which +vocabulary" in told_under(policy, of_corpora(a=FLAT))) == hint


def test_a_corpus_of_few_samples_is_not_spoken_of() -> None:
    few = of_corpora(a=[1.0] * 58)
    few = few.model_copy(update={"samples": [sample.model_copy(update={"position": 3}) for sample in few.samples]})
    assert told_under("none", few) == ""
