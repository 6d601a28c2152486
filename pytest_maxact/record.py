"""Plain typed records: what was measured (`Measurement`) and what it is compared with (`Baseline`).

Both are read and written as UTF-8 JSON. Reading is strict: an unknown field, a wrong type or another schema version is an
error that names the place. NaN and infinities, which JSON lacks, are the strings "nan", "inf" and "-inf".
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from pytest_maxact.errors import BaselineError, MaxactError, MeasurementError

MEASUREMENT_SCHEMA: Literal["maxact/measurement@1"] = "maxact/measurement@1"
BASELINE_SCHEMA: Literal["maxact/baseline@1"] = "maxact/baseline@1"

Component = Literal["embedding", "hidden", "attention", "mlp", "gate", "router", "final_norm"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
PART_OF_M: frozenset[Component] = frozenset(COMPONENTS) - {"router"}
WITH_SUN: frozenset[Component] = PART_OF_M - {"gate"}

_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _from_word(value: Any) -> Any:
    return _WORDS.get(value, value) if isinstance(value, str) else value


def _to_word(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


Figure = Annotated[float, BeforeValidator(_from_word), PlainSerializer(_to_word, when_used="json")]
"""A float64 that survives JSON, NaN and infinities included."""


class Record(BaseModel):
    """Base of all records: frozen, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class Site(Record):
    """One place of a model where activations are observed.

    `layer` counts from 0 and is None for the components that a model has once (`embedding`, `final_norm`).
    """

    component: Component
    layer: Annotated[int, Field(ge=0)] | None = None

    def __str__(self) -> str:
        return self.component if self.layer is None else f"{self.component} layer {self.layer}"

    @property
    def part_of_m(self) -> bool:
        """Whether the site's values count for M."""
        return self.component in PART_OF_M


class Location(Record):
    """Where a value was seen. `sample`, `position` and the token are None where rows cannot be traced to tokens.

    `position` counts the sample's real tokens from 0. `before` and `after` are the decoded text around the token.
    """

    feature: int
    sample: str | None = None
    position: int | None = None
    token_id: int | None = None
    token: str | None = None
    before: str | None = None
    after: str | None = None


class SunFigures(Record):
    """Per-token figures of Sun et al. 2024 (arXiv 2402.17762) at one site.

    A token's ratio is max|x| / median|x| over its features, the lower median; a median of 0 makes it infinite where
    max|x| > 0, and an all-zero token has ratio 0. A token passes where max|x| > 100 and ratio > 1000. Tokens that hold a
    NaN or an infinity have no ratio and are left out. `std_ratio` is the population's. `margin` is the largest over
    tokens of min(max|x| / 100, ratio / 1000).
    """

    tokens: int
    passing: int
    peak_token_median: Figure
    peak_token_ratio: Figure
    max_ratio: Figure
    max_ratio_abs: Figure
    max_ratio_median: Figure
    mean_ratio: Figure
    std_ratio: Figure
    margin: Figure


class SiteFigures(Site):
    """What was measured at one site over all real tokens.

    `max` and `min` are the signed extremes of the finite values (both NaN where there is none), `count` is the number of
    values seen, of which `nan` and `inf` were not finite. `peak` is where max|a| is; None where there is none.
    """

    max: Figure
    min: Figure
    count: int
    nan: int
    inf: int
    peak: Location | None
    sun: SunFigures | None

    @property
    def value(self) -> float:
        """max|a| over the finite values of the site, NaN where there is none."""
        return max(abs(self.max), abs(self.min))


class Peak(Location, Site):
    """M = max|a| over all sites that are part of it.

    `plateau` holds the `hidden` layers within one bfloat16 step of the largest `hidden` peak, `ties` the other sites that
    hold exactly the same value.
    """

    value: Figure
    signed: Figure
    plateau: list[int]
    ties: list[Site]


class Dominance(Record):
    """Which component holds M, and the largest `hidden` peak over the largest peak of any other component of M."""

    component: Component
    ratio: Figure


class SunOutcome(Record):
    """The model's Sun outcome: `layers` are the `hidden` layers where a token passes, `margin` the largest of theirs."""

    passes: bool
    layers: list[int]
    margin: Figure


class Trajectory(Record):
    """The pattern of the `hidden` peaks by depth; see `outcome.trajectory` for the rule behind it."""

    pattern: Literal["jump-and-plateau", "gradual accumulation"]
    largest_step: Figure
    largest_step_layer: int


class Model(Record):
    """Which model was measured. `fingerprint` is the sha256 over config and weights; None for a model in memory."""

    id: str
    revision: str | None = None
    fingerprint: str | None = None
    architecture: str
    model_type: str
    layers: int
    hidden_size: int
    parameters: int
    dtype: str
    attention: str | None = None
    quantization: str | None = None


class CorpusFacts(Record):
    """What was run through the model. `digest` is the sha256 over the chosen samples; None for ready batches."""

    id: str
    digest: str | None
    samples: int
    tokens: int
    categories: dict[str, int]
    max_length: int | None
    special_tokens: str


class Environment(Record):
    """What else moves the figures: versions, device, and how samples were batched."""

    python: str
    torch: str
    transformers: str
    device: str
    threads: int
    ranks: int
    batch_tokens: int | None


class Timing(Record):
    """Wall time of the forwards and their hooks, loading left out."""

    seconds: float
    tokens_per_s: float


RecordT = TypeVar("RecordT", bound=Record)


class Measurement(Record):
    """Everything one pass over the corpus found. Sites stand in the order in which the model ran them.

    `notes` say in words what could not be observed.
    """

    schema_: Literal["maxact/measurement@1"] = Field(default=MEASUREMENT_SCHEMA, alias="schema")
    model: Model
    corpus: CorpusFacts
    environment: Environment
    peak: Peak | None
    dominance: Dominance | None
    sun: SunOutcome | None
    trajectory: Trajectory | None
    sites: list[SiteFigures]
    notes: list[str]
    timing: Timing

    def site(self, component: str, layer: int | None) -> SiteFigures | None:
        """The figures of one site, or None where the model has no such site."""
        return next((s for s in self.sites if s.component == component and s.layer == layer), None)

    def dumps(self) -> str:
        """The record as JSON text, one site a line."""
        return _dumps(self)

    def save(self, path: str | Path) -> None:
        """Write the record, all of it or nothing.

        Raises:
            OSError: where the file cannot be written.

        """
        write_atomically(Path(path), self.dumps())

    @classmethod
    def load(cls, path: str | Path) -> Measurement:
        """Read a record.

        Raises:
            MeasurementError: where the file is missing, is no JSON, or does not follow the schema.

        """
        return _load(cls, Path(path), MeasurementError, "record", MEASUREMENT_SCHEMA)


class BaselineModel(Record):
    """The model a baseline was made from; published baselines know less of it."""

    id: str
    revision: str | None = None
    fingerprint: str | None = None
    architecture: str | None = None
    model_type: str | None = None
    layers: int | None = None
    hidden_size: int | None = None
    dtype: str | None = None


class BaselineCorpus(Record):
    """The conditions under which a baseline holds; a None is not compared."""

    id: str
    digest: str | None = None
    samples: int | None = None
    tokens: int | None = None
    max_length: int | None = None
    special_tokens: str | None = None


class BaselinePeak(Site):
    """Where the baseline's M was and what token held it."""

    value: Annotated[Figure, Field(ge=0, allow_inf_nan=False)]  # nothing ever exceeds a NaN
    signed: Figure
    feature: int | None = None
    sample: str | None = None
    position: int | None = None
    token: str | None = None
    plateau: list[int] | None = None


class BaselineSite(Site):
    """The signed extremes of one site."""

    max: Figure
    min: Figure

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
    layer: Annotated[int, Field(ge=0)] | None = None
    rtol: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    waived: bool = False
    reason: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _means_something(self) -> ToleranceOverride:
        if self.component is None and (self.layer is not None or self.waived):
            raise ValueError("`layer` and `waived` need a `component`")
        if self.waived and self.rtol is not None:
            raise ValueError("give either `rtol` or `waived`")
        if self.component is None and self.rtol is None:
            raise ValueError("without a `component` it needs an `rtol`")
        return self


class Baseline(Record):
    """The part of a measurement that checks need. Absent facts are not checked, and results say so."""

    schema_: Literal["maxact/baseline@1"] = Field(default=BASELINE_SCHEMA, alias="schema")
    model: BaselineModel
    corpus: BaselineCorpus
    peak: BaselinePeak
    dominance: Dominance | None = None
    sun: SunOutcome | None = None
    tolerances: list[ToleranceOverride] = []
    sites: list[BaselineSite]

    @model_validator(mode="after")
    def _can_be_compared_with(self) -> Baseline:
        places = [(site.component, site.layer) for site in self.sites]
        twice = next((str(site) for site in self.sites if places.count((site.component, site.layer)) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is there more than once")
        for site in self.sites:
            if site.part_of_m and not math.isfinite(site.value):  # nothing ever exceeds it
                raise ValueError(f"{site} is not finite")
        return self

    @classmethod
    def of(cls, measurement: Measurement, tolerances: Iterable[ToleranceOverride] = ()) -> Baseline:
        """The baseline that a measurement makes, keeping given tolerances.

        Raises:
            BaselineError: where the measurement holds NaN or infinities: such a model is no reference.

        """
        broken = [s for s in measurement.sites if s.part_of_m and (s.nan or s.inf)]
        if measurement.peak is None or broken:
            raise BaselineError(
                f"no baseline is written from {measurement.model.id}: {len(broken)} of its sites hold NaN or infinities, "
                f"the first is {broken[0] if broken else 'unknown'}; measure a healthy checkpoint instead"
            )
        peak = measurement.peak
        sites = sorted(measurement.sites, key=lambda s: (s.component, -1 if s.layer is None else s.layer))
        return cls(
            model=BaselineModel(**{name: getattr(measurement.model, name) for name in BaselineModel.model_fields}),
            corpus=BaselineCorpus(**{name: getattr(measurement.corpus, name) for name in BaselineCorpus.model_fields}),
            peak=BaselinePeak(**{name: getattr(peak, name) for name in BaselinePeak.model_fields}),
            dominance=measurement.dominance,
            sun=measurement.sun,
            tolerances=list(tolerances),
            sites=[BaselineSite(component=s.component, layer=s.layer, max=s.max, min=s.min) for s in sites],
        )

    def site(self, component: str, layer: int | None) -> BaselineSite | None:
        """The stored extremes of one site, or None where the baseline has no such site."""
        return next((s for s in self.sites if s.component == component and s.layer == layer), None)

    def dumps(self) -> str:
        """The baseline as JSON text, one site a line, so that a diff shows the sites that moved."""
        return _dumps(self)

    @classmethod
    def load(cls, path: str | Path) -> Baseline:
        """Read a baseline.

        Raises:
            BaselineError: where the file is missing, is no JSON, follows a newer schema or breaks this one.

        """
        return _load(cls, Path(path), BaselineError, "baseline", BASELINE_SCHEMA)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or an interrupted run, sees the old one or the new one, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _dumps(record: Record) -> str:
    """JSON with one line for each top-level field and for each element of a list of records."""
    fields = []
    for name, value in record.model_dump(mode="json", by_alias=True).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            body = ",\n".join("    " + json.dumps(element, ensure_ascii=False) for element in value)
            fields.append(f'  "{name}": [\n{body}\n  ]')
        else:
            fields.append(f'  "{name}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _load(cls: type[RecordT], path: Path, error: type[MaxactError], what: str, schema: str) -> RecordT:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"no such {what} file: {path}") from None
    except (OSError, UnicodeDecodeError, RecursionError) as cause:
        raise error(f"the {what} file {path} cannot be read: {cause}") from None
    except ValueError as cause:  # JSONDecodeError, or a number of too many digits
        raise error(f"the {what} file {path} is not JSON: {cause}") from None
    found = data.get("schema") if isinstance(data, dict) else None
    if found != schema:
        family, _, version = str(found).partition("@")
        number = int(version) if version.isdecimal() and len(version) < 10 else 0
        newer = family == schema.partition("@")[0] and number > int(schema.partition("@")[2])
        advice = "; it is newer than this pytest-maxact: upgrade that" if newer else ""
        raise error(f"the {what} file {path} has schema {found!r}, expected {schema!r}{advice}")
    try:
        return cls.model_validate(data)
    except ValidationError as cause:
        first = cause.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the top level"
        place = place.encode("unicode_escape").decode("ascii")  # an unknown field may be named anything
        raise error(f"the {what} file {path} is malformed at {place}: {first['msg']}") from None
