"""What a user types and sees: every wrong setting is one line and exit status 4, and a full run goes red where it should."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_maxact.checkpoint import find, load
from pytest_maxact.errors import MaxactError, SettingsError
from pytest_maxact.plan import Plan
from pytest_maxact.record import Baseline, Location, Measurement, Overhead, ToleranceOverride
from pytest_maxact.report.standing import standing
from pytest_maxact.report.terminal import summary
from pytest_maxact.runner import measure
from pytest_maxact.settings import Settings
from pytest_maxact.validity import describe

ALL = ["finite", "maximum", "location", "dominance", "sun", "profile"]
WITH_BASELINE = ALL[1:]
SAMPLES = [
    {"id": "a", "category": "x", "text": "The first sample of three, about nothing."},
    {"id": "b", "category": "y", "text": "def second(sample): return sample + 2"},
    {"id": "c", "category": "x", "text": "3, 1, 4, 1, 5, 9, 2, 6"},
]


class Recorder:
    """A plugin of an inner session that keeps how each item ended, and what was said of it."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.texts: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the report of an item's call, or of what ended it before."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome
            self.texts[report.nodeid] = str(report.longrepr or "")


class Project:
    """A user's folder with a corpus and a checkpoint; pytest runs there inside this process, where torch is loaded already."""

    def __init__(self, pytester: pytest.Pytester, checkpoint: Path, measured: Measurement) -> None:
        self.pytester = pytester
        self.folder = pytester.path
        self.checkpoint = checkpoint
        self.measured = measured
        self.corpus = self.folder / "texts.jsonl"
        self.corpus.write_text("".join(json.dumps(sample) + "\n" for sample in SAMPLES), encoding="utf-8")
        self.stored = self.folder / "baselines" / "tiny.json"
        self.last = Recorder()

    def settings(self, *args: str | Path) -> list[str]:
        """The arguments, with this project's model and corpus where they name none."""
        given = [str(arg) for arg in args]
        for option, value in (("--maxact-model", self.checkpoint), ("--maxact-corpus", self.corpus)):
            if not any(arg.split("=")[0] == option for arg in given):
                given.append(f"{option}={value}")
        return given

    def pytest(self, *args: str | Path) -> pytest.RunResult:
        """Run pytest; `last` keeps its reports."""
        self.last = Recorder()
        return self.pytester.runpytest_inprocess(*self.settings(*args), plugins=[self.last], no_reraise_ctrlc=True)

    def outcomes(self, *args: str | Path) -> dict[str, list[str]]:
        """Run pytest and give the checks by how they ended; all that is not the suite keeps its node id."""
        self.pytest(*args)
        found: dict[str, list[str]] = {}
        for node, outcome in self.last.outcomes.items():
            found.setdefault(outcome, []).append(node.removeprefix("maxact::"))
        return found

    def baseline(self, edit: Callable[[dict[str, Any]], object] | None = None) -> Path:
        """Store the checkpoint's own baseline, edited as JSON."""
        data = json.loads(Baseline.of(self.measured).dumps())
        if edit is not None:
            edit(data)
        self.stored.parent.mkdir(exist_ok=True)
        self.stored.write_text(json.dumps(data), encoding="utf-8")
        return self.stored

    def problem(self, *args: str | Path) -> str:
        """The one line that these arguments are refused with, before anything runs."""
        config = self.pytester.parseconfig(*self.settings(*args))
        with pytest.raises(MaxactError) as caught:
            plan_of(config)
        message = str(caught.value)
        assert len(message.splitlines()) == 1, message
        return message


def plan_of(config: pytest.Config) -> Plan:
    return Plan.of(Settings.from_pytest(config))


@pytest.fixture(scope="module")
def measured(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    """The tiny checkpoint's record. Made first, so that inner sessions, which forget what they import, import nothing heavy."""
    corpus = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    corpus.write_text("".join(json.dumps(sample) + "\n" for sample in SAMPLES), encoding="utf-8")
    for name in ("hypothesis", "pytest_maxact.baseline", "pytest_maxact.progress", "pytest_maxact.suite"):
        import_module(name)

    return measure(load(find(str(checkpoint))), corpus=str(corpus))


@pytest.fixture
def project(pytester: pytest.Pytester, checkpoint: Path, measured: Measurement, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:  # the outer session's
        if name != "PYTEST_DEBUG_TEMPROOT":
            monkeypatch.delenv(name)
    return Project(pytester, checkpoint, measured)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy the tiny checkpoint to a folder of another name, to be damaged."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(checkpoint, tmp_path / name))

    return make


# --- exit status 4: the checkpoint


def test_a_checkpoint_that_is_not_there_is_named_with_where_it_was_looked_for(project: Project) -> None:
    message = project.problem("--maxact-model=/no/such/folder")
    assert message.startswith("no checkpoint /no/such/folder: looked for a folder or .gguf file at /no/such/folder")
    assert "give a folder, a .gguf file, a hub id" in message
    (project.folder / "notes.txt").write_text("")
    assert "is a file, and not a .gguf one" in project.problem("--maxact-model=notes.txt")
    assert re.search(r"no checkpoint .*/model.gguf: there is no file /", project.problem("--maxact-model=/no/model.gguf"))


def test_a_hub_id_that_cannot_be_reached_is_one_line(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("no-such-org/no-such-model", "no-such-org/no-such-model@v1", "./no-such-folder"):
        message = project.problem(f"--maxact-model={name}")
        assert message.startswith(f"no checkpoint {name}: there is no folder ")
        assert "check the spelling" in message


def test_folders_without_config_or_weights_are_told_apart(project: Project, copy: Callable[[str], Path]) -> None:
    empty = project.folder / "empty"
    empty.mkdir()
    assert "checkpoint empty is empty (looked in " in project.problem(f"--maxact-model={empty}")
    (empty / "README.md").write_text("")
    assert "checkpoint empty holds no config.json" in project.problem(f"--maxact-model={empty}")
    bare = copy("bare")
    (bare / "model.safetensors").unlink()
    message = project.problem(f"--maxact-model={bare}")
    assert message.startswith("checkpoint bare holds no weights (looked for model.safetensors and ")
    assert str(bare) in message
    (bare / "adapter_model.safetensors").write_bytes(b"")
    assert "adapter bare lacks adapter_config.json (looked in " in project.problem(f"--maxact-model={bare}")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (b"{", "is not a model's config: Expecting property name"),
        (b"\xff", "is not a model's config: 'utf-8'"),
        (b"[]", "is not a model's config"),
        (b"7", "is not a model's config"),
        (b"{}", "cannot be used"),
        (b'{"model_type": "not-yet-invented"}', "a newer transformers may know this architecture"),
        (b'{"model_type": ["llama"]}', "is not a model's config"),
        (b'{"model_type": "llama", "num_hidden_layers": "three"}', "cannot be used"),
        (b'{"model_type": "vit"}', "has no vocabulary"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(
    project: Project, copy: Callable[[str], Path], config: bytes, reason: str
) -> None:
    broken = copy("broken")
    (broken / "config.json").write_bytes(config)
    message = project.problem(f"--maxact-model={broken}")
    assert reason in message
    assert "broken" in message


def test_damaged_weights_and_indexes_are_named(project: Project, copy: Callable[[str], Path]) -> None:
    broken = copy("broken")
    weights, index = broken / "model.safetensors", broken / "model.safetensors.index.json"
    whole = weights.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:4], b"", whole + b"more"):
        weights.write_bytes(part)
        assert f"{weights} is damaged or cut short" in project.problem(f"--maxact-model={broken}")
    weights.write_bytes(whole)

    def with_index(content: object) -> str:
        index.write_text(content if isinstance(content, str) else json.dumps(content))
        return project.problem(f"--maxact-model={broken}")

    shards = {"a": "model.safetensors", "b": "model-00002.safetensors"}
    assert "checkpoint broken lacks model-00002.safetensors, which its weight index names" in with_index({"weight_map": shards})
    for outside in ("../outside/model.safetensors", "/etc/passwd", "sub/model.safetensors"):
        message = with_index({"weight_map": {"a": outside}})
        assert f"the weight index of broken names {outside}, which is no file beside it" in message
    assert "names no files" in with_index({"weight_map": {}})
    malformed: object
    for malformed in ("{", "[]", "{}", {"weight_map": []}, {"weight_map": {"a": 5}}, {"weight_map": {"a": ["b"]}}):
        assert f"the weight index {index} is malformed" in with_index(malformed)


def test_pickled_weights_are_refused_with_a_command_that_converts_them(project: Project, copy: Callable[[str], Path]) -> None:
    pickled = copy("pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    message = project.problem(f"--maxact-model={pickled}")
    assert "has only pickled weights (pytorch_model.bin)" in message
    found = re.search(r"`(python -c .*)`", message)
    assert found is not None
    command = shlex.split(found[1])
    result = project.pytester.run(sys.executable, *command[1:])
    assert result.ret == 0
    converted = find(str(project.folder / "pickled-safetensors"))
    assert converted.weights == ("model.safetensors",)
    again, original = load(converted), load(find(str(project.checkpoint)))
    for (name, one), (_, other) in zip(again.model.named_parameters(), original.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert again.tokenizer("some words")["input_ids"] == original.tokenizer("some words")["input_ids"]


OWN_CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaModel

Path({ran!r}).touch()

class OwnConfig(LlamaConfig):
    model_type = "own-llama"

class OwnModel(LlamaModel):
    config_class = OwnConfig
"""


def test_a_checkpoints_own_code_runs_only_where_it_was_asked_for(
    project: Project, copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, ran = copy("own"), project.folder / "ran"
    (own / "modeling_own.py").write_text(OWN_CODE.format(ran=str(ran)))
    config = json.loads((own / "config.json").read_text())
    config |= {"model_type": "own-llama", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    (own / "config.json").write_text(json.dumps(config))
    message = project.problem(f"--maxact-model={own}")
    assert "needs Python code of its own (modeling_own.OwnConfig, modeling_own.OwnModel)" in message
    assert "add --maxact-trust-remote-code" in message
    assert not ran.exists()
    monkeypatch.setenv("HF_MODULES_CACHE", str(project.folder / "modules"))
    result = project.pytester.runpytest_subprocess(
        *project.settings(
            f"--maxact-model={own}", "--maxact-trust-remote-code", "--maxact-baseline=none", "--maxact-json=r.json"
        )
    )
    result.assert_outcomes(passed=1, skipped=5)
    assert result.ret == 0
    assert ran.exists()
    record = Measurement.load(project.folder / "r.json")
    assert record.model.architecture == "OwnModel"
    assert record.sites == project.measured.sites  # the same weights and the same forward


# --- exit status 4: corpus, baseline, numbers, outputs


def test_a_corpus_that_cannot_be_used_is_named(project: Project) -> None:
    file = project.folder / "mine.jsonl"

    def refused(content: str, *args: str) -> str:
        file.write_text(content, encoding="utf-8")
        return project.problem(f"--maxact-corpus={file}", *args)

    assert "corpus nowhere.jsonl was not found (looked at " in project.problem("--maxact-corpus=nowhere.jsonl")
    assert f"corpus file {file}, line 2 is not JSON" in refused('{"text": "a"}\n{"text": \n')
    assert f"corpus file {file}, line 1 has no usable key" in refused('{"prompt": "a"}')
    assert f"corpus file {file} has no samples" in refused("\n")
    assert "holds token id 512, beyond the model's vocabulary of 512" in refused('{"input_ids": [1, 512]}')
    assert "corpus mine has 1 samples, not 2" in refused('{"text": "a"}', "--maxact-samples=2")
    assert "the tokenizer has no chat template" in refused('{"text": "a"}', "--maxact-special-tokens=chat")


def test_texts_need_a_tokenizer_and_ids_do_not(project: Project, copy: Callable[[str], Path], rows: list[str]) -> None:
    bare = copy("bare")
    for file in bare.glob("*token*"):
        file.unlink()
    assert "holds texts, and the model came without a tokenizer" in project.problem(f"--maxact-model={bare}")
    (project.folder / "ids.jsonl").write_text("\n".join(rows))
    assert project.outcomes(f"--maxact-model={bare}", "--maxact-corpus=ids.jsonl", "--maxact-baseline=none") == {
        "passed": ["finite"],
        "skipped": WITH_BASELINE,
    }


def test_a_baseline_that_cannot_be_used_is_named(project: Project) -> None:
    project.baseline().write_text("{")
    assert f"the baseline file {project.stored} is not JSON" in project.problem()
    project.baseline(lambda data: data.update(schema="maxact/baseline@2"))
    assert "it is newer than this pytest-maxact: upgrade that" in project.problem()
    project.baseline(lambda data: data["sites"][3].update(mean=1.0))
    assert "is malformed at sites.3.mean: Extra inputs are not permitted" in project.problem()
    message = project.problem("--maxact-baseline=other")
    assert f"no baseline other: looked for other.json in {project.stored.parent} and " in message
    assert "no baseline away.json: looked for away.json in " in project.problem("--maxact-baseline=away.json")
    message = project.problem("--maxact-baseline=none", "--maxact-update")
    assert "--maxact-baseline=none leaves an update nothing to write" in message


@pytest.mark.parametrize("value", ["-1", "0", "many", "1.5", "", " ", "1e3", "²", "nan", "9" * 5000])
@pytest.mark.parametrize("option", ["samples", "max-length", "batch-tokens"])
def test_counts_are_whole_numbers_from_one(project: Project, option: str, value: str) -> None:
    told = str(SettingsError(f"--maxact-{option}={value} is no whole number from 1"))  # which shortens 5,000 digits
    assert project.problem(f"--maxact-{option}={value}") == told


@pytest.mark.parametrize("value", ["-0.1", "0", "much", "nan", "inf", "", "1,5"])
@pytest.mark.parametrize("option", ["rtol", "site-rtol", "ceiling"])
def test_tolerances_are_numbers_above_zero(project: Project, option: str, value: str) -> None:
    assert project.problem(f"--maxact-{option}={value}") == f"--maxact-{option}={value} is no number above 0"


@pytest.mark.parametrize("option", ["special-tokens", "dtype", "suite"])
def test_choices_are_listed(project: Project, option: str) -> None:
    message = project.problem(f"--maxact-{option}=wrong")
    assert message.startswith(f"--maxact-{option}=wrong is none of ")
    assert message.count(",") >= 2


def test_options_that_exclude_each_other_are_refused(project: Project) -> None:
    assert "exclude each other" in project.problem("--maxact-update", "--maxact-update-new")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "nonsense", "cpu:x", "xpu", "hpu", "meta"])
def test_a_device_that_cannot_be_used_is_refused(project: Project, device: str) -> None:
    assert project.problem(f"--maxact-device={device}").startswith(f"--maxact-device={device} cannot be used here (")


def test_outputs_that_cannot_be_written_are_refused_before_the_run(project: Project) -> None:
    message = project.problem("--maxact-json=missing/record.json")
    assert f"cannot be written: there is no folder {project.folder / 'missing'}" in message
    (project.folder / "there").mkdir()
    assert f"--maxact-json cannot write {project.folder / 'there'}: it is a folder" in project.problem("--maxact-json=there")
    (project.folder / "baselines").write_text("a file")
    message = project.problem("--maxact-update")
    assert message.startswith(f"--maxact-update cannot write {project.stored}")
    (project.folder / "baselines").unlink()
    project.stored.mkdir(parents=True)
    assert f"--maxact-update cannot write {project.stored}: it is a folder" in project.problem("--maxact-update")


def test_every_refusal_ends_pytest_with_status_4_and_that_line(project: Project) -> None:
    for arguments, line in (
        (["--maxact-samples=0"], "ERROR: --maxact-samples=0 is no whole number from 1"),
        (["--maxact-corpus=no.jsonl"], "ERROR: corpus no.jsonl was not found (looked at *"),
        (["--maxact-model=/no"], "ERROR: no checkpoint /no: looked for *"),
        (["maxact::nonsense"], "ERROR: there is no check maxact::nonsense: there are finite, maximum, *"),
        (["maxact::finite", "maxact::finite::more"], "ERROR: there is no check maxact::finite::more: there are *"),
    ):
        result = project.pytest(*arguments)
        assert int(result.ret) == 4
        result.stderr.fnmatch_lines([line])
        assert len([text for text in result.errlines if text.strip()]) == 1
        assert not any("collected" in text or "Traceback" in text for text in result.outlines)


def test_an_ini_value_of_the_wrong_kind_is_status_4(project: Project) -> None:
    project.pytester.makeini("[pytest]\nmaxact_two_sided = perhaps\n")
    result = project.pytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *perhaps*"])
    assert "Traceback" not in result.stderr.str()


@pytest.mark.parametrize("argument", ["maxact::maximum", "maxact"])
def test_naming_the_suite_without_a_model_is_status_4(project: Project, argument: str) -> None:
    result = project.pytester.runpytest_inprocess(argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the built-in checks need a checkpoint: add --maxact-model=ID"])


@pytest.mark.parametrize("option", ["--help", "--markers"])
def test_help_is_given_even_where_the_ini_file_names_what_is_not_there(project: Project, option: str) -> None:
    project.pytester.makeini("[pytest]\nmaxact_model = /no/such/folder\n")
    result = project.pytester.runpytest_inprocess(option)
    assert result.ret == 0
    line = "*--maxact-corpus=NAME*" if option == "--help" else "@pytest.mark.maxact(model=None, corpus=None): the built-in*"
    result.stdout.fnmatch_lines([line])


def test_a_refusal_in_a_process_of_its_own_shows_no_traceback(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = project.pytester.runpytest_subprocess(*project.settings("--maxact-model=no-such-org/no-such-model"))
    assert result.ret == 4
    assert [line for line in result.outlines + result.errlines if line.strip()] == [
        line
        for line in result.errlines
        if line.startswith("ERROR: no checkpoint no-such-org/no-such-model: there is no folder ")
    ]
    assert len(result.errlines) <= 2


# --- full runs


def test_from_no_baseline_to_a_green_run_by_the_printed_command(project: Project) -> None:
    """In processes of their own, as a user sees it."""
    result = project.pytester.runpytest_subprocess(*project.settings("--maxact-json=r.json"))
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=5)
    result.stdout.fnmatch_lines(
        ["maxact: loading and measuring tiny", "maxact: * of * tokens, * tokens/s"]
    )  # output is captured
    result.stdout.fnmatch_lines(
        [f"no baseline for tiny: looked for {project.stored}, and among the package's own", "  write it:  pytest *"]
    )
    shown = result.outlines[next(i for i, line in enumerate(result.outlines) if "= maximum activations =" in line) :]
    shown = shown[: next(i for i, line in enumerate(shown) if "short test summary info" in line)]
    assert len(shown) > 6
    assert max(map(len, shown)) <= 80
    assert not project.stored.exists()
    record = Measurement.load(project.folder / "r.json")
    assert record.sites == project.measured.sites
    command = next(line for line in result.outlines if line.startswith("  write it:")).split(":", 1)[1]
    program, *arguments = shlex.split(command)
    assert program == "pytest"
    result = project.pytester.runpytest_subprocess(*arguments)
    assert result.ret == 0
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines([f"baseline {project.stored} was written", "new: M = *"])
    assert Baseline.load(project.stored).dumps() == Baseline.of(project.measured).dumps()
    assert sorted(file.name for file in project.stored.parent.iterdir()) == ["tiny.json"]
    assert project.outcomes() == {"passed": ALL}


def test_updating_without_a_change_leaves_bytes_and_time_alone(project: Project) -> None:
    file = project.baseline()
    os.utime(file, ns=(10**18, 10**18))
    before = file.read_bytes()
    result = project.pytest("--maxact-update")
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"baseline {file} is unchanged"])
    assert file.read_bytes() == before
    assert file.stat().st_mtime_ns == 10**18


def test_updating_lists_each_change_keeps_tolerances_and_touches_no_other_file(project: Project) -> None:
    override = ToleranceOverride(component="mlp", layer=1, rtol=2.0, reason="two runs differ by this")

    def edit(data: dict[str, Any]) -> None:
        data["tolerances"] = [override.model_dump()]
        data["sites"][0]["max"] = 7.5
        data["sites"].append({"component": "mlp", "layer": 9, "max": 1.0, "min": 0.0})
        data["corpus"]["digest"] = "0" * 64

    project.baseline(edit)
    others = {project.stored.parent / name: f"{name}'s" for name in ("other.json", "notes.md", ".tiny.json.x.part")}
    for file, content in others.items():
        file.write_text(content)
    result = project.pytest("--maxact-update")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            f"baseline {project.stored} was rewritten",
            f"corpus digest: {'0' * 64} -> {project.measured.corpus.digest}",
            "attention layer 0: 7.500 -> *",
            "mlp layer 9: gone",
        ]
    )
    new = Baseline.load(project.stored)
    assert new.tolerances == [override]
    assert new.dumps() == Baseline.of(project.measured, [override]).dumps()
    assert {file: file.read_text() for file in others} == others
    assert len(list(project.stored.parent.iterdir())) == 4


def test_update_new_writes_what_is_not_there_and_overwrites_nothing(project: Project) -> None:
    assert project.pytest("--maxact-update-new").ret == 0
    assert Baseline.load(project.stored).sites == Baseline.of(project.measured).sites
    project.baseline(lambda data: data["peak"].update(value=1.0))
    before = project.stored.read_bytes()
    assert project.pytest("--maxact-update-new").ret == 1
    assert project.stored.read_bytes() == before
    # What a failure then says to type must work: the two options exclude each other.
    command = next(line for line in project.last.texts["maxact::maximum"].splitlines() if "to accept the change:" in line)
    program, *arguments = shlex.split(command.split(":", 1)[1])
    assert program == "pytest"
    assert project.pytest(*arguments).ret == 0
    assert project.stored.read_bytes() != before


def test_a_maximum_a_third_above_its_baseline_is_red_and_says_how_to_accept_it(project: Project) -> None:
    assert project.measured.peak is not None
    value = project.measured.peak.value
    project.baseline(lambda data: data["peak"].update(value=value / 1.5))
    assert project.outcomes() == {"failed": ["maximum"], "passed": ["finite", "location", "dominance", "sun", "profile"]}
    text = project.last.texts["maxact::maximum"]
    assert text.startswith(f"M = {value:.2f} at final_norm: 1.50x the baseline ")
    assert "tolerance +10%" in text
    assert "token '" in text
    assert f"to accept the change:  pytest --maxact-model={project.checkpoint}" in text
    assert text.endswith("--maxact-update")
    assert "Traceback" not in text
    assert project.outcomes("--maxact-rtol=0.6") == {"passed": ALL}


def test_one_layers_down_projection_times_eight_is_red_in_profile_by_name(
    project: Project, copy: Callable[[str], Path]
) -> None:
    project.baseline()
    scaled = copy("scaled")
    weights = load_file(scaled / "model.safetensors")
    (name,) = [name for name in weights if name.endswith("layers.1.mlp.down_proj.weight")]
    weights[name] *= 8
    save_file(weights, scaled / "model.safetensors", {"format": "pt"})
    found = project.outcomes(f"--maxact-model={scaled}", f"--maxact-baseline={project.stored}")
    assert "profile" in found["failed"]
    text = project.last.texts["maxact::profile"]
    assert "the first is mlp layer 1" in text
    assert re.search(r"^  mlp layer 1: .* \((7|8)\.\d\dx\)$", text, re.MULTILINE)
    assert "layer 0" not in text  # what runs before it is as it was


def test_a_baseline_of_other_conditions_is_red_naming_each(project: Project) -> None:
    project.baseline()
    arguments = ("--maxact-dtype=float32", "--maxact-special-tokens=tokenizer", "--maxact-max-length=5", "--maxact-samples=2")
    assert project.outcomes(*arguments) == {"passed": ["finite"], "failed": WITH_BASELINE}
    for check in WITH_BASELINE:
        first = project.last.texts[f"maxact::{check}"].splitlines()[0]
        assert first.startswith("the baseline was made under other conditions: corpus texts (")
        assert "special tokens none, now tokenizer: see --maxact-special-tokens; dtype bfloat16, now float32" in first
        assert "max length 256, now 5" in first


def test_without_a_baseline_wanted_all_but_finite_skips(project: Project) -> None:
    project.baseline(lambda data: data["peak"].update(value=1.0))
    result = project.pytest("--maxact-baseline=none")
    assert result.ret == 0
    assert project.last.outcomes == {f"maxact::{name}": "passed" if name == "finite" else "skipped" for name in ALL}
    assert "needs a baseline" in project.last.texts["maxact::sun"]
    result.stdout.fnmatch_lines(["M = * at final_norm, feature *"])


def test_a_ceiling_needs_no_baseline(project: Project) -> None:
    assert project.outcomes("--maxact-baseline=none", "--maxact-ceiling=1e6")["passed"] == ["finite", "maximum"]
    assert project.outcomes("--maxact-baseline=none", "--maxact-ceiling=1")["failed"] == ["maximum"]
    text = project.last.texts["maxact::maximum"]
    assert "ceiling 1.000" in text
    assert "--maxact-update" not in text  # no baseline is wanted, and none would help
    assert project.outcomes("--maxact-ceiling=1e6")["failed"] == ["location", "dominance", "sun", "profile"]


def test_ini_keys_stand_in_for_options_and_options_win(project: Project) -> None:
    project.pytester.makeini(
        f"""
        [pytest]
        maxact_model = {project.checkpoint}
        maxact_corpus = {project.corpus}
        maxact_samples = 2
        maxact_baselines = kept
        maxact_two_sided = true
        maxact_rtol = 0.01
        maxact_dtype = float32
        """
    )
    (project.folder / "sub").mkdir()
    os.chdir(project.folder / "sub")  # folders of an ini file count from its own
    recorder = Recorder()
    result = project.pytester.runpytest_inprocess("--maxact-update", "--maxact-max-length=7", plugins=[recorder])
    assert result.ret == 0
    assert set(recorder.outcomes.values()) == {"passed"}
    stored = Baseline.load(project.folder / "kept" / "tiny.json")
    assert (stored.corpus.samples, stored.corpus.max_length, stored.model.dtype) == (2, 7, "float32")
    data = json.loads(stored.dumps())
    data["peak"]["value"] *= 1.05  # a fall of 5 percent
    (project.folder / "kept" / "tiny.json").write_text(json.dumps(data))
    config = ["--maxact-max-length=7", "-rf"]
    assert project.pytester.runpytest_inprocess(*config).ret == 1
    assert project.pytester.runpytest_inprocess(*config, "--maxact-rtol=0.2").ret == 0
    assert project.pytester.runpytest_inprocess(*config, "--maxact-dtype=bfloat16").ret == 1


def test_the_suite_stands_beside_the_users_tests_and_is_chosen_like_them(project: Project) -> None:
    project.baseline()
    (project.folder / "test_mine.py").write_text("def test_own(): pass\n\ndef test_maximum_of_two(): assert max(1, 2) == 2\n")
    mine = ["test_mine.py::test_own", "test_mine.py::test_maximum_of_two"]
    assert project.outcomes() == {"passed": [*mine, *ALL]}
    assert project.outcomes("-k", "maximum") == {"passed": [mine[1], "maximum"]}
    assert project.outcomes("-m", "maxact", "--strict-markers") == {"passed": ALL}
    assert project.outcomes("-m", "not maxact") == {"passed": mine}
    assert project.outcomes("--deselect=maxact::sun")["passed"] == [*mine, *(name for name in ALL if name != "sun")]
    assert project.outcomes("maxact::maximum", "maxact::sun") == {"passed": ["maximum", "sun"]}
    assert project.outcomes("maxact::sun", "test_mine.py::test_own") == {"passed": ["test_mine.py::test_own", "sun"]}
    assert project.outcomes("maxact") == {"passed": ALL}
    assert project.outcomes("test_mine.py") == {"passed": mine}
    assert project.outcomes("test_mine.py", "--maxact-suite=always") == {"passed": [*mine, *ALL]}
    assert project.outcomes("--maxact-suite=never") == {"passed": mine}
    result = project.pytest("--collect-only", "-q")
    assert result.ret == 0
    assert [line for line in result.outlines if "::" in line] == [*mine, *(f"maxact::{name}" for name in ALL)]
    assert "maximum activations" not in result.stdout.str()  # nothing was measured


def test_last_failed_and_junit_know_the_checks(project: Project) -> None:
    project.baseline(lambda data: data["peak"].update(value=1.0))
    assert project.outcomes("--junitxml=j.xml")["failed"] == ["maximum"]
    assert project.outcomes("--lf") == {"failed": ["maximum"]}
    text = (project.folder / "j.xml").read_text()
    assert 'name="maximum"' in text
    assert '<property name="maxact.maximum" value=' in text


def test_two_workers_measure_once(project: Project) -> None:
    (project.folder / "conftest.py").write_text(
        "from pytest_maxact.plan import Plan\n"
        "run = Plan.run\n"
        "def counted(*args):\n"
        "    with open('measured', 'a') as file:\n"
        "        file.write('once\\n')\n"
        "    return run(*args)\n"
        "Plan.run = counted\n"
    )
    project.baseline(lambda data: data["peak"].update(value=1.0))
    result = project.pytester.runpytest_subprocess(*project.settings("-n2", "--dist=load", "--maxact-json=r.json"))
    result.assert_outcomes(passed=5, failed=1)
    assert (project.folder / "measured").read_text() == "once\n"
    assert Measurement.load(project.folder / "r.json").sites == project.measured.sites
    result.stdout.fnmatch_lines(["M = *", "FAILED maxact::maximum*"])
    result.stdout.fnmatch_lines(["  to accept the change:  pytest *-n2*--maxact-update"])


# --- runs that break


def left_behind(project: Project) -> list[str]:
    """What a run may have written, the corpus left out."""
    return sorted(
        str(file.relative_to(project.folder))
        for file in project.folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and ".pytest_cache" not in file.parts and file != project.corpus
    )


def test_a_measurement_that_breaks_fails_every_check_with_the_reason_and_writes_nothing(
    project: Project, copy: Callable[[str], Path]
) -> None:
    lacking = copy("lacking")
    weights = load_file(lacking / "model.safetensors")
    del weights["layers.1.mlp.down_proj.weight"]
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    result = project.pytest(f"--maxact-model={lacking}", "--maxact-json=r.json", "--maxact-update")
    assert result.ret == 1
    assert set(project.last.outcomes.values()) == {"failed"}
    assert len(project.last.outcomes) == 6
    for text in project.last.texts.values():
        assert "checkpoint lacking lacks 1 weights of its architecture (the first: layers.1.mlp.down_proj.weight)" in text
        assert len(text.splitlines()) == 1
    assert left_behind(project) == []


def test_weights_of_another_shape_are_refused_by_name(project: Project, copy: Callable[[str], Path]) -> None:
    other = copy("other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    result = project.pytest(f"--maxact-model={other}")
    assert result.ret == 1
    text = project.last.texts["maxact::finite"]
    assert "checkpoint other lacks 9 weights of its architecture (the first: ('layers.0.mlp.down_proj.weight', " in text
    assert len(text.splitlines()) == 1
    assert "REPORT" not in result.stdout.str() + result.stderr.str()


def test_an_unexpected_error_is_told_with_its_traceback_and_not_repeated(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def broken(*args: object, **kwargs: object) -> None:
        calls.append(args)
        raise ZeroDivisionError("a model's own code")

    monkeypatch.setattr("pytest_maxact.plan.measure", broken)
    result = project.pytest("--maxact-json=r.json", "--maxact-update")
    assert result.ret == 1
    assert len(calls) == 1
    assert set(project.last.outcomes.values()) == {"failed"}
    for text in project.last.texts.values():
        assert f"measuring {project.checkpoint} broke: ZeroDivisionError: a model's own code" in text.splitlines()[0]
    assert sum("Traceback (most recent call last)" in text for text in project.last.texts.values()) == 1
    assert left_behind(project) == []


def test_an_output_that_cannot_be_written_after_all_is_no_green_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk shows only when the baseline or the record is written."""

    def full(self: Baseline, path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Baseline, "save", full)
        assert project.pytest("--maxact-update").ret == 1
    assert all(f"baseline {project.stored} cannot be written" in text for text in project.last.texts.values())
    save = Measurement.save

    def nearly_full(self: Measurement, path: Path) -> None:
        if path.name == "r.json":
            raise OSError(28, "No space left on device")
        save(self, path)

    monkeypatch.setattr(Measurement, "save", nearly_full)
    assert project.pytest("--maxact-json=r.json", "--maxact-baseline=none").ret == 1
    assert any("No space left on device" in text for text in project.last.texts.values())


def test_a_model_of_nan_is_red_and_is_made_no_baseline(project: Project, copy: Callable[[str], Path]) -> None:
    broken = copy("broken")
    weights = load_file(broken / "model.safetensors")
    weights["layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    project.baseline()
    before = project.stored.read_bytes()
    found = project.outcomes(f"--maxact-model={broken}", f"--maxact-baseline={project.stored}")
    assert {"finite", "profile"} <= set(found["failed"])
    told = "hold NaN or infinities; first NaN: mlp layer 1, feature 0, token 'T' at position 0 of sample a: [T]he first sample"
    assert told in project.last.texts["maxact::finite"]
    result = project.pytest(f"--maxact-model={broken}", f"--maxact-baseline={project.stored}", "--maxact-update")
    assert result.ret == 1
    assert any("no baseline is written from broken" in text for text in project.last.texts.values())
    assert project.stored.read_bytes() == before


@pytest.fixture
def all_nan(copy: Callable[[str], Path]) -> Path:
    """A copy of the checkpoint whose every activation is NaN."""
    broken = copy("broken")
    weights = load_file(broken / "model.safetensors")
    weights["embed_tokens.weight"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    return broken


def test_a_model_of_nothing_but_nan_is_told_so_in_a_line_by_each_check_and_report(project: Project, all_nan: Path) -> None:
    project.baseline()
    formats = ["--maxact-format=float16", "--maxact-format=int8", "--maxact-ceiling=5", "--maxact-two-sided"]
    written = ["--maxact-json=r.json", "--junitxml=j.xml"]
    found = project.outcomes(f"--maxact-model={all_nan}", f"--maxact-baseline={project.stored}", *formats, *written)
    assert found == {"failed": [*ALL, "headroom"]}
    first = "first NaN: embedding, feature 0, token 'T' at position 0 of sample a: [T]he first sample of thre"
    said = {name: project.last.texts[f"maxact::{name}"].splitlines()[0] for name in found["failed"]}
    assert said["finite"] == f"14 of 14 sites hold NaN or infinities; {first}"
    assert said["maximum"] == said["location"] == "no site holds a finite value, so there is no M"
    assert said["dominance"] == "no two components hold finite values"
    assert said["sun"] == "no token could be judged: every one holds NaN or infinities"
    assert said["profile"].startswith("14 of 14 sites left their baselines; the first is embedding")
    assert said["headroom"].startswith("SQNR fell by more than 1 dB in 28 of 28 figures; the first is embedding")
    assert "Traceback" not in "".join(project.last.texts.values())
    record = Measurement.load(project.folder / "r.json")
    assert record.peak is None
    assert all(math.isnan(sample.peak) for sample in record.samples)
    lines = [line.strip() for line in summary(record, None)]
    assert "no site holds a finite value: there is no M" in lines
    assert f"32,240 of 32,240 values are NaN or infinities; {first}" in " ".join(lines)
    assert describe(record) == [
        "saturation unknown: fewer than four samples hold a finite value",
        "3 of 3 samples hold no finite value and are left out",
    ]
    assert standing(record) is None
    assert f'name="maxact.first_fault" value="{first}' in (project.folder / "j.xml").read_text(encoding="utf-8")


def test_one_checkpoint_of_nan_in_a_series_is_red_and_the_next_one_is_judged_by_those_before(
    project: Project, all_nan: Path, copy: Callable[[str], Path]
) -> None:
    models = [f"--maxact-model={folder}" for folder in (project.checkpoint, all_nan, copy("third"))]
    found = project.outcomes(*models)
    assert found["failed"] == ["broken::finite", "broken::growth"]
    assert project.last.texts["maxact::broken::growth"] == "no site holds a finite value, so there is no M"
    assert {"third::finite", "third::growth"} <= set(found["passed"])
    result = project.pytest(*models)
    result.stdout.re_match_lines(
        [r"tiny .*12\.00 +final_norm", "broken +no site holds a finite value", r"third .* no ratio +final"]
    )


def test_an_interrupt_while_measuring_leaves_nothing_behind(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_maxact.runner.Observer.run", interrupted)
    result = project.pytest("--maxact-json=r.json", "--maxact-update")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert left_behind(project) == []
    assert "maximum activations" not in result.stdout.str()


# --- number formats, arrays, cost


def test_headroom_joins_the_suite_where_a_format_is_asked_for(project: Project) -> None:
    project.baseline()
    assert project.outcomes("--maxact-format=int8", "--maxact-format=float16") == {"passed": [*ALL, "headroom"]}
    result = project.pytest("maxact::headroom")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: maxact::headroom needs a number format to check: add --maxact-format=NAME"])
    (project.folder / "pytest.ini").write_text("[pytest]\nmaxact_format = int8, fp8_e5m2\n")
    assert project.outcomes("maxact::headroom") == {"passed": ["headroom"]}
    assert "--maxact-format=int4 is none of float16, fp8_e4m3, fp8_e5m2, int8" in project.problem("--maxact-format=int4")


def test_an_overflow_and_a_lost_sqnr_are_red_with_the_site(project: Project, copy: Callable[[str], Path]) -> None:
    def better(data: dict[str, Any]) -> None:
        site = next(site for site in data["sites"] if site["component"] == "gate")
        site["sqnr"]["int8_p999"] += 1.5

    project.baseline(better)
    found = project.outcomes("--maxact-format=int8")
    assert found["failed"] == ["headroom"]
    assert "the first is gate layer 0: int8_p999 " in project.last.texts["maxact::headroom"]

    loud = copy("loud")
    weights = load_file(loud / "model.safetensors")
    weights["embed_tokens.weight"] *= 1e7
    save_file(weights, loud / "model.safetensors", metadata={"format": "pt"})
    found = project.outcomes(f"--maxact-model={loud}", "--maxact-baseline=none", "--maxact-format=float16")
    assert found["failed"] == ["headroom"]
    assert " beyond float16 (largest 65,504)" in project.last.texts["maxact::headroom"]


def test_the_record_comes_with_its_arrays(project: Project) -> None:
    project.baseline()
    assert project.pytest("--maxact-json=r.json").ret == 0
    record = Measurement.load(project.folder / "r.json")
    assert record.arrays.histograms == project.measured.arrays.histograms
    assert [sample.id for sample in record.samples] == ["a", "b", "c"]
    assert record.hidden_peaks.shape == (3, 3)
    (project.folder / "mine.npz").write_bytes(b"somebody else's")
    assert "would overwrite " in (message := project.problem("--maxact-json=mine.json"))
    assert message.endswith("mine.npz, which no record beside it names: name another file")
    (project.folder / "r.npz").unlink()
    (project.folder / "r.npz").mkdir()
    assert "it is a folder or a special file" in project.problem("--maxact-json=r.json")


def test_the_benchmark_is_an_item_and_is_shown(project: Project) -> None:
    project.baseline()
    result = project.pytest("--maxact-benchmark", "--junitxml=junit.xml")
    assert result.ret == 0
    assert project.last.outcomes["maxact::benchmark"] == "passed"
    result.stdout.fnmatch_lines(["cost of observing (* kernel, * tokens a forward, 3 rounds): in-hook*"])
    junit = (project.folder / "junit.xml").read_text()
    assert 'name="maxact.in_hook"' in junit
    result = project.pytest("maxact::benchmark")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: maxact::benchmark runs only on request: add --maxact-benchmark"])


# --- the summary


def test_the_summary_of_a_wild_record_fits_80_columns(measured: Measurement) -> None:
    place = Location(
        signed=3.4e38,
        feature=131071,
        sample="s" * 90,
        position=10**6,
        token_id=5,
        token="t" * 60,
        before="b" * 24,
        after="\n" * 24,
    )
    sites = [site.model_copy(update={"max": 3.4e38, "peak": place}) for site in measured.sites]
    assert measured.peak is not None
    wild = measured.model_copy(
        update={
            "model": measured.model.model_copy(update={"id": "organisation/" + "n" * 100, "layers": 10**4}),
            "sites": sites,
            "peak": measured.peak.model_copy(
                update={**place.model_dump(), "value": 3.4e38, "component": "attention", "layer": 2}
            ),
            "notes": ["a note of many words " * 10],
            "overhead": Overhead(
                kernel="eager",
                rounds=3,
                tokens=10**7,
                plain_tokens_per_s=1e7,
                hooked_tokens_per_s=1e-3,
                in_hook=1e4,
                wall=1e4,
                memory_mb=-3.0,
                finishing_s=1e4,
            ),
        }
    )
    for baseline in (None, Baseline.of(measured)):
        for record in (wild, measured, measured.model_copy(update={"peak": None, "sun": None, "trajectory": None})):
            assert max(map(len, summary(record, baseline))) <= 80


@pytest.mark.parametrize("action", ["--maxact-update", "--maxact-json=r.json", "--maxact-fresh"])
def test_an_action_without_a_model_is_status_4(project: Project, action: str) -> None:
    result = project.pytester.runpytest_inprocess(action)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {action.split('=')[0]} needs a checkpoint to do it with: add --maxact-model=ID"])


# --- what a review found: nothing asked for is silently left undone, nothing harmful is offered


def test_an_action_that_the_arguments_switch_off_is_refused(project: Project) -> None:
    (project.folder / "test_mine.py").write_text("def test_mine(): pass")
    for action in ("--maxact-update", "--maxact-json=r.json", "--maxact-benchmark"):
        result = project.pytest("test_mine.py", action)
        assert result.ret == 4
        result.stderr.fnmatch_lines(["ERROR: *would do nothing: *add the argument maxact"])
    result = project.pytest("test_mine.py")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["maxact: no built-in checks of tiny, since paths were given; add the argument maxact"])


def test_an_update_is_offered_only_where_it_would_help(project: Project) -> None:
    def halved(data: dict[str, Any]) -> None:
        data["peak"]["value"] /= 2

    project.baseline(halved)
    project.pytest()
    assert "to accept the change:" in project.last.texts["maxact::maximum"]
    project.pytest("--maxact-ceiling=0.001")
    assert "to accept the change:" not in project.last.texts["maxact::maximum"]
    project.pytest("--maxact-samples=1")  # the baseline is of the whole corpus: an update would narrow it
    assert "other conditions" in project.last.texts["maxact::maximum"]
    assert "to accept the change:" not in project.last.texts["maxact::maximum"]


def test_names_that_the_system_refuses_are_one_line(project: Project) -> None:
    for option in ("model", "corpus", "baseline", "json"):
        result = project.pytest(f"--maxact-{option}={'x' * 5000}")
        assert result.ret == 4
        assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_an_output_that_is_no_file_is_left_alone(project: Project) -> None:
    pipe = project.folder / "pipe"
    os.mkfifo(pipe)
    assert "it is a folder or a special file" in project.problem(f"--maxact-json={pipe}")
    assert "nothing can be written in /proc" in project.problem("--maxact-json=/proc/record.json")


def test_a_folder_named_like_a_shipped_model_does_not_get_its_baseline(
    project: Project, make_checkpoint: Callable[..., Path]
) -> None:
    plan = plan_of(
        project.pytester.parseconfig(*project.settings(f"--maxact-model={make_checkpoint(project.folder / 'demo')}"))
    )
    assert plan.stored.baseline is None
    shipped = plan_of(project.pytester.parseconfig(*project.settings("--maxact-model=demo")))
    assert shipped.stored.baseline is not None


def test_a_length_beyond_the_context_and_a_broken_tokenizer_are_found_before_the_run(
    project: Project, copy: Callable[[str], Path]
) -> None:
    assert "is beyond the context of tiny, 256" in project.problem("--maxact-max-length=257")
    broken = copy("broken")
    (broken / "tokenizer.json").write_text('{"model":')
    assert "the tokenizer of broken cannot be loaded: " in project.problem(f"--maxact-model={broken}")


def test_paths_of_an_ini_file_count_from_rootdir(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.folder / "pytest.ini").write_text(f"[pytest]\nmaxact_model = {project.checkpoint}\nmaxact_corpus = texts.jsonl")
    below = project.folder / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    settings = Settings.from_pytest(
        project.pytester.parseconfig(f"--rootdir={project.folder}", f"-c={project.folder}/pytest.ini")
    )
    assert settings is not None
    assert settings.corpus == str(project.corpus)
