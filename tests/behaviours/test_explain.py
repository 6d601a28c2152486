"""`--maxact-explain` shows where a model is looked at; `--maxact-sites` adds places that are recorded and judged by nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_maxact.errors import AnatomyError
from pytest_maxact.record import Baseline, Measurement
from tests.behaviours.conftest import GREEN, User

INPUTS = {f"input:self_attn.{name}_proj" for name in "qkvo"} | {f"input:mlp.{name}_proj" for name in ("gate", "up", "down")}


def test_explain_shows_every_site_and_its_rule_and_runs_nothing(user: User) -> None:
    user.pytester.makepyfile("def test_that_fails():\n    assert False\n")
    result = user.pytest("--maxact-explain", "--maxact-json=record.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*= sites of maximum activations =*",
            "tiny: LlamaModel, 3 layers (layers, the outermost list of 3 modules, the*",
            "site             layers       read from, and why",
            "embedding                     embedding: get_input_embeddings()",
            "attention        0-2          layers.*.self_attn: self_attn = LlamaAttention",
            "gate             0-2          layers.*.mlp.gate_proj: gate_proj enters act_fn",
            "mlp              0-2          layers.*.mlp: mlp = LlamaMLP",
            "hidden           0-2          layers.*: the layer's output",
            "final_norm                    norm: the last norm after the last layer",
            "*no tests ran*",
        ]
    )
    assert user.seen == {}
    assert not (user.folder / "record.json").exists()
    assert all(len(line) <= 80 for line in result.outlines if line.startswith(tuple("aeghmfs")))


def test_explain_tells_how_layers_differ(quick_user: User, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    result = quick_user.pytest("--maxact-explain", model=make_checkpoint(tmp_path / "sparse", "qwen3_moe"))
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "router           0, 2         layers.*.mlp.gate: Qwen3MoeTopKRouter[[]0], the*",
            "gate             0, 2         what enters the gate of layers.*.mlp.experts,*",
            "mlp              0, 2         layers.*.mlp: mlp = Qwen3MoeSparseMoeBlock",
            "gate             1            layers.*.mlp.gate_proj: gate_proj enters act_fn",
            "mlp              1            layers.*.mlp: mlp = Qwen3MoeMLP",
            "recorded, and no part of M: router",
        ]
    )


def test_explain_needs_one_process_and_a_checkpoint(quick_user: User) -> None:
    result = quick_user.pytest("--maxact-explain", "-n", "2")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --maxact-explain runs in one process: drop -n"])
    result = quick_user.pytest("--maxact-explain", baseline=None)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --maxact-explain needs a checkpoint to do it with: add --maxact-model=ID"])


def test_explain_says_what_was_looked_at_where_nothing_is_found(quick_user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*args: object, **kwargs: object) -> None:
        raise AnatomyError("TinyModel has no stack of 5 decoder layers, its config's number: found layers (3)")

    monkeypatch.setattr("pytest_maxact.runner.find_sites", nothing)
    result = quick_user.pytest("--maxact-explain")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: TinyModel has no stack of 5 decoder layers*found layers (3)"])


def test_inputs_of_linear_layers_are_recorded_and_change_no_verdict(user: User) -> None:
    assert user.pytest("--maxact-sites=+linear-inputs", "--maxact-json=record.json").ret == 0
    assert user.seen == GREEN
    record = Measurement.load(user.folder / "record.json")
    inputs = [site for site in record.sites if site.component.startswith("input:")]
    assert {(site.component, site.layer) for site in inputs} == {(name, layer) for name in INPUTS for layer in range(3)}
    for site in inputs:
        assert site.sun is None
        assert site.count == record.corpus.tokens * (48 if site.component == "input:mlp.down_proj" else 32)
        assert site.crest == pytest.approx(site.value / site.rms)
        assert {"int8_maxabs", "int8_p999"} <= set(site.sqnr)
    plain = Baseline.load(user.folder / "baselines" / "green.json")
    assert Baseline.of(record).sites == plain.sites


def test_sites_that_there_are_not_are_one_line(quick_user: User) -> None:
    result = quick_user.pytest("--maxact-sites=everything")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --maxact-sites=everything is none of +linear-inputs"])


def test_an_ini_file_adds_sites(quick_user: User) -> None:
    quick_user.pytester.makeini("[pytest]\nmaxact_sites = +linear-inputs\n")
    assert quick_user.pytest("--maxact-json=record.json").ret == 0
    record = Measurement.load(quick_user.folder / "record.json")
    assert INPUTS <= {site.component for site in record.sites}
