"""Broken and hostile inputs, made from valid ones: JSON trees with parts changed, bytes flipped, cut and spliced."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pytest_maxact.errors import LONGEST, MaxactError

T = TypeVar("T")

INPUTS = os.environ.get("MAXACT_FUZZ")  # how many a parser; without it few, always the same ones
PATIENCE = 20  # seconds for an input, on a machine that is busy; what hangs takes longer

fuzzed = settings(
    max_examples=int(INPUTS or 100),
    deadline=None,
    derandomize=INPUTS is None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

RAW = "raw json: "  # a string that begins so is written without its quotes
EXTREME: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    10**30,
    10**400,
    10**4000,
    0.0,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    -1e300,
    f"{RAW}1e400",
    f"{RAW}-1e400",
    f"{RAW}NaN",
    f"{RAW}Infinity",
    f"{RAW}{'9' * 5000}",
    f"{RAW}0.{'1' * 5000}",
    f"{RAW}1,",
    "nan",
    "inf",
    "-inf",
    "",
    " ",
    "\x00",
    "a\nb\u2028\x1b[31m",
    "\ud800",
    f'{RAW}"\\udfff"',
    "\U0001d6fc\u202e",
    "x" * 100_000,
    "../../etc/passwd",
    "/dev/zero",
    "C:\\x",
    "~nobody/x",
    "http://localhost:9/x",
    "maxact/baseline@99999999999999999999",
    [],
    {},
    [[]],
    [None],
    [0] * 10_000,
    {"": ""},
    f"{RAW}{'[' * 200}{']' * 200}",
    f"{RAW}{'[' * 5000}{']' * 5000}",
    f"{RAW}" + '{"a":' * 5000 + "1" + "}" * 5000,
    f'{RAW}{{"a": 1, "a": 2}}',
]

values = (
    st.sampled_from(EXTREME).map(copy.deepcopy)  # a tree that holds it may be changed further
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)


def refusal(call: Callable[[], T]) -> tuple[T | None, str | None]:
    """What a call gives, or the message of its error, which is one line of bounded length; it takes no long time."""
    started = time.monotonic()
    try:
        given: tuple[T | None, str | None] = call(), None
    except MaxactError as cause:
        message = str(cause)
        assert message.strip()
        assert len(message.splitlines()) == 1
        assert len(message) <= LONGEST + 10
        given = None, message
    assert time.monotonic() - started < PATIENCE
    return given


def places(tree: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every part of a JSON tree but the tree itself."""
    children: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, child in children for found in ((*before, key), *places(child, (*before, key)))]


@st.composite
def changed(draw: st.DrawFn, valid: Any) -> Any:
    """A JSON tree with up to four of its parts replaced, removed, nested, doubled or put elsewhere, or with parts added."""
    tree = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 4))):
        paths = places(tree)
        if not paths:
            return draw(values)
        path = draw(st.sampled_from(paths))
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        key, how = path[-1], draw(st.sampled_from(["replace", "replace", "remove", "nest", "add", "double", "move"]))
        if how == "replace":
            inner[key] = draw(values)
        elif how == "remove":
            del inner[key]
        elif how == "nest":
            inner[key] = draw(st.sampled_from([[inner[key]], {"x": inner[key]}]))
        elif how == "move":
            inner[key] = copy.deepcopy(_at(tree, draw(st.sampled_from(paths))))
        elif isinstance(inner, dict):
            inner[draw(st.text(max_size=10) | st.sampled_from(["x" * 100_000, "\ud800", "\n", "schema", "layer"]))] = draw(
                values
            )
        elif how == "double":
            inner.insert(key, copy.deepcopy(inner[key]))
        else:
            inner.insert(key, draw(values))
    return tree


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def as_json(tree: Any) -> str:
    """JSON text of a tree, and of what is no JSON in it as it is (see `RAW`)."""
    parts = json.dumps(tree).split(f'"{RAW}')
    text = parts[0]
    for part in parts[1:]:
        raw, rest = json.decoder.scanstring(part, 0)  # type: ignore[attr-defined]  # up to the quote that ends it
        text += raw + part[rest:]
    return text


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes of which up to six pieces are flipped, cut, doubled, overwritten or put elsewhere."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from([1, 1, 2, 4, 8, 64]))
        how = draw(st.sampled_from(["flip", "flip", "cut", "drop", "insert", "overwrite", "double", "begin"]))
        if how == "flip" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del data[start:]
        elif how == "drop":
            del data[start : start + size]
        elif how == "insert":
            data[start:start] = draw(st.binary(max_size=20))
        elif how == "overwrite":
            data[start : start + size] = draw(st.sampled_from([b"\x00", b"\xff", b"\x7f", b"\x80", b"\x01"])) * size
        elif how == "double":
            data[start:start] = data[start : start + 16 * size]
        elif how == "begin":
            data[:0] = draw(st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\n", b"[", b"#"]))
    return bytes(data)


def hostile_json(valid: Any) -> st.SearchStrategy[bytes]:
    """The bytes of a file that should hold a JSON tree such as the valid one."""
    text = as_json(valid)
    return st.one_of(
        changed(valid).map(lambda tree: as_json(tree).encode()),
        changed(valid).map(lambda tree: as_json(tree).encode()),
        damaged(text.encode()),
        st.sampled_from(["utf-16", "utf-32", "utf-8-sig"]).map(text.encode),
        values.map(lambda value: as_json(value).encode()),
        st.binary(max_size=100),
    )
