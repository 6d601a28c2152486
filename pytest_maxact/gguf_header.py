"""The header of a GGUF file, looked at before a library reads it, which would believe any count that the header names.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from pytest_maxact.files import check_regular, opened

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # by the format's number
STRING, ARRAY = 8, 9
MAX_HEADER = 512 << 20  # bytes; the largest there are have 20 MB, nearly all of it vocabulary
MAX_FIELDS = 10_000  # a file has some dozens
MAX_ELEMENTS = 10_000_000  # of all arrays together; a vocabulary of 260,000 tokens takes 1.3 million
MAX_TENSORS = 1_000_000  # a mixture of 128 layers and 512 experts, each in tensors of its own, has a fifth of it
MAX_DIMENSIONS = 8


def read_numbers(path: Path) -> dict[str, int]:
    """The whole numbers among a GGUF file's fields, by key, and the assurance that its header lies within the file.

    Raises:
        OSError: where the file cannot be read.
        ValueError: where it is no GGUF file, cut short, or names more than this module's limits.

    """
    size = check_regular(path)
    with opened(path) as stream:
        return _Walk(stream, min(size, MAX_HEADER)).numbers()


class _Walk:
    """One way through a header; `end` is where it must be through, in bytes."""

    def __init__(self, stream: BinaryIO, end: int) -> None:
        self.stream = stream
        self.end = end
        self.order = "<"
        self.elements = 0

    def numbers(self) -> dict[str, int]:
        if self._take(4) != MAGIC:
            raise ValueError("it does not begin as a GGUF file")
        version = self._number("I")
        if version & 0xFFFF == 0:  # of the other byte order, as the library has it
            self.order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in VERSIONS:
            raise ValueError(f"it is of version {version}, not of one of {', '.join(map(str, VERSIONS))}")
        tensors, fields = self._count("Q", MAX_TENSORS, "tensors"), self._count("Q", MAX_FIELDS, "fields")
        found = {}
        for _ in range(fields):
            key = self._string().decode(errors="replace")
            value = self._value(self._number("I"))
            if value is not None:
                found[key] = value
        for _ in range(tensors):
            self._string()
            self._take(8 * self._count("I", MAX_DIMENSIONS, "dimensions") + 4 + 8)
        return found

    def _value(self, kind: int) -> int | None:
        if kind in SCALARS:
            value = struct.unpack(self.order + SCALARS[kind], self._take(struct.calcsize("=" + SCALARS[kind])))[0]
            return value if type(value) is int else None
        if kind == STRING:
            self._string()
        elif kind == ARRAY:
            self._array(self._number("I"))
        else:
            raise ValueError(f"it holds a value of the unknown kind {kind}")
        return None

    def _array(self, kind: int) -> None:
        count = self._count("Q", MAX_ELEMENTS, "elements of arrays")
        self.elements += count
        if self.elements > MAX_ELEMENTS:
            raise ValueError(f"it names more than {MAX_ELEMENTS:,} elements of arrays")
        if kind in SCALARS:
            self._take(count * struct.calcsize("=" + SCALARS[kind]))
        elif kind == STRING:
            for _ in range(count):
                self._string()
        else:
            raise ValueError(f"it holds an array of the unknown kind {kind}")  # of arrays too, which no model needs

    def _string(self) -> bytes:
        return self._take(self._number("Q"))

    def _count(self, code: str, most: int, what: str) -> int:
        count = self._number(code)
        if count > most:
            raise ValueError(f"it names {count:,} {what}, and at most {most:,} are read")
        return count

    def _number(self, code: str) -> int:
        return int(struct.unpack(self.order + code, self._take(struct.calcsize("=" + code)))[0])

    def _take(self, size: int) -> bytes:
        if self.stream.tell() + size > self.end:
            raise ValueError(f"its header goes beyond its {self.end:,} bytes, or the {MAX_HEADER:,} that are read")
        return self.stream.read(size)
