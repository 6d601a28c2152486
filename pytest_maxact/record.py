"""Plain typed records: what was measured (`Measurement`) and what it is compared with (`Baseline`).

Both are read and written as UTF-8 JSON. Reading is strict: an unknown field, a wrong type or another schema version is an
error that names the place. NaN and infinities, which JSON lacks, are the strings "nan", "inf" and "-inf".
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from pytest_maxact.errors import BaselineError, MaxactError, MeasurementError, shortened
from pytest_maxact.files import parse_own_json, read
from pytest_maxact.formats import FORMATS
from pytest_maxact.histogram import Histogram
from pytest_maxact.sidecar import MAX_PACKED, MAX_SITES, Arrays

MEASUREMENT_SCHEMA: Literal["maxact/measurement@1"] = "maxact/measurement@1"
BASELINE_SCHEMA: Literal["maxact/baseline@1"] = "maxact/baseline@1"

# Of 128 layers of 64 sites a record has 50 MB, in which up to 10,000 samples have 2, and a baseline 3.
MAX_RECORD = 64 << 20
MAX_BASELINE = 16 << 20
MAX_ERRORS = 10_000  # told apart, of which the first one is shown

PART_OF_M = frozenset(("embedding", "hidden", "attention", "mlp", "gate", "final_norm"))
WITH_SUN = PART_OF_M - {"gate"}
VISION = "vision"
ONLY_RECORDED = frozenset(("router", "attention_write", "mlp_write", VISION))
INPUT = "input:"

Modality = Literal["text", "image"]

Component = Annotated[str, Field(pattern=rf"^({'|'.join(sorted(PART_OF_M | ONLY_RECORDED))}|{INPUT}[\w.-]+)$")]
"""What is observed: `PART_OF_M` and `ONLY_RECORDED` name them; `input:NAME` is what enters a linear layer of that name."""

# The corpus that runs every token of the vocabulary alone, which is exhaustive for the first position of a causal decoder.
VOCABULARY = "vocabulary"

# Sun's criterion: a token passes where max|x| and max|x| / median|x| exceed them.
MASSIVE_ABS = 100
MASSIVE_RATIO = 1000

# What baselines keep of the SQNR: the policies that a check can be asked to compare.
BASELINE_SQNR = tuple(key for form in FORMATS.values() for key in form.sqnr_keys)

_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _from_word(value: Any) -> Any:
    return _WORDS.get(value, value) if isinstance(value, str) else value


def _to_word(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


Figure = Annotated[float, BeforeValidator(_from_word), PlainSerializer(_to_word, when_used="json")]
"""A float64 that survives JSON, NaN and infinities included."""


FiniteFigure = Annotated[Figure, Field(ge=0, allow_inf_nan=False)]
"""An M: nothing ever exceeds a NaN."""

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
"""How many, or which one of many; what is computed from it stays within 64 bits."""


class Record(BaseModel):
    """Base of all records: frozen, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class Site(Record):
    """One place of a model where activations are observed.

    `layer` counts from 0 and is None for the components that a model has once (`embedding`, `final_norm`). That of `vision`
    is a layer of the vision tower.
    """

    component: Component
    layer: Count | None = None

    def __str__(self) -> str:
        return self.component if self.layer is None else f"{self.component} layer {self.layer}"

    @property
    def part_of_m(self) -> bool:
        """Whether the site's values count for M."""
        return self.component in PART_OF_M


class Location(Record):
    """Where a value was seen, and its sign with it. `sample`, `position` and the token are None where rows cannot be traced.

    `position` counts the sample's real tokens from 0. `before` and `after` are the decoded text around the token.
    """

    signed: Figure
    feature: Count
    sample: str | None = None
    position: Count | None = None
    token_id: Count | None = None
    token: str | None = None
    before: str | None = None
    after: str | None = None


class SunStatistics(Record):
    """Per-token figures of Sun et al. 2024 (arXiv 2402.17762) at one site.

    A token's ratio is max|x| / median|x| over its features, the lower median; a median of 0 makes it infinite where
    max|x| > 0, and an all-zero token has ratio 0. A token passes where max|x| > MASSIVE_ABS and ratio >
    MASSIVE_RATIO. Tokens that hold a NaN or an infinity have no ratio and are left out. `std_ratio` is the population's.
    """

    tokens: Count
    passing: Count
    peak_token_median: Figure
    peak_token_ratio: Figure
    max_ratio: Figure
    max_ratio_abs: Figure
    max_ratio_median: Figure
    mean_ratio: Figure
    std_ratio: Figure


class SunFigures(SunStatistics):
    """The same with `margin`, the largest over tokens of min(max|x| / 100, ratio / 1000)."""

    margin: Figure


class SiteFigures(Site):
    """What was measured at one site over all real tokens.

    `count` is the number of values seen, of which `nan` and `inf` were not finite; all else is over the finite ones, and
    NaN where there is none. `max` and `min` are signed extremes, `peak` is where max|a| is (None where there is none).
    `std` is the population's. `abs_quantiles` holds, by q, the smallest |a| with at least ceil(q n) of the n values at or
    below it. `top` are the 100 largest |a| with their signs, descending, of equals the positive ones first. `crest` is
    max|a| / rms. `sqnr` are dB by number format and policy, see `formats.sqnr`. `approximate` is true for float32 activations:
    their quantiles and SQNR come from a histogram of values rounded to bfloat16, and their moments from values (and squares)
    rounded to 2^-44 of the row's largest, so that a `std` far below |mean| is not resolved; extremes and `top` are exact.
    `experts` are, of a router, how many tokens it sent to each; None for other sites and routers that do not tell.
    `fault` is the first NaN or infinity, `signed` telling which: at the lowest (sample, position) that holds one, there a NaN
    before inf and -inf, then the lowest feature. It is None where all is finite, but for a router's -inf, which keeps an expert
    out; and in records older than this field.
    """

    max: Figure
    min: Figure
    count: Count
    nan: Count
    inf: Count
    peak: Location | None
    mean: Figure
    std: Figure
    rms: Figure
    abs_mean: Figure
    abs_quantiles: dict[str, Figure]
    top: list[Figure]
    crest: Figure
    sun: SunFigures | None
    sqnr: dict[str, Figure]
    approximate: bool
    experts: list[Count] | None = None
    fault: Location | None = None

    @property
    def value(self) -> float:
        """max|a| over the finite values of the site, NaN where there is none."""
        return max(abs(self.max), abs(self.min))


class Peak(Location, Site):
    """M = max|a| over all sites that are part of it.

    `plateau` holds the `hidden` layers within one bfloat16 step of the largest `hidden` peak, `ties` the other sites that
    hold exactly the same value.
    """

    value: FiniteFigure
    plateau: list[Count]
    ties: list[Site]


class Fault(Location, Site):
    """The first NaN or infinity of a run, `signed` telling which: the `fault` of the site executed first of those with one.

    Whatever broke a model did so there or before: from there on NaN spread.
    """


class PartPeak(Record):
    """max|a| over the samples of one of the corpora that were joined, over all sites that are part of M.

    It is the largest peak of a sample (see `SampleFigures`), of equals that of the first; NaN where no value was finite.
    """

    corpus: str
    samples: Count
    tokens: Count
    value: Figure
    sample: str | None
    position: Count | None
    token: str | None


class PolicyPeak(Record):
    """M of the same checkpoint and corpus under one policy of special tokens, and where it stands; NaN where there is none.

    `first_fault` is that of the sites that are part of M, None where all of them were finite.
    """

    special_tokens: str
    tokens: Count
    value: Figure
    site: Site | None
    sample: str | None
    position: Count | None
    token: str | None
    first_fault: Fault | None = None


class ModalityPeak(Site):
    """max|a| over the tokens of one modality and all sites that are part of M, with the first place of it; `tokens` ran."""

    modality: Modality
    tokens: Count
    value: Figure
    sample: str | None
    position: Count | None
    token: str | None


class Dominance(Record):
    """Which component holds M, and the largest `hidden` peak over the largest peak of any other component of M."""

    component: Component
    ratio: Figure


class SunOutcome(Record):
    """The model's Sun outcome: `layers` are the `hidden` layers where a token passes, `margin` the largest of theirs.

    `margin` is NaN where published figures do not tell it.
    """

    passes: bool
    layers: list[Count]
    margin: Figure


class Trajectory(Record):
    """The pattern of the `hidden` peaks by depth; see `outcome.trajectory` for the rule behind it."""

    pattern: Literal["jump-and-plateau", "gradual accumulation"]
    largest_step: Figure
    largest_step_layer: Count


class Model(Record):
    """Which model was measured. `fingerprint` is the sha256 over config and weights; None for a model in memory.

    `base` is the id of the model that an adapter was put on, with its revision where it has one.
    """

    id: str
    base: str | None = None
    revision: str | None = None
    fingerprint: str | None = None
    architecture: str
    model_type: str
    layers: Count
    hidden_size: Count
    parameters: Count
    dtype: str
    attention: str | None = None
    quantization: str | None = None


class CorpusFacts(Record):
    """What was run through the model. `digest` is the sha256 over the chosen samples; None for ready batches."""

    id: str
    digest: str | None
    samples: Count
    tokens: Count
    categories: dict[str, Count]
    max_length: Count | None
    special_tokens: str


class Environment(Record):
    """What else moves the figures: versions, device, and how samples were batched. `kernel` moves their speed only."""

    python: str
    torch: str
    transformers: str
    device: str
    threads: Count
    ranks: Count
    batch_tokens: Count | None
    kernel: str


class Timing(Record):
    """Wall time of the forwards and their hooks, loading left out.

    `hook_fraction` is seconds spent observing over seconds of the rest of the forward; None on a GPU, which runs both
    without waiting for either, and where ranks shared the run. `measured_at` is when it was through, in UTC by ISO 8601.
    """

    seconds: Figure
    tokens_per_s: Figure
    hook_fraction: Figure | None
    measured_at: str | None = None


class Overhead(Record):
    """What observing costs, from plain and hooked forwards of the same batch in turns.

    tokens: of the batch, padding counted. in_hook: 1 + median seconds inside hooks and reductions / median plain seconds; None
    on a GPU. wall: median hooked / median plain seconds. memory_mb: peak of the hooked forward less that of the plain one,
    in MiB. finishing_s: from the last batch to the figures of all sites.
    """

    kernel: str
    rounds: Count
    tokens: Count
    plain_tokens_per_s: Figure
    hooked_tokens_per_s: Figure
    in_hook: Figure | None
    wall: Figure
    memory_mb: Figure
    finishing_s: Figure


class SampleFigures(Record):
    """One sample of the corpus: how many tokens of it ran, and max|a| over all sites that are part of M.

    `position` is that of the peak among the sample's tokens, from 0: on a tie of the site executed first, there the lowest.
    It is None where no value was finite, and in records older than this field. Values that cannot be traced to a sample are
    left out of both.
    """

    id: str
    category: str | None
    tokens: Count
    peak: Figure
    position: Count | None = None


class Sidecar(Record):
    """The `.npz` file beside a record, by its bare name, the sha256 of its bytes, and whether `samples` are there."""

    file: Annotated[str, Field(pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*\.npz$")]
    sha256: str
    samples: bool = False


LARGE = 10_000  # samples: beyond so many JSON is no place for them
SAMPLES = TypeAdapter(list[SampleFigures])

RecordT = TypeVar("RecordT", bound=Record)


class Measurement(Record):
    """Everything one pass over the corpus found: what `measure` gives, and `save` and `load` keep as JSON.

    `sites` stand in the order in which the model ran them, `samples` in that of the corpus. `peak`, `dominance`, `sun` and
    `trajectory` are None where no value was finite, `first_fault` where all were; `modalities` is empty without images,
    `parts` where one corpus ran alone, `policies` where one policy of special tokens did. `notes` say in words what could not
    be observed. `histogram` and `hidden_peaks`, float32 [layers, samples], come from arrays that are kept in a sidecar
    file when the record is saved, and with them `samples` where there are more than 10,000. M and its analysis are those of
    arXiv 2605.15572, the Sun figures those of arXiv 2402.17762.

    Raises:
        pydantic.ValidationError: where a field is missing, unknown or of another type.

    """

    schema_: Literal["maxact/measurement@1"] = Field(default=MEASUREMENT_SCHEMA, alias="schema")
    model: Model
    corpus: CorpusFacts
    environment: Environment
    peak: Peak | None
    dominance: Dominance | None
    sun: SunOutcome | None
    trajectory: Trajectory | None
    modalities: list[ModalityPeak] = []
    parts: list[PartPeak] = []
    policies: list[PolicyPeak] = []
    first_fault: Fault | None = None
    sites: Annotated[list[SiteFigures], Field(max_length=MAX_SITES)]
    samples: list[SampleFigures]
    notes: list[str]
    timing: Timing
    overhead: Overhead | None = None
    sidecar: Sidecar | None = None
    _arrays: Arrays | None = PrivateAttr(None)
    _folder: Path | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _has_each_site_once(self) -> Measurement:
        _check_each_once(self.sites)
        return self

    def __eq__(self, other: object) -> bool:
        """Whether all figures are the same, wherever the records are kept; the arrays follow from the same run."""
        return isinstance(other, Measurement) and vars(self) | {"sidecar": None} == vars(other) | {"sidecar": None}

    def site(self, component: str, layer: int | None) -> SiteFigures | None:
        """The figures of one site, or None where the model has no such site."""
        return next((s for s in self.sites if s.component == component and s.layer == layer), None)

    def with_arrays(self, arrays: Arrays) -> Measurement:
        """The record with its arrays."""
        copy = self.model_copy()
        copy._arrays = arrays
        return copy

    @property
    def samples_by_corpus(self) -> dict[str, list[SampleFigures]]:
        """The samples by the corpus that they come from, in the order in which those were joined."""
        found, first = {}, 0
        for part in self.parts:
            found[part.corpus] = self.samples[first : first + part.samples]
            first += part.samples
        return found or {self.corpus.id: self.samples}

    def histogram(self, component: str, layer: int | None) -> Histogram:
        """How often each value occurred at one site.

        Raises:
            KeyError: where the model has no such site.
            MeasurementError: where the record was read without its sidecar, or that is damaged.

        """
        for site, histogram in zip(self.sites, self.arrays.histograms, strict=True):
            if (site.component, site.layer) == (component, layer):
                return histogram
        raise KeyError(f"no site {component}{'' if layer is None else f' layer {layer}'}")

    @property
    def hidden_peaks(self) -> npt.NDArray[np.float32]:
        """float32 [layers, samples], max|a| of every sample at every `hidden` layer; NaN where none was finite.

        Raises:
            MeasurementError: where the record was read without its sidecar, or that is damaged.

        """
        return self.arrays.hidden_peaks

    @property
    def arrays(self) -> Arrays:
        """What the sidecar holds, read when it is first asked for.

        Raises:
            MeasurementError: where the record was read without its sidecar, or that is damaged.

        """
        if self._arrays is None:
            if self.sidecar is None or self._folder is None:
                raise MeasurementError(f"the record of {self.model.id} came without its arrays: measure again to have them")
            self._arrays = _read_sidecar(self._folder / self.sidecar.file, self)
        return self._arrays

    def dumps(self) -> str:
        """The record as JSON text, one site a line."""
        return dumps(self)

    def save(self, path: str | Path) -> None:
        """Write the record, all of it or nothing, and its arrays to a file of the same name that ends in `.npz`.

        Raises:
            MeasurementError: where the record was read from a file whose sidecar is gone or damaged.
            OSError: where a file cannot be written.

        """
        path, record = Path(path), self
        refuse_link(path)  # before its arrays are written
        if self._arrays is not None or self.sidecar is not None:
            unread = self.sidecar is not None and self.sidecar.samples and not self.samples
            apart = unread or len(self.samples) > LARGE
            samples = self.arrays.samples if unread else SAMPLES.dump_json(self.samples) if apart else b""
            data = replace(self.arrays, samples=samples).dumps()
            target = sidecar_of(path)
            write_atomically(target, data)
            sidecar = Sidecar(file=target.name, sha256=hashlib.sha256(data).hexdigest(), samples=apart)
            record = self.model_copy(update={"sidecar": sidecar} | ({"samples": []} if apart else {}))
        write_atomically(path, record.dumps())

    @classmethod
    def load(cls, path: str | Path, *, samples: bool = True) -> Measurement:
        """Read a record.

        Args:
            path: the file that `save` wrote.
            samples: whether to read the samples of a large corpus from the sidecar; without them `samples` is empty.

        Raises:
            MeasurementError: where the file is missing, is no JSON, or does not follow the schema; or where samples are in its
                sidecar, and that is missing or damaged.

        """
        record = _load(cls, Path(path), MeasurementError, "record", MEASUREMENT_SCHEMA, MAX_RECORD)
        record._folder = Path(path).parent
        apart = record.sidecar is not None and record.sidecar.samples
        if apart and not samples:
            return record
        if apart:
            try:
                found = SAMPLES.validate_json(record.arrays.samples, strict=True)
            except ValidationError as cause:
                raise MeasurementError(f"the samples beside {path} are malformed at {first_of(cause)}") from None
            record = record.model_copy(update={"samples": found})
        if len(record.samples) != record.corpus.samples:
            told = f"{len(record.samples):,} samples, and its corpus had {record.corpus.samples:,}"
            raise MeasurementError(f"the record {path} has {told}: measure again to have them all")
        return record


class BaselineModel(Record):
    """The model a baseline was made from; published baselines know less of it."""

    id: str
    revision: str | None = None
    fingerprint: str | None = None
    architecture: str | None = None
    model_type: str | None = None
    layers: Count | None = None
    hidden_size: Count | None = None
    dtype: str | None = None


class BaselineCorpus(Record):
    """The conditions under which a baseline holds; a None is not compared."""

    id: str
    digest: str | None = None
    samples: Count | None = None
    tokens: Count | None = None
    max_length: Count | None = None
    special_tokens: str | None = None


class BaselinePeak(Site):
    """Where the baseline's M was and what token held it."""

    value: FiniteFigure
    signed: Figure
    feature: Count | None = None
    sample: str | None = None
    position: Count | None = None
    token: str | None = None
    plateau: list[Count] | None = None


class BaselinePart(Record):
    """The baseline's M over one of the corpora that were joined."""

    corpus: str
    value: FiniteFigure


class BaselineSite(Site):
    """The signed extremes of one site, and dB of SQNR by number format (see `formats.FORMATS`).

    Published ones have no SQNR, and instead what analyses need: `rms`, and the Sun figures but for their margin.
    """

    max: Figure
    min: Figure
    sqnr: dict[str, Figure] | None = None
    rms: Figure | None = None
    sun: SunStatistics | None = None

    @model_serializer(mode="wrap")
    def _as_known(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name == "layer" or value is not None}

    @property
    def value(self) -> float:
        """max|a| of the site."""
        return max(abs(self.max), abs(self.min))


class ToleranceOverride(Record):
    """One tolerance that differs from the default, with the reason why.

    Without `component` it holds for M (`maximum`, `dominance` and the Sun margin), with it for the `profile` of that
    component's sites, or of one `layer`. `rtol` replaces the tolerance; `waived` switches the check of these sites off.
    """

    component: Component | None = None
    layer: Count | None = None
    rtol: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    waived: bool = False
    reason: Annotated[str, Field(min_length=1)]

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only what was given: an update leaves these lines of a baseline file as somebody wrote them."""
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}

    @model_validator(mode="after")
    def _means_something(self) -> ToleranceOverride:
        if self.component is None and (self.layer is not None or self.waived):
            raise ValueError("`layer` and `waived` need a `component`")
        if self.waived and self.rtol is not None:
            raise ValueError("give either `rtol` or `waived`")
        if self.component is None and self.rtol is None:
            raise ValueError("without a `component` it needs an `rtol`")
        return self


class Provenance(Record):
    """Who published the figures of a baseline that was not measured by this package, and what they do not tell.

    `source` names the publication in a word or two, `citation` in full; `hardware` is what it was measured on; `absent` are
    the facts, in words, that a baseline of our own would hold.
    """

    source: str
    citation: str
    hardware: str
    absent: list[str]


class Baseline(Record):
    """The part of a measurement that checks need: `of` makes one, `load` reads one.

    Absent facts are not checked, and results say so. Values are signed extremes as the model computes them, SQNR is in dB.
    `tolerances` are overrides with their reasons. One with a `provenance` was published by others: it holds for another corpus
    and device than a measurement's, and sites that it lacks are not judged.

    Raises:
        pydantic.ValidationError: where a field is missing, unknown or of another type, a site stands there twice, or one that
            is part of M is not finite.

    """

    schema_: Literal["maxact/baseline@1"] = Field(default=BASELINE_SCHEMA, alias="schema")
    model: BaselineModel
    corpus: BaselineCorpus
    provenance: Provenance | None = None
    peak: BaselinePeak
    parts: list[BaselinePart] = []
    dominance: Dominance | None = None
    sun: SunOutcome | None = None
    tolerances: list[ToleranceOverride] = []
    sites: Annotated[list[BaselineSite], Field(max_length=MAX_SITES)]

    @model_serializer(mode="wrap")
    def _as_known(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value or name not in ("provenance", "parts")}

    @model_validator(mode="after")
    def _can_be_compared_with(self) -> Baseline:
        _check_each_once(self.sites)
        for site in self.sites:
            if site.part_of_m and not math.isfinite(site.value):  # nothing ever exceeds it
                raise ValueError(f"{site} is not finite")
        return self

    @classmethod
    def of(cls, measurement: Measurement, tolerances: Iterable[ToleranceOverride] = ()) -> Baseline:
        """The baseline that a measurement makes, keeping given tolerances.

        Raises:
            BaselineError: where the measurement holds NaN or infinities: such a model is no reference; or contradicts itself.

        """
        broken = [s for s in measurement.sites if s.part_of_m and (s.nan or s.inf)]
        if measurement.peak is None or broken:
            raise BaselineError(
                f"no baseline is written from {measurement.model.id}: {len(broken)} of its sites hold NaN or infinities, "
                f"the first is {broken[0] if broken else 'unknown'}; measure a healthy checkpoint instead"
            )
        peak = measurement.peak
        kept = [s for s in measurement.sites if not s.component.startswith(INPUT)]  # they follow from what was asked for
        sites = sorted(kept, key=lambda s: (s.component, -1 if s.layer is None else s.layer))
        try:
            return cls(
                model=BaselineModel(**{name: getattr(measurement.model, name) for name in BaselineModel.model_fields}),
                corpus=BaselineCorpus(**{name: getattr(measurement.corpus, name) for name in BaselineCorpus.model_fields}),
                peak=BaselinePeak(**{name: getattr(peak, name) for name in BaselinePeak.model_fields}),
                parts=[BaselinePart(corpus=p.corpus, value=p.value) for p in measurement.parts if not math.isnan(p.value)],
                dominance=measurement.dominance,
                sun=measurement.sun,
                tolerances=list(tolerances),
                sites=[
                    BaselineSite(
                        component=s.component,
                        layer=s.layer,
                        max=s.max,
                        min=s.min,
                        sqnr={key: round(s.sqnr[key], 4) for key in BASELINE_SQNR if key in s.sqnr},
                    )
                    for s in sites
                ],
            )
        except ValidationError as cause:  # of a record that was read, and that no run has made
            raise BaselineError(f"no baseline is written from {measurement.model.id}: {first_of(cause)}") from None

    def site(self, component: str, layer: int | None) -> BaselineSite | None:
        """The stored extremes of one site, or None where the baseline has no such site."""
        return next((s for s in self.sites if s.component == component and s.layer == layer), None)

    def dumps(self) -> str:
        """The baseline as JSON text, one site a line, so that a diff shows the sites that moved."""
        return dumps(self)

    def save(self, path: str | Path) -> None:
        """Write the baseline, all of it or nothing.

        Raises:
            OSError: where the file cannot be written.

        """
        write_atomically(Path(path), self.dumps())

    @classmethod
    def load(cls, path: str | Path) -> Baseline:
        """Read a baseline.

        Raises:
            BaselineError: where the file is missing, is no JSON, follows a newer schema or breaks this one.

        """
        return _load(cls, Path(path), BaselineError, "baseline", BASELINE_SCHEMA, MAX_BASELINE)


Figures = Measurement | Baseline
"""What is known of a model: measured just now, or stored."""


def _check_each_once(sites: Sequence[Site]) -> None:
    places = Counter((site.component, site.layer) for site in sites)
    twice = next((str(site) for site in sites if places[site.component, site.layer] > 1), None)
    if twice is not None:
        raise ValueError(f"{shortened(twice)} is there more than once")


def sidecar_of(path: Path) -> Path:
    """Where the arrays of a record at `path` are kept: beside `run.json` in `run.npz`, beside `run.7` in `run.7.npz`."""
    return path.with_name(f"{path.stem if path.suffix == '.json' else path.name}.npz")


def _read_sidecar(path: Path, record: Measurement) -> Arrays:
    assert record.sidecar is not None
    try:
        data = read(path, MAX_PACKED)
    except OSError as cause:
        reason = f"{path}: {cause.strerror}"
        raise MeasurementError(f"the record's arrays cannot be read: {reason}; keep both files together") from None
    if hashlib.sha256(data).hexdigest() != record.sidecar.sha256:
        raise MeasurementError(f"the arrays in {path} are not those of the record: keep both files of one run together")
    layers = sum(site.component == "hidden" for site in record.sites)
    try:
        return Arrays.loads(data, [site.count for site in record.sites], (layers, record.corpus.samples))
    except ValueError as cause:
        raise MeasurementError(f"the arrays in {path} cannot be used: {cause}") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or an interrupted run, sees the old one or the new one, never a part. Text is UTF-8.

    Raises:
        OSError: where the file cannot be written, or a symbolic link stands there.

    """
    refuse_link(path)
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    data = content.encode() if isinstance(content, str) else content
    opened = part.open("xb")  # a file of its own, whatever somebody may have put there, a link among it
    try:
        with opened as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def refuse_link(path: Path) -> None:
    """Make sure that no symbolic link stands where a file is to be written: who put it there may want another one changed.

    Raises:
        OSError: where there is one.

    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link", str(path))


def dumps(record: Record) -> str:
    """A record as JSON, with one line for each top-level field and for each element of a list of records."""
    fields = []
    for name, value in record.model_dump(mode="json", by_alias=True).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            body = ",\n".join("    " + json.dumps(element, ensure_ascii=False) for element in value)
            fields.append(f'  "{name}": [\n{body}\n  ]')
        else:
            fields.append(f'  "{name}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _load(cls: type[RecordT], path: Path, error: type[MaxactError], what: str, schema: str, limit: int) -> RecordT:
    try:
        text = read(path, limit).decode()
    except FileNotFoundError:
        raise error(f"no such {what} file: {path}") from None
    except (OSError, UnicodeDecodeError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else cause
        raise error(f"the {what} file {path} cannot be read: {reason}") from None
    try:
        data = parse_own_json(text)
    except ValueError as cause:  # not only JSONDecodeError: a number can have too many digits
        raise error(f"the {what} file {path} is not JSON: {cause}") from None
    found = data.get("schema") if isinstance(data, dict) else None
    if found != schema:
        family, _, version = str(found).partition("@")
        number = int(version) if version.isdecimal() and len(version) < 10 else 0
        newer = family == schema.partition("@")[0] and number > int(schema.partition("@")[2])
        advice = "; it is newer than this pytest-maxact: upgrade that" if newer else ""
        raise error(f"the {what} file {path} has schema {shortened(repr(found))}, expected {schema!r}{advice}")
    try:
        return cls.model_validate(data)
    except ValidationError as cause:
        raise error(f"the {what} file {path} is malformed at {first_of(cause)}") from None


def first_of(cause: ValidationError) -> str:
    """The first place that is malformed, and how."""
    if cause.error_count() > MAX_ERRORS:  # to list them would take more memory than the file
        return f"{cause.error_count():,} places"
    first = cause.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the top level"
    place = place.encode("unicode_escape").decode("ascii")  # an unknown field may be named anything
    return f"{shortened(place, 200)}: {shortened(first['msg'], 300)}"
