"""Strangers' files: names and texts that attack a terminal, outputs that lead elsewhere, checkpoints that want to run code.

What the README's section of this name says is shown here, and in `test_remote_code.py`, `test_hub.py` (code of checkpoints,
tokenizers and data sets), `test_command_line.py` (pickled weights), `test_record.py` (arrays, the name of their file),
`test_images.py` (paths of images) and `behaviours/test_no_text.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlavaConfig

from pytest_maxact import MaxactCallback, compare
from pytest_maxact.baseline import file_name, update
from pytest_maxact.baseline import look_up as look_up_baseline
from pytest_maxact.checkpoint import find, load, load_processor, load_tokenizer
from pytest_maxact.checks.verdict import Verdict
from pytest_maxact.corpus import check_tokenizer, load_corpus
from pytest_maxact.corpus_sources import file_outside
from pytest_maxact.errors import (
    BaselineError,
    CheckpointError,
    CorpusError,
    MaxactError,
    SettingsError,
    first_line,
    on_one_line,
)
from pytest_maxact.prompts import chat_prompt
from pytest_maxact.record import Baseline, Measurement, ToleranceOverride, write_atomically
from pytest_maxact.report.properties import properties
from pytest_maxact.report.terminal import summary
from pytest_maxact.runner import measure
from pytest_maxact.validity import describe
from pytest_maxact.visible import visible

HOSTILE = "e\x1b]0;owned\x07\x9b31m\u202ev\u200b\u2066i\x7f\u2028l"


# --- text that is shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\r\nb\tc\x00\x7f", "a\\r\\nb\\tc\\x00\\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066\u2069\u200f\u061c", "\\u2066\\u2069\\u200f\\u061c"),
        ("pay\u200bpal\u2060\ufeff\u00ad", "pay\\u200bpal\\u2060\\ufeff\\xad"),
        ("\u2028\u2029\x85", "\\u2028\\u2029\\x85"),
        ("\ud800 \udc1b", "\\ud800 \\udc1b"),
        ("\U000e0041", "\\U000e0041"),
        ("Grüße, 鯨 λόγος é 🐳", "Grüße, 鯨 λόγος é 🐳"),
    ],
)
def test_what_would_do_something_is_an_escape_and_all_else_stays(raw: str, shown: str) -> None:
    assert visible(raw) == shown
    assert visible(shown) == shown


@given(st.text(st.characters()))  # surrogates, too
def test_whatever_is_shown_can_be_printed(text: str) -> None:
    assert visible(text).isprintable()
    visible(text).encode("utf-8")


def test_what_a_library_raises_is_told_with_its_traceback_and_visible(
    pytester: pytest.Pytester, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError(f"{HOSTILE}\n{HOSTILE}")

    monkeypatch.setattr("pytest_maxact.plan.measure", broken)
    told = str(pytester.runpytest_inprocess(f"--maxact-model={checkpoint}", "--maxact-corpus=smoke").stdout)
    assert "Traceback (most recent call last)" in told
    assert "\\x1b]0;owned" in told
    assert all(line.isprintable() for line in told.split("\n"))


def test_errors_and_verdicts_are_visible_as_soon_as_they_are_text() -> None:
    for shown in (
        str(CorpusError(f"corpus {HOSTILE} was not found")),
        first_line(ValueError(HOSTILE)),
        on_one_line(ValueError(f"a\n{HOSTILE}")),
        Verdict("maximum", "failed", HOSTILE, (HOSTILE,)).summary,
        *Verdict("maximum", "failed", HOSTILE, (HOSTILE,)).details,
    ):
        assert shown.isprintable()
        assert "\\x1b]0;owned" in shown


def test_a_session_of_hostile_names_shows_none_of_them_raw(
    pytester: pytest.Pytester, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of model, corpus, samples and categories, texts, a baseline's ids and reasons, in all that pytest tells of them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    name = HOSTILE
    model, corpus = pytester.path / name, pytester.path / f"{name}.jsonl"
    shutil.copytree(checkpoint, model)
    lines = [{"id": f"{HOSTILE}-{i}", "category": HOSTILE, "text": HOSTILE * (i + 1)} for i in range(2)]
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = [f"--maxact-model={model}", f"--maxact-corpus={corpus}+smoke", "--maxact-samples=6", "-v"]
    results = [pytester.runpytest_inprocess(*given, "--maxact-update", "--junitxml=green.xml", "--maxact-json=r.json")]
    assert results[0].ret == 0
    stored = Baseline.load(pytester.path / "baselines" / file_name(name))
    sites = [site.model_copy(update={"max": site.max / 9, "min": site.min / 9}) for site in stored.sites]
    peak = stored.peak.model_copy(update={"value": stored.peak.value / 9, "token": f"{HOSTILE}!", "sample": HOSTILE})
    parts = [part.model_copy(update={"value": part.value / 9}) for part in stored.parts]
    changed = {"sites": sites, "peak": peak, "parts": parts, "tolerances": [ToleranceOverride(rtol=0.2, reason=HOSTILE)]}
    red = stored.model_copy(update=changed)
    red.save(pytester.path / "red.json")
    other = stored.corpus.model_copy(update={"id": HOSTILE, "digest": HOSTILE})
    red.model_copy(update={"corpus": other}).save(pytester.path / "other.json")
    results += [
        pytester.runpytest_inprocess(*given, "--maxact-baseline=red.json", "--junitxml=red.xml"),
        pytester.runpytest_inprocess(*given, "--maxact-baseline=other.json", "--junitxml=other.xml"),
        pytester.runpytest_inprocess(*given, "--maxact-baseline=red.json", "--maxact-update"),
        pytester.runpytest_inprocess(*given, f"--maxact-baseline={HOSTILE}x"),
        pytester.runpytest_inprocess(f"--maxact-model={model}x"),
        pytester.runpytest_inprocess(f"--maxact-model={model}", "--maxact-explain"),
        pytester.runpytest_inprocess(f"--maxact-model={pytester.path}/e*l", f"--maxact-corpus={corpus}", "-v"),
        pytester.runpytest_inprocess(f"--maxact-model={model}", "--maxact-suite=never"),
    ]
    assert [int(result.ret) for result in results] == [0, 1, 1, 0, 4, 4, 0, 1, 5]
    for result in results:
        told = str(result.stdout) + str(result.stderr)
        assert "owned" in told
        assert all(line.isprintable() for line in told.split("\n"))
    for file in ("green.xml", "red.xml", "other.xml"):
        text = (pytester.path / file).read_text(encoding="utf-8")
        assert "owned" in text
        assert all(line.isprintable() for line in text.split("\n"))
    record = Measurement.load(pytester.path / "r.json")  # data, which keeps the truth
    assert record.samples[0].id == f"{HOSTILE}-0"
    assert record.corpus.id == f"{HOSTILE}+smoke"


def test_a_record_of_hostile_names_is_described_without_them(hostile: Measurement) -> None:
    assert all(line.isprintable() and len(line) <= 80 for line in summary(hostile, Baseline.of(hostile)))
    assert all(line.isprintable() for line in describe(hostile))
    assert all(value.isprintable() for value in properties(hostile).values())


@pytest.fixture(scope="session")
def plain(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    corpus = tmp_path_factory.mktemp("plain") / "two.jsonl"
    corpus.write_text('{"id": "a", "text": "one sample"}\n{"id": "b", "text": "another one, longer"}\n')
    return measure(load(find(str(checkpoint))), corpus=str(corpus))


def replaced(value: Any, text: str, kept: tuple[str, ...]) -> Any:
    """A record as JSON in which all strings are a text, but for those below the names that are kept."""
    if isinstance(value, dict):
        return {key: part if key in kept else replaced(part, text, kept) for key, part in value.items()}
    if isinstance(value, list):
        return [replaced(part, text, kept) for part in value]
    return text if isinstance(value, str) else value


KEPT = ("schema", "component", "sidecar", "pattern", "sites", "digest", "special_tokens")


@pytest.fixture
def hostile(plain: Measurement) -> Measurement:
    """A record in which all that may be any text is hostile."""
    data = replaced(json.loads(plain.dumps()), HOSTILE, KEPT)
    data["notes"] = [HOSTILE * 5]
    return Measurement.model_validate(data).with_arrays(plain.arrays)


# --- paths in records


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The files that Python opens while the test runs."""
    seen: list[str] = []
    watching = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:  # which cannot be taken away again
        if watching[0] and event in ("open", "os.listdir", "os.scandir"):
            seen.append(str(arguments[0]))

    sys.addaudithook(hook)
    yield seen
    watching[0] = False


def test_no_path_in_a_record_or_baseline_is_followed(plain: Measurement, tmp_path: Path, opened: list[str]) -> None:
    bait = tmp_path / "bait" / "file.json"
    bait.parent.mkdir()
    bait.write_text("{}")
    plain.save(tmp_path / "r.json")
    Baseline.of(plain).save(tmp_path / "b.json")
    for name in ("r", "b"):
        data = replaced(json.loads((tmp_path / f"{name}.json").read_text()), str(bait), KEPT)
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    opened.clear()
    record, baseline = Measurement.load(tmp_path / "r.json"), Baseline.load(tmp_path / "b.json")
    assert record.model.id == baseline.model.id == str(bait)
    assert record.hidden_peaks.shape == plain.hidden_peaks.shape
    assert all(verdict.check for verdict in compare(record, baseline))
    assert summary(record, baseline)
    assert describe(record)
    record.save(tmp_path / "again.json")
    stored = look_up_baseline("auto", record.model.id, tmp_path / "baselines")
    update(stored, record)
    followed = [file for file in opened if file.startswith(str(bait.parent))]
    assert str(tmp_path / "r.json") in opened
    assert not followed
    assert [file.parent for file in tmp_path.rglob("*bait*.json")] == [tmp_path / "baselines"]


# --- outputs


@given(st.text(st.characters(), max_size=400))
def test_a_models_id_is_a_bare_name_among_the_baselines(model_id: str) -> None:
    name = file_name(model_id)
    assert Path("folder", name).resolve() == Path("folder").resolve() / name
    assert name.endswith(".json")
    assert len(name.encode()) <= 220
    assert name.isprintable()


def test_ids_that_are_too_long_for_a_file_keep_their_own_files() -> None:
    long, longer = "鯨" * 200, "鯨" * 201
    assert file_name(long) != file_name(longer)
    assert file_name("a" * 200) == f"{'a' * 200}.json"
    assert file_name("../../etc/passwd") == "..--..--etc--passwd.json"
    assert file_name("..") == "...json"
    assert file_name("a\x00b\\c:d") == "a-b-c-d.json"


@pytest.fixture
def problem(pytester: pytest.Pytester, checkpoint: Path) -> Callable[..., str]:
    """The line that pytest refuses these arguments with, status 4."""
    corpus = pytester.path / "c.jsonl"
    corpus.write_text('{"text": "one"}\n')

    def problem(*args: str) -> str:
        result = pytester.runpytest_inprocess(f"--maxact-model={checkpoint}", f"--maxact-corpus={corpus}", *args)
        assert result.ret == 4
        (line,) = (line for line in result.errlines if line.startswith("ERROR: "))
        return line

    return problem


def test_outputs_that_are_links_or_lead_upwards_are_refused(pytester: pytest.Pytester, problem: Callable[..., str]) -> None:
    folder, precious = pytester.path, pytester.path / "precious"
    precious.write_text("precious")
    for name in ("link.json", "r.npz", "dangling.json"):
        (folder / name).symlink_to("nowhere" if name.startswith("dangling") else precious)
    (folder / "r.json").write_text("{}")
    (folder / "baselines").mkdir()
    (folder / "baselines" / "tiny.json").symlink_to(folder / "nowhere")
    (folder / "records").symlink_to(folder / "baselines")
    is_link = "it is a symbolic link; remove it, or name "
    assert f"--maxact-json cannot write {folder}/link.json: {is_link}{precious}" in problem("--maxact-json=link.json")
    assert f"--maxact-json cannot write {folder}/r.npz: {is_link}{precious}" in problem("--maxact-json=r.json")
    assert f"{folder}/dangling.json: {is_link}{folder}/nowhere" in problem("--maxact-json=dangling.json")
    assert f"--maxact-update cannot write {folder}/baselines/tiny.json: {is_link}" in problem("--maxact-update")
    two = (f"--maxact-model={shutil.copytree(find('demo').folder, folder / 'step-2')}", "--maxact-json=records")
    assert f"--maxact-json cannot write {folder}/records: {is_link}{folder}/baselines" in problem(*two)
    upwards = f"there is a .. in it; give the plain path, {folder.parent}/r.json"
    assert f"--maxact-json cannot write {folder}/../r.json: {upwards}" in problem("--maxact-json=../r.json")
    assert f"--maxact-update cannot write {folder}/../b/tiny.json: there is a .." in problem(
        "--maxact-update", "--maxact-baselines=../b"
    )
    assert precious.read_text() == "precious"
    assert not (folder / "nowhere").exists()


def test_a_record_or_baseline_is_not_written_through_a_link(plain: Measurement, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "r.json").symlink_to(precious)
    with pytest.raises(OSError, match="it is a symbolic link"):
        plain.save(tmp_path / "r.json")
    assert not (tmp_path / "r.npz").exists()
    (tmp_path / "s.npz").symlink_to(precious)
    with pytest.raises(OSError, match="it is a symbolic link"):
        plain.save(tmp_path / "s.json")
    (tmp_path / "b.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BaselineError, match=r"cannot be written: .*it is a symbolic link"):
        update(look_up_baseline("b", "any", tmp_path), plain)
    assert precious.read_text() == "precious"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.json", "precious", "r.json", "s.npz"]


def test_a_link_at_the_name_of_a_temporary_file_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    monkeypatch.setattr("pytest_maxact.record.secrets.token_hex", lambda size: "guessed")
    planted = tmp_path / f".r.json.{os.getpid()}-guessed.part"
    planted.symlink_to(precious)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "r.json", "{}")
    assert precious.read_text() == "precious"
    assert planted.is_symlink()


def test_the_callbacks_folder_is_a_plain_path(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"has a \.\. in it: give the plain path"):
        MaxactCallback(every=1, folder=tmp_path / ".." / "records")


# --- checkpoints and data sets


class Planted:
    """A copy of the demo checkpoint with code in it that leaves `trace` behind where it runs."""

    def __init__(self, home: Path) -> None:
        self.folder, self.trace = home / "planted", home / "ran"
        self.folder.mkdir()
        for file in find("demo").folder.iterdir():
            shutil.copyfile(file, self.folder / file.name)
        (self.folder / "own.py").write_text(f"open({str(self.trace)!r}, 'w').close()\nclass Own: pass\n")

    def edit(self, file: str, **entries: Any) -> None:
        """Change entries of a JSON file of its."""
        path = self.folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return Planted(tmp_path)


OWN = {"AutoTokenizer": ["own.Own", "own.Own"]}


def test_a_tokenizers_own_code_does_not_run(planted: Planted) -> None:
    planted.edit("tokenizer_config.json", auto_map=OWN)
    assert load_tokenizer(find(str(planted.folder)))("text")["input_ids"]  # transformers knows its class
    planted.edit("tokenizer_config.json", tokenizer_class="Own")
    with pytest.raises(CheckpointError, match="it needs Python code of its own; read that code"):
        load_tokenizer(find(str(planted.folder)))
    assert not planted.trace.exists()


def test_a_processors_own_code_does_not_run(planted: Planted) -> None:
    (planted.folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Own", "auto_map": {"AutoProcessor": "own.Own", "AutoImageProcessor": "own.Own"}})
    )
    of_images = replace(find(str(planted.folder)), config=LlavaConfig())
    with pytest.raises(CheckpointError, match="it needs Python code of its own; read that code"):
        load_processor(of_images)
    assert not planted.trace.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch TRACE') }}",
        "{{ raise_exception.__globals__['os'].system('touch TRACE') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{{ raise_exception('\x1b[31m' ~ messages) }}",
    ],
)
def test_a_chat_template_reaches_neither_python_nor_files(planted: Planted, template: str) -> None:
    (planted.folder / "chat_template.jinja").write_text(template.replace("TRACE", str(planted.trace)))
    tokenizer = load_tokenizer(find(str(planted.folder)))
    with pytest.raises(CorpusError, match="the chat template cannot be used") as refused:
        check_tokenizer(load_corpus("smoke"), tokenizer, "chat")
    assert str(refused.value).isprintable()
    assert not planted.trace.exists()


def test_what_a_template_may_ask_of_python_objects_is_nothing(planted: Planted) -> None:
    (planted.folder / "chat_template.jinja").write_text("{{ messages.__class__ }}{{ messages|attr('__class__') }}!")
    assert chat_prompt(load_tokenizer(find(str(planted.folder))), ["text"]) == "!"


@pytest.mark.parametrize(
    "entries",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel@v1:run"},
        {"_attn_implementation_internal": "paged|evil/kernel"},
        {"attn_implementation": {"text_config": "evil/kernel"}},
        {"text_config": {"experts_implementation": "evil/kernel"}},
    ],
)
def test_code_from_the_hub_that_a_config_asks_for_is_not_fetched(planted: Planted, entries: dict[str, Any]) -> None:
    planted.edit("config.json", **entries)
    with pytest.raises(CheckpointError, match=r"asks for code from the Hub \(.*evil/kernel.*\): remove it from"):
        find(str(planted.folder))


def test_an_implementation_that_transformers_has_is_none_of_the_hubs(planted: Planted) -> None:
    planted.edit("config.json", attn_implementation="eager")
    assert find(str(planted.folder)).config._attn_implementation == "eager"


@pytest.mark.parametrize("shard", ["..", ".", "", "a\0b", "~/x", "file:///etc/passwd", "https://example.com/x", "/etc/passwd"])
def test_a_weight_index_names_files_beside_it_only(planted: Planted, shard: str) -> None:
    (planted.folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match=r"which is no file beside it|, which its weight index names"):
        find(str(planted.folder))


def test_a_link_in_place_of_weights_tells_nothing_of_what_it_leads_to(planted: Planted, tmp_path: Path) -> None:
    """Links themselves are followed: the Hub's own cache is made of them."""
    weights = planted.folder / "model.safetensors"
    shutil.move(weights, tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")
    assert find(str(planted.folder)).weights == ("model.safetensors",)
    (tmp_path / "blob").write_text("a secret that is no tensor")
    with pytest.raises(CheckpointError, match="is damaged or cut short") as refused:
        find(str(planted.folder))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("base", ["../../x", "/nowhere/x", "https://example.com/model", "file:///etc", "hf://x/y", "a/b/c/d"])
def test_an_adapter_names_its_base_model_by_path_or_hub_id(tmp_path: Path, base: str) -> None:
    pytest.importorskip("peft")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"^the base model .*is not there|names cannot be used: no checkpoint"):
        find(str(tmp_path))


def test_an_adapter_that_would_import_a_module_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    entries = {"peft_type": "LORA", "base_model_name_or_path": "x", "megatron_config": {"a": 1}, "megatron_core": "antigravity"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(entries))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(MaxactError, match="is for Megatron"):
        find(str(tmp_path))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("file", "inside"),
    [
        ("hf://datasets/acme/texts@0123/train.parquet", True),
        ("zip://a.jsonl::hf://datasets/acme/texts@0123/all.zip", True),
        ("hf://datasets/acme/other@0123/train.parquet", False),
        ("/etc/passwd", False),
        ("file:///etc/passwd", False),
        ("https://example.com/a.parquet", False),
        ("file:///etc/passwd::hf://datasets/acme/texts@0123/all.zip", False),
        ("zip://a.jsonl::/home/me/all.zip", False),
    ],
)
def test_files_of_a_data_set_are_those_of_its_repository(file: str, inside: bool) -> None:
    good = "hf://datasets/acme/texts@0123/test.parquet"
    assert file_outside({"test": [good], "train": [good, file]}, "acme/texts") == (None if inside else file)
