"""Where the data that ships with the package lies: beside its modules in a wheel, beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_folder(name: str) -> Path:
    """The folder `baselines` or `corpora` of this installation, or one below."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
