"""Baselines, corpora and the demo must be found wherever the package was installed from: a checkout, or a wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pytest_maxact.corpus import load_corpus
from pytest_maxact.resources import data_folder

PROJECT = Path(__file__).resolve().parent.parent

SHOW_DATA = """
import sys; sys.path.insert(0, sys.argv[1])
from pytest_maxact.resources import data_folder
from pytest_maxact.corpus import load_corpus
from pytest_maxact.baseline import look_up
from pathlib import Path
import pytest_maxact
assert Path(pytest_maxact.__file__).is_relative_to(sys.argv[1])
print(load_corpus("core").digest)
print(look_up("auto", "demo", Path("nowhere")).source)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=PROJECT, check=True)
    return next(folder.glob("*.whl"))


def test_a_checkout_uses_the_folders_beside_the_package() -> None:
    assert data_folder("corpora") == PROJECT / "corpora"
    assert data_folder("baselines") == PROJECT / "baselines"


def test_a_wheel_carries_its_data_and_finds_it(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SHOW_DATA, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    digest, source = done.stdout.split()
    assert digest == load_corpus("core").digest
    assert Path(source) == tmp_path / "pytest_maxact" / "baselines" / "demo.json"


def test_a_wheel_holds_what_it_should_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "pytest_maxact/py.typed" in names
    assert {"pytest_maxact/corpora/images.jsonl", "pytest_maxact/corpora/images/face.png"} <= set(names)
    assert "pytest_maxact/demo/checkpoints/demo-blowup/model.safetensors" in names
    published = {name.rpartition("/")[2] for name in names if name.startswith("pytest_maxact/baselines/published/")}
    assert {"landscape.json", "Qwen--Qwen3-8B.json"} < published
    assert len(published) == 28
    assert {name.split("/")[0] for name in names} == {"pytest_maxact", f"pytest_maxact-{wheel.name.split('-')[1]}.dist-info"}


def test_committed_files_stay_small() -> None:
    checkpoints = sum(file.stat().st_size for file in (PROJECT / "pytest_maxact/demo/checkpoints").rglob("*") if file.is_file())
    assert 0 < checkpoints < 4_000_000
