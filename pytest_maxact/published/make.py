"""Make the published baselines: `python -m pytest_maxact.published.make SOURCE_FOLDER OUTPUT_FOLDER`.

The source is what the authors of arXiv 2605.15572 published as JSON, brought into four parts: `summary.json` (one row a
checkpoint), `checkpoints/NAME.json` (the same row with its sites), `bootstrap.json` and `int8.json`. The output is a baseline
for each checkpoint, named by its hub id, and `landscape.json` with all that is no baseline. This is how `baselines/published/`
came to be; other figures of the same form make other baselines. A source that contradicts itself is refused.

What is derived rather than copied: from the sites the plateau, dominance, the layers that pass Sun's criterion, and its margin
where the tokens that the figures tell of decide it; the tolerance of M from how far the M of bootstrap subsets lay from that of
the whole corpus.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, TypeAdapter, ValidationError, model_validator

from pytest_maxact.baseline import file_name
from pytest_maxact.errors import BaselineError
from pytest_maxact.files import read
from pytest_maxact.outcome import within_one_step
from pytest_maxact.published import LANDSCAPE, BootstrapRow, Int8Row, Kind, Landscape, Policy, PublishedModel
from pytest_maxact.record import (
    MASSIVE_ABS,
    MASSIVE_RATIO,
    PART_OF_M,
    Baseline,
    BaselineCorpus,
    BaselineModel,
    BaselinePeak,
    BaselineSite,
    Component,
    Count,
    Dominance,
    Provenance,
    Record,
    Site,
    SunOutcome,
    SunStatistics,
    ToleranceOverride,
    dumps,
    first_of,
    write_atomically,
)

SOURCE = "arXiv 2605.15572"
CITATION = "L. Chen et al.: Measuring Maximum Activations in Open Large Language Models. arXiv:2605.15572, 2026"
HARDWARE = "one 80 GB-class GPU"
CORPUS = "hf:Clxxxx/eval_diverse_dataset"
POLICIES: dict[str, Policy] = {"max_abs": "maxabs", "clip_q0.999": "p999"}
ALWAYS_ABSENT = (
    "feature, token and position of the peak",
    "how many values were NaN or infinite",
    "SQNR",
    "weights' fingerprint and revision",
)
WITHOUT_LAYER = ("embedding", "final_norm")

MAX_SOURCE = 64 << 20  # bytes of a file; the largest one has 30 kB
FARTHEST = 1000.0  # times M: what a subset of the corpus cannot reach
DIGITS = 6  # of the source's moments and ratios

Source = TypeVar("Source")


class SourceRow(BaseModel):
    """Base of what is read: its numbers are finite, fields that are not used may be there."""

    model_config = ConfigDict(allow_inf_nan=False)


Name = Annotated[str, Field(pattern=r"^[\w.-]{1,96}$")]
"""A checkpoint's, which is the name of a file too."""

PositiveCount = Annotated[Count, Field(gt=0)]


class PeakHidden(SourceRow):
    """The `hidden` layer that holds the largest `hidden` peak, and the ratio of its peak token by Sun's criterion."""

    layer: int | None
    abs: float
    ratio: float | None


class SummaryRow(SourceRow):
    """One row of `summary.json`, as far as it is used."""

    name: Name
    hub_id: Annotated[str, Field(pattern=r"^[\w.-]{1,96}/[\w.-]{1,96}$")]
    family: str
    size: Annotated[str, Field(pattern=r"^\d{1,9}(\.\d+)?B(-A\d{1,9}(\.\d+)?B)?( @\d{1,9}(\.\d+)?T)?$", max_length=80)]
    kind: Annotated[str, Field(pattern="^(dense|moe|vision-language)($|, )")]
    main_analysis: bool
    model_type: str
    layers: PositiveCount
    hidden_size: PositiveCount
    dtype: str
    samples: PositiveCount
    tokens: PositiveCount
    M: PositiveFloat
    M_signed: float
    peak_component: str
    peak_layer: int | None
    peak_hidden: PeakHidden
    component_max: dict[str, float]
    sun_passes: bool
    sun_layers_passing: int
    reference_wall_s: float


class SourceSite(SourceRow):
    """One site of `checkpoints/NAME.json`, as far as it is used."""

    component: Component
    layer: Annotated[int, Field(ge=0)] | None
    max: float
    min: float
    rms: Annotated[float, Field(ge=0)]
    sun: SunStatistics | None = None

    @model_validator(mode="after")
    def _is_possible(self) -> SourceSite:
        if (self.layer is None) != (self.component in WITHOUT_LAYER):
            raise ValueError(f"{self.component} has layer {self.layer}")
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        if self.sun is not None and any(map(math.isnan, self.sun.model_dump().values())):
            raise ValueError("one of the Sun figures is NaN")
        return self

    @property
    def value(self) -> float:
        """max|a|."""
        return max(abs(self.max), abs(self.min))


class SourceCheckpoint(SummaryRow):
    """`checkpoints/NAME.json`: the row of `summary.json` once more, with the sites."""

    sites: list[SourceSite]


class SourceBootstrap(SourceRow):
    """One row of `bootstrap.json`, as far as it is used."""

    name: Name
    samples: Count
    repeat: Count
    M: PositiveFloat


class SourceInt8(SourceRow):
    """One row of `int8.json`, as far as it is used."""

    name: Name
    policy: Literal["max_abs", "clip_q0.999"]
    threshold: float
    sqnr_db: float
    clip_rate: float


def main() -> None:
    """Make the baselines of the source folder named on the command line in the output folder."""
    parser = argparse.ArgumentParser(prog="python -m pytest_maxact.published.make", description=main.__doc__)
    parser.add_argument("source_folder", type=Path)
    parser.add_argument("output_folder", type=Path)
    arguments = parser.parse_args()
    try:
        count = make(arguments.source_folder, arguments.output_folder)
    except (BaselineError, OSError) as cause:
        sys.exit(f"{parser.prog}: {cause}")
    print(f"{arguments.output_folder}: {count} checkpoint{'s' if count > 1 else ''}")


def make(source: Path, output: Path) -> int:
    """Write a baseline for each checkpoint, and the landscape; nothing before all of them are made.

    Returns:
        How many checkpoints there are.

    Raises:
        BaselineError: where a file is missing, is not of the form described above, or contradicts itself or another.
        OSError: where a file cannot be written.

    """
    summary = _read(source / "summary.json", list[SummaryRow])
    bootstrap = _read(source / "bootstrap.json", list[SourceBootstrap])
    int8 = _read(source / "int8.json", list[SourceInt8])
    _check_rows(source, summary, bootstrap, int8)
    overrides = _tolerances(summary, bootstrap)
    made: dict[str, Record] = {}
    for row in summary:
        file = source / "checkpoints" / f"{row.name}.json"
        checkpoint = _read(file, SourceCheckpoint)
        _check_checkpoint(file, checkpoint, row)
        made[file_name(row.hub_id)] = _baseline(checkpoint, overrides[row.name])
    made[LANDSCAPE] = Landscape(
        models=[_model(row) for row in summary],
        int8=[
            Int8Row(name=r.name, policy=POLICIES[r.policy], threshold=r.threshold, sqnr=r.sqnr_db, clipped=r.clip_rate)
            for r in int8
        ],
        bootstrap=[BootstrapRow(name=row.name, samples=row.samples, repeat=row.repeat, maximum=row.M) for row in bootstrap],
    )
    output.mkdir(parents=True, exist_ok=True)
    for name, record in made.items():
        write_atomically(output / name, dumps(record))
    return len(summary)


def _read(file: Path, kind: type[Source]) -> Source:
    try:
        return TypeAdapter(kind).validate_json(read(file, MAX_SOURCE))
    except OSError as cause:
        raise BaselineError(f"{file} cannot be read: {cause.strerror}") from None
    except ValidationError as cause:
        raise BaselineError(f"{file} is malformed at {first_of(cause)}") from None


def _check_rows(
    source: Path, summary: Sequence[SummaryRow], bootstrap: Sequence[SourceBootstrap], int8: Sequence[SourceInt8]
) -> None:
    """Refuse a summary without rows, rows that stand there twice, and rows about checkpoints that the summary lacks."""
    if not summary:
        raise BaselineError(f"{source / 'summary.json'} holds no checkpoint")
    _once(source / "summary.json", (row.name for row in summary))
    _once(source / "summary.json", (file_name(row.hub_id) for row in summary))
    _once(source / "bootstrap.json", (f"{row.name}, {row.samples} samples, repeat {row.repeat}" for row in bootstrap))
    _once(source / "int8.json", (f"{row.name}, {row.policy}" for row in int8))
    whole = {row.name: row.M for row in summary}
    for subset in bootstrap:
        if subset.name in whole and subset.M > FARTHEST * whole[subset.name]:
            told = f"M of {subset.name} over {subset.samples} samples is {subset.M}, over all of them {whole[subset.name]}"
            raise BaselineError(f"{source / 'bootstrap.json'}: {told}")
    for file, rows in (("bootstrap.json", bootstrap), ("int8.json", int8)):
        for row in rows:
            if row.name not in whole:
                raise BaselineError(f"{source / file}: {row.name} is no checkpoint of summary.json")


def _once(file: Path, keys: Iterable[str]) -> None:
    for key, count in Counter(keys).items():
        if count > 1:
            raise BaselineError(f"{file}: {key} is there more than once")


def _check_checkpoint(file: Path, checkpoint: SourceCheckpoint, row: SummaryRow) -> None:
    """Refuse a checkpoint whose row is not that of the summary, or whose sites do not make up that row."""
    _compare(file, {name: (getattr(row, name), [getattr(checkpoint, name)]) for name in SummaryRow.model_fields})
    sites = checkpoint.sites
    _once(file, (str(Site(component=site.component, layer=site.layer)) for site in sites))
    hidden = [site for site in sites if site.component == "hidden"]
    passing = sum(site.sun is not None and site.sun.passing > 0 for site in hidden)
    largest = _largest(sites)
    at_peak = [site for site in sites if (site.component, site.layer) == (row.peak_component, row.peak_layer)]
    _compare(
        file,
        {
            "layers": (row.layers, [len(hidden)]),
            "the last layer": (row.layers - 1, [max((site.layer for site in sites if site.layer is not None), default=None)]),
            "M": (row.M, [max(largest.values(), default=None)]),
            "M_signed at the peak site": (
                row.M_signed,
                [value for s in at_peak for value in (s.max, s.min) if abs(value) == row.M],
            ),
            "peak_hidden": (
                row.peak_hidden,
                [
                    PeakHidden(layer=site.layer, abs=site.value, ratio=site.sun and site.sun.peak_token_ratio)
                    for site in hidden
                    if site.value == largest["hidden"]
                ],
            ),
            "component_max": (row.component_max, [largest]),
            "sun_passes": (row.sun_passes, [passing > 0]),
            "sun_layers_passing": (row.sun_layers_passing, [passing]),
        },
    )
    if not any(largest[component] for component in largest.keys() - {"hidden"}):
        raise BaselineError(f"{file}: no site but hidden holds a value, so there is no dominance")


def _compare(file: Path, facts: Mapping[str, tuple[object, Sequence[object]]]) -> None:
    """Refuse a file of which a fact can be none of what was found there; each is given as the summary has it."""
    for fact, (value, found) in facts.items():
        if value not in found:
            told = " or ".join(map(str, found)) or "not there"
            raise BaselineError(f"{file}: {fact} is {told}, by summary.json it is {value}")


def _largest(sites: Sequence[SourceSite]) -> dict[str, float]:
    """By component of M, where there are such sites: max|a|."""
    largest: dict[str, float] = {}
    for site in sites:
        if site.component in PART_OF_M:
            largest[site.component] = max(largest.get(site.component, 0.0), site.value)
    return largest


def _tolerances(summary: Sequence[SummaryRow], bootstrap: Sequence[SourceBootstrap]) -> dict[str, list[ToleranceOverride]]:
    """By checkpoint: how far the M of any of its subsets lay from that of the whole corpus, else how far any other's did."""
    spread: dict[str, float] = {}
    for row in summary:
        deviations = [abs(subset.M / row.M - 1) for subset in bootstrap if subset.name == row.name]
        if deviations:
            spread[row.name] = max(1, math.ceil(max(deviations) * 1000)) / 1000
    if not spread:
        return {row.name: [] for row in summary}
    worst = max(spread, key=lambda name: spread[name])
    by_others = f"not bootstrapped; of the {len(spread)} checkpoints that were, the largest deviation of M ({worst})"
    own = "the largest deviation of M over bootstrap subsets of the corpus from that over all of it"
    return {
        row.name: [
            ToleranceOverride(rtol=spread[row.name], reason=own)
            if row.name in spread
            else ToleranceOverride(rtol=spread[worst], reason=by_others)
        ]
        for row in summary
    }


def _model(row: SummaryRow) -> PublishedModel:
    size, _, stage = row.size.partition(" @")
    total, _, active = size.partition("-A")
    return PublishedModel(
        name=row.name,
        hub_id=row.hub_id,
        family=row.family,
        kind=cast(Kind, row.kind.partition(",")[0]),
        instruct="instruct" in row.kind,
        parameters=float(total.removesuffix("B")),
        active=float(active.removesuffix("B")) if active else None,
        trained=float(stage.removesuffix("T")) if stage else None,
        main=row.main_analysis,
        tokens=row.tokens,
        seconds=row.reference_wall_s,
    )


def _baseline(row: SourceCheckpoint, tolerances: list[ToleranceOverride]) -> Baseline:
    sites = sorted(row.sites, key=lambda site: (site.component, -1 if site.layer is None else site.layer))
    hidden = [site for site in sites if site.component == "hidden"]
    passing = [site.layer for site in hidden if site.layer is not None and site.sun is not None and site.sun.passing]
    largest = _largest(sites)
    others = max(value for component, value in largest.items() if component != "hidden")
    gates = {site.layer for site in sites if site.component == "gate"}
    ungated = [layer for layer in range(row.layers) if layer not in gates]
    return Baseline(
        model=BaselineModel(
            id=row.hub_id, model_type=row.model_type, layers=row.layers, hidden_size=row.hidden_size, dtype=row.dtype
        ),
        corpus=BaselineCorpus(id=CORPUS, samples=row.samples, tokens=row.tokens, special_tokens="none"),
        provenance=Provenance(
            source=SOURCE,
            citation=CITATION,
            hardware=HARDWARE,
            absent=[*ALWAYS_ABSENT, *([f"gate of {len(ungated)} of {row.layers} layers"] if ungated else [])],
        ),
        peak=BaselinePeak(
            component=row.peak_component,
            layer=row.peak_layer,
            value=row.M,
            signed=row.M_signed,
            plateau=[s.layer for s in hidden if s.layer is not None and within_one_step(s.value, largest["hidden"])],
        ),
        dominance=Dominance(component=row.peak_component, ratio=largest["hidden"] / others),
        sun=SunOutcome(passes=row.sun_passes, layers=passing, margin=_margin(hidden)),
        tolerances=tolerances,
        sites=[BaselineSite(component=s.component, layer=s.layer, max=s.max, min=s.min, rms=s.rms, sun=s.sun) for s in sites],
    )


def _margin(hidden: Sequence[SourceSite]) -> float:
    """The Sun margin, NaN where the two tokens that a site tells of (largest value, largest ratio) leave it open."""
    least = most = 0.0
    for site in hidden:
        if site.sun is None:
            return math.nan
        at_peak = min(site.value / MASSIVE_ABS, site.sun.peak_token_ratio / MASSIVE_RATIO)
        at_ratio = min(site.sun.max_ratio_abs / MASSIVE_ABS, site.sun.max_ratio / MASSIVE_RATIO)
        least = max(least, at_peak, at_ratio)
        most = max(most, min(site.value / MASSIVE_ABS, site.sun.max_ratio / MASSIVE_RATIO))
    return float(f"{least:.{DIGITS}g}") if math.isclose(least, most, rel_tol=10.0 ** (1 - DIGITS)) else math.nan


if __name__ == "__main__":
    main()
