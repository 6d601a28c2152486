"""Records and baselines outlive the program that wrote them: what is read back must be what was written, or an error."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_maxact.errors import BaselineError, MeasurementError
from pytest_maxact.histogram import PATTERNS, Histogram
from pytest_maxact.record import (
    Baseline,
    BaselineSite,
    CorpusFacts,
    Dominance,
    Environment,
    Location,
    Measurement,
    Model,
    Peak,
    Record,
    SampleFigures,
    Site,
    SiteFigures,
    SunFigures,
    SunOutcome,
    Timing,
    ToleranceOverride,
    Trajectory,
    write_atomically,
)
from pytest_maxact.sidecar import Arrays

THIRD = 1 / 3
PLACE = Location(signed=-1e308, feature=3, sample="s\n1", position=0, token_id=7, token=" 𝛼\u2028", before="", after="\x00z")
SUN = SunFigures(
    tokens=4,
    passing=1,
    peak_token_median=0.0,
    peak_token_ratio=math.inf,
    max_ratio=math.inf,
    max_ratio_abs=1e-320,
    max_ratio_median=-0.0,
    mean_ratio=math.inf,
    std_ratio=math.nan,
    margin=THIRD,
)


def figures(
    component: Any, layer: int | None, high: float = 1.0, low: float = -1.0, *, nan: int = 0, inf: int = 0
) -> SiteFigures:
    peak = None if math.isnan(high) else PLACE
    return SiteFigures(
        component=component,
        layer=layer,
        max=high,
        min=low,
        count=8,
        nan=nan,
        inf=inf,
        peak=peak,
        mean=THIRD,
        std=math.nan,
        rms=5e-324,
        abs_mean=0.1 + 0.2,
        abs_quantiles={"0.25": THIRD, "0.999": math.nan},
        top=[high, low],
        crest=math.inf,
        sun=SUN if layer else None,
        sqnr={"int8_maxabs": THIRD, "int8_p999": math.inf, "int4_maxabs": math.nan},
        approximate=bool(nan),
    )


def measurement(*sites: SiteFigures) -> Measurement:
    return Measurement(
        model=Model(
            id="org/name",
            revision="abc",
            fingerprint="f" * 64,
            architecture="LlamaModel",
            model_type="llama",
            layers=2,
            hidden_size=4,
            parameters=10**12,
            dtype="bfloat16",
            attention="sdpa",
        ),
        corpus=CorpusFacts(
            id="core", digest="d" * 64, samples=2, tokens=9, categories={"prose": 2}, max_length=None, special_tokens="none"
        ),
        environment=Environment(
            python="3.11", torch="2.6", transformers="5.0", device="cpu", threads=1, ranks=1, batch_tokens=None, kernel="eager"
        ),
        peak=Peak(
            **PLACE.model_dump(),
            component="hidden",
            layer=1,
            value=1e308,
            plateau=[0, 1],
            ties=[Site(component="final_norm")],
        ),
        dominance=Dominance(component="hidden", ratio=math.inf),
        sun=SunOutcome(passes=True, layers=[1], margin=THIRD),
        trajectory=Trajectory(pattern="jump-and-plateau", largest_step=-math.inf, largest_step_layer=1),
        sites=list(sites) or [figures("hidden", 1, 5e-324, -1e308), figures("embedding", None, math.nan, math.nan)],
        samples=[SampleFigures(id=name, category=None, tokens=9, peak=math.nan) for name in ("s\n1", "s2")],
        notes=["one", "two"],
        timing=Timing(seconds=0.1 + 0.2, tokens_per_s=30.0, hook_fraction=None),
    )


def healthy() -> Measurement:
    """Sites in execution order, as a run gives them."""
    return measurement(
        figures("embedding", None),
        figures("hidden", 10, THIRD),
        figures("gate", 0),
        figures("hidden", 2, 5e-324, -1e308),
        figures("router", 0, 1.0, -2.0, inf=3),
        figures("final_norm", None),
    )


def bits(value: Any) -> Any:
    """The same structure with each float as its eight bytes, so that -0.0 differs from 0.0 and NaN equals NaN."""
    if isinstance(value, float):
        return struct.pack(">d", value)
    if isinstance(value, dict):
        return {key: bits(entry) for key, entry in value.items()}
    return [bits(entry) for entry in value] if isinstance(value, list) else value


def refuse_bare_constants(word: str) -> float:
    raise AssertionError(f"{word} is no JSON")


def no_constants(text: str) -> Any:
    """Parse text as JSON proper: NaN and Infinity, which Python's parser lets pass, are refused."""
    return json.loads(text, parse_constant=refuse_bare_constants)


# --- there and back


def test_a_measurement_comes_back_bit_for_bit(tmp_path: Path) -> None:
    record, file = measurement(), tmp_path / "record.json"
    record.save(file)
    back = Measurement.load(file)
    assert bits(back.model_dump()) == bits(record.model_dump())
    assert back.dumps() == record.dumps() == file.read_text(encoding="utf-8")
    no_constants(record.dumps())


def test_a_baseline_comes_back_bit_for_bit(tmp_path: Path) -> None:
    override = ToleranceOverride(component="hidden", layer=2, rtol=THIRD, reason="two runs differ")
    baseline, file = Baseline.of(healthy(), [override]), tmp_path / "baseline.json"
    write_atomically(file, baseline.dumps())
    back = Baseline.load(file)
    assert bits(back.model_dump()) == bits(baseline.model_dump())
    assert back.dumps() == baseline.dumps()
    assert back.tolerances == [override]
    assert '{"component": "hidden", "layer": 2, "rtol": 0.3333333333333333, "reason": "two runs differ"}' in baseline.dumps()
    no_constants(baseline.dumps())


@given(st.floats(), st.floats(), st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_figure_and_any_text_come_back(tmp_path: Path, high: float, low: float, token: str) -> None:
    site = figures("hidden", 1, high, low).model_copy(update={"peak": PLACE.model_copy(update={"token": token})})
    record, file = measurement(site), tmp_path / "record.json"
    record.save(file)
    (back,) = Measurement.load(file).sites
    assert back.peak is not None
    assert back.peak.token == token
    if math.isnan(high):  # one NaN is as good as another
        assert math.isnan(back.max)
    else:
        assert bits(back.max) == bits(high)
    assert math.isnan(back.min) if math.isnan(low) else bits(back.min) == bits(low)


def test_nan_and_infinities_are_words() -> None:
    data = no_constants(measurement().dumps())
    assert data["sites"][0]["sun"]["std_ratio"] == "nan"
    assert data["sites"][0]["sun"]["max_ratio"] == "inf"
    assert data["trajectory"]["largest_step"] == "-inf"
    assert data["schema"] == "maxact/measurement@1"


def test_records_cannot_be_changed_after_the_fact() -> None:
    with pytest.raises(ValueError, match="frozen"):
        measurement().notes = []  # type: ignore[misc]


def test_sites_are_found_by_component_and_layer() -> None:
    record = healthy()
    found, stored = record.site("hidden", 2), Baseline.of(record).site("embedding", None)
    assert found is record.sites[3]
    assert found.value == 1e308
    kept = {"int8_maxabs": 0.3333, "int8_p999": math.inf}  # of four decimals, and not of every format
    assert stored == BaselineSite(component="embedding", layer=None, max=1.0, min=-1.0, sqnr=kept)
    assert record.site("hidden", None) is record.site("mlp", 2) is None


# --- the text of a baseline


def test_a_baseline_has_one_sorted_site_a_line() -> None:
    lines = Baseline.of(healthy()).dumps().splitlines()
    rows = [json.loads(line.rstrip(",")) for line in lines if line.startswith('    {"component"')]
    places = [(row["component"], row["layer"]) for row in rows]
    assert places == [("embedding", None), ("final_norm", None), ("gate", 0), ("hidden", 2), ("hidden", 10), ("router", 0)]
    assert all(row.keys() == {"component", "layer", "max", "min", "sqnr"} for row in rows)


def test_the_order_in_which_sites_ran_leaves_no_trace_in_a_baseline() -> None:
    record = healthy()
    assert Baseline.of(record.model_copy(update={"sites": record.sites[::-1]})).dumps() == Baseline.of(record).dumps()


def test_a_baseline_holds_no_path_no_time_and_no_machine() -> None:
    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    record = healthy()
    text = Baseline.of(record).dumps()
    other = record.model_copy(
        update={
            "timing": Timing(seconds=9.0, tokens_per_s=1.0, hook_fraction=THIRD),
            "environment": record.environment.model_copy(update={"device": "cuda", "threads": 64}),
            "notes": ["other"],
        }
    )
    assert Baseline.of(other).dumps() == text
    assert not keys(json.loads(text)) & {"path", "time", "date", "seconds", "timing", "environment", "device", "host", "notes"}


@pytest.mark.parametrize("count", ["nan", "inf"])
def test_no_baseline_is_made_of_a_broken_model(count: str) -> None:
    site = figures("mlp", 1).model_copy(update={count: 1})
    with pytest.raises(BaselineError, match="1 of its sites hold NaN or infinities, the first is mlp layer 1"):
        Baseline.of(measurement(figures("hidden", 0), site))
    with pytest.raises(BaselineError, match="no baseline is written from org/name"):
        Baseline.of(healthy().model_copy(update={"peak": None}))


# --- reading is strict


def change(data: Any, *path: str | int, to: Any = None, drop: bool = False) -> Any:
    """The JSON value with one place changed."""
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return data


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda d: change(d, "surprise", to=1), "malformed at surprise: Extra inputs are not permitted"),
        (lambda d: change(d, "sites", 1, "mean", to=1.0), r"malformed at sites.1.mean: Extra inputs"),
        (lambda d: change(d, "line\nend", to=1), r"malformed at line\\nend: Extra inputs"),
        (lambda d: change(d, "peak", "value", to="1.0"), r"malformed at peak.value: .*valid number"),
        (lambda d: change(d, "peak", "value", to="NaN"), r"malformed at peak.value: .*valid number"),
        (lambda d: change(d, "peak", "value", to=True), r"malformed at peak.value: .*valid number"),
        (lambda d: change(d, "peak", "value", to="nan"), r"malformed at peak.value: "),
        (lambda d: change(d, "peak", "value", to="inf"), r"malformed at peak.value: .*finite"),
        (lambda d: change(d, "peak", "value", to=-1.0), r"malformed at peak.value: .*greater than or equal to 0"),
        (lambda d: change(d, "peak", "feature", to=1.0), r"malformed at peak.feature: .*valid integer"),
        (lambda d: change(d, "peak", "layer", to=-1), r"malformed at peak.layer: .*greater than or equal to 0"),
        (lambda d: change(d, "sites", 0, "component", to="head"), r"malformed at sites.0.component: .*embedding\|"),
        (lambda d: change(d, "sites", 0, "max", drop=True), r"malformed at sites.0.max: Field required"),
        (lambda d: change(d, "sites", to={}), "malformed at sites: .*valid list"),
        (
            lambda d: change(d, "tolerances", to=[{"rtol": 0.0, "reason": "r"}]),
            r"malformed at tolerances.0.rtol: .*greater than 0",
        ),
        (
            lambda d: change(d, "tolerances", to=[{"layer": 7, "rtol": 9.0, "reason": "r"}]),
            r"malformed at tolerances.0: .*need a `component`",
        ),
        (
            lambda d: change(d, "tolerances", to=[{"component": "mlp", "rtol": 9.0, "waived": True, "reason": "r"}]),
            r"malformed at tolerances.0: .*either `rtol` or `waived`",
        ),
        (lambda d: change(d, "tolerances", to=[{"rtol": "inf", "reason": "r"}]), r"malformed at tolerances.0.rtol: "),
        (lambda d: change(d, "sites", 0, "max", to="nan"), r"malformed at the top level: .*is not finite"),
        (
            lambda d: change(d, "sites", to=[*d["sites"], d["sites"][0]]),
            r"malformed at the top level: .*is there more than once",
        ),
        (lambda d: change(d, "tolerances", to=[{"rtol": 0.2}]), r"malformed at tolerances.0.reason: Field required"),
        (
            lambda d: change(d, "tolerances", to=[{"rtol": 0.2, "reason": ""}]),
            r"malformed at tolerances.0.reason: .*at least 1",
        ),
        (lambda d: change(d, "schema", to="maxact/measurement@1"), "has schema 'maxact/measurement@1', expected"),
        (lambda d: change(d, "schema", drop=True), "has schema None, expected 'maxact/baseline@1'$"),
        (
            lambda d: change(d, "schema", to="maxact/baseline@0"),
            "has schema 'maxact/baseline@0', expected 'maxact/baseline@1'$",
        ),
        (lambda d: change(d, "schema", to="maxact/baseline@2"), "it is newer than this pytest-maxact: upgrade that"),
        (lambda d: change(d, "schema", to="maxact/baseline@10"), "it is newer than this pytest-maxact"),
        (lambda d: change(d, "schema", to="maxact/baseline@01"), "expected 'maxact/baseline@1'$"),
        (lambda d: change(d, "schema", to="maxact/baseline@²"), "expected 'maxact/baseline@1'$"),
        (lambda d: change(d, "schema", to="maxact/baseline@" + "9" * 5000), "expected 'maxact/baseline@1'$"),
        (lambda d: change(d, "schema", to=["\n"]), "has schema .*expected 'maxact/baseline@1'$"),
        (lambda d: [d], "has schema None"),
        (lambda d: None, "has schema None"),
    ],
)
def test_a_file_that_breaks_the_schema_is_one_line_with_the_place(
    tmp_path: Path, edit: Callable[[Any], Any], problem: str
) -> None:
    file = tmp_path / "b.json"
    file.write_text(json.dumps(edit(json.loads(Baseline.of(healthy()).dumps()))), encoding="utf-8")
    with pytest.raises(BaselineError, match=problem) as caught:
        Baseline.load(file)
    assert str(caught.value).startswith(f"the baseline file {file} ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not JSON: Expecting value: line 1 column 1"),
        (b'{"schema": "maxact/baseline@1",\n "model": }', "is not JSON: Expecting value: line 2"),
        (b"\xef\xbb\xbf{}", "is not JSON: .*BOM"),
        (b'{"schema": "\xff"}', "cannot be read: 'utf-8' codec"),
        (b"[" * 100_000, "cannot be read: maximum recursion depth|is not JSON"),
        (b"9" * 5_000, "is not JSON: .*digits"),
        (b'{"schema": "maxact/baseline@1", "\\ud800": 1}', "."),
        (b'{"schema": "\\ud800"}', "is not JSON: .*surrogates not allowed"),
        (b'{"schema": "\\uZ800"}', "is not JSON: "),
    ],
)
def test_a_file_that_is_no_json_is_one_line(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "b.json"
    file.write_bytes(content)
    with pytest.raises(BaselineError, match=problem) as caught:
        Baseline.load(file)
    assert len(str(caught.value).splitlines()) == 1
    assert str(file) in str(caught.value)
    str(caught.value).encode()  # it can be printed


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match=f"^no such baseline file: {re.escape(str(tmp_path))}/no.json$"):
        Baseline.load(tmp_path / "no.json")
    with pytest.raises(MeasurementError, match=r"^no such record file: "):
        Measurement.load(str(tmp_path / "no.json"))
    with pytest.raises(BaselineError, match=r"cannot be read: .*directory"):
        Baseline.load(tmp_path)


def test_a_measurement_is_read_as_strictly(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps(change(json.loads(measurement().dumps()), "timing", "minutes", to=1)))
    with pytest.raises(MeasurementError, match=f"^the record file {file} is malformed at timing.minutes: Extra inputs"):
        Measurement.load(file)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["nan", "inf", "maxact/baseline@1"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    data=JSON_VALUES, where=st.none() | st.sampled_from(["model", "corpus", "peak", "sun", "tolerances", "sites", "sites.0"])
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
def test_no_json_value_raises_anything_but_a_one_line_baseline_error(tmp_path: Path, data: Any, where: str | None) -> None:
    if where is not None:  # inside an otherwise healthy baseline, so that the schema's check is passed
        whole = json.loads(Baseline.of(healthy()).dumps())
        data = change(whole, *(int(key) if key.isdigit() else key for key in where.split(".")), to=data)
    file = tmp_path / "b.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    try:
        baseline = Baseline.load(file)
    except BaselineError as cause:
        assert len(str(cause).splitlines()) == 1  # noqa: PT017 - most values are refused, and some may be fine
    else:
        assert bits(json.loads(baseline.dumps())) == bits(
            json.loads(Baseline.model_validate(baseline.model_dump(by_alias=True)).dumps())
        )


def test_every_part_of_a_record_refuses_unknown_fields_and_lax_types() -> None:
    def parts(cls: type[Record]) -> set[type[Record]]:
        return {cls}.union(*(parts(child) for child in cls.__subclasses__()))

    assert len(parts(Record)) > 15
    for part in parts(Record):
        assert part.model_config["extra"] == "forbid"
        assert part.model_config["strict"] is True
        assert part.model_config["frozen"] is True


# --- writing is all or nothing


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("existing", ["old", None])
def test_a_write_that_fails_midway_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: str, existing: str | None
) -> None:
    file = tmp_path / "record.json"
    if existing is not None:
        file.write_text(existing)
    during: list[list[str]] = []

    def fail(*args: object) -> None:
        during.append(sorted(path.name for path in tmp_path.iterdir()))
        raise error

    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(type(error)):
        write_atomically(file, "new")
    monkeypatch.undo()
    (names,) = during
    assert any(name.endswith(".part") for name in names)  # it had begun
    assert [path.name for path in tmp_path.iterdir()] == ([] if existing is None else ["record.json"])
    assert existing is None or file.read_text() == existing


def test_a_text_that_cannot_be_encoded_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert file.read_text() == "old"


def test_a_write_replaces_the_whole_file_and_leaves_its_neighbours(tmp_path: Path) -> None:
    file, other = tmp_path / "record.json", tmp_path / ".record.json.part"
    file.write_text("a much longer old text")
    other.write_text("somebody else's")
    write_atomically(file, "new\n")
    assert file.read_bytes() == b"new\n"
    assert other.read_text() == "somebody else's"
    assert len(list(tmp_path.iterdir())) == 2


# --- The sidecar.

HISTOGRAMS = [
    Histogram("bfloat16", np.bincount([0, 0x7F80, 0x3F80, 0x3F80, 0xFFFF], minlength=PATTERNS)),
    Histogram("float16", np.full(PATTERNS, 2**40)),
]
HIDDEN_PEAKS = np.array([[3e38, np.nan]], dtype=np.float32)
TOTALS = [int(histogram.counts.sum()) for histogram in HISTOGRAMS]


def with_arrays() -> Measurement:
    return healthy_pair().with_arrays(Arrays(HISTOGRAMS, HIDDEN_PEAKS))


def healthy_pair() -> Measurement:
    sites = [figures("embedding", None), figures("hidden", 1)]
    counted = [site.model_copy(update={"count": int(h.counts.sum())}) for site, h in zip(sites, HISTOGRAMS, strict=True)]
    samples = [SampleFigures(id=name, category=None, tokens=1, peak=1.0) for name in "ab"]
    return measurement(*counted).model_copy(update={"samples": samples})


def test_samples_of_a_large_corpus_are_kept_beside_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_maxact.record.LARGE", 1)
    with_arrays().save(tmp_path / "run.json")
    written = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert (written["samples"], written["sidecar"]["samples"]) == ([], True)
    back = Measurement.load(tmp_path / "run.json")
    assert back == with_arrays()
    assert [sample.id for sample in back.samples] == ["a", "b"]
    back.save(tmp_path / "again.json")
    assert Measurement.load(tmp_path / "again.json") == back
    np.testing.assert_array_equal(back.hidden_peaks, HIDDEN_PEAKS)
    without = Measurement.load(tmp_path / "run.json", samples=False)
    assert without.samples == []
    without.save(tmp_path / "copy.json")  # what was not read is not lost
    assert Measurement.load(tmp_path / "copy.json") == back
    (tmp_path / "run.npz").unlink()
    with pytest.raises(MeasurementError, match=r"arrays cannot be read: .*keep both files together"):
        Measurement.load(tmp_path / "run.json")


def test_a_record_that_lost_samples_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(change(json.loads(measurement().dumps()), "samples", to=[])))
    with pytest.raises(
        MeasurementError, match=r"run.json has 0 samples, and its corpus had 2: measure again to have them all$"
    ):
        Measurement.load(file)


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        (b"[]", "the record .*run.json has 0 samples, and its corpus had 2: measure again"),
        (b"", "the samples beside .*run.json are malformed at the top level: Invalid JSON"),
        (b'[{"id": 5}]', "the samples beside .*run.json are malformed at 0.id: "),
    ],
)
def test_samples_that_are_not_the_records_are_refused(tmp_path: Path, samples: bytes, told: str) -> None:
    with_arrays().save(tmp_path / "run.json")
    data = Arrays(HISTOGRAMS, HIDDEN_PEAKS, samples).dumps()
    (tmp_path / "run.npz").write_bytes(data)
    text = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    text["sidecar"] = {"file": "run.npz", "sha256": hashlib.sha256(data).hexdigest(), "samples": True}
    (tmp_path / "run.json").write_text(json.dumps(text))
    with pytest.raises(MeasurementError, match=told):
        Measurement.load(tmp_path / "run.json")


def test_arrays_come_back_bit_for_bit_from_a_file_beside_the_record(tmp_path: Path) -> None:
    with_arrays().save(tmp_path / "run.7.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.7.json", "run.7.npz"]
    back = Measurement.load(tmp_path / "run.7.json")
    assert back == with_arrays()
    assert back.sidecar is not None
    assert back.sidecar.file == "run.7.npz"
    assert [back.histogram("embedding", None), back.histogram("hidden", 1)] == HISTOGRAMS
    np.testing.assert_array_equal(back.hidden_peaks, HIDDEN_PEAKS)
    assert back.hidden_peaks.dtype == np.float32
    with pytest.raises(KeyError, match="no site hidden layer 0"):
        back.histogram("hidden", 0)
    back.save(tmp_path / "again.json")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "run.7.npz").read_bytes()


def test_a_record_without_arrays_is_one_file_and_says_so(tmp_path: Path) -> None:
    healthy_pair().save(tmp_path / "r.json")
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]
    with pytest.raises(MeasurementError, match="came without its arrays: measure again to have them"):
        _ = Measurement.load(tmp_path / "r.json").hidden_peaks


def test_arrays_that_are_gone_changed_or_of_another_run_are_named(tmp_path: Path) -> None:
    with_arrays().save(tmp_path / "r.json")
    sidecar = tmp_path / "r.npz"
    data = sidecar.read_bytes()
    sidecar.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(MeasurementError, match=r"the arrays in .*r\.npz are not those of the record"):
        _ = Measurement.load(tmp_path / "r.json").hidden_peaks
    sidecar.unlink()
    with pytest.raises(MeasurementError, match=r"arrays cannot be read: .*r\.npz: No such file"):
        _ = Measurement.load(tmp_path / "r.json").hidden_peaks


@pytest.mark.parametrize("name", ["../r.npz", "/r.npz", "a/r.npz", "a\\r.npz", "..npz", ".npz", "r.json", "", "r.npz\x00"])
def test_a_sidecar_is_a_bare_name_beside_the_record(tmp_path: Path, name: str) -> None:
    with_arrays().save(tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    data["sidecar"]["file"] = name
    (tmp_path / "r.json").write_text(json.dumps(data))
    with pytest.raises(MeasurementError, match=r"is malformed at sidecar\.file"):
        Measurement.load(tmp_path / "r.json")


def arrays_with(**changes: Any) -> bytes:
    """The bytes of a sidecar with some of its arrays changed, or left out."""
    with np.load(io.BytesIO(Arrays(HISTOGRAMS, HIDDEN_PEAKS).dumps())) as file:
        arrays = {name: file[name] for name in file.files} | changes
    out = io.BytesIO()
    np.savez(out, **{name: array for name, array in arrays.items() if array is not None})
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 no archive",
        arrays_with(patterns=None),
        arrays_with(hidden_peaks=np.array([["x"]])),
        arrays_with(hidden_peaks=np.array([{}], dtype=object)),  # would have to be unpickled
        arrays_with(counts=np.array([-1] * (PATTERNS + 4))),
        arrays_with(counts=np.array([1])),
        arrays_with(histogram_dtype=np.array(["bfloat16", "float64"])),
        arrays_with(histogram_offsets=np.array([0, 9, 4])),
        arrays_with(histogram_offsets=np.array([0, 4, PATTERNS + 5])),
        arrays_with(histogram_exact=np.array([True])),
        arrays_with(hidden_peaks=HIDDEN_PEAKS.T),
        arrays_with(counts=np.array([2] * (PATTERNS + 4))),
    ],
)
def test_bytes_that_are_no_sidecar_are_refused(data: bytes) -> None:
    assert Arrays.loads(arrays_with(), TOTALS, (1, 2)).histograms == HISTOGRAMS
    with pytest.raises(ValueError, match=r"^it holds no measurement|^its arrays do not fit|^hidden_peaks|^its histograms"):
        Arrays.loads(data, TOTALS, (1, 2))


def test_a_sidecar_of_more_sites_than_the_record_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit the record"):
        Arrays.loads(arrays_with(), [*TOTALS, 1], (1, 2))


def test_records_of_any_name_have_arrays_of_their_own(tmp_path: Path) -> None:
    for name in ("run.1", "run.2", "run.json", "other.npz"):
        with_arrays().save(tmp_path / name)
    found = {file.name for file in tmp_path.iterdir()}
    assert found == {"run.1", "run.1.npz", "run.2", "run.2.npz", "run.json", "run.npz", "other.npz", "other.npz.npz"}
