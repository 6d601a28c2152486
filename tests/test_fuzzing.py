"""Files come from strangers: whatever a parser is given, it gives what can be written again, or one line, at once.

`MAXACT_FUZZ=2000 pytest tests/test_fuzzing.py` tries 2,000 random inputs a parser; without it there are 100, always the same.
Inputs that once found a fault stand in `test_hostile_files.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import peft
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from pytest_maxact.baseline import changes, look_up
from pytest_maxact.checkpoint import find, has_tokenizer, load_tokenizer
from pytest_maxact.checks import Tolerance, compare, growth
from pytest_maxact.corpus import load_corpus, tokenize
from pytest_maxact.corpus_sources import parse_hub_name
from pytest_maxact.history import Point
from pytest_maxact.observer import State
from pytest_maxact.plan import Plan
from pytest_maxact.prompts import SpecialTokens
from pytest_maxact.published import LANDSCAPE, Landscape
from pytest_maxact.published.make import make
from pytest_maxact.record import SAMPLES, Baseline, Measurement
from pytest_maxact.report.properties import properties
from pytest_maxact.report.terminal import summary
from pytest_maxact.resources import data_folder
from pytest_maxact.reuse import FINGERPRINTS, Store
from pytest_maxact.series import step_of
from pytest_maxact.session import RESULT, read_result
from pytest_maxact.settings import Settings
from pytest_maxact.sidecar import Arrays
from pytest_maxact.snapshot import Kept, Piece, Snapshot, dealt_tokens
from tests.fuzzing import as_json, changed, damaged, fuzzed, hostile_json, refusal, values
from tests.test_forwards import states
from tests.test_published import written_source
from tests.test_record import HIDDEN_PEAKS, HISTOGRAMS, TOTALS, healthy, healthy_pair, measurement, with_arrays

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that read what is left of their files

RECORD = json.loads(measurement().dumps())
BASELINE = json.loads(Baseline.of(healthy()).dumps()) | {
    "tolerances": [
        {"component": "hidden", "layer": 2, "rtol": 0.25, "reason": "two runs differ"},
        {"rtol": 0.5, "reason": "r"},
    ],
    "parts": [{"corpus": "core", "value": 1.5}],
}
PUBLISHED = json.loads((data_folder("baselines/published") / "Qwen--Qwen3-8B.json").read_text())
PUBLISHED["sites"] = PUBLISHED["sites"][::20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@contextlib.contextmanager
def nothing_left_in(folder: Path) -> Iterator[None]:
    """What is read or refused leaves no file behind, and none with another content."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# --- records and baselines


@fuzzed
@given(data=hostile_json(BASELINE) | hostile_json(PUBLISHED))
def test_a_baseline(folder: Path, data: bytes) -> None:
    file = folder / "baseline.json"
    file.write_bytes(data)
    with nothing_left_in(folder):
        baseline, _ = refusal(lambda: Baseline.load(file))
    if baseline is None:
        return
    baseline.save(file)
    again = Baseline.load(file)
    assert again.dumps() == baseline.dumps() == file.read_text(encoding="utf-8")
    for other in (healthy(), measurement()):  # what loads can be compared with, shown and replaced
        refusal(partial(compare, other, baseline))
        refusal(partial(summary, other, baseline))
    refusal(partial(changes, baseline, Baseline.of(healthy())))
    refusal(lambda: look_up("baseline", "m", folder))


@fuzzed
@given(data=hostile_json(RECORD))
def test_a_record(folder: Path, data: bytes) -> None:
    file = folder / "record.json"
    file.write_bytes(data)
    with nothing_left_in(folder):
        record, _ = refusal(lambda: Measurement.load(file))
    if record is None:
        return
    if record.sidecar is None:
        record.save(file)
        assert Measurement.load(file).dumps() == record.dumps() == file.read_text(encoding="utf-8")
    baseline, _ = refusal(lambda: Baseline.of(record))
    refusal(lambda: [compare(record, baseline), summary(record, baseline), properties(record)])
    points = [Point.of(record, "a", 1), Point.of(measurement(), "b", 2), Point.of(record, "c", 3)]
    refusal(lambda: growth.check(points[-1], points[:-1], Tolerance()))


def npy(header: str, content: bytes, version: bytes = b"\x01\x00") -> bytes:
    """A file of numpy's format."""
    text = header.encode("latin1", "replace") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text) & 0xFFFF) + text + content


SIDECAR = Arrays(HISTOGRAMS, HIDDEN_PEAKS, SAMPLES.dump_json(healthy_pair().samples)).dumps()
with np.load(io.BytesIO(SIDECAR)) as loaded:
    ARRAYS = {name: loaded[name] for name in loaded.files}

descriptions = st.sampled_from(
    ["<i8", ">i8", "<u2", "<f4", "|b1", "<U8", "<U0", "<U100000000", "|O", "|V8", "<M8[s]", "|S0", "x", "", "<c16"]
).map(repr) | st.sampled_from(["[('a', '<i8')]", "('<f4', (2, 2))", "[('a', '|O')]", "5", "None", "'<i8'" * 3, "(" * 300])
shapes = st.lists(st.sampled_from([0, 1, 2, 3, -1, -2, 2**40, 2**63, 2**64, 10**30, "True", "1.0"]), max_size=3).map(
    lambda sizes: f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"
)
headers = st.builds(
    lambda description, order, shape, rest: f"{{'descr': {description}, 'fortran_order': {order}, 'shape': {shape}{rest}}}",
    descriptions,
    st.sampled_from(["False", "True", "0", "[]"]),
    shapes,
    st.sampled_from(["", ", ", ", 'x': 1", "}", " " * 20_000]),
)
arrays = st.builds(npy, headers, st.binary(max_size=40), st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"]))


@st.composite
def archives(draw: st.DrawFn, valid: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """An archive of which a few arrays are something else, missing, there twice, or packed in another way."""
    out, spoiled = io.BytesIO(), draw(st.sets(st.sampled_from(sorted(valid)), max_size=3))
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in valid.items():
            ways = st.sampled_from(["keep", "other", "typed", "missing", "twice", "values", "bytes"])
            how = draw(ways) if name in spoiled else "keep"
            plain = io.BytesIO()
            np.lib.format.write_array(plain, array)
            content = plain.getvalue()
            if how == "other":
                content = draw(arrays)
            elif how == "typed":
                dtype = draw(st.sampled_from(["<i8", "<u2", "<f4", "<f8", "|b1", "<U3", "<c8"]))
                plain = io.BytesIO()
                np.lib.format.write_array(
                    plain, np.resize(np.zeros(1, dtype), draw(st.sampled_from([array.shape, (1,), (0,), (1, 1, 1)])))
                )
                content = plain.getvalue()
            elif how == "values" and array.dtype.kind in "iuf" and array.size:
                changed_array = array.copy()
                changed_array.flat[draw(st.integers(0, array.size - 1))] = draw(
                    st.sampled_from([0, 1, 3] + ([2**62, 2**63 - 1, -1] if array.dtype == np.int64 else []))
                )
                plain = io.BytesIO()
                np.lib.format.write_array(plain, changed_array)
                content = plain.getvalue()
            elif how == "bytes":
                content = draw(damaged(content[:400])) + content[400:]
            method = draw(st.sampled_from([8, 0, 12, 14])) if name in spoiled else zipfile.ZIP_STORED
            for _ in range({"missing": 0, "twice": 2}.get(how, 1)):
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content, compress_type=method)
    return out.getvalue()


@fuzzed
@given(
    data=archives(ARRAYS)
    | damaged(SIDECAR)
    | damaged(SIDECAR[-700:]).map(lambda end: SIDECAR[:-700] + end)
    | st.binary(max_size=60)
)
def test_a_sidecar(data: bytes) -> None:
    try:
        found = Arrays.loads(data, TOTALS, (1, 2))
    except ValueError as cause:
        assert len(str(cause).splitlines()) == 1  # noqa: PT017
        assert len(str(cause)) < 1000  # noqa: PT017
    else:
        again = Arrays.loads(found.dumps(), TOTALS, (1, 2))
        assert list(again.histograms) == list(found.histograms)
        np.testing.assert_array_equal(again.hidden_peaks, found.hidden_peaks)
        assert again.samples == found.samples
        assert [histogram.quantile(0.5) for histogram in found.histograms]


# --- what is kept of a run that was interrupted


@pytest.fixture(scope="module")
def observed() -> State:
    """What is known after a batch of 4 rows."""
    state: State = next(states("llama"))
    return state


CONDITIONS = {"checkpoint": "a", "corpus": "b"}


@cache
def snapshot_arrays() -> dict[str, np.ndarray[Any, Any]]:
    kept = Snapshot.of(next(states("llama")), done=(Piece(0, 0, 2), Piece(0, 2, 4)), batch_tokens=7, notes=("a",))
    with np.load(io.BytesIO(kept.dumps(CONDITIONS)[32:])) as archive:
        return dict(archive)


@st.composite
def snapshots(draw: st.DrawFn) -> bytes:
    """Sealed with the right digest, as whoever can write the file can."""
    valid = snapshot_arrays()
    if draw(st.booleans()):
        header = json.loads(valid["header"].tobytes())
        text = draw(hostile_json(header))
        valid = valid | {"header": np.frombuffer(text, dtype=np.uint8)}
    data = draw(archives(valid))
    return hashlib.sha256(data).digest() + data


@fuzzed
@given(data=snapshots())
def test_a_snapshot(folder: Path, observed: State, data: bytes) -> None:
    kept = Kept(folder / "unfinished", CONDITIONS)
    kept.folder.mkdir(exist_ok=True)
    kept.file.write_bytes(data)
    found, refused = kept.load([4])
    assert len(found) + len(refused) <= 1
    assert all(len(reason.splitlines()) == 1 and len(reason) < 3000 for reason in refused)
    for snapshot in found:
        assert sum(piece.last - piece.first for piece in snapshot.done) <= 4
        try:
            state = snapshot.state(observed)
        except ValueError as cause:
            assert len(str(cause).splitlines()) == 1  # noqa: PT017
        else:
            state.merge(observed)
    tokens = dealt_tokens(kept.folder)
    assert tokens is None or tokens > 0


@fuzzed
@given(samples=hostile_json(json.loads(SAMPLES.dump_json(healthy_pair().samples))))
def test_samples_beside_a_record(folder: Path, samples: bytes) -> None:
    file = folder / "large.json"
    with_arrays().save(file)
    data = Arrays(HISTOGRAMS, HIDDEN_PEAKS, samples).dumps()
    (folder / "large.npz").write_bytes(data)
    text = json.loads(file.read_text(encoding="utf-8"))
    text["sidecar"] = {"file": "large.npz", "sha256": hashlib.sha256(data).hexdigest(), "samples": True}
    file.write_text(json.dumps(text))
    record, _ = refusal(lambda: Measurement.load(file))
    if record is not None:
        record.save(folder / "copy.json")
        assert Measurement.load(folder / "copy.json").dumps() == (folder / "copy.json").read_text(encoding="utf-8")


# --- corpora

ROWS: list[Any] = [
    {"id": "a", "category": "prose", "text": "One line.", "score": 0.5},
    {"text": "Two <image> here", "images": ["a.png"]},
    {"id": "ids", "input_ids": [5, 6, 7]},
]


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    rows = [as_json(draw(changed(row)) if draw(st.booleans()) else row) for row in ROWS]
    end = draw(st.sampled_from(["\n", "\r\n", "\n\n", "\r", "\u2028", "\x00\n", ""]))
    return end.join(rows).encode("utf-8", "surrogatepass")


def corpus_is_whole(name: str) -> None:
    """What loads has a digest, and loads again as the same."""
    corpus, _ = refusal(lambda: load_corpus(name))
    if corpus is not None:
        assert corpus.samples
        assert load_corpus(name).digest == corpus.digest
        corpus.first(1)


@pytest.fixture(scope="module")
def pictured(folder: Path) -> Path:
    Image.new("RGB", (9, 4), (200, 30, 30)).save(folder / "a.png")
    return folder


@fuzzed
@given(data=lines() | damaged(b"\n".join(json.dumps(row).encode() for row in ROWS)) | hostile_json(ROWS[0]))
def test_json_lines(pictured: Path, data: bytes) -> None:
    file = pictured / "corpus.jsonl"
    file.write_bytes(data)
    corpus_is_whole(str(file))


@fuzzed
@given(
    data=damaged("Erste Zeile\n\n  zweite\u2028Zeile\r\ndritte\x00\n".encode())
    | st.binary(max_size=200)
    | st.text().map(str.encode)
)
def test_a_text_file(folder: Path, data: bytes) -> None:
    file = folder / "corpus.txt"
    file.write_bytes(data)
    corpus_is_whole(str(file))


IMAGE = io.BytesIO()
Image.new("RGB", (9, 4), (200, 30, 30)).save(IMAGE, "PNG")
PHOTO = io.BytesIO()
Image.new("RGB", (20, 20), (200, 30, 30)).save(PHOTO, "JPEG")


@fuzzed
@given(content=damaged(IMAGE.getvalue()) | damaged(PHOTO.getvalue()), row=changed(ROWS[1]) | st.just(ROWS[1]))
def test_lines_with_images(tmp_path_factory: pytest.TempPathFactory, folder: Path, content: bytes, row: Any) -> None:
    place = folder / "pictures"
    place.mkdir(exist_ok=True)
    (place / "a.png").write_bytes(content)
    (place / "corpus.jsonl").write_text(as_json(row))
    corpus, _ = refusal(lambda: load_corpus(str(place / "corpus.jsonl")))
    if corpus is not None:
        for sample in corpus.pictured:
            assert all(refusal(image.read) for image in sample.images)
            assert sample.parts


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def typed(values: Any) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeEncodeError):
        return pa.array([None, None])


columns = st.lists(
    st.none()
    | st.text(max_size=5)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.binary(max_size=5)
    | st.lists(st.integers(-9, 2**40)),
    min_size=2,
    max_size=2,
).map(typed)
TABLE = parquet(id=["x", None], text=["one", "two"], category=["c", None], length=[3, 4])
TOKENS = parquet(input_ids=[[3, 0, 3], [7]], category=pa.array(["c", "c"]).dictionary_encode())


@fuzzed
@given(
    data=damaged(TABLE)
    | damaged(TOKENS)
    | st.dictionaries(st.sampled_from(["id", "text", "input_ids", "category"]) | st.text(max_size=3), columns, max_size=3).map(
        lambda found: parquet(**{str(key): value for key, value in found.items()})
    )
)
def test_a_parquet_file(folder: Path, data: bytes) -> None:
    file = folder / "corpus.parquet"
    file.write_bytes(data)
    corpus_is_whole(str(file))


names = st.lists(
    st.sampled_from(
        [
            "hf:",
            "org",
            "/",
            "name",
            "@",
            "main",
            "?",
            "split=",
            "train",
            "&",
            "column=",
            "text",
            "config=",
            "tokenizer=",
            "=",
            "..",
            "[:1]",
        ]
    )
    | st.text(max_size=3),
    max_size=14,
).map("".join)


@fuzzed
@given(name=names | names.map("hf:org/name?".__add__))
def test_a_name_of_a_data_set(name: str) -> None:
    found, _ = refusal(lambda: parse_hub_name(name))
    if found is not None:
        repository, revision, settings = found
        written = f"hf:{repository}{'' if revision is None else f'@{revision}'}"
        written += f"?{'&'.join(f'{key}={value}' for key, value in settings.items())}" if settings else ""
        assert parse_hub_name(written) == found


# --- checkpoints


def settings_for(model: Path, corpus: Path) -> Settings:
    """What the command line would give for a checkpoint and a corpus."""
    numbers = dict.fromkeys(("samples", "batch_tokens", "growth_total", "ceiling", "json"))
    flags = ("update", "update_new", "two_sided", "explain", "benchmark", "fresh", "no_text", "trust_remote_code", "rtol_given")
    lists = ("series", "compared_policies", "formats", "sites")
    words = {"special_tokens": "none", "dtype": "auto", "device": "cpu", "baseline": "auto", "suite": "auto"}
    given: dict[str, Any] = {"rtol": 0.1, "site_rtol": 0.5, "growth": 2.0, "max_length": 20, **numbers, **words}
    given |= {"model": str(model), "corpus": str(corpus), "baselines": corpus.parent / "baselines"}
    given |= dict.fromkeys(flags, False) | dict.fromkeys(lists, ())
    return Settings(**given)


@pytest.fixture(scope="module")
def small(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny checkpoint, and beside it a corpus of token ids."""
    home = tmp_path_factory.mktemp("small")
    (home / "ids.jsonl").write_text('{"input_ids": [5, 6]}\n')
    return Path(shutil.copytree(checkpoint, home / "model"))


def config_of(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


CONFIGS = st.shared(
    st.sampled_from(["llama", "qwen2", "gemma3_text", "gpt2", "qwen3_moe", "gpt_oss", "mamba", "falcon_h1"]), key="kind"
)
KEYS = [
    "num_hidden_layers",
    "n_layer",
    "vocab_size",
    "hidden_size",
    "num_labels",
    "max_position_embeddings",
    "dtype",
    "rope_scaling",
]
MORE = [*KEYS, "quantization_config", "auto_map", "architectures", "text_config", "layer_types", "num_experts", "model_type"]


@fuzzed
@given(data=st.data(), key=st.none() | st.sampled_from(MORE), value=values, kind=CONFIGS)
def test_the_config_of_a_checkpoint(small: Path, data: st.DataObject, key: str | None, value: Any, kind: str) -> None:
    file = small / "config.json"
    valid = file.read_bytes()
    tree = json.loads(valid) | {"model_type": kind} | ({} if key is None else {key: value})
    file.write_bytes(data.draw(st.just(as_json(tree).encode()) | hostile_json(tree)))
    try:
        refusal(lambda: find(str(small)).origin)
        refusal(lambda: Plan.of(settings_for(small, small.parent / "ids.jsonl")))
    finally:
        file.write_bytes(valid)


INDEX = {"metadata": {"total_size": 5}, "weight_map": {"a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors"}}
WEIGHTS = save({"a.weight": torch.zeros(2, 3), "b.weight": torch.zeros(1, dtype=torch.bfloat16)})


@fuzzed
@given(
    index=hostile_json(INDEX) | st.just(as_json(INDEX).encode()),
    first=damaged(WEIGHTS),
    second=damaged(WEIGHTS) | st.just(WEIGHTS),
)
def test_a_weight_index_and_its_files(small: Path, index: bytes, first: bytes, second: bytes) -> None:
    folder = small.parent / "sharded"
    folder.mkdir(exist_ok=True)
    shutil.copy(small / "config.json", folder)
    (folder / "model.safetensors.index.json").write_bytes(index)
    (folder / "model-1.safetensors").write_bytes(first)
    (folder / "model-2.safetensors").write_bytes(second)
    found, _ = refusal(lambda: find(str(folder)))
    if found is not None:
        assert set(found.weights) <= {"model-1.safetensors", "model-2.safetensors"}


HEADER = json.loads(WEIGHTS[8 : 8 + struct.unpack("<Q", WEIGHTS[:8])[0]])


@fuzzed
@given(header=hostile_json(HEADER), claimed=st.none() | st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1]))
def test_a_safetensors_header(small: Path, header: bytes, claimed: int | None) -> None:
    folder = small.parent / "single"
    folder.mkdir(exist_ok=True)
    shutil.copy(small / "config.json", folder)
    body = WEIGHTS[8 + struct.unpack("<Q", WEIGHTS[:8])[0] :]
    size = len(header) if claimed is None else claimed
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + header + body)
    refusal(lambda: find(str(folder)))


@pytest.fixture(scope="module")
def adapter(small: Path) -> Path:
    folder = small.parent / "adapter"
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", base_model_name_or_path="../model", target_modules=["q_proj"])
    config.save_pretrained(str(folder))
    tensors = {"base_model.model.model.embed_tokens.weight": torch.zeros(3, 4), "x.embed_tokens.weight": torch.tensor(5.0)}
    (folder / "adapter_model.safetensors").write_bytes(save(tensors))
    return folder


@fuzzed
@given(data=st.data(), weights=st.none() | damaged(save({"embed_tokens.weight": torch.zeros(3, 4)})))
def test_the_config_of_an_adapter(adapter: Path, data: st.DataObject, weights: bytes | None, monkeypatch_module: None) -> None:
    file, stored = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    valid, whole = file.read_bytes(), stored.read_bytes()
    file.write_bytes(data.draw(hostile_json(json.loads(valid))))
    stored.write_bytes(whole if weights is None else weights)
    try:
        refusal(lambda: find(str(adapter)))
    finally:
        file.write_bytes(valid)
        stored.write_bytes(whole)


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    """No names are looked up on the Hub: a base model may be named anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pytest_maxact.hub.snapshot", _offline)
        yield


def _offline(*args: Any) -> Any:
    from pytest_maxact.hub import HubError

    raise HubError("no network here")


def gguf_of(folder: Path) -> bytes:
    import gguf

    writer = gguf.GGUFWriter(folder / "valid.gguf", "llama")
    for name, value in {"block_count": 2, "context_length": 64, "embedding_length": 8, "feed_forward_length": 8}.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "c"])
    writer.add_token_types([1, 1, 1])
    writer.add_tensor("token_embd.weight", np.zeros((3, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (folder / "valid.gguf").read_bytes()


@fuzzed
@given(data=st.data())
def test_a_gguf_header(folder: Path, data: st.DataObject) -> None:
    file = folder / "fuzzed.gguf"
    file.write_bytes(data.draw(damaged(gguf_of(folder))))
    refusal(lambda: find(str(file)))


TEMPLATES = [
    "{{ messages[0]['content'] }}",
    "{{ messages[0]['content'] ",
    "{% for m in messages %}{{ m.content }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ raise_exception('no\n\nway') }}",
    "{{ 1 / 0 }}",
    "{{ range(999999999) | list }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% include '/etc/passwd' %}",
    "{{ messages[9].content.x.y }}",
    "",
    "\ud800",
    "{{ '\ud800' }}",
    5,
    [],
    {"default": "x"},
    [{"name": "default", "template": "{{ messages }}"}],
]


@fuzzed
@given(data=st.data(), template=st.none() | st.sampled_from(TEMPLATES))
def test_the_config_of_a_tokenizer(small: Path, data: st.DataObject, template: Any) -> None:
    file = small / "tokenizer_config.json"
    valid = file.read_bytes()
    tree = json.loads(valid) | ({} if template is None else {"chat_template": template})
    file.write_bytes(data.draw(st.just(as_json(tree).encode()) | hostile_json(tree)))
    (small.parent / "text.jsonl").write_text('{"text": "A b c."}\n')
    corpus = load_corpus(str(small.parent / "text.jsonl"))
    reference = find(str(small))
    try:
        assert has_tokenizer(reference)
        tokenizer, _ = refusal(lambda: load_tokenizer(reference))
        if tokenizer is not None:
            for policy in get_args(SpecialTokens):
                refusal(partial(tokenize, corpus, tokenizer, policy, 9))
    finally:
        file.write_bytes(valid)


@fuzzed
@given(
    data=hostile_json({"global_step": 500, "epoch": 1.0, "log_history": [{"loss": 0.5, "step": 1}]}), name=st.text(max_size=30)
)
def test_the_state_of_a_trainer(folder: Path, data: bytes, name: str) -> None:
    (folder / "trainer_state.json").write_bytes(data)
    for model in (str(folder), f"checkpoint-{'9' * 5000}", f"x/{name}", f"step_{name}"):
        step = step_of(model)
        assert step is None or (type(step) is int and 0 <= step < 2**63)


# --- what this package keeps itself


@fuzzed
@given(data=hostile_json({"a" * 64: "b" * 64, "c" * 64: "d" * 64}))
def test_remembered_fingerprints(folder: Path, data: bytes) -> None:
    (folder / FINGERPRINTS).write_bytes(data)
    (folder / "weights").write_bytes(b"w")
    assert Store(folder).fingerprint([folder / "weights"], lambda files: "e" * 64) == "e" * 64


OUTCOME = {
    "tolerance": vars(Tolerance()),
    "changes": ["one"],
    "missing": None,
    "unwanted": None,
    "error": None,
    "reused": False,
}


@fuzzed
@given(data=hostile_json(OUTCOME), kept=hostile_json(BASELINE) | st.none(), record=hostile_json(RECORD) | st.none())
def test_the_result_of_a_task(folder: Path, data: bytes, kept: bytes | None, record: bytes | None) -> None:
    place = folder / "task"
    place.mkdir(exist_ok=True)
    for name, content in ((RESULT, data), ("baseline.json", kept), ("record.json", record)):
        (place / name).unlink(missing_ok=True)
        if content is not None:
            (place / name).write_bytes(content)
    result = read_result(place)
    assert result is not None
    assert isinstance(result.changes, tuple)
    assert result.error is None or isinstance(result.error, str)


@fuzzed
@given(data=st.data(), name=st.sampled_from(["summary.json", "checkpoints/tiny.json", "bootstrap.json", "int8.json"]))
def test_the_source_of_published_figures(folder: Path, data: st.DataObject, name: str) -> None:
    source, made = folder / "source", folder / "made"
    shutil.rmtree(source, ignore_errors=True)
    shutil.rmtree(made, ignore_errors=True)
    written_source(source)
    valid = json.loads((source / name).read_text())
    whole = data.draw(hostile_json(valid))
    (source / name).write_bytes(whole)
    if name in ("summary.json", "checkpoints/tiny.json") and data.draw(st.booleans()):  # one that both agree on
        row = data.draw(changed({k: v for k, v in valid.items() if k != "sites"} if isinstance(valid, dict) else valid[0]))
        sites = (
            json.loads((source / "checkpoints" / "tiny.json").read_text())["sites"]
            if name == "summary.json"
            else valid["sites"]
        )
        (source / "summary.json").write_text(as_json([row]))
        (source / "checkpoints" / "tiny.json").write_text(as_json(row | {"sites": sites} if isinstance(row, dict) else row))
    count, _ = refusal(lambda: make(source, made))
    assert made.exists() == (count is not None)
    if count is not None:
        landscape = Landscape.model_validate_json((made / LANDSCAPE).read_bytes())
        for model in landscape.models:
            assert Baseline.load(made / f"{model.hub_id.replace('/', '--')}.json").model.id == model.hub_id


# --- options


class Told:
    """As much of pytest's config as settings are made from."""

    def __init__(self, folder: Path, options: dict[str, Any], ini: dict[str, Any]) -> None:
        self.options, self.ini = options, ini
        self.rootpath = folder
        self.invocation_params = type("Params", (), {"dir": folder})
        self.stash = pytest.Stash()

    def getoption(self, name: str) -> Any:
        """A value of the command line."""
        return self.options.get(name)

    def getini(self, name: str) -> Any:
        """A value of the ini file."""
        return self.ini.get(name)


NUMBERS = ["samples", "max_length", "batch_tokens", "rtol", "site_rtol", "growth", "growth_total", "ceiling"]
LISTS = ["special_tokens", "format", "sites", "model"]
WORDS = ["dtype", "device", "baseline", "baselines", "suite", "corpus", "json"]
ODD = [
    "",
    " ",
    "0",
    "-1",
    "1",
    "1.5",
    "1e400",
    "-0.0",
    "nan",
    "inf",
    "0x10",
    "1_000",
    "²",
    "٣",
    "9" * 5000,
    "1e-400",
    "True",
    "a\nb",
]
LISTED = ["none,chat", "+linear-inputs", "int8, fp8_e4m3", "auto"]
PATHS = ["~nobody/x", "~/x", "a\0b", "x" * 5000, "*", "[", "**/x", "\udcff", ".", "/"]
texts = st.sampled_from([*ODD, *LISTED, *PATHS]) | st.text(max_size=10)


@fuzzed
@given(
    options=st.dictionaries(st.sampled_from(NUMBERS + WORDS), texts, max_size=3),
    lists=st.dictionaries(st.sampled_from(LISTS), st.lists(texts, min_size=1, max_size=2), max_size=2),
    ini=st.dictionaries(st.sampled_from(NUMBERS + LISTS + WORDS), texts, max_size=3),
)
def test_options_and_ini_values(
    folder: Path, options: dict[str, str], lists: dict[str, list[str]], ini: dict[str, str]
) -> None:
    told = Told(folder, {f"maxact_{k}": v for k, v in (options | lists).items()}, {f"maxact_{k}": v for k, v in ini.items()})
    found, _ = refusal(lambda: Settings.from_pytest(told))  # type: ignore[arg-type]
    if found is not None:
        assert all(value is None or 0 < value < 2**63 for value in (found.samples, found.max_length, found.batch_tokens))
        assert all(0 < value < float("inf") for value in (found.rtol, found.site_rtol, found.growth))
        refusal(lambda: Tolerance(formats=found.formats))
        refusal(lambda: look_up(found.baseline, found.model or "m", found.baselines))
        if found.model is not None and not found.series and "/" in found.model[:2]:
            refusal(lambda: find(found.model or ""))
