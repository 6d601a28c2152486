"""Hub ids: resolved, downloaded and measured over HTTP from a hub of our own on this machine, then offline from the cache.

Each way in which the Hub can fail is told from the others in one line, and within three seconds.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import peft
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants, hf_hub_download
from transformers import AutoModel, PreTrainedTokenizerFast

from pytest_maxact.checkpoint import fetch, find, load
from pytest_maxact.errors import CheckpointError
from pytest_maxact.hub import HubError, snapshot
from pytest_maxact.record import Measurement
from pytest_maxact.tokenizer import TokenizerError, load_tokenizer_alone

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories, each with one commit that `main` and `v1` name at first, and notes what was asked for.

    A name may begin with `datasets/`. `acme/private` shows itself only to the right token, those in `gated` show their files
    to nobody; an API answer of `status` replaces all others.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.asked: list[str] = []
        self.status = 200
        self.revisions = {"main", "v1", COMMIT}
        self.gated = {"acme/gated"}

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """The few routes of the Hub's API that a download uses."""

    server: Hub

    def do_GET(self) -> None:
        """Serve a file or an API answer."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """The same without the body."""
        self._answer(with_body=False)

    def do_POST(self) -> None:
        """Tell which of the paths that were asked for exist."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(self.path.split("?")[0]).strip("/")
        self.server.asked.append(path)
        token = self.headers.get("Authorization")
        if self.server.status != 200:
            return self._send(self.server.status, b"", with_body)
        if token not in (None, f"Bearer {TOKEN}"):
            return self._send(401, b"", with_body, message="Invalid credentials in Authorization header")
        for name, folder in self.server.repositories.items():
            api = f"api/{name}" if name.startswith("datasets/") else f"api/models/{name}"
            if path != api and not path.startswith((f"{api}/", f"{name}/resolve/")):
                continue
            if name == "acme/private" and token is None:
                return self._send(401, b"", with_body, error="RepoNotFound")
            what, revision, file = (*path.removeprefix(api).removeprefix(name).strip("/").split("/", 2), "", "")[:3]
            if revision and revision not in self.server.revisions:
                return self._send(404, b"", with_body, error="RevisionNotFound")
            if what == "resolve" and name in self.server.gated:
                return self._send(403, b"", with_body, error="GatedRepo")
            if what == "resolve" and not (folder / file).is_file():
                return self._send(404, b"", with_body, error="EntryNotFound")
            if what == "resolve":
                return self._send(200, (folder / file).read_bytes(), with_body)
            files = sorted(file.name for file in folder.iterdir())
            if what in ("tree", "paths-info"):
                tree = [{"type": "file", "path": file, "oid": "0", "size": (folder / file).stat().st_size} for file in files]
                return self._send(200, json.dumps(tree).encode(), with_body)
            siblings = [{"rfilename": file} for file in files]
            return self._send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), with_body)
        return self._send(404 if token else 401, b"", with_body, error="RepoNotFound")

    def _send(self, status: int, body: bytes, with_body: bool, error: str = "", message: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        for header, value in (("X-Error-Code", error), ("X-Error-Message", message)):
            if value:
                self.send_header(header, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path) -> Iterator[Hub]:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"never read")
    texts = tmp_path / "texts"
    texts.mkdir()
    open_to_all = {"acme/tiny": checkpoint, "acme/pickled": pickled, "datasets/acme/texts": texts}
    server = Hub(open_to_all | dict.fromkeys(("acme/private", "acme/gated"), checkpoint))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(hub: Hub, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    monkeypatch.setenv("HF_HOME", str(pytester.path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def run(model: str, *settings: str, offline: bool = False) -> pytest.RunResult:
        monkeypatch.setenv("HF_HUB_OFFLINE", str(int(offline)))
        return pytester.runpytest_subprocess(
            f"--maxact-model={model}", "--maxact-samples=4", "--maxact-baseline=none", "--maxact-json=record.json", *settings
        )

    return run


def test_a_pinned_revision_is_downloaded_once_and_then_found_offline(
    hub: Hub, run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    assert run("acme/tiny@v1").ret == 0
    online = Measurement.load(pytester.path / "record.json")
    assert (online.model.id, online.model.revision) == ("acme/tiny", COMMIT)
    assert any(path.endswith("model.safetensors") for path in hub.asked)
    hub.asked.clear()
    assert run(f"acme/tiny@{COMMIT}", offline=True).ret == 0
    offline = Measurement.load(pytester.path / "record.json")
    assert hub.asked == []
    assert offline.sites == online.sites
    assert offline.model == online.model


def test_a_repository_with_pickled_weights_only_is_refused_before_anything_runs(
    hub: Hub, run: Callable[..., pytest.RunResult]
) -> None:
    result = run("acme/pickled")
    assert result.ret == 4
    (line,) = [line for line in result.errlines if line.strip()]  # no progress bars either
    assert fnmatch.fnmatchcase(line, "ERROR: checkpoint acme/pickled has no safetensors weights*pickled*save_pretrained*")
    assert not any(path.endswith("pytorch_model.bin") for path in hub.asked)


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache of this process, empty; the hub of our own is its endpoint, and nobody is logged in."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    use(monkeypatch, hub.endpoint)
    return cache


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.mark.parametrize(
    ("model", "token", "status", "problem"),
    [
        ("acme/nothing", None, 200, "HUB has none of this name, or a private one: check the spelling; for a private one, set*"),
        ("acme/nothing", TOKEN, 200, "HUB has none of this name, or a private one: check the spelling; *"),
        ("acme/private", None, 200, "HUB has none of this name, or a private one: *, set HF_TOKEN or run `hf auth login`"),
        ("acme/tiny@v9", None, 200, "HUB has no revision v9 of it: name a branch, tag or commit that URL/acme/tiny shows"),
        (
            "acme/gated",
            TOKEN,
            200,
            "HUB gives it only to those who were granted access: ask for it at URL/acme/gated, then set*",
        ),
        ("acme/tiny", "hf_wrong", 200, "HUB refused the token (401): set HF_TOKEN to a valid one or run `hf auth login`"),
        ("acme/tiny", None, 503, "HUB answered 503 Service Unavailable: try again later"),
        ("acme/tiny", None, 418, "HUB answered 418 I'm a Teapot: check HF_ENDPOINT and what the token may read"),
        ("acme/tiny--two", None, 200, "it is no id that the Hub could have: check the spelling"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_status_4(
    hub: Hub,
    cache: Path,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    token: str | None,
    status: int,
    problem: str,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.status = status
    result = pytester.runpytest_inprocess(f"--maxact-model={model}")
    assert result.ret == 4
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    problem = problem.replace("HUB", f"the Hub ({hub.endpoint})").replace("URL", hub.endpoint)
    expected = f"ERROR: no checkpoint {model}: there is no folder {pytester.path / model}, and {problem}"
    assert fnmatch.fnmatchcase(line, expected), line


def test_a_private_repository_is_served_to_who_holds_the_token(
    run: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = run("acme/private")
    assert refused.ret == 4
    assert "Traceback" not in refused.stderr.str()
    assert len([line for line in refused.errlines if line.strip()]) == 1
    refused.stderr.fnmatch_lines(["ERROR: no checkpoint acme/private: there is no folder *, or a private one: *"])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert run("acme/private").ret == 0


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("file", "advice"),
    [
        ("tiny.Q8_0.gguf", r"fetch `hf download acme/no-config tiny\.Q8_0\.gguf --local-dir \.` and name the file"),
        ("weights.npz", "name another"),
    ],
)
def test_a_repository_without_a_config_is_refused_with_what_to_do(hub: Hub, tmp_path: Path, file: str, advice: str) -> None:
    folder = hub.repositories["acme/no-config"] = tmp_path / "no-config"
    folder.mkdir()
    (folder / file).write_bytes(b"never read")
    with pytest.raises(CheckpointError, match=f"checkpoint acme/no-config holds no config.json on the Hub: {advice}$"):
        find("acme/no-config")
    assert not any(path.endswith(file) for path in hub.asked)


NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize("offline", [False, True])
def test_without_the_hub_the_cache_will_do_where_it_holds_the_whole_revision(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    def leave() -> None:
        use(monkeypatch, NOWHERE)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)

    def come_back() -> None:
        use(monkeypatch, hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    problem = "HF_HUB_OFFLINE is set and" if offline else "Connection refused.* and"
    online = find("acme/tiny@v1")
    leave()
    with pytest.raises(CheckpointError, match=f"{problem} the cache {cache} does not hold all of it"):
        find("acme/tiny@v1")  # so far there are no weights
    if offline:  # a download that breaks off is tried again for long
        with pytest.raises(CheckpointError, match=f"the weights of acme/tiny could not be downloaded: {problem}"):
            load(online)
    come_back()
    load(online)
    leave()
    for name in ("acme/tiny@v1", f"acme/tiny@{COMMIT}"):
        found = find(name)
        assert (found.folder, found.revision) == (online.folder, COMMIT)
    load(found)
    with pytest.raises(CheckpointError, match=f"no checkpoint acme/tiny: there is no folder .*{problem} the cache"):
        find("acme/tiny")  # of which nobody asked for the default branch yet
    come_back()
    hub.status = 503
    assert find("acme/tiny@v1").folder == online.folder
    hub.status = 200
    hub.revisions.remove("v1")
    with pytest.raises(CheckpointError, match="has no revision v1 of it"):
        find("acme/tiny@v1")  # the Hub knows better than an old copy


@pytest.fixture
def dripping() -> Iterator[str]:
    """Endpoint of a server that sends a byte every now and then and is never through: no single read takes long."""
    over = threading.Event()

    class Drip(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
                while not over.wait(0.3):
                    self.request.sendall(b"-")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Drip) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def silent() -> Iterator[str]:
    """Endpoint that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("endpoint", ["silent", "dripping", "refusing", "unresolved"])
@pytest.mark.usefixtures("cache")
def test_a_hub_that_cannot_be_reached_is_given_up_within_three_seconds(
    endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if endpoint == "unresolved":  # a name server that swallows questions
        over = threading.Event()
        request.addfinalizer(over.set)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: over.wait(30) and [])
        address = "http://example.org"
    else:
        address = NOWHERE if endpoint == "refusing" else request.getfixturevalue(endpoint)
    use(monkeypatch, address)
    began = time.monotonic()
    with pytest.raises(HubError) as caught:
        snapshot("acme/tiny", None, ["config.json"])
    assert time.monotonic() - began < 3
    problem = "cannot be reached (ConnectError: " if endpoint == "refusing" else "did not answer within 2 s and"
    assert str(caught.value).startswith(f"the Hub ({address}) {problem}")
    assert "check the spelling, the network and HF_ENDPOINT" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cache")
def test_who_sets_the_hubs_own_timeout_gets_it(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, silent)
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    with pytest.raises(HubError, match="did not answer within 1 s"):
        snapshot("acme/tiny", None, ["config.json"])


def test_a_cache_that_cannot_be_written_is_not_taken_for_a_network_that_is_down(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(HubError, match=f"it could not be stored in the cache {cache} .*: make room there, or set HF_HOME"):
        snapshot("acme/tiny", None, ["config.json"])


# --- data sets

LOAD = """
import json, sys
from pytest_maxact.corpus import load_corpus
from pytest_maxact.errors import CorpusError
for name in sys.argv[1:]:
    try:
        print(json.dumps([[sample.id, sample.category, sample.text] for sample in load_corpus(name).samples]))
    except CorpusError as problem:
        print(problem)
"""


CARD = """---
configs:
- config_name: default
  data_files: [{split: train, path: train.parquet}, {split: test, path: test.parquet}]
- config_name: pairs
  data_files: [{split: validation, path: pairs.parquet}]
---
"""


@pytest.fixture
def texts(hub: Hub) -> Path:
    """The folder of the data set acme/texts: two splits, and a second configuration with one."""
    folder = hub.repositories["datasets/acme/texts"]
    rows = [{"id": id_, "category": "c", "text": f"text {id_}", "title": f"title {id_}"} for id_ in "abcd"]
    pq.write_table(pa.Table.from_pylist(rows[:2]), folder / "train.parquet")
    pq.write_table(pa.Table.from_pylist(rows[2:]), folder / "test.parquet")
    pq.write_table(pa.Table.from_pylist([{"q": "three", "a": "four", "n": 5}]), folder / "pairs.parquet")
    (folder / "README.md").write_text(CARD)
    (folder / ".gitattributes").write_text("")
    return folder


@pytest.fixture
def load_corpora(hub: Hub, tmp_path: Path) -> Callable[..., list[str]]:
    """Load corpora in a process of its own, in the test's folder; what each gave, as one line."""

    def load_corpora(*names: str, **environment: str) -> list[str]:
        settings = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.endpoint, **environment}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        command = [sys.executable, "-c", LOAD, *names]
        done = subprocess.run(command, env=inherited | settings, cwd=tmp_path, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        assert len(lines) == len(names), done.stdout
        return lines

    return load_corpora


TRAIN = json.dumps([["a", "c", "text a"], ["b", "c", "text b"]])


@pytest.mark.usefixtures("texts")
def test_a_data_set_of_the_hub_is_a_corpus(load_corpora: Callable[..., list[str]]) -> None:
    expected = {
        "hf:acme/texts": TRAIN,
        "hf:acme/texts@v1?column=title&split=test": json.dumps([["c", "c", "title c"], ["d", "c", "title d"]]),
        "hf:acme/texts?split=train[1:]+hf:acme/texts?split=test[:1]": json.dumps([["b", "c", "text b"], ["c", "c", "text c"]]),
        "hf:acme/texts?config=pairs&column=a": json.dumps([["texts-validation-1", "uncategorized", "four"]]),
    }
    assert load_corpora(*expected) == list(expected.values())


@pytest.mark.usefixtures("texts")
def test_what_a_data_set_does_not_have_is_named_with_what_it_has(
    hub: Hub, tmp_path: Path, load_corpora: Callable[..., list[str]]
) -> None:
    scripted = tmp_path / "scripted"
    scripted.mkdir()
    (scripted / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    hub.repositories["datasets/acme/scripted"] = scripted
    (tmp_path / "acme" / "hidden").mkdir(parents=True)
    at, page = f"the Hub ({hub.endpoint}) has", f"{hub.endpoint}/datasets/acme/texts"
    expected = {
        "hf:acme/texts?split=no": "corpus NAME has no split no: add ?split= with one of train, test",
        "hf:acme/texts?column=no": "corpus NAME has no column no among id, category, text, title: say which *",
        "hf:acme/texts?config=pairs": "corpus NAME has no single column of texts among q, a, n: say which holds the samples, *",
        "hf:acme/texts?config=pairs&column=n": "column n of corpus NAME holds int64, neither strings nor lists of *",
        "hf:acme/texts?config=no": "corpus NAME cannot be read: ValueError: *'no' not found. Available: *'default', 'pairs'*",
        "hf:acme/texts@v9": f"no corpus NAME: {at} no revision v9 of it: name a branch, tag or commit that {page} shows",
        "hf:acme/nothing": f"no corpus NAME: {at} none of this name, or a private one: check the spelling; *",
        "hf:acme/hidden": f"corpus NAME is hidden by {tmp_path}/acme/hidden, which the library datasets would read instead: *",
        "hf:acme/scripted": "corpus NAME cannot be read: RuntimeError: Dataset scripts are no longer supported*",
    }
    for name, line in zip(expected, load_corpora(*expected), strict=True):
        pattern = expected[name].replace("NAME", name).replace("[", "[[]")
        assert fnmatch.fnmatchcase(line, pattern), line
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("without_hub", [{"HF_ENDPOINT": NOWHERE}, {"HF_HUB_OFFLINE": "1"}], ids=["unreachable", "offline"])
@pytest.mark.usefixtures("texts")
def test_a_data_set_that_was_loaded_once_is_found_without_the_hub(
    hub: Hub, tmp_path: Path, load_corpora: Callable[..., list[str]], without_hub: dict[str, str]
) -> None:
    assert load_corpora("hf:acme/texts@v1") == [TRAIN]
    hub.asked.clear()
    found, lacking = load_corpora("hf:acme/texts@v1", "hf:acme/texts", **without_hub)
    assert hub.asked == []
    assert found == TRAIN
    assert lacking.startswith("no corpus hf:acme/texts: ")
    assert f"the cache {tmp_path}/hf/hub does not hold all of it" in lacking
    # Another commit's data are no substitute.
    (cached,) = (tmp_path / "hf" / "datasets").glob(f"acme___texts/default/*/{COMMIT}")
    cached.rename(cached.with_name("f" * 40))
    (lacking,) = load_corpora("hf:acme/texts@v1", **without_hub)
    assert "does not hold all of it" in lacking


@pytest.mark.usefixtures("texts")
def test_a_checkpoint_of_the_hub_is_measured_over_a_data_set_of_the_hub(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    assert run("acme/tiny", "--maxact-corpus=hf:acme/texts", "--maxact-samples=2").ret == 0
    record = Measurement.load(pytester.path / "record.json")
    assert (record.corpus.id, record.corpus.samples, record.corpus.categories) == ("hf:acme/texts", 2, {"c": 2})


TEXTS = ["The tide comes in.", " Two  words\n", "déjà vu"]
PAPER, LLAMA = "Clxxxx/eval_diverse_dataset", "meta-llama/Llama-2-7b-hf"


@pytest.fixture
def ids(hub: Hub, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The folder of the data set acme/ids: token ids of `acme/tiny`, which begin with its BOS token."""
    folder = hub.repositories["datasets/acme/ids"] = tmp_path / "ids"
    folder.mkdir()
    encoded = [[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]] for text in TEXTS]
    # Beside texts an empty row, blank ones, and a special token that stands inside.
    encoded += [[], [tokenizer.bos_token_id], tokenizer(" \n")["input_ids"], [*encoded[0], tokenizer.eos_token_id, *encoded[2]]]
    categories = ["prose", None, "prose", "x", "x", "x", "both"]
    pq.write_table(pa.table({"input_ids": encoded, "category": categories}), folder / "train.parquet")
    pq.write_table(pa.table({"input_ids": [[5], [6, 512, 5]]}), folder / "test.parquet")
    pq.write_table(pa.table({"input_ids": [[5], None]}), folder / "validation.parquet")
    (folder / ".gitattributes").write_text("")
    return folder


def decoded(name: str) -> str:
    """What the training split of acme/ids gives, under the name of a data set."""
    rows = [(1, "prose", TEXTS[0]), (2, "uncategorized", TEXTS[1]), (3, "prose", TEXTS[2]), (7, "both", TEXTS[0] + TEXTS[2])]
    return json.dumps([[f"{name}-train-{row}", category, text] for row, category, text in rows])


def test_token_ids_of_another_tokenizer_become_texts(
    hub: Hub, ids: Path, checkpoint: Path, load_corpora: Callable[..., list[str]]
) -> None:
    hub.repositories |= {f"datasets/{PAPER}": ids, LLAMA: checkpoint}
    expected = {
        "hf:acme/ids?tokenizer=acme/tiny": decoded("ids"),
        f"hf:acme/ids?tokenizer={checkpoint}": decoded("ids"),
        "hf:acme/ids?split=train[:1]&tokenizer=acme/tiny@v1": json.dumps([["ids-train[:1]-1", "prose", TEXTS[0]]]),
        f"hf:{PAPER}": decoded("eval_diverse_dataset"),
        "hf:acme/ids?split=test": json.dumps([[f"ids-test-{row}", "uncategorized", None] for row in (1, 2)]),
    }
    assert load_corpora(*expected) == list(expected.values())
    assert not any(path.endswith("model.safetensors") for path in hub.asked)
    assert load_corpora(f"hf:{PAPER}", HF_HUB_OFFLINE="1") == [decoded("eval_diverse_dataset")]


@pytest.mark.usefixtures("texts")
def test_token_ids_that_cannot_become_texts_are_one_line(
    hub: Hub, ids: Path, checkpoint: Path, tmp_path: Path, load_corpora: Callable[..., list[str]]
) -> None:
    hub.repositories |= {f"datasets/{PAPER}": ids, LLAMA: checkpoint}
    hub.gated.add(LLAMA)
    bare, damaged, coded = (tmp_path / name for name in ("bare", "damaged", "coded"))
    bare.mkdir()
    shutil.copytree(checkpoint, damaged)
    (damaged / "tokenizer.json").write_text("{")
    shutil.copytree(checkpoint, coded)
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (coded / "tokenizer_config.json").write_text(json.dumps(own))
    (coded / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    at, lacks = f"the Hub ({hub.endpoint})", "this tokenizer cannot be loaded"
    expected = {
        f"hf:{PAPER}": f"corpus NAME holds token ids of {LLAMA}, and {lacks}: there is no folder {tmp_path}/{LLAMA}, and {at} "
        f"gives it only to those who were granted access: ask for it at {hub.endpoint}/{LLAMA}, then set HF_TOKEN or run "
        "`hf auth login`; or name a copy of it, with tokenizer=org/name, or a folder",
        "hf:acme/ids?tokenizer=acme/no": f"*{lacks}: there is no folder {tmp_path}/acme/no, and {at} has none of this name, *",
        "hf:acme/ids?tokenizer=acme/tiny@v9": f"*{lacks}: *{at} has no revision v9 of it: *",
        "hf:acme/ids?tokenizer=no/such/one": f"*{lacks}: there is no folder {tmp_path}/no/such/one, and it is no hub id *",
        f"hf:acme/ids?tokenizer={bare}": f"*{lacks}: it has none of tokenizer.json, tokenizer_config.json, *; or name a copy *",
        f"hf:acme/ids?tokenizer={damaged}": f"*token ids of {damaged}, and {lacks}: *Error: *; or name a copy *",
        f"hf:acme/ids?tokenizer={coded}": f"*{lacks}: it needs Python code of its own, which is not run for a corpus; or *",
        "hf:acme/ids?split=test&tokenizer=acme/tiny": "corpus NAME, row 2: 512 is no token id of acme/tiny: name the tokenizer "
        "it is of, with tokenizer=org/name, or a folder",
        "hf:acme/ids?split=validation&tokenizer=acme/tiny": 'corpus NAME, row 2: "input_ids" must be a list of whole numbers *',
        "hf:acme/ids?split=train[3:6]&tokenizer=acme/tiny": "corpus NAME has no samples: give it at least one",
        "hf:acme/texts?tokenizer=acme/tiny": "corpus NAME holds texts, which the model's own tokenizer encodes: leave out *",
    }
    for name, line in zip(expected, load_corpora(*expected), strict=True):
        pattern = expected[name].replace("NAME", name).replace("[", "[[]")
        assert fnmatch.fnmatchcase(line, pattern), line
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("cache")
def test_a_cache_that_lacks_the_tokenizer_is_no_repository_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    hf_hub_download("acme/tiny", "config.json")  # after which the cache does not know what else there is
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TokenizerError, match=r"HF_HUB_OFFLINE is set and the cache .* does not hold all of it"):
        load_tokenizer_alone("acme/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    load_tokenizer_alone("acme/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_tokenizer_alone("acme/tiny").decode([1]) == "<bos>"


@pytest.fixture
def lora(checkpoint: Path, tmp_path: Path) -> Path:
    """A folder with an adapter whose base model is `acme/tiny@v1`."""
    folder = tmp_path / "lora"
    model = peft.get_peft_model(AutoModel.from_pretrained(checkpoint), peft.LoraConfig(r=2, task_type="FEATURE_EXTRACTION"))
    model.peft_config["default"].base_model_name_or_path = "acme/tiny"
    model.peft_config["default"].revision = "v1"
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@pytest.mark.filterwarnings("ignore:`is_gradient")  # which PEFT asks for
def test_an_adapter_and_its_base_come_from_the_hub(hub: Hub, cache: Path, lora: Path) -> None:
    hub.repositories["acme/lora"] = lora
    reference = find("acme/lora@main")
    assert not any(path.endswith(".safetensors") for path in hub.asked)
    assert (reference.id, reference.revision) == ("acme/lora", COMMIT)
    assert reference.base is not None
    assert (reference.base.id, reference.base.revision) == ("acme/tiny", COMMIT)
    loaded = load(reference)
    assert type(loaded.model).__name__ == "PeftModelForFeatureExtraction"
    assert loaded.reference.fingerprint == fetch(find(str(lora))).fingerprint
    assert loaded.tokenizer is not None
    assert "api/models/acme/tiny/revision/v1" in hub.asked


@pytest.mark.usefixtures("cache")
@pytest.mark.filterwarnings("ignore:`is_gradient")
def test_an_adapter_of_the_hub_that_cannot_be_used_is_one_line(hub: Hub, lora: Path) -> None:
    hub.repositories["acme/lora"] = lora
    hub.revisions.remove("v1")
    with pytest.raises(
        CheckpointError, match=r"^the base model that adapter acme/lora names cannot be used: no checkpoint acme/t"
    ):
        find("acme/lora")
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    with pytest.raises(
        CheckpointError, match=r"^adapter acme/lora has only pickled weights \(adapter_model\.bin\), and pickled"
    ):
        find("acme/lora")


@pytest.mark.usefixtures("cache")
def test_code_in_another_repository_runs_with_the_option_only(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", list(sys.path))
    code, model = tmp_path / "code", tmp_path / "model"
    code.mkdir()
    (code / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaModel\n\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n\n"
        "class OwnModel(LlamaModel):\n    config_class = OwnConfig\n"
    )
    shutil.copytree(hub.repositories["acme/tiny"], model)
    config = json.loads((model / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "acme/code--own.OwnConfig", "AutoModel": "acme/code--own.OwnModel"},
    }
    (model / "config.json").write_text(json.dumps(config))
    hub.repositories |= {"acme/code": code, "acme/model": model}
    for name in ("acme/model", str(model)):
        with pytest.raises(
            CheckpointError, match=r"needs Python code of its own \(acme/code--own\.OwnConfig, acme/code--own\.O"
        ):
            find(name)
    assert not any(path.startswith("acme/code") for path in hub.asked)
    for name in ("acme/model", str(model)):
        loaded = load(find(name, trust_remote_code=True))
        assert type(loaded.model).__name__ == "OwnModel"
        assert loaded.tokenizer is not None
    assert "acme/code/resolve/main/own.py" in hub.asked
