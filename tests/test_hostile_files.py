"""Inputs that once hung, crashed or filled the memory, and limits: each is refused at once, in one line that says why."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pytest_maxact import record, sidecar
from pytest_maxact.baseline import look_up
from pytest_maxact.checkpoint import find, load_tokenizer
from pytest_maxact.corpus import load_corpus, tokenize
from pytest_maxact.errors import MaxactError
from pytest_maxact.history import recorded
from pytest_maxact.plan import Plan
from pytest_maxact.published.make import make
from pytest_maxact.record import Baseline, Measurement
from pytest_maxact.reuse import FINGERPRINTS, Store
from pytest_maxact.series import members, step_of
from pytest_maxact.session import RESULT, read_result
from pytest_maxact.sidecar import Arrays
from pytest_maxact.visible import visible
from tests.fuzzing import as_json, refusal
from tests.test_fuzzing import BASELINE, INDEX, RECORD, SIDECAR, TABLE, WEIGHTS, gguf_of, npy, settings_for
from tests.test_published import written_source
from tests.test_record import HISTOGRAMS, TOTALS, change, healthy, with_arrays


def refused(call: Callable[[], object]) -> str:
    """The one line that a call is refused with."""
    _, message = refusal(call)
    assert message is not None
    return message


def sparse(file: Path, size: int) -> Path:
    """A file of so many bytes, which take no room on the disk."""
    file.unlink(missing_ok=True)
    with file.open("wb") as stream:
        stream.truncate(size)
    return file


@pytest.fixture
def model(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


# --- pipes, devices, folders and files without end


def read_by_all(path: Path) -> dict[str, Callable[[], object]]:
    """Everything that reads one file, by the name the file must have."""
    folder = path.parent
    reads: dict[str, Callable[[], object]] = {
        "a.json": lambda: Baseline.load(path),
        "r.json": lambda: Measurement.load(path),
        "c.jsonl": lambda: load_corpus(str(path)),
        "c.txt": lambda: load_corpus(str(path)),
        "c.parquet": lambda: load_corpus(str(path)),
        "m.gguf": lambda: find(str(path)),
        **dict.fromkeys(
            ("config.json", "tokenizer.json", "model.safetensors", "generation_config.json"), lambda: find(str(folder))
        ),
        "summary.json": lambda: make(folder, folder / "made"),
    }
    return {path.name: reads[path.name]}


FILES = ["a.json", "r.json", "c.jsonl", "c.txt", "c.parquet", "m.gguf", "config.json", "tokenizer.json", "model.safetensors"]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", [*FILES, "generation_config.json", "summary.json"])
def test_what_is_no_regular_file_is_never_opened(model: Path, name: str, kind: str) -> None:
    path = model / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    if (name, kind) in (("tokenizer.json", "folder"), ("generation_config.json", "folder")):
        return  # transformers passes over them
    message = refused(read_by_all(path)[name])
    assert name in message or (kind == "folder" and str(model) in message)


def test_what_the_package_keeps_itself_is_never_a_pipe_either(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w")
    for name in (FINGERPRINTS, RESULT, "trainer_state.json", "checkpoint-5.json"):
        os.mkfifo(tmp_path / name)
    assert Store(tmp_path).fingerprint([tmp_path / "weights"], lambda files: "e" * 64) == "e" * 64
    result = read_result(tmp_path)
    assert result is not None
    assert "cannot be read" in (result.error or "")
    assert step_of(str(tmp_path)) is None
    assert recorded([tmp_path], healthy(), 9) == []


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("a.json", "16,777,216"),
        ("r.json", "67,108,864"),
        ("config.json", "536,870,912"),
        ("tokenizer.json", "536,870,912"),
        ("summary.json", "67,108,864"),
    ],
)
def test_a_file_that_is_too_large_is_told_with_the_limit(model: Path, name: str, limit: str) -> None:
    message = refused(read_by_all(sparse(model / name, 1 << 40))[name])
    assert f"it has 1,099,511,627,776 bytes, and at most {limit} are read" in message


def test_a_large_weight_index_adapter_config_and_image_are_told_too(model: Path, tmp_path: Path) -> None:
    sparse(model / "model.safetensors.index.json", 1 << 40)
    assert "bytes, and at most 536,870,912 are read" in refused(lambda: find(str(model)))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    sparse(adapter / "adapter_config.json", 1 << 40)
    assert "bytes, and at most 536,870,912 are read" in refused(lambda: find(str(adapter)))
    pytest.importorskip("PIL")
    sparse(tmp_path / "a.png", 1 << 40)
    (tmp_path / "c.jsonl").write_text('{"text": "t", "images": ["a.png"]}')
    assert "bytes, and at most 536,870,912 are read" in refused(lambda: load_corpus(str(tmp_path / "c.jsonl")))


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    for name in ("c.jsonl", "c.txt"):
        sparse(tmp_path / name, 1 << 40)
        message = refused(partial(load_corpus, str(tmp_path / name)))
        assert "line 1 has more than the 67,108,864 characters that are read" in message


# --- cut at every length


def test_a_file_cut_at_any_length_is_refused(tmp_path: Path, model: Path) -> None:
    text = json.dumps(BASELINE, separators=(",", ":")).encode()
    file = tmp_path / "b.json"
    for size in range(0, len(text), 7):
        file.write_bytes(text[:size])
        assert "is not JSON" in refused(lambda: Baseline.load(file))
    for size in range(len(SIDECAR)) if len(SIDECAR) < 2000 else range(0, len(SIDECAR), len(SIDECAR) // 500):
        with pytest.raises(ValueError, match="it holds no measurement"):
            Arrays.loads(SIDECAR[:size], TOTALS, (1, 2))
    gguf = gguf_of(tmp_path)
    header = gguf.index(b"token_embd.weight") + 17 + 4 + 16 + 4 + 8
    for size in range(0, header, 3):
        (tmp_path / "cut.gguf").write_bytes(gguf[:size])
        assert "is no GGUF file" in refused(lambda: find(str(tmp_path / "cut.gguf")))
    for size in range(0, len(WEIGHTS), 3):
        (model / "model.safetensors").write_bytes(WEIGHTS[:size])
        assert "is damaged or cut short" in refused(lambda: find(str(model)))
    for size in range(0, len(TABLE), len(TABLE) // 100):
        (tmp_path / "cut.parquet").write_bytes(TABLE[:size])
        assert "cannot be read as parquet" in refused(lambda: load_corpus(str(tmp_path / "cut.parquet")))


# --- JSON that means two things, or nothing


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"id": "', '"id": "twin", "id": "', "the key 'id' is there more than once"),
        ('"max": 1.0', '"max": NaN', 'NaN is no number of JSON, and is written as "nan", "inf" or "-inf"'),
        ('"max": 1.0', '"max": -Infinity', "-Infinity is no number of JSON"),
        ('"max": 1.0', '"max": 1e400', "1e400 is beyond float64"),
        ('"max": 1.0', '"max": 1' + "0" * 400, "Input should be a valid number"),
        ('"layers": ', '"layers": -', "Input should be greater than or equal to 0"),
        (
            '"layers": ',
            '"layers": 9223372036854775808',
            "malformed at model.layers: Input should be less than 9223372036854775808",
        ),
        ('"prose": ', '"\\ud800": 1, "prose": ', "surrogates not allowed"),
        ('"notes": [', '"notes": [' + "[" * 5000 + "]" * 5000 + ", ", "it is nested too deeply|malformed at notes"),
        ('"notes": [', '"notes": [' + "1, " * 20_000, "malformed at 20,000 places"),
    ],
)
def test_a_record_means_one_thing(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = json.dumps(RECORD)
    text = text.replace('"max": 5e-324', '"max": 1.0')
    assert old in text
    (tmp_path / "r.json").write_text(text.replace(old, new, 1))
    assert re.search(told, refused(lambda: Measurement.load(tmp_path / "r.json")))


def test_sites_that_stand_twice_in_a_record_are_refused(tmp_path: Path) -> None:
    data = change(json.loads(healthy().dumps()), "sites", 1, to=json.loads(healthy().dumps())["sites"][0])
    (tmp_path / "r.json").write_text(json.dumps(data))
    assert "embedding is there more than once" in refused(lambda: Measurement.load(tmp_path / "r.json"))


def test_a_record_of_more_sites_than_any_model_has_is_refused_before_their_histograms_are_made(tmp_path: Path) -> None:
    sites = [RECORD["sites"][0] | {"layer": layer} for layer in range(sidecar.MAX_SITES + 1)]
    (tmp_path / "r.json").write_text(json.dumps(RECORD | {"sites": sites}))
    message = refused(lambda: Measurement.load(tmp_path / "r.json"))
    assert "malformed at sites: List should have at most 8192 items" in message
    baseline = BASELINE | {"sites": [BASELINE["sites"][0] | {"layer": layer} for layer in range(sidecar.MAX_SITES + 1)]}
    (tmp_path / "b.json").write_text(json.dumps(baseline))
    assert "malformed at sites: List should have at most 8192 items" in refused(lambda: Baseline.load(tmp_path / "b.json"))


def test_a_record_that_contradicts_itself_makes_no_baseline(tmp_path: Path) -> None:
    data = change(json.loads(healthy().dumps()), "sites", 0, "max", to="inf")
    (tmp_path / "r.json").write_text(json.dumps(data))
    loaded = Measurement.load(tmp_path / "r.json")
    assert "no baseline is written from" in refused(lambda: Baseline.of(loaded))


def test_an_error_quotes_only_the_start_of_what_it_was_given(tmp_path: Path) -> None:
    for data in ({"x" * 10**6: 1}, BASELINE | {"x" * 10**6: 1}, {"schema": "y" * 10**6}, BASELINE | {"schema": ["\n"] * 10**5}):
        (tmp_path / "b.json").write_text(json.dumps(data))
        assert len(refused(lambda: Baseline.load(tmp_path / "b.json"))) < 1000


# --- sidecars


def archive(**changes: bytes) -> bytes:
    """A sidecar with files in place of some of its arrays."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SIDECAR)) as whole, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for entry in whole.infolist():
            made.writestr(entry.filename, changes.get(entry.filename.removesuffix(".npy"), whole.read(entry)))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        # What it would take more memory to hold than there is.
        (archive(counts=npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,)}", b"")), "does not hold what"),
        (
            archive(samples=npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1125899906842624,)}", b"")),
            "does not hold what",
        ),
        (
            archive(samples=npy("{'descr': '<U0', 'fortran_order': False, 'shape': (4611686018427387904,)}", b"")),
            "do not fit the record",
        ),
        (archive(histogram_dtype=npy("{'descr': '<U0', 'fortran_order': False, 'shape': (9999999999,)}", b"")), "do not fit"),
        (archive(patterns=bytes(100 << 20)), "patterns.npy has no header of ours: the magic string"),
        (
            archive(patterns=npy("{'descr': '<u2', 'fortran_order': False, 'shape': (52428800,)}", bytes(100 << 20))),
            "at most 262,144",
        ),
        (
            archive(hidden_peaks=npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1, 1)}", bytes(8))),
            "does not hold",
        ),
        (archive(hidden_peaks=npy("(" * 5000, bytes(8))), "hidden_peaks.npy has no header of ours"),
        (archive(hidden_peaks=npy("{}" + " " * 20_000, bytes(8))), "hidden_peaks.npy has no header of ours"),
        (archive(hidden_peaks=b""), "hidden_peaks.npy has no header of ours"),
    ],
)
def test_an_array_is_what_its_header_says_and_no_larger_than_the_record(data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        Arrays.loads(data, TOTALS, (1, 2))
    assert len(str(caught.value).splitlines()) == 1


def test_an_archive_of_many_or_repeated_entries_is_refused() -> None:
    out = io.BytesIO(SIDECAR)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(out, "a") as made:
        made.writestr("patterns.npy", b"")
    with pytest.raises(ValueError, match="it holds an array more than once"):
        Arrays.loads(out.getvalue(), TOTALS, (1, 2))
    out = io.BytesIO(SIDECAR)
    with zipfile.ZipFile(out, "a") as made:
        for number in range(1000):
            made.writestr(f"{number}.npy", b"")
    with pytest.raises(ValueError, match="does not end as an archive of a few arrays does"):
        Arrays.loads(out.getvalue(), TOTALS, (1, 2))


def test_counts_that_wrap_around_do_not_add_up() -> None:
    counts = np.concatenate([h.counts[h.counts > 0] for h in HISTOGRAMS])
    counts[:4] = [2**63 - 1, 2**63 - 1, 2, TOTALS[0]]  # 2^64 and what the record says
    with np.load(io.BytesIO(SIDECAR)) as file:
        arrays = {name: file[name] for name in file.files} | {"counts": counts}
    out = io.BytesIO()
    np.savez(out, **arrays)
    with pytest.raises(ValueError, match="do not count what the record does"):
        Arrays.loads(out.getvalue(), TOTALS, (1, 2))


def test_a_sidecar_that_is_a_pipe_or_too_large_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_arrays().save(tmp_path / "r.json")
    monkeypatch.setattr(record, "MAX_PACKED", 100)
    assert "bytes, and at most 100 are read" in refused(lambda: Measurement.load(tmp_path / "r.json").arrays)
    (tmp_path / "r.npz").unlink()
    os.mkfifo(tmp_path / "r.npz")
    assert "it is no regular file" in refused(lambda: Measurement.load(tmp_path / "r.json").arrays)


# --- corpora


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"text": "a", "id": "x" * 1001}, 'line 1: "id" and "category" have at most 1,000 characters each'),
        ({"text": "a", "category": "x" * 1001}, "have at most 1,000 characters each"),
        ({"input_ids": [1, 2**31]}, "none beyond 2^31 - 1"),
        ({"input_ids": [10**4000]}, "none beyond 2^31 - 1"),
        ({"text": "a", "images": ["x" * 10**6]}, "line 1: image xxx"),
        ({"text": "a", "images": [["x" * 10**6]]}, '"images" holds'),
    ],
)
def test_labels_token_ids_and_names_of_a_corpus_are_bounded(tmp_path: Path, line: Any, told: str) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps(line))
    message = refused(lambda: load_corpus(str(tmp_path / "c.jsonl")))
    assert told in message or "needs the library Pillow" in message


def test_samples_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_maxact.corpus.MAX_SAMPLES", 2)
    (tmp_path / "c.txt").write_text("a\nb\n")
    assert len(load_corpus(str(tmp_path / "c.txt")).samples) == 2
    (tmp_path / "c.txt").write_text("a\nb\nc\n")
    assert refused(lambda: load_corpus(str(tmp_path / "c.txt"))).endswith("has more than the 2 samples that are read: split it")


def test_a_setting_of_a_data_set_that_is_given_twice_is_refused() -> None:
    assert "is not written as hf:" in refused(lambda: load_corpus("hf:org/name?split=train&split=test"))


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "a\0b", "x" * 300, "hf:org/" + "x" * 300, "x/" * 3000])
def test_a_name_that_no_file_can_have_is_not_found(tmp_path: Path, name: str) -> None:
    assert visible(name[:20]) in refused(lambda: load_corpus(name)) or name.startswith("hf:")
    if not name.startswith("hf:"):
        assert refused(lambda: find(name))
    assert look_up("auto", name, tmp_path).baseline is None
    assert look_up("published", name, tmp_path, f"org/{name}").baseline is None
    assert look_up(f"{name}.json", "m", tmp_path).baseline is None
    assert [member.model for member in members([name, "other"])] == [name, "other"]


# --- checkpoints


def config(model: Path, **changes: Any) -> None:
    """Change a checkpoint's config."""
    file = model / "config.json"
    file.write_text(as_json(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_labels": 10**9}, "num_labels is 1000000000, and at most 100,000 is taken for a model's"),
        ({"model_type": "qwen2", "num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, and at most 100,000"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers is 1000000000"),
        ({"vocab_size": 10**30}, "vocab_size is 1000000000000000000000000000000, and at most 9,223,372,036,854,775,807"),
        ({"vocab_size": -5}, "vocab_size is -5, which is no size from 1 to 2,147,483,647"),
        ({"hidden_size": 0, "head_dim": 8}, "hidden_size is 0, which is no size"),
        ({"max_position_embeddings": 2**40}, "max_position_embeddings is 1099511627776, which is no size"),
        ({"quantization_config": ["x"]}, "cannot be used|quantized by|is not a model's config"),
        ({"quantization_config": "x"}, "cannot be used|quantized by|is not a model's config"),
        ({"model_type": []}, "is not a model's config: unhashable type"),
        ({"model_type": "x" * 10**5, "auto_map": {"a": "y" * 10**5}}, "needs Python code of its own"),
        ({"x": "raw json: " + "[" * 5000 + "]" * 5000}, "nested too deeply|recursion"),
    ],
)
def test_a_config_is_refused_before_a_library_makes_lists_of_it(model: Path, changes: dict[str, Any], told: str) -> None:
    config(model, **changes)
    ids = model.parent / "ids.jsonl"
    ids.write_text('{"input_ids": [5, 6]}\n')
    assert re.search(told, refused(lambda: Plan.of(settings_for(model, ids))))


def test_a_config_that_names_a_very_long_origin_has_no_published_figures(model: Path, tmp_path: Path) -> None:
    config(model, _name_or_path="org/" + "x" * 300)
    assert look_up("published", "m", tmp_path, find(str(model)).origin).baseline is None
    (model / "config.json").write_text("[" * 100_000)
    assert refused(lambda: find(str(model)))


@pytest.mark.parametrize(
    "index",
    [
        b"[" * 100_000,
        b"\xff",
        json.dumps({"weight_map": {"a": "x" * 10**6}}).encode(),
        json.dumps({"weight_map": {"a": ".."}}).encode(),
        json.dumps({"weight_map": {"a": "a\0b"}}).encode(),
        json.dumps({"weight_map": {str(n): f"{n}.safetensors" for n in range(10_001)}}).encode(),
        json.dumps(INDEX).encode(),
    ],
)
def test_a_weight_index_names_files_beside_it(model: Path, index: bytes) -> None:
    (model / "model.safetensors.index.json").write_bytes(index)
    assert re.search(
        "weight index .* (is malformed|names|lacks)|lacks .*, which its weight index", refused(lambda: find(str(model)))
    )


def test_an_adapter_may_name_anything_as_its_base(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, base_model_name_or_path="base")
    config.save_pretrained(str(tmp_path))
    save_file({"x.embed_tokens.weight": torch.tensor(1.0)}, tmp_path / "adapter_model.safetensors")
    file = tmp_path / "adapter_config.json"
    valid = json.loads(file.read_text())
    for name in ("x" * 5000, "a\0b", "~nobody-of-this-name", "/dev/zero", "..", {"a": 1}, ["x"], 5, "s3://bucket/y", "\x1b[2J"):
        file.write_text(json.dumps(valid | {"base_model_name_or_path": name}))
        assert refused(lambda: find(str(tmp_path)))


def gguf(*fields: bytes, tensors: int = 0, count: int | None = None) -> bytes:
    """A GGUF file of these fields."""
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(fields) if count is None else count) + b"".join(fields) + bytes(64)


def field(key: str, kind: int, content: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + content


@pytest.mark.parametrize(
    ("data", "told"),
    [
        # An array of 2^60 bytes in a file of some dozens: the library would go on for years.
        (
            gguf(field("x", 9, struct.pack("<IQ", 0, 2**60))),
            "names 1,152,921,504,606,846,976 elements of arrays, and at most 10,000,000",
        ),
        (gguf(field("x", 9, struct.pack("<IQ", 0, 9_000_000))), "header goes beyond its"),
        (gguf(field("x", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 9, 1) * 9)), "array of the unknown kind 9"),
        (gguf(field("x", 8, struct.pack("<Q", 2**63))), "header goes beyond its"),
        (gguf(field("x", 99, b"")), "unknown kind 99"),
        (gguf(count=2**60), "names 1,152,921,504,606,846,976 fields, and at most 10,000"),
        (gguf(tensors=2**60), "names 1,152,921,504,606,846,976 tensors, and at most 1,000,000"),
        (gguf(tensors=100_000), "header goes beyond its"),
        (gguf(field("llama.block_count", 4, struct.pack("<I", 10**9))), "llama.block_count is 1000000000, and at most 100,000"),
        (b"GGUF" + struct.pack("<I", 7) + bytes(90), "version 7"),
        (b"GGUF" + struct.pack("<I", 7 << 24) + bytes(90), "version 7"),
        (b"GGJT" + bytes(90), "does not begin as a GGUF file"),
        (b"", "header goes beyond its 0 bytes"),
    ],
)
def test_a_gguf_header_lies_within_its_file(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    assert told in refused(lambda: find(str(tmp_path / "m.gguf")))


@pytest.mark.parametrize("what", [5, [], "{{", {"a": {"b": 1}}])
def test_a_tokenizer_config_that_is_none_is_one_line(model: Path, what: Any) -> None:
    reference = find(str(model))
    (model / "tokenizer_config.json").write_text(json.dumps(what))
    with pytest.raises(MaxactError) if not isinstance(what, dict) else pytest.MonkeyPatch.context():
        load_tokenizer(reference)


def test_a_tokenizer_that_breaks_on_a_text_is_one_line(model: Path, tmp_path: Path) -> None:
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": [9]}))
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "one"}\n')
    tokenizer, corpus = load_tokenizer(find(str(model))), load_corpus(str(tmp_path / "c.jsonl"))
    message = refused(partial(tokenize, corpus, tokenizer, "none", 9))
    assert message.startswith("sample a of corpus c cannot be tokenized (TypeError: ")


def test_a_step_that_is_no_number_is_unknown(tmp_path: Path) -> None:
    for state in (
        "[" * 100_000,
        '{"global_step": true}',
        '{"global_step": 1' + "0" * 4000 + "}",
        '{"global_step": -1}',
        "\xff",
    ):
        (tmp_path / "trainer_state.json").write_text(state, encoding="latin1")
        assert step_of(str(tmp_path)) is None
    assert step_of(f"org/checkpoint-{'9' * 5000}") is None


# --- what the package keeps itself


def test_fingerprints_that_are_none_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w")
    for kept in ("[" * 100_000, "[]", '{"a": 5}', f'{{"a": "{"x" * 64}"}}'):
        (tmp_path / FINGERPRINTS).write_text(kept)
        assert Store(tmp_path).fingerprint([tmp_path / "weights"], lambda files: "e" * 64) == "e" * 64


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"tolerance": {"growth": 0.5}}', b"\xff", b"[" * 100_000])
def test_a_result_that_cannot_be_read_is_an_error_of_its_own(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RESULT).write_bytes(content)
    result = read_result(tmp_path)
    assert result is not None
    assert result.measurement is None
    assert (result.error or "").startswith(f"what was measured cannot be read from {tmp_path}")


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("row", {"name": "../../secret"}),
        ("row", {"name": "/etc/passwd"}),
        ("row", {"name": "a\0b"}),
        ("row", {"name": "x" * 300}),
        ("row", {"hub_id": f"org/{'x' * 300}"}),
        ("row", {"tokens": 10**4000}),
        ("row", {"size": "9" * 400 + "B"}),
        ("bootstrap.json", [{"name": "tiny", "samples": 5, "repeat": 0, "M": 1.7e308}]),
        ("int8.json", [{"name": "tiny", "policy": "max_abs", "threshold": 1e999, "sqnr_db": 1, "clip_rate": 0}]),
    ],
)
def test_a_source_of_published_figures_cannot_lead_elsewhere_or_overflow(tmp_path: Path, file: str, changes: Any) -> None:
    source = written_source(tmp_path / "source")
    if file == "row":
        (row,) = json.loads((source / "summary.json").read_text())
        sites = json.loads((source / "checkpoints" / "tiny.json").read_text())["sites"]
        (source / "summary.json").write_text(json.dumps([row | changes]))
        (source / "checkpoints" / "tiny.json").write_text(json.dumps(row | changes | {"sites": sites}))
    else:
        (source / file).write_text(json.dumps(changes))
    assert refused(lambda: make(source, tmp_path / "made"))
    assert not (tmp_path / "made").exists()
