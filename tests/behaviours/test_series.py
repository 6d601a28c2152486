"""Several checkpoints, or a glob: each measured once and judged against those before it; what does not fit is told."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pytest_maxact.record import Measurement
from tests.behaviours.conftest import User

# Every checkpoint that is loaded leaves a line in a file.
COUNTS = """
    from pytest_maxact import plan

    original = plan.load

    def load(reference, **given):
        with open({log!r}, "a") as file:
            file.write(reference.id + "\\n")
        return original(reference, **given)

    def pytest_configure():
        plan.load = load

    def pytest_unconfigure():
        plan.load = original
"""


class Run:
    """A folder of checkpoints, as a training run writes them."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.folder = user.folder / "run"
        self.log = user.folder / "loaded"
        user.pytester.makeconftest(COUNTS.format(log=str(self.log)))

    def save(self, step: int, factor: float = 1.0, name: str | None = None) -> Path:
        """Write a checkpoint whose second MLP writes `factor` times as much."""
        folder = self.folder / (name or f"checkpoint-{step}")
        shutil.copytree(self.user.checkpoint, folder)
        weights = load_file(folder / "model.safetensors")
        weights["layers.1.mlp.down_proj.weight"] *= factor * (1 + step / 1e6)  # no two are the same
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def pytest(self, *args: str, baseline: str | None = None) -> pytest.RunResult:
        """Run pytest on all of them."""
        given = [f"--maxact-model={self.folder}/*", f"--maxact-corpus={self.user.corpus}", *args]
        given += [] if baseline is None else [f"--maxact-baseline={baseline}"]
        return self.user.pytest(*given, baseline=None)

    @property
    def loaded(self) -> list[str]:
        """The checkpoints loaded since this was last asked."""
        lines = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def run(quick_user: User) -> Run:
    run = Run(quick_user)
    for step in (500, 1000, 1500):
        run.save(step)
    return run


def test_each_checkpoint_has_its_own_nodes(run: Run) -> None:
    result = run.pytest()
    assert result.ret == 0
    assert run.user.seen == {
        "maxact::checkpoint-500::finite": "passed",
        "maxact::checkpoint-500::growth": "skipped",
        "maxact::checkpoint-1000::finite": "passed",
        "maxact::checkpoint-1000::growth": "passed",
        "maxact::checkpoint-1500::finite": "passed",
        "maxact::checkpoint-1500::growth": "passed",
    }
    assert run.loaded == ["checkpoint-500", "checkpoint-1000", "checkpoint-1500"]


def test_the_terminal_shows_one_line_a_checkpoint(run: Run) -> None:
    result = run.pytest()
    result.stdout.fnmatch_lines(
        [
            "maxact: series of 3 checkpoints, checkpoint-500 to checkpoint-1500, corpus texts, baseline none",
            "series: 3 checkpoints",
            "checkpoint * step * M * growth  at",
            "checkpoint-500 * 500 *  [a-z]*",
            "checkpoint-1000 * 1,000 * 1.00x  [a-z]*",
            "checkpoint-1500 * 1,500 * 1.00x  [a-z]*",
            "checkpoint-1500: *",
        ],
        consecutive=False,
    )


def test_a_second_run_with_a_new_checkpoint_loads_exactly_one_model(run: Run) -> None:
    run.pytest()
    assert len(run.loaded) == 3
    run.save(2000)
    result = run.pytest()
    assert result.ret == 0
    assert run.loaded == ["checkpoint-2000"]
    result.stdout.fnmatch_lines(["series: 4 checkpoints, 3 reused; --maxact-fresh measures anew"])


def test_a_checkpoint_that_was_written_anew_is_measured_anew(run: Run) -> None:
    run.pytest()
    assert len(run.loaded) == 3
    shutil.rmtree(run.folder / "checkpoint-1000")
    run.save(1000, factor=3)
    run.pytest()
    assert run.loaded == ["checkpoint-1000"]


def test_a_blow_up_is_red_where_it_began_and_names_the_layer(run: Run) -> None:
    for step in (2000, 2500, 3000):
        run.save(step)
    run.save(3500, factor=50)
    result = run.pytest()
    assert result.ret == 1
    assert [name for name, outcome in run.user.seen.items() if outcome == "failed"] == ["maxact::checkpoint-3500::growth"]
    result.stdout.fnmatch_lines(["*MLP write of layer 1*"])


def test_previous_compares_with_the_checkpoint_before(run: Run) -> None:
    run.save(2000, factor=50)
    assert run.pytest(baseline="previous").ret == 1
    seen = run.user.seen
    assert {name for name, outcome in seen.items() if outcome == "skipped"} == {
        f"maxact::checkpoint-500::{check}" for check in ("maximum", "location", "dominance", "sun", "profile", "growth")
    }
    assert seen["maxact::checkpoint-1500::maximum"] == "passed"
    assert seen["maxact::checkpoint-2000::maximum"] == "failed"


def test_a_named_baseline_is_for_all(run: Run) -> None:
    assert run.pytest("-k", "maximum", baseline="red").ret == 1
    assert list(run.user.seen.values()) == ["failed"] * 3


def test_records_go_to_a_folder(run: Run) -> None:
    run.pytest("--maxact-json=records")
    records = [Measurement.load(path) for path in sorted((run.user.folder / "records").glob("*.json"))]
    assert [record.model.id for record in records] == ["checkpoint-1000", "checkpoint-1500", "checkpoint-500"]
    assert records[0].hidden_peaks.shape == (3, 2)


def test_a_pasted_node_id_measures_what_it_needs(run: Run) -> None:
    assert run.pytest("maxact::checkpoint-500::finite").ret == 0
    assert (list(run.user.seen), run.loaded) == (["maxact::checkpoint-500::finite"], ["checkpoint-500"])
    assert run.pytest("maxact::checkpoint-1000").ret == 0
    assert list(run.user.seen) == ["maxact::checkpoint-1000::finite", "maxact::checkpoint-1000::growth"]
    assert run.loaded == ["checkpoint-1000"]


def test_a_chosen_checkpoint_does_not_count_as_the_one_before(run: Run) -> None:
    result = run.pytest("maxact::checkpoint-500::finite", "maxact::checkpoint-1500::finite")
    result.stdout.fnmatch_lines(["series: 2 of 3 checkpoints", "checkpoint-1500 * 1,500 *[0-9]           [a-z]*"])


def test_records_tell_of_checkpoints_that_are_gone(run: Run) -> None:
    for step in (2000, 2500, 3000):
        run.save(step)
    assert run.pytest("--maxact-json=records").ret == 0
    for step in (500, 1000, 1500, 2000, 2500, 3000):
        shutil.rmtree(run.folder / f"checkpoint-{step}")
    run.save(3500, factor=50)
    run.save(4000, factor=50)
    assert run.pytest().ret == 0  # nothing tells that it was otherwise
    result = run.pytest("--maxact-json=records")
    assert result.ret == 1
    assert [name for name, outcome in run.user.seen.items() if outcome == "failed"] == [
        "maxact::checkpoint-3500::growth",
        "maxact::checkpoint-4000::growth",
    ]
    result.stdout.fnmatch_lines(["6 earlier checkpoints are known from records"])
    (run.user.folder / "records").rename(run.folder / "maxact")  # where the Trainer's callback writes
    assert run.pytest().ret == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maxact::checkpoint-7", "there is no checkpoint maxact::checkpoint-7: there are checkpoint-500, checkpoint-1000, *"),
        ("maxact::growth", "maxact::growth names no checkpoint of the series: maxact::checkpoint-1500::growth, or -k growth"),
        ("maxact::checkpoint-500::grow", "there is no check maxact::checkpoint-500::grow: there are finite, *, growth"),
    ],
)
def test_an_unknown_node_id_is_status_4(run: Run, name: str, message: str) -> None:
    result = run.pytest(name)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_last_failed_runs_the_red_checkpoint_and_loads_nothing(run: Run) -> None:
    run.save(2000, factor=50)
    run.pytest(baseline="previous")
    assert len(run.loaded) == 4
    red = {name for name, outcome in run.user.seen.items() if outcome == "failed"}
    assert run.pytest("--lf", baseline="previous").ret == 1
    assert set(run.user.seen) == red
    assert run.loaded == []


def test_a_checkpoint_that_is_still_being_written_is_left_out_and_told(run: Run) -> None:
    folder = run.save(2000)
    (folder / "model.safetensors").unlink()
    result = run.pytest()
    assert result.ret == 0
    assert run.loaded == ["checkpoint-500", "checkpoint-1000", "checkpoint-1500"]
    result.stdout.fnmatch_lines(["maxact: checkpoint-2000 is left out: it is still being written (*holds no weights*)"])


@pytest.mark.parametrize("gone", [["model.safetensors", "tokenizer*"], ["tokenizer*"]])
def test_what_the_trainer_writes_beside_the_weights_is_none_of_them(run: Run, gone: list[str]) -> None:
    folder = run.save(2000)
    (folder / "training_args.bin").write_bytes(b"")
    (folder / "optimizer.pt").write_bytes(b"")
    for file in [file for pattern in gone for file in folder.glob(pattern)]:
        file.unlink()
    result = run.pytest("-q")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["checkpoint-2000 is left out: it is still being written (*"])
    result.stdout.no_fnmatch_line("*convert it*")


def test_half_of_its_weights_are_no_checkpoint_either(run: Run) -> None:
    weights = run.save(2000) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    result = run.pytest()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["maxact: checkpoint-2000 is left out: it is still being written (*cut short*)"])


def test_a_broken_checkpoint_that_nobody_writes_any_more_is_status_4(run: Run) -> None:
    folder = run.save(2000)
    (folder / "model.safetensors").unlink()
    hour_ago = time.time() - 3600
    for path in [*folder.iterdir(), folder]:
        os.utime(path, (hour_ago, hour_ago))
    result = run.pytest()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: checkpoint-2000 of the series: checkpoint checkpoint-2000 holds no weights*"])


def test_a_broken_checkpoint_in_the_middle_or_named_is_status_4(run: Run) -> None:
    (run.folder / "checkpoint-1000" / "model.safetensors").unlink()
    assert run.pytest().ret == 4
    shutil.rmtree(run.folder / "checkpoint-1000")
    (run.folder / "checkpoint-1500" / "model.safetensors").unlink()
    assert run.pytest(f"--maxact-model={run.folder}/checkpoint-1500").ret == 4
    assert run.loaded == []


def test_two_architectures_are_refused(run: Run) -> None:
    folder = run.save(2000)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    result = run.pytest()
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        [
            "ERROR: a series is of one architecture and dtype: checkpoint-500 is llama of 3 layers x 32, bfloat16, "
            "checkpoint-2000 is llama of 2 layers x 32, bfloat16; run them apart"
        ]
    )
    assert run.loaded == []


def test_a_missing_step_is_told(run: Run) -> None:
    for step in (2000, 3000, 3500):
        run.save(step)
    result = run.pytest("--collect-only")
    result.stdout.fnmatch_lines(["maxact: series of 6 checkpoints, *", "maxact: no checkpoint between steps 2,000 and 3,000"])
    result = run.pytest("-q", "-k", "finite")
    result.stdout.fnmatch_lines(["*= maximum activations =*", "no checkpoint between steps 2,000 and 3,000"])


def test_a_cache_of_an_older_schema_is_measured_anew(run: Run) -> None:
    run.pytest()
    assert len(run.loaded) == 3
    for record in run.user.records:
        record.write_text(record.read_text().replace("maxact/measurement@1", "maxact/measurement@0"))
    assert run.pytest().ret == 0
    assert len(run.loaded) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--maxact-update"], "an update writes the baseline of one checkpoint, and a series was named: name that checkpoint"),
        (["--maxact-json=texts.jsonl"], "--maxact-json of a series names a folder*texts.jsonl is no folder*"),
        (["--maxact-growth=1"], "--maxact-growth=1 is no factor above 1, such as 2"),
        (["--maxact-growth-total=no"], "--maxact-growth-total=no is no number above 0"),
        (["--maxact-model=nothing-*"], "--maxact-model=*nothing-[*] matches no checkpoint folder*"),
    ],
)
def test_wrong_settings_of_a_series_are_status_4(run: Run, args: list[str], message: str) -> None:
    result = run.pytest(*args)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_previous_of_one_checkpoint_is_status_4(quick_user: User) -> None:
    result = quick_user.pytest(baseline="previous")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --maxact-baseline=previous needs a series*"])


def test_a_checkpoint_that_breaks_leaves_the_others(run: Run) -> None:
    weights = load_file(run.folder / "checkpoint-1000" / "model.safetensors")
    del weights["norm.weight"]
    save_file(weights, run.folder / "checkpoint-1000" / "model.safetensors", metadata={"format": "pt"})
    result = run.pytest()
    assert result.ret == 1
    assert run.user.seen["maxact::checkpoint-1000::finite"] == "failed"
    assert run.user.seen["maxact::checkpoint-1500::growth"] == "passed"
    result.stdout.fnmatch_lines(["checkpoint-1000 * 1,000  checkpoint checkpoint-1000 lacks 1 weights*"])


def test_the_baseline_fixture_is_the_checkpoint_before(run: Run) -> None:
    run.user.pytester.makepyfile("def test_own(maxact_baseline):\n    assert maxact_baseline.model.id == 'checkpoint-1000'\n")
    assert run.pytest("-k", "own", baseline="previous").ret == 0
    assert list(run.user.seen.values()) == ["passed"]
    run.pytest("-k", "own", "-rs").stdout.fnmatch_lines(["*no baseline for checkpoint-1500; `growth` compares with *"])


def test_the_fixtures_are_of_the_last_checkpoint(run: Run) -> None:
    run.user.pytester.makepyfile(
        "def test_own(maxact_measurement):\n    assert maxact_measurement.model.id == 'checkpoint-1500'\n"
    )
    assert run.pytest().ret == 0
    assert len(run.loaded) == 3


def test_two_workers_share_a_series(user: User) -> None:
    pytest.importorskip("xdist")
    run = Run(user)
    for step in (500, 1000):
        run.save(step)
    assert run.pytest("-n2").ret == 0
    assert sorted(run.loaded) == ["checkpoint-1000", "checkpoint-500"]
    assert set(run.user.seen.values()) == {"passed", "skipped"}
