"""What each kernel takes to read one site, in turns on the same tensor; RESULTS.md keeps what was measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_maxact.reducers.encoding import ENCODINGS
from pytest_maxact.reducers.kernels import Shape, choose, eager
from pytest_maxact.reducers.rows import Rows, Totals

ROWS, WIDTH = 4096, 576


@pytest.mark.parametrize("kernel", ["numba", "eager"])
@pytest.mark.parametrize("median", [True, False], ids=["median", "no median"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_scan(dtype: torch.dtype, median: bool, kernel: str, benchmark: Any) -> None:
    cpu = torch.device("cpu")
    scan = eager.scan if kernel == "eager" else choose(cpu, [Shape(dtype, WIDTH, median)]).scan
    activations = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = Rows.empty(
        ENCODINGS[dtype],
        real=torch.ones(ROWS, dtype=torch.bool),
        place=torch.arange(ROWS),
        totals=Totals.zeros(ENCODINGS[dtype], 1, cpu),
        median=median,
    )
    benchmark.group = f"{dtype}, {'with' if median else 'without'} medians"
    benchmark(scan, activations, rows[0])
    if benchmark.enabled:
        benchmark.extra_info["ns_per_element"] = benchmark.stats.stats.median / activations.numel() * 1e9
    assert int(rows.largest.min()) > 0
