"""Triton's kernel must give the figures of the eager one to the bit, though most machines that test it have no CUDA device.

Where there is none, Triton interprets the kernel (tests/conftest.py sets it so), with smaller tiles; and the compiler is asked
for machine code, in a process of its own.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from pytest_maxact.reducers.encoding import ENCODINGS
from pytest_maxact.reducers.kernels import eager, triton
from pytest_maxact.reducers.rows import NOWHERE, PATTERNS, Rows

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
SMALL_TILE = {16: 2048, 32: 1024}
NAN, INF = math.nan, math.inf

needs_device = pytest.mark.skipif(not CUDA, reason="there is no CUDA device")
every_dtype = pytest.mark.parametrize("dtype", ENCODINGS, ids=lambda dtype: ENCODINGS[dtype].name)
sixteen_bits = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: ENCODINGS[dtype].name)


def set_up(patch: pytest.MonkeyPatch, **constants: Any) -> None:
    """Change constants of the kernel's module."""
    for name, value in constants.items():
        patch.setattr(triton, name, value)
    triton._parameters.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def tiles() -> Iterator[None]:
    """Small tiles where they are interpreted: a few rows then are several tiles, and their time is bearable."""
    with pytest.MonkeyPatch.context() as patch:
        set_up(patch, **({} if CUDA else {"TILE": SMALL_TILE}))
        yield
    triton._parameters.cache_clear()


@pytest.fixture
def constants(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Changes constants of the kernel's module for a test."""
    yield lambda **values: set_up(monkeypatch, **values)
    monkeypatch.undo()
    triton._parameters.cache_clear()


@pytest.fixture(params=["a window", "one by one"])
def counting(request: pytest.FixtureRequest, constants: Callable[..., None]) -> None:
    """Both ways to count: most values in shared memory, and, for older compilers, all straight into the totals."""
    window = request.param == "a window"
    if CUDA and window > triton.HAS_WINDOWS:
        pytest.skip("this compiler takes minutes")
    constants(HAS_WINDOWS=window)


# --- Comparison with the eager kernel.


def rows_for(dtype: torch.dtype, real: torch.Tensor, *, median: bool, calls: int = 1) -> Rows:
    """Room for two sites, with garbage wherever a kernel is to write, and totals of earlier batches."""
    place = torch.where(real, torch.arange(len(real), device=real.device), NOWHERE)
    counts = torch.arange(PATTERNS, device=real.device).repeat(2, 1)
    rows = Rows.empty(ENCODINGS[dtype], real, place, counts, median=median)
    for tensor in (rows.largest, rows.spot, rows.median, *(vars(rows.wide).values() if rows.wide else ())):
        if tensor is not None:
            tensor.fill_(12345)
    return rows


def figures(rows: Rows) -> dict[str, torch.Tensor]:
    """All that a kernel fills in."""
    found = {"largest": rows.largest, "spot": rows.spot, "counts": rows.counts}
    if rows.median is not None:
        found["median"] = rows.median
    return found | (vars(rows.wide) if rows.wide else {})


def check(activations: torch.Tensor, real: Sequence[bool] | None = None, *, median: bool = True, calls: int = 1) -> Rows:
    """Scan into the second of two sites: its figures are the eager kernel's to the bit, the first one's untouched."""
    width = activations.shape[-1]
    mask = torch.tensor([True] * (activations.numel() // width) if real is None else real, dtype=torch.bool)
    expected = rows_for(activations.dtype, mask, median=median)
    found = rows_for(activations.dtype, mask.to(DEVICE), median=median)
    for _ in range(calls):
        eager.scan(activations, expected[1])
        triton.scan(activations.to(DEVICE), found[1])
    untouched = figures(rows_for(activations.dtype, mask, median=median)[0])
    for name, figure in figures(found[0]).items():
        assert torch.equal(figure.cpu(), untouched[name]), f"{name} of another site changed"
    largest = expected.largest[1]
    holders = (largest == largest.amax()) & (largest >= 0) if len(largest) else mask
    owed = {"spot": holders} | dict.fromkeys(("high", "low", "nan", "inf", "sums"), mask)
    wanted = figures(expected[1])
    for name, figure in figures(found[1]).items():
        which = owed.get(name, slice(None))
        assert torch.equal(figure.cpu()[which], wanted[name][which]), name
    return found[1]


def heavy_tailed(dtype: torch.dtype, rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Values over many octaves, a few of them massive, many equal; a row of each kind that is special."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator) * torch.exp(3 * torch.randn(rows, width, generator=generator))
    values[::4] = (values[::4] * 2).round() / 2
    values[torch.rand(rows, width, generator=generator) < 1e-3] *= 5000
    special: list[Any] = [0.0, -0.0, NAN, INF, -INF, 1.0, -3.0, 1e-30, -1e30]
    for row, value in enumerate(special[: rows - 3]):
        values[row + 1] = value
    if rows > 12:
        values[10, width // 2], values[11, -1], values[12, 0] = NAN, -INF, -NAN
    return values.to(dtype)


def ragged(rows: int) -> list[bool]:
    """Padding at both ends and in between."""
    return [2 <= row < rows - 1 and row % 7 != 5 for row in range(rows)]


def test_the_kernel_is_interpreted_just_where_there_is_no_device() -> None:
    assert (type(triton._scan).__name__ == "JITFunction") == CUDA, "tests/conftest.py sets TRITON_INTERPRET"


@pytest.mark.usefixtures("counting")
@every_dtype
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (70, 1), (2, 3), (40, 33), (23, 576), (7, 700)])
def test_figures_are_the_eager_kernel_s(dtype: torch.dtype, rows: int, width: int) -> None:
    check(heavy_tailed(dtype, rows, width), None if rows < 5 else ragged(rows), median=(rows + width) % 2 == 0)


@every_dtype
def test_tiles_as_large_as_on_a_device(dtype: torch.dtype, constants: Callable[..., None], full_tile: dict[int, int]) -> None:
    constants(TILE=full_tile)
    check(heavy_tailed(dtype, 70, 576), ragged(70))
    check(heavy_tailed(dtype, 3, 9000), median=False)
