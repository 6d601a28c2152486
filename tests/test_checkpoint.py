"""A checkpoint's files may change under the plugin's hands: what was measured is what was fingerprinted, or nothing is."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pytest_maxact.checkpoint import fetch, find, load
from pytest_maxact.errors import CheckpointError
from pytest_maxact.reuse import Store


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_one_that_is_written_to_while_it_loads_is_refused(copy: Path) -> None:
    reference = fetch(find(str(copy)))
    assert load(reference).model is not None
    os.utime(copy / "model.safetensors", (1, 1))
    with pytest.raises(
        CheckpointError, match="checkpoint copy was written to while it was loaded: measure it when it is whole"
    ):
        load(reference)


def test_one_that_is_deleted_before_it_is_read_is_one_line(copy: Path) -> None:
    reference = find(str(copy))
    shutil.rmtree(copy)
    with pytest.raises(CheckpointError, match=r"checkpoint copy is not what it was \(.*No such file.*\): has"):
        fetch(reference)


def digests(read: list[str]) -> Callable[[Sequence[Path]], str]:
    """A digest that tells what was read."""

    def digest(files: Sequence[Path]) -> str:
        read.append(files[-1].name)
        return digest_of(len(read))

    return digest


def digest_of(number: int) -> str:
    return f"{number:064}"


def test_files_are_read_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    later = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later)
    read: list[str] = []
    store = Store(tmp_path)
    assert [store.fingerprint([file], digests(read)) for _ in range(3)] == [digest_of(1)] * 3
    file.write_bytes(b"2")
    assert [store.fingerprint([file], digests(read)) for _ in range(2)] == [digest_of(2)] * 2
    (tmp_path / "fingerprints.json").write_text('{"broken')
    assert store.fingerprint([file], digests(read)) == digest_of(3)


def test_a_file_written_a_moment_ago_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    read: list[str] = []
    store = Store(tmp_path)
    assert [store.fingerprint([file], digests(read)) for _ in range(2)] == [digest_of(1), digest_of(2)]
