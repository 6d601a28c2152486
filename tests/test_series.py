"""Which checkpoints a series is made of: order, labels, steps and gaps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_maxact.errors import SettingsError
from pytest_maxact.series import gaps, is_glob, matches, members, missing, spoken, step_of


def run(folder: Path, *names: str) -> list[str]:
    """Folders that look like checkpoints."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    return [str(folder / name) for name in names]


def test_a_glob_is_in_natural_order(tmp_path: Path) -> None:
    run(tmp_path, "checkpoint-1000", "checkpoint-200", "checkpoint-90")
    assert [Path(path).name for path in matches(f"{tmp_path}/checkpoint-*")] == [
        "checkpoint-90",
        "checkpoint-200",
        "checkpoint-1000",
    ]


def test_a_glob_leaves_out_what_is_no_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, "checkpoint-1", "final")
    (tmp_path / "logs").mkdir()
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "small.gguf").write_bytes(b"")
    (tmp_path / "checkpoint-2").mkdir()  # nothing is written in it yet
    assert [Path(path).name for path in matches(f"{tmp_path}/*")] == ["checkpoint-1", "checkpoint-2", "final", "small.gguf"]


def test_a_glob_that_matches_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--maxact-model=.*/run-\* matches no checkpoint folder"):
        matches(f"{tmp_path}/run-*")


def test_a_path_that_is_there_is_no_glob(tmp_path: Path) -> None:
    (path,) = run(tmp_path, "step[5]")
    assert not is_glob(path)
    assert is_glob(str(tmp_path / "step*"))


def test_steps_set_the_order_where_each_has_its_own(tmp_path: Path) -> None:
    names = run(tmp_path, "checkpoint-300", "checkpoint-100")
    assert [(member.label, member.step) for member in members(names)] == [("checkpoint-100", 100), ("checkpoint-300", 300)]


@pytest.mark.parametrize("names", [["a/checkpoint-100", "b/checkpoint-100"], ["before", "after-step-5"]])
def test_without_steps_of_their_own_the_order_is_the_one_given(tmp_path: Path, names: list[str]) -> None:
    found = members(run(tmp_path, *names))
    assert [Path(member.model).relative_to(tmp_path).as_posix() for member in found] == names
    assert [member.step for member in found] == [None, None]


def test_what_is_named_twice_is_one_member(tmp_path: Path) -> None:
    first, second = run(tmp_path, "checkpoint-1", "checkpoint-2")
    found = members([f"{tmp_path}/checkpoint-*", second])
    assert [(member.model, member.matched) for member in found] == [(first, True), (second, False)]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["runs/7/checkpoint-5", "runs/7/checkpoint-10"], ["checkpoint-5", "checkpoint-10"]),
        (["runs/a/last", "runs/b/last"], ["a-last", "b-last"]),
        (["org/name@step1", "org/name@step2"], ["name-step1", "name-step2"]),
        (["demo", "demo-blowup"], ["demo", "demo-blowup"]),
        (["a/b c", "a/b:c"], ["a-b-c-1", "a-b-c-2"]),
        (["models/größe", "models/x"], ["gr--e", "x"]),
    ],
)
def test_a_label_is_the_shortest_end_that_distinguishes(names: list[str], labels: list[str]) -> None:
    assert [member.label for member in members(names)] == labels


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("runs/7/checkpoint-500", 500),
        ("org/name@step1000", 1000),
        ("runs/global_step_20", 20),
        ("iter_0004000", 4000),
        ("epoch1-step20", 20),
        ("Qwen/Qwen3-8B", None),
        ("runs/step-5/final", None),
        ("model-v2", None),
    ],
)
def test_steps_are_read_from_names(name: str, step: int | None) -> None:
    assert step_of(name) == step


def test_a_trainers_state_knows_better_than_the_name(tmp_path: Path) -> None:
    (path,) = run(tmp_path, "checkpoint-5")
    state = Path(path) / "trainer_state.json"
    state.write_text(json.dumps({"global_step": 4000}))
    assert step_of(path) == 4000
    for broken in ('{"global_', "[]", '{"global_step": "x"}', '{"global_step": -1}'):
        state.write_text(broken)
        assert step_of(path) == 5


def test_gaps_are_where_a_checkpoint_is_missing() -> None:
    assert gaps([100, 200, 300, 500, 600]) == [(300, 500)]
    assert gaps([100, 200, 300, 400]) == []
    assert gaps([100, 5000]) == []  # nothing tells what is usual


def test_the_series_in_words(tmp_path: Path) -> None:
    names = run(tmp_path, *(f"checkpoint-{step}" for step in (100, 200, 300, 500)))
    assert spoken(members(names)) == "series of 4 checkpoints, checkpoint-100 to checkpoint-500"
    assert missing(members(names)) == ["no checkpoint between steps 300 and 500"]
    assert spoken(members(names[:1])) == "series of 1 checkpoint, checkpoint-100"
    assert spoken(members(["a", "b"])) == "series of 2 checkpoints, a to b, steps unknown"
    assert missing(members(["a", "b"])) == []


def test_a_link_and_another_spelling_are_no_second_checkpoint(tmp_path: Path) -> None:
    first, second = run(tmp_path, "checkpoint-1", "checkpoint-2")
    (tmp_path / "checkpoint-latest").symlink_to(second)
    found = members([f"{tmp_path}/checkpoint-*", f"{tmp_path}/./checkpoint-1/"])
    assert [(member.label, member.step, member.matched) for member in found] == [
        ("checkpoint-1", 1, False),
        ("checkpoint-2", 2, True),
    ]
    assert found[0].model == first
