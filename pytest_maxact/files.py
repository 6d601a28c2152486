"""Reading files that anybody may have written: regular ones only, never more than a limit, JSON without surprises."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

# Of a file beside a checkpoint's weights. The largest there are, indices of mixtures with 200,000 tensors and tokenizers of
# 260,000 tokens, have 40 MB.
MAX_SMALL_FILE = 512 << 20


def opened(path: Path) -> BinaryIO:
    """A regular file, to read bytes from: a pipe would be waited for, and a device has no end.

    Raises:
        OSError: where there is no such file, it may not be read, or it is something else; `strerror` says so in words.

    """
    check_regular(path)
    return path.open("rb")


def check_regular(path: Path) -> int:
    """The size of a regular file in bytes.

    Raises:
        OSError: where there is no such file, or it is something else; `strerror` says so in words.

    """
    try:
        found = path.stat()
    except ValueError as cause:  # of names that hold a NUL
        raise OSError(errno.EINVAL, str(cause), str(path)) from None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return found.st_size


def read(path: Path, limit: int) -> bytes:
    """All of a regular file of at most `limit` bytes.

    Raises:
        OSError: where it cannot be read, is something else or larger; `strerror` says so in words.

    """
    check_size(path, limit)
    with opened(path) as stream:
        return stream.read()


def check_size(path: Path, limit: int) -> None:
    """Make sure that a file is a regular one of at most `limit` bytes.

    Raises:
        OSError: where it is not; `strerror` says so in words.

    """
    size = check_regular(path)
    if size > limit:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {limit:,} are read", str(path))


def check_folder(folder: Path, small: Iterable[str]) -> None:
    """Make sure that whatever reads a folder's files comes to their end.

    Args:
        folder: what is directly in it is looked at.
        small: patterns of the files that may have `MAX_SMALL_FILE` bytes at most.

    Raises:
        OSError: where a file is a pipe or a device, or too large; `filename` names it, `strerror` says why in words.

    """
    for path in folder.iterdir():
        if path.exists() and not path.is_dir():
            check_regular(path)
    for path in (path for pattern in small for path in folder.glob(pattern)):
        if path.is_file():
            check_size(path, MAX_SMALL_FILE)


def parse_json(text: str) -> Any:
    """What a JSON text holds that another program has written.

    Raises:
        ValueError: where it is no JSON, or nested too deeply.

    """
    return _parsed(text)


def parse_own_json(text: str) -> Any:
    """What a JSON text holds that must mean one thing only, and can be written again as it is.

    Raises:
        ValueError: where it is no JSON, is nested too deeply, names a key of an object twice, or holds NaN, an infinity, a
            number beyond float64 or half of a surrogate pair.

    """
    data = _parsed(text, object_pairs_hook=_each_once, parse_constant=_no_number, parse_float=_finite)
    if "\\u" in text:  # an escaped half of a surrogate pair is JSON, and no text
        json.dumps(data, ensure_ascii=False).encode()
    return data


def _parsed(text: str, **hooks: Any) -> Any:
    try:
        return json.loads(text, **hooks)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice[:80]!r} is there more than once")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f'{name} is no number of JSON, and is written as "nan", "inf" or "-inf"')


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:80]} is beyond float64")
    return value
