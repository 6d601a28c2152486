"""`--maxact-baseline=published`: what somebody sees who compares a checkpoint with the figures of the paper."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_maxact import published
from pytest_maxact.record import Baseline
from tests.behaviours.conftest import GREEN, User

HUB_ID = "Qwen/Qwen3.5-0.8B"
LAYERS, WIDTH = 24, 1024


@pytest.fixture(scope="session")
def lookalike(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a published one's shape; its config names nobody."""
    sizes = {"num_hidden_layers": LAYERS, "hidden_size": WIDTH, "num_attention_heads": 2, "num_key_value_heads": 1}
    folder = tmp_path_factory.mktemp("checkpoints") / "lookalike"
    return make_checkpoint(folder, **sizes, head_dim=4, intermediate_size=4)


@pytest.fixture
def copy(lookalike: Path, tmp_path: Path) -> Path:
    """The same, saved by somebody who had loaded it from the Hub."""
    return naming(shutil.copytree(lookalike, tmp_path / "copy"), HUB_ID)


def naming(folder: Path, name: str) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": name}))
    return folder


def test_a_folder_whose_config_names_a_published_checkpoint(quick_user: User, copy: Path) -> None:
    result = quick_user.pytest("--maxact-two-sided", model=copy, baseline="published")
    assert result.ret == 1
    assert set(quick_user.seen) == set(GREEN)
    assert quick_user.seen["maxact::finite"] == "passed"
    assert quick_user.seen["maxact::profile"] == "failed"  # random weights
    result.stdout.fnmatch_lines(
        [
            "M = * the baseline 122.00 at final_norm*, tolerance ±6.6%",
            "  published baseline: corpus hf:Clxxxx/eval_diverse_dataset (5,000 samples, 17,225,977 tokens), here texts (*",
            "  published baseline: measured on one 80 GB-class GPU, here on cpu",
            f"*baseline: {HUB_ID} as published in arXiv 2605.15572*",
        ]
    )
    assert "to accept the change" not in result.stdout.str()  # these figures are not ours to write


def test_it_may_be_named_where_the_config_names_nobody(quick_user: User, lookalike: Path) -> None:
    quick_user.pytest("--maxact-two-sided", model=lookalike, baseline=HUB_ID).stdout.fnmatch_lines(
        [f"*baseline: {HUB_ID} as published in arXiv 2605.15572*"]
    )


@pytest.mark.parametrize(
    ("named", "args", "told"),
    [
        (
            "Qwen/Qwen3-8B",
            (),
            "copy is not the Qwen/Qwen3-8B that arXiv 2605.15572 measured: it has 24 layers x 1024, that one 36 x 4096; "
            "choose another --maxact-baseline, or none",
        ),
        ("org/another", (), "no figures of copy are published: looked for this id*(27 checkpoints)*--maxact-baseline=*/*"),
        ("./out/run-7", (), "no figures of copy are published: *"),
        (
            HUB_ID,
            ("--maxact-update",),
            "--maxact-baseline=published is figures that others published, and an update would replace them with yours: *",
        ),
    ],
)
def test_what_is_not_the_published_checkpoint_is_status_4(
    quick_user: User, copy: Path, named: str, args: tuple[str, ...], told: str
) -> None:
    result = quick_user.pytest(*args, model=naming(copy, named), baseline="published")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {told}"])
    assert quick_user.seen == {}


@pytest.mark.parametrize("name", [HUB_ID, "mine.json"])
def test_an_update_never_replaces_published_figures(quick_user: User, lookalike: Path, name: str) -> None:
    copied = quick_user.folder / "mine.json"
    published.figures("Qwen3.5-0.8B").save(copied)
    before = copied.read_bytes()
    result = quick_user.pytest("--maxact-update", model=lookalike, baseline=name)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: *{name} is figures that others published*"])
    assert copied.read_bytes() == before
    assert sorted(file.name for file in (quick_user.folder / "baselines").iterdir()) == ["green.json", "red.json"]


def test_a_tolerance_that_was_typed_wins_over_the_bootstrap(quick_user: User, copy: Path) -> None:
    result = quick_user.pytest("--maxact-two-sided", "--maxact-rtol=0.99", model=copy, baseline="published")
    assert quick_user.seen["maxact::maximum"] == "passed"
    result.stdout.no_fnmatch_line("*tolerance 6.6%*")


def test_a_name_that_is_nowhere_is_told_with_all_places(quick_user: User, copy: Path) -> None:
    result = quick_user.pytest(model=copy, baseline="qwen/qwen3.5-0.8b")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: no baseline qwen/qwen3.5-0.8b: looked for *baselines/published; *"])


def test_a_published_depth_of_another_width_is_refused(
    quick_user: User, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    narrow = make_checkpoint(tmp_path / "narrow", num_hidden_layers=LAYERS)
    width = json.loads((narrow / "config.json").read_text())["hidden_size"]
    result = quick_user.pytest(model=naming(narrow, HUB_ID), baseline="published")
    assert result.ret == 4
    told = f"it has {LAYERS} layers x {width}, that one {LAYERS} x {WIDTH}"
    result.stderr.fnmatch_lines([f"ERROR: narrow is not the {HUB_ID} that arXiv 2605.15572 measured: {told}; *"])


def test_other_arithmetic_is_named_by_each_check(quick_user: User, copy: Path) -> None:
    result = quick_user.pytest("--maxact-dtype=float32", model=copy, baseline="published")
    assert result.ret == 1
    assert [name for name, outcome in quick_user.seen.items() if outcome == "passed"] == ["maxact::finite"]
    result.stdout.fnmatch_lines(["*made under other conditions: dtype bfloat16, now float32: see --maxact-dtype"])


def test_without_a_baseline_of_ones_own_the_published_one_is_pointed_to(
    quick_user: User, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = quick_user.folder / "Qwen"
    shutil.copytree(copy, folder / "Qwen3.5-0.8B")
    result = quick_user.pytest(model=folder / "Qwen3.5-0.8B", baseline="auto")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*no baseline for Qwen3.5-0.8B: looked for *; --maxact-baseline=published compares *"])


def test_the_fixture_gives_the_published_figures(quick_user: User, copy: Path) -> None:
    quick_user.pytester.makepyfile(
        """
        from pytest_maxact import compare

        def test_mine(maxact_measurement, maxact_baseline):
            assert maxact_baseline.provenance.source == "arXiv 2605.15572"
            failed = {verdict.check for verdict in compare(maxact_measurement, maxact_baseline) if verdict.failed}
            assert "maximum" not in failed
        """
    )
    quick_user.pytest("-k", "test_mine", model=copy, baseline="published")
    assert [outcome for name, outcome in quick_user.seen.items() if name.endswith("test_mine")] == ["passed"]


def test_a_series_is_compared_checkpoint_by_checkpoint(quick_user: User, copy: Path, tmp_path: Path) -> None:
    second = Path(shutil.copytree(copy, tmp_path / "second"))
    result = quick_user.pytest(f"--maxact-model={second}", model=copy, baseline="published")
    assert quick_user.seen["maxact::copy::maximum"] == quick_user.seen["maxact::second::maximum"] == "passed"
    assert result.ret == 1  # random weights dominate elsewhere


def test_a_copied_figure_file_is_judged_alike(quick_user: User, copy: Path) -> None:
    figures = published.figures("Qwen3.5-0.8B")
    figures.save(quick_user.folder / "mine.json")
    assert Baseline.load(quick_user.folder / "mine.json") == figures
    result = quick_user.pytest("--maxact-two-sided", model=copy, baseline="mine.json")
    result.stdout.fnmatch_lines(["M = * the baseline 122.00 at final_norm*, tolerance ±6.6%"])
