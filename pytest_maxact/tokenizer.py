"""A tokenizer by itself, without its model: which files make one, and loading it without running code of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_maxact import hub
from pytest_maxact.errors import on_one_line
from pytest_maxact.files import check_folder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")  # any of them is a sign of one
# All that a tokenizer may be made of, besides the model's config.
TOKENIZER_PATTERNS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model")


class TokenizerError(Exception):
    """Why a tokenizer cannot be had and what to do about it: the second half of a sentence."""


def load_tokenizer_alone(name: str) -> Any:
    """A transformers tokenizer from a folder or the Hub.

    Args:
        name: a folder, or a hub id `org/name` or `org/name@revision`.

    Raises:
        TokenizerError: where nothing is found under the name, or what is found is no tokenizer, damaged, or needs its own code.

    """
    from transformers import AutoTokenizer

    folder = _folder(name)
    try:
        check_folder(folder, (*TOKENIZER_PATTERNS, "config.json"))
    except OSError as cause:
        raise TokenizerError(f"{cause.filename} cannot be read: {cause.strerror}") from None
    if not holds_tokenizer(folder):
        raise TokenizerError(f"it has none of {', '.join(TOKENIZER_FILES)}")
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as cause:  # transformers raises whatever its parts raise
        if "trust_remote_code" in str(cause):
            raise TokenizerError("it needs Python code of its own, which is not run for a corpus") from None
        raise TokenizerError(f"{type(cause).__name__}: {on_one_line(cause)}") from None


def _folder(name: str) -> Path:
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        return path
    match = hub.HUB_ID.fullmatch(name)
    if match is None:
        raise TokenizerError(f"there is no folder {path.absolute()}, and it is no hub id either")
    try:
        snapshot = hub.snapshot(match["repository"], match["revision"], (*TOKENIZER_PATTERNS, "config.json"))
        if snapshot.failure and not holds_tokenizer(snapshot.folder):
            raise snapshot.failure  # the cache has something else of it
    except hub.HubError as cause:
        raise TokenizerError(f"there is no folder {path.absolute()}, and {cause}") from None
    return snapshot.folder


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer."""
    return any((folder / file).exists() for file in TOKENIZER_FILES)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice from transformers: ours say what matters, in one line."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
