"""Under torchrun all processes share a run: one reports, the figures are those of one process, and a lost one ends it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_maxact.record import Measurement
from tests.behaviours.conftest import GREEN, RED, User, outcomes

# On rank 1, when it has done a batch.
FAULT = """
    import os, signal
    from pytest_maxact import observer

    if os.environ["RANK"] == "1":
        run = observer.Observer.run

        def then(self, batch, device):
            run(self, batch, device)
            {fault}

        observer.Observer.run = then
"""


def torchrun(user: User, *args: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "pytest"]
    named = [f"--maxact-model={user.checkpoint}", f"--maxact-corpus={user.corpus}", "--maxact-batch-tokens=8"]
    return subprocess.run([*launch, *named, *args], cwd=user.folder, capture_output=True, text=True, timeout=240, check=False)


def figures(file: Path) -> dict[str, Any]:
    record = Measurement.load(file)
    data = record.model_dump(mode="json", exclude={"timing", "sidecar"})
    data["environment"].pop("ranks")
    assert record.arrays is not None
    return data | {"counts": [histogram.counts.tolist() for histogram in record.arrays.histograms]}


def test_two_and_three_ranks_give_the_figures_of_one(user: User) -> None:
    user.pytester.makepyfile(test_mine="def test_mine(): print('mine ran', file=open('mine.log', 'a'))")
    assert user.pytest("--maxact-batch-tokens=8", "--maxact-json=1.json").ret == 0
    for ranks in (2, 3):
        run = torchrun(
            user,
            f"--maxact-json={ranks}.json",
            "--maxact-baseline=green",
            "--maxact-fresh",
            "--junitxml=ranks.xml",
            ranks=ranks,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert run.stdout.count("= maximum activations =") == run.stdout.count(" passed in ") == 1
        assert outcomes(user.folder / "ranks.xml") == GREEN | {"test_mine::test_mine": "passed"}
        assert json.loads((user.folder / f"{ranks}.json").read_text())["environment"]["ranks"] == ranks
        assert figures(user.folder / f"{ranks}.json") == figures(user.folder / "1.json")
    assert (user.folder / "mine.log").read_text().count("mine ran") == 3  # once a session


def test_a_series_under_two_policies_is_shared_checkpoint_by_checkpoint(
    user: User, make_checkpoint: Callable[..., Path]
) -> None:
    later = make_checkpoint(user.folder / "later", seed=1)
    both = [f"--maxact-model={later}", "--maxact-special-tokens=none", "--maxact-special-tokens=tokenizer", "maxact"]
    named = [f"--maxact-model={user.checkpoint}", f"--maxact-corpus={user.corpus}", "--maxact-batch-tokens=8"]
    alone = user.pytest(*named, *both, "--maxact-json=1", baseline=None)
    assert alone.ret == 0
    run = torchrun(user, *both, "--maxact-json=2", "--maxact-baseline=none", "--maxact-fresh")
    assert run.returncode == 0, run.stdout + run.stderr
    assert sorted(file.name for file in (user.folder / "2").iterdir()) == sorted(
        file.name for file in (user.folder / "1").iterdir()
    )
    for file in (user.folder / "1").glob("*.json"):
        found = figures(user.folder / "2" / file.name)
        assert len(found["policies"]) == 2
        assert found == figures(file)


def test_a_failed_check_is_a_failed_command(user: User) -> None:
    run = torchrun(user, "--maxact-baseline=red", "--junitxml=ranks.xml")
    assert run.returncode != 0
    assert outcomes(user.folder / "ranks.xml") == RED
    assert run.stdout.count("= maximum activations =") == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 0 was told to stop (SIGTERM), most likely since another rank is gone"),
        ("raise RuntimeError('its disk is full')", "rank 1: RuntimeError: its disk is full"),
        ("raise MemoryError", "rank 1: memory was too short for sample"),
    ],
)
def test_a_rank_that_dies_or_fails_ends_the_run_and_is_named(user: User, fault: str, told: str) -> None:
    user.pytester.makeconftest(FAULT.format(fault=fault))
    lines = "".join(json.dumps({"text": f"{number} words of a longer corpus"}) + "\n" for number in range(400))
    user.corpus.write_text(lines, encoding="utf-8")
    run = torchrun(user, "--maxact-baseline=none", "--maxact-json=never.json")
    assert run.returncode != 0
    assert f"nothing was measured: {told}" in run.stdout
    assert not (user.folder / "never.json").exists()


def test_what_is_wrong_before_the_run_is_told_once(user: User) -> None:
    run = torchrun(user, "--maxact-baseline=nowhere")
    assert run.returncode != 0
    assert (run.stdout + run.stderr).count("no baseline nowhere") == 1


def test_xdist_is_refused(user: User) -> None:
    pytest.importorskip("xdist")
    run = torchrun(user, "-n2")
    assert run.returncode != 0
    assert run.stderr.count("ranks and xdist's workers exclude each other: drop -n") == 1
