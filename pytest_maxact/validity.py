"""How far M can be trusted: what the peaks of single samples say about it, without running the model again.

All of it is about samples like those that ran. What no sample holds, such as a first token that none begins with, leaves no
trace in any figure here: a corpus whose samples begin alike looks saturated at half of the true maximum. Subsets are drawn
without replacement throughout, and samples without a finite value are left out. Peaks in bfloat16 tie often: ties count as
they are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_maxact.errors import SettingsError
from pytest_maxact.histogram import Floats
from pytest_maxact.outcome import BFLOAT16_STEP
from pytest_maxact.proportion import in_proportion
from pytest_maxact.record import VOCABULARY, Measurement, SampleFigures
from pytest_maxact.visible import visible
from pytest_maxact.wording import number

CONFIDENCE = 0.95
LEAST = 59  # samples; of fewer one cannot say with this confidence that M exceeds 95 % of all samples like them
NEGLIGIBLE = 1e-20  # a probability that no longer shows in a sum of float64


def with_peaks(samples: Iterable[SampleFigures]) -> list[SampleFigures]:
    """The samples that hold a finite value."""
    return [sample for sample in samples if not math.isnan(sample.peak)]


def saturation_curve(peaks: Sequence[float] | Floats) -> Floats:
    """The expected M of n of N samples, drawn at random without replacement, for n from 1 to N: float64 [N].

    Exact but for rounding. With v_1 < ... < v_K the distinct peaks, of which c_j samples are at or below v_j,

        E_n = v_K - sum over j < K of (v_(j+1) - v_j) P_n(j),    P_n(j) = C(c_j, n) / C(N, n),

    P_n(j) being the probability that all n are at or below v_j. It follows from P_1(j) = c_j / N by
    P_(n+1)(j) = P_n(j) (c_j - n) / (N - n), in which nothing cancels and nothing overflows. This is the U-statistic of the
    expected maximum (Tang et al. 2020, Showing Your Work Doesn't Always Work, arXiv 2004.13705), summed over the distinct
    values instead of the samples.

    Args:
        peaks: max|a| of N samples in any order, all finite.

    """
    values, counts = np.unique(np.asarray(peaks, dtype=np.float64), return_counts=True)
    total = int(counts.sum())
    at_or_below, gaps = np.cumsum(counts)[:-1], np.diff(values)
    probability = at_or_below / total
    curve = np.empty(total)
    for n in range(1, total + 1):
        curve[n - 1] = values[-1] - gaps @ probability
        # They rise with j, so what no longer matters is a beginning.
        start = int(np.searchsorted(probability, NEGLIGIBLE))
        at_or_below, gaps, probability = at_or_below[start:], gaps[start:], probability[start:]
        probability = probability * np.maximum(at_or_below - n, 0) / max(total - n, 1)
    return curve


@dataclass(frozen=True)
class Subset:
    """Samples drawn at random, as indices into the record's samples, ascending; and M of them."""

    indices: tuple[int, ...]
    value: float


@dataclass(frozen=True)
class Bootstrap:
    """M of several random subsets of one size."""

    size: int
    subsets: tuple[Subset, ...]

    @property
    def values(self) -> Floats:
        """M of each subset, in the order in which they were drawn."""
        return np.array([subset.value for subset in self.subsets])

    @property
    def mean(self) -> float:
        """Mean of M."""
        return float(self.values.mean())

    @property
    def std(self) -> float:
        """Standard deviation of M, the population's."""
        return float(self.values.std())

    @property
    def smallest(self) -> float:
        """The smallest M."""
        return float(self.values.min())

    @property
    def largest(self) -> float:
        """The largest M."""
        return float(self.values.max())

    @property
    def spread(self) -> float:
        """(largest - smallest) / mean: what arXiv 2605.15572 calls CV% of its repeats. NaN where the mean is 0."""
        return (self.largest - self.smallest) / self.mean if self.mean else math.nan


def bootstrap(samples: Sequence[SampleFigures], size: int, repeats: int, seed: int = 0) -> Bootstrap:
    """M of random subsets that keep the categories in proportion, as in arXiv 2605.15572.

    Each subset has as many samples of a category as `Corpus.first(size)` would, of those with a finite value, and each choice
    of them is equally likely. The same samples, size and seed give the same subsets whatever the versions of Python and NumPy,
    which promises that the bits of a seeded generator never change; more repeats begin with the same ones.

    Args:
        samples: those of a record.
        size: samples a subset.
        repeats: how many subsets.
        seed: not negative.

    Raises:
        SettingsError: where there are fewer samples with a finite value, or a number makes no sense.

    """
    held = [index for index, sample in enumerate(samples) if not math.isnan(sample.peak)]
    for name, value, least in (("size", size, 1), ("repeats", repeats, 1), ("seed", seed, 0)):
        if value < least:
            raise SettingsError(f"a bootstrap of {name}={value} cannot be: give at least {least}")
    if size > len(held):
        raise SettingsError(
            f"subsets of {size:,} samples cannot be drawn from a record of {len(held):,} with a finite value: "
            "ask for at most that many, or measure a larger corpus"
        )
    members: dict[str | None, list[int]] = {}
    for index in held:
        members.setdefault(samples[index].category, []).append(index)
    order = in_proportion([samples[index].category for index in held])[:size]
    quotas = Counter(samples[held[place]].category for place in order)
    bits = np.random.PCG64(np.random.SeedSequence([seed, size]))
    subsets = []
    for _ in range(repeats):
        keys = dict(zip(held, bits.random_raw(len(held)).tolist(), strict=True))
        drawn = [sorted(indices, key=lambda index: keys[index])[: quotas[name]] for name, indices in members.items()]
        indices = sorted(index for part in drawn for index in part)
        subsets.append(Subset(tuple(indices), max(samples[index].peak for index in indices)))
    return Bootstrap(size, tuple(subsets))


@dataclass(frozen=True)
class Part:
    """Some of the samples: how many, the largest of their peaks, and the id of the first sample that holds it."""

    name: str
    samples: int
    value: float
    sample: str


def by_category(samples: Iterable[SampleFigures]) -> list[Part]:
    """M of each category, in the order of the samples; empty where samples have no categories."""
    parts: dict[str, list[SampleFigures]] = {}
    for sample in with_peaks(samples):
        if sample.category is not None:
            parts.setdefault(sample.category, []).append(sample)
    return [_part(name, members) for name, members in parts.items()]


def by_position(samples: Iterable[SampleFigures]) -> list[Part]:
    """The samples by the position of their peaks: 0, 1-9, 10-99 and so on, as far as there are any.

    A sample counts where its own peak stands, so the value of a part is a lower bound of what tokens there hold. Samples whose
    position is not known are left out.
    """
    parts: dict[int, list[SampleFigures]] = {}
    for sample in with_peaks(samples):
        if sample.position is not None:
            parts.setdefault(len(str(sample.position)) if sample.position else 0, []).append(sample)
    return [_part(_decade(digits), parts[digits]) for digits in sorted(parts)]


def share_at_start(samples: Iterable[SampleFigures]) -> float:
    """Share of the samples whose peak is at position 0, of those whose position is known; NaN where there are none."""
    positions = [sample.position for sample in with_peaks(samples) if sample.position is not None]
    return positions.count(0) / len(positions) if positions else math.nan


@dataclass(frozen=True)
class Saturation:
    """Whether more samples like those that ran would find a larger M, of N samples with a finite value.

    value: the largest of their peaks. half, quarter: the expected M of N // 2 and N // 4 of them, exactly (`saturation_curve`).

    The estimator: the next doubling raises M by as much as the last one did. That is what a tail gives that falls off
    exponentially, where the expected M grows with the logarithm of n (Gumbel's domain of attraction; Weissman 1978, Estimation
    of Parameters and Large Quantiles Based on the k Largest Observations). It is too much where peaks have an upper end, and
    too little where the tail is heavier.
    """

    samples: int
    value: float
    half: float
    quarter: float

    @property
    def gain(self) -> float:
        """By how much M is expected to rise with twice as many samples: by as much as the last doubling raised it."""
        return (self.value - self.half) * math.log(2) / math.log(self.samples / (self.samples // 2))

    @property
    def gain_before(self) -> float:
        """By how much the doubling before that raised the expected M."""
        half, quarter = self.samples // 2, self.samples // 4
        return (self.half - self.quarter) * math.log(2) / math.log(half / quarter)

    @property
    def saturated(self) -> bool | None:
        """Whether neither doubling added more than one bfloat16 step of M; None where samples are too few to tell.

        Two of them, since a flat end of the curve by itself is often chance: M was not lucky.
        """
        if self.samples < LEAST:
            return None
        return max(self.gain, self.gain_before) <= BFLOAT16_STEP * self.value

    @property
    def share_beyond(self) -> float:
        """Upper limit, at `CONFIDENCE`, of the share of samples like these that exceed M, whatever their distribution.

        It is 1 - (1 - confidence)^(1/N): of independent samples, a share that large would have shown itself with that
        confidence (Wilks 1941, Determination of Sample Sizes for Setting Tolerance Limits).
        """
        return -math.expm1(math.log1p(-CONFIDENCE) / self.samples)


def saturation(samples: Iterable[SampleFigures]) -> Saturation | None:
    """What the peaks of the samples tell; None of fewer than four with a finite value."""
    peaks = [sample.peak for sample in with_peaks(samples)]
    if len(peaks) < 4:
        return None
    curve = saturation_curve(peaks)
    count = len(peaks)
    return Saturation(count, max(peaks), half=float(curve[count // 2 - 1]), quarter=float(curve[count // 4 - 1]))


def describe(measurement: Measurement) -> list[str]:
    """The verdict in words for each corpus, with what it rests on and what it cannot see: a sentence a line.

    That one of N + 1 samples, whose order tells nothing, is the largest has for each the same probability; ties lower it. The
    vocabulary is exhaustive and has no verdict.
    """
    lines = []
    corpora = _judged(measurement)
    for name, samples in corpora.items():
        about = f"{name}: " if len(measurement.samples_by_corpus) > 1 else ""
        lines += [about + line for line in _described(samples)]
    if not corpora:
        lines.append(f"all there is of the {VOCABULARY} ran, each token once: nothing more of that kind can be expected")
    largest = max((sample.peak for sample in with_peaks(measurement.samples)), default=math.nan)
    if measurement.peak is not None and measurement.peak.value > largest:
        lines.append(
            f"M = {number(measurement.peak.value)} is at rows that cannot be traced to samples; this is about the others, of "
            f"which {number(largest)} is the largest"
        )
    share = _missed_starts(measurement)
    if share > 0:
        lines.append(
            f"{share:.1%} of the samples peak at position 0, where a causal decoder sees the first token alone: first tokens "
            "that no sample begins with may hold more, and nothing here can tell"
        )
    return [visible(line) for line in lines]  # a corpus may be named anything


def _judged(measurement: Measurement) -> dict[str, list[SampleFigures]]:
    return {name: samples for name, samples in measurement.samples_by_corpus.items() if name != VOCABULARY}


def _missed_starts(measurement: Measurement) -> float:
    """The share of samples that peak at position 0, where first tokens that did not run may hold more; 0 where they ran.

    Under another policy of special tokens all samples begin alike.
    """
    if VOCABULARY in measurement.samples_by_corpus or measurement.corpus.special_tokens != "none":
        return 0.0
    share = share_at_start(measurement.samples)
    return 0.0 if math.isnan(share) else share


def _described(samples: Sequence[SampleFigures]) -> list[str]:
    found, missing = saturation(samples), len(samples) - len(with_peaks(samples))
    left_out = [f"{missing:,} of {len(samples):,} samples hold no finite value and are left out"] if missing else []
    if found is None:
        return ["saturation unknown: fewer than four samples hold a finite value", *left_out]
    return [*_verdict(found), *left_out]


def brief(measurement: Measurement) -> str:
    """The verdict in a sentence for each corpus, and what would tell more.

    Left out are the vocabulary, which is exhaustive, and corpora of too few samples to tell.
    """
    sentences = []
    for name, samples in _judged(measurement).items():
        found = saturation(samples)
        if found is not None and found.saturated is not None:
            word = "saturated" if found.saturated else "not saturated"
            sentences.append(f"{name} is {word}: twice as many samples like these would add {_added(found)}")
    share = _missed_starts(measurement)
    if share > 0.5 and measurement.corpus.digest is not None:
        sentences.append(f"{share:.0%} of the samples peak at position 0, for which +{VOCABULARY} tries every token")
    return "; ".join(sentences)


def _added(found: Saturation) -> str:
    rise = found.gain / found.value if found.gain else 0.0
    return "nothing" if not rise else f"{rise:.1%}" if rise >= 0.001 else "less than 0.1%"


def _verdict(found: Saturation) -> list[str]:
    if found.saturated is None:
        return [f"saturation unknown: {found.samples} samples are too few, at least {LEAST} are needed"]
    return [
        f"{'saturated' if found.saturated else 'not saturated'}: {found.samples:,} samples give M = {number(found.value)}, "
        f"half of them {number(found.half)} on average and a quarter {number(found.quarter)}; twice as many of the same kind "
        f"are expected to add {_added(found)}, as the last doubling did (if their tail is no heavier than exponential)",
        f"one more of the kind exceeds M with a probability of at most 1/{found.samples + 1:,}, and at {CONFIDENCE:.0%} "
        f"confidence at most {found.share_beyond:.2%} of all such samples do",
    ]


def _part(name: str, members: Sequence[SampleFigures]) -> Part:
    first = max(members, key=lambda sample: sample.peak)
    return Part(name, len(members), first.peak, first.id)


def _decade(digits: int) -> str:
    return f"{10 ** (digits - 1)}-{10**digits - 1}" if digits else "0"
