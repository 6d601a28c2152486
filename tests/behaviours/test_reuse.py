"""A measurement is kept in pytest's cache: it is not made twice, and nothing stale is ever taken for it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pytest_maxact.record import Measurement
from tests.behaviours.conftest import GREEN, User


def test_another_tolerance_and_another_baseline_measure_nothing_anew(quick_user: User) -> None:
    quick_user.pytest()
    (record,) = quick_user.records
    before = record.stat().st_mtime_ns
    result = quick_user.pytest("--maxact-rtol=2", baseline="red")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["reused, measured at *"])
    assert [record.stat().st_mtime_ns for record in quick_user.records] == [before]


def test_a_reused_record_is_the_one_that_was_measured_arrays_and_all(quick_user: User) -> None:
    quick_user.pytest("--maxact-json=first.json")
    quick_user.pytest("--maxact-json=second.json")
    first, second = (Measurement.load(quick_user.folder / name) for name in ("first.json", "second.json"))
    assert second == first
    assert second.timing.measured_at == first.timing.measured_at
    assert (second.hidden_peaks == first.hidden_peaks).all()


def test_a_folder_called_like_a_baseline_changes_nothing(quick_user: User) -> None:
    (quick_user.folder / "green").mkdir()
    assert quick_user.pytest().ret == 0
    assert quick_user.seen == GREEN


def test_fresh_measures_anew(quick_user: User) -> None:
    quick_user.pytest()
    result = quick_user.pytest("--maxact-fresh")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("reused*")
    result.stdout.fnmatch_lines(["maxact: loading and measuring tiny"])


def test_other_weights_another_corpus_or_other_limits_are_measured(quick_user: User) -> None:
    quick_user.pytest()
    quick_user.corpus.write_text(quick_user.corpus.read_text() + '{"text": "A third sample."}\n')
    quick_user.pytest()
    quick_user.pytest("--maxact-max-length=4")
    weights = quick_user.folder / "tiny" / "model.safetensors"
    (quick_user.folder / "tiny").mkdir()
    for file in quick_user.checkpoint.iterdir():
        (quick_user.folder / "tiny" / file.name).write_bytes(file.read_bytes())
    quick_user.pytest(model=quick_user.folder / "tiny")  # the same files elsewhere, under the same name
    assert len(quick_user.records) == 3
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)
    quick_user.pytest(model=quick_user.folder / "tiny")
    assert len(quick_user.records) == 4


def test_another_tokenizer_is_measured(quick_user: User) -> None:
    (quick_user.folder / "tiny").mkdir()
    for file in quick_user.checkpoint.iterdir():
        (quick_user.folder / "tiny" / file.name).write_bytes(file.read_bytes())
    quick_user.pytest(model=quick_user.folder / "tiny")
    config = quick_user.folder / "tiny" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 77}))
    quick_user.pytest(model=quick_user.folder / "tiny")
    assert len(quick_user.records) == 2


def test_a_damaged_record_is_measured_again(quick_user: User) -> None:
    quick_user.pytest()
    (record,) = quick_user.records
    record.with_suffix(".npz").write_bytes(b"cut short")
    result = quick_user.pytest()
    assert result.ret == 0
    result.stdout.no_fnmatch_line("reused*")
    assert quick_user.pytest().stdout.str().count("reused, measured at") == 1


def test_cache_clear_forgets_measurements(quick_user: User) -> None:
    quick_user.pytest()
    result = quick_user.pytest("--cache-clear")
    result.stdout.no_fnmatch_line("reused*")


def test_without_the_cache_all_works_and_nothing_is_kept(quick_user: User) -> None:
    for _ in range(2):
        result = quick_user.pytest("-p", "no:cacheprovider")
        assert result.ret == 0
        assert quick_user.seen == GREEN
        result.stdout.no_fnmatch_line("reused*")
    assert not (quick_user.folder / ".pytest_cache").exists()


def test_figures_of_a_benchmark_and_of_trusted_code_are_not_kept(quick_user: User) -> None:
    quick_user.pytest("--maxact-benchmark")
    quick_user.pytest("--maxact-trust-remote-code")
    assert quick_user.records == []
    quick_user.pytest()
    result = quick_user.pytest("--maxact-trust-remote-code")
    result.stdout.no_fnmatch_line("reused*")


def test_a_cache_that_cannot_be_written_keeps_nothing(quick_user: User) -> None:
    (quick_user.folder / "file").write_text("")
    result = quick_user.pytest("-o", "cache_dir=file/below", "-W", "ignore")
    assert result.ret == 0
    assert quick_user.seen == GREEN


def test_a_measurement_that_is_cut_off_says_so(quick_user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed_out(*args: object) -> None:
        pytest.fail("Timeout (>3.0s) from pytest-timeout.")

    monkeypatch.setattr("pytest_maxact.plan.Plan.run", timed_out)
    result = quick_user.pytest()
    assert result.ret == 1
    assert set(quick_user.seen.values()) == {"failed"}
    result.stdout.fnmatch_lines(
        ["nothing was measured: measuring */tiny was cut off: Timeout (>3.0s) from pytest-timeout.; give it more time"]
    )
    result.stdout.no_fnmatch_line("nothing was measured: the worker*")


def test_the_oldest_records_go(quick_user: User) -> None:
    quick_user.pytest()
    (kept,) = {record.parent for record in quick_user.records}
    for number in range(20):
        other: Path = kept.parent / f"{number:032}"
        other.mkdir()
        os.utime(other, (time.time() - 1000 + number,) * 2)
    quick_user.pytest("--maxact-max-length=4")
    left = sorted(folder.name for folder in kept.parent.iterdir() if folder.is_dir())
    assert len(left) == 16
    assert kept.name in left
    assert f"{0:032}" not in left
    assert f"{19:032}" in left
