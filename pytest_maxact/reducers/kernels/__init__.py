"""Kernels: ways to fill in `Rows` from a tensor. All give the same integers; they differ in speed only."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import torch

from pytest_maxact.reducers.encoding import ENCODINGS
from pytest_maxact.reducers.kernels import eager
from pytest_maxact.reducers.rows import NOWHERE, Rows, Totals

OLDEST = {"numba": (0, 60), "triton": (3, 2)}
ADVICE = {"numba": "pip install numba, or the extra `fast` of pytest-maxact", "triton": "pip install triton"}


@dataclass(frozen=True)
class Shape:
    """What a kernel is specialised for: dtype and number of features, and whether medians are wanted."""

    dtype: torch.dtype
    width: int
    median: bool


@dataclass(frozen=True)
class Kernel:
    """`scan` fills in one site's `Rows` from a tensor; `note` says why it is not the fast one."""

    name: str
    scan: Callable[[torch.Tensor, Rows], None]
    note: str | None = None


def choose(device: torch.device, shapes: Collection[Shape]) -> Kernel:
    """The fastest kernel that works here for all these shapes: numba's on a CPU, Triton's on a CUDA device, else eager.

    It is compiled and tried on a few rows now, so that neither an error nor the time falls into the run.
    """
    fast = {"cpu": "numba", "cuda": "triton"}[device.type]
    try:
        found = version(fast)
        if tuple(int(part) for part in found.split(".")[:2]) < OLDEST[fast]:
            raise ImportError(f"{fast} {found} is older than {'.'.join(map(str, OLDEST[fast]))}")
        scan: Callable[[torch.Tensor, Rows], None] = import_module(f"{__name__}.{fast}").scan
        for shape in shapes:
            _try(scan, shape, device)
    except PackageNotFoundError:
        return Kernel("eager", eager.scan, f"slower: {fast} is not installed; {ADVICE[fast]}")
    except Exception as cause:  # whatever a compiler raises: the eager kernel gives the same figures
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        return Kernel("eager", eager.scan, f"slower: {fast} cannot be used ({reason[:200]}); figures are the same without it")
    return Kernel(fast, scan)


def _try(scan: Callable[[torch.Tensor, Rows], None], shape: Shape, device: torch.device) -> None:
    rows = Rows.empty(
        ENCODINGS[shape.dtype],
        real=torch.tensor([True, False], device=device),
        place=torch.tensor([0, NOWHERE], device=device),
        totals=Totals.zeros(ENCODINGS[shape.dtype], 1, device),
        median=shape.median,
    )
    scan(torch.ones((2, shape.width), dtype=shape.dtype, device=device), rows[0])
    one = torch.ones((), dtype=shape.dtype, device="cpu").view(ENCODINGS[shape.dtype].integer)
    if rows.largest.tolist() != [[int(one), -1]] or int(rows.counts.sum()) != shape.width:
        raise RuntimeError("it gave wrong figures")
