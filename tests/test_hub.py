"""Hub ids: resolved, downloaded and measured over HTTP from a hub of our own on this machine, then offline from the cache."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pytest_maxact.record import Measurement

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories, each with one commit that `main` and `v1` name, and notes what was asked for."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """The few routes of the Hub's API that a download uses."""

    server: Hub

    def do_GET(self) -> None:
        """Serve a file or an API answer."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """The same without the body."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0].strip("/")
        self.server.asked.append(path)
        for name, folder in self.server.repositories.items():
            files = sorted(file.name for file in folder.iterdir())
            if path in (
                f"api/models/{name}",
                *(f"api/models/{name}/revision/{revision}" for revision in ("main", "v1", COMMIT)),
            ):
                siblings = [{"rfilename": file} for file in files]
                return self._send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), with_body)
            if path.startswith(f"api/models/{name}/tree/"):
                tree = [{"type": "file", "path": file, "oid": "0", "size": (folder / file).stat().st_size} for file in files]
                return self._send(200, json.dumps(tree).encode(), with_body)
            if path.startswith(f"{name}/resolve/") and (folder / path.split("/")[-1]).is_file():
                return self._send(200, (folder / path.split("/")[-1]).read_bytes(), with_body)
            if path.startswith(f"{name}/resolve/"):
                return self._send(404, b"", with_body, error="EntryNotFound")
        return self._send(404, b"", with_body, error="RepoNotFound")

    def _send(self, status: int, body: bytes, with_body: bool, error: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
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
    server = Hub({"acme/tiny": checkpoint, "acme/pickled": pickled})
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(hub: Hub, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    monkeypatch.setenv("HF_HOME", str(pytester.path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")

    def run(model: str, *, offline: bool = False) -> pytest.RunResult:
        monkeypatch.setenv("HF_HUB_OFFLINE", str(int(offline)))
        return pytester.runpytest_subprocess(
            f"--maxact-model={model}", "--maxact-samples=4", "--maxact-baseline=none", "--maxact-json=record.json"
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
    result.stderr.fnmatch_lines(["ERROR: checkpoint acme/pickled has no safetensors weights*pickled*save_pretrained*"])
    assert not any(path.endswith("pytorch_model.bin") for path in hub.asked)


def test_an_unknown_repository_is_named(run: Callable[..., pytest.RunResult]) -> None:
    result = run("acme/no-such-model")
    assert result.ret == 4
    assert "Traceback" not in result.stderr.str()
    result.stderr.fnmatch_lines(["ERROR: no checkpoint acme/no-such-model: *"])
