"""Triton's kernel must give the figures of the eager one to the bit, though most machines that test it have no CUDA device.

Where there is none, Triton interprets the kernel (conftest.py sets it so); and its compiler is asked for machine code, in
a process of its own.
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
from pytest_maxact.reducers.rows import NOWHERE, PATTERNS, Rows, Totals
from tests.test_kernels import spoiled

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
SMALL = {"TILE": {16: 2048, 32: 1024}, "PART": 512}
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
def few_parts() -> Iterator[None]:
    """The interpreter takes as long for many values as for few."""
    with pytest.MonkeyPatch.context() as patch:
        set_up(patch, **({} if CUDA else {"PART": 4096}))
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


def rows_for(dtype: torch.dtype, real: torch.Tensor, *, median: bool) -> Rows:
    """Room for two sites, with garbage wherever a kernel is to write, and totals of earlier batches."""
    place = torch.where(real, torch.arange(len(real), device=real.device), NOWHERE)
    totals = Totals.zeros(ENCODINGS[dtype], 2, real.device)
    totals.counts.copy_(torch.arange(PATTERNS))
    return spoiled(Rows.empty(ENCODINGS[dtype], real, place, totals, median=median))


def figures(rows: Rows) -> dict[str, torch.Tensor]:
    """All that a kernel fills in; sums as their bits."""
    found = {"largest": rows.largest, "spot": rows.spot, "fault": rows.fault, "counts": rows.counts}
    if rows.median is not None:
        found["median"] = rows.median
    return found | (vars(rows.wide) | {"sums": rows.wide.sums.view(torch.int64)} if rows.wide else {})


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


def heavy_tailed(dtype: torch.dtype, rows: int, width: int) -> torch.Tensor:
    """Values over many octaves, a few of them massive, many equal; a row of each kind that is special."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(rows, width, generator=generator) * torch.exp(3 * torch.randn(rows, width, generator=generator))
    values[::4] = (values[::4] * 2).round() / 2
    values[torch.rand(rows, width, generator=generator) < 1e-3] *= 5000
    special: list[Any] = [0.0, -0.0, NAN, INF, -INF, 1.0, -3.0, 1e-30, -1e30]
    for row, value in enumerate(special[: max(0, rows - 3)]):
        values[row + 1] = value
    if rows > 12:
        values[10, width // 2], values[11, -1], values[12, 0] = NAN, -INF, -NAN
    return values.to(dtype)


def ragged(rows: int) -> list[bool]:
    """Padding at both ends and in between."""
    return [2 <= row < rows - 1 and row % 7 != 5 for row in range(rows)]


def test_the_kernel_is_interpreted_just_where_there_is_no_device() -> None:
    assert (type(triton._scan).__name__ == "JITFunction") == CUDA, "conftest.py sets TRITON_INTERPRET"


@pytest.mark.usefixtures("counting")
@every_dtype
@pytest.mark.parametrize(("rows", "width"), [(70, 1), (2, 3), (40, 33), (13, 576), (7, 700)])
def test_figures_are_the_eager_kernel_s(dtype: torch.dtype, rows: int, width: int) -> None:
    check(heavy_tailed(dtype, rows, width), None if rows < 5 else ragged(rows), median=rows % 2 == 0)


@every_dtype
def test_more_rows_than_programs_hold_at_a_time(dtype: torch.dtype, constants: Callable[..., None]) -> None:
    constants(**SMALL)
    rows = 25 if ENCODINGS[dtype].bits == 32 else 50
    check(heavy_tailed(dtype, rows, 250), ragged(rows), median=dtype == torch.bfloat16)


@every_dtype
def test_rows_as_wide_as_a_tile(dtype: torch.dtype) -> None:
    check(heavy_tailed(dtype, 2, 16000), median=False)


# --- Padding.


@every_dtype
@pytest.mark.parametrize(
    "real",
    [[False] * 5, [True, False, False, False, False], [False, False, False, False, True], [False, True, True, False, True]],
    ids=["all of it", "behind", "before", "between"],
)
def test_padding_counts_nowhere(dtype: torch.dtype, real: list[bool]) -> None:
    activations = torch.full((5, 40), 7.0, dtype=dtype)
    activations[torch.tensor(real)] = heavy_tailed(dtype, 3, 40)[: sum(real)]
    activations[~torch.tensor(real), ::3] = NAN
    rows = check(activations, real)
    assert int(rows.counts.sum()) == PATTERNS * (PATTERNS - 1) // 2 + 40 * sum(real)


@every_dtype
def test_a_batch_without_rows_leaves_the_totals_as_they_are(dtype: torch.dtype) -> None:
    rows = rows_for(dtype, torch.ones(0, dtype=torch.bool, device=DEVICE), median=True)[0]
    triton.scan(torch.empty(0, 8, dtype=dtype, device=DEVICE), rows)
    assert torch.equal(rows.counts.cpu(), torch.arange(PATTERNS))
    if rows.wide is not None:
        assert set(rows.wide.top.tolist()) == {-1}


# --- Values.


@every_dtype
@pytest.mark.parametrize(
    "number", [NAN, -NAN, INF, -INF, -0.0, -3.5, -6e-8, 1e-40, 60000.0, -1e30, 2.0**-20, -(2.0**12), -(2.0**-6), 4.0]
)
def test_a_tensor_of_one_value(dtype: torch.dtype, number: float) -> None:
    check(torch.full((5, 33), number, dtype=torch.float64).to(dtype), median=number == -3.5)


@every_dtype
def test_of_equal_magnitudes_the_first_one_and_its_sign_are_found(dtype: torch.dtype) -> None:
    activations = torch.zeros(6, 40, dtype=dtype)
    for row, (first, second) in enumerate([(2.0, -2.0), (-2.0, 2.0), (2.0, 2.0), (-2.0, -2.0)]):
        activations[row, 3 + row], activations[row, 30] = first, second
    activations[4, 39], activations[5, 0] = -2, 2
    rows = check(activations)
    assert rows.spot.tolist() == [6, 9, 10, 13, 79, 0]


@every_dtype
def test_of_every_row_the_spot_is_found(dtype: torch.dtype) -> None:
    activations = heavy_tailed(dtype, 40, 33)
    rows = check(activations, median=False)
    for values, spot in zip(activations.tolist(), rows.spot.tolist(), strict=True):
        magnitudes = [abs(value) if math.isfinite(value) else -1 for value in values]
        feature = magnitudes.index(max(magnitudes))
        negative = math.copysign(1, values[feature]) < 0
        assert spot == (2 * feature + negative if magnitudes[feature] >= 0 else 0)


@every_dtype
@pytest.mark.parametrize("width", [1, 2, 4, 16, 17])
def test_medians_of_few_values_are_the_lower_ones(dtype: torch.dtype, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    check(torch.randint(-3, 4, (30, width), generator=generator).to(dtype))


def ends_of_window(dtype: torch.dtype) -> list[int]:
    """The first magnitude of the window, and the first one beyond, as patterns of 16 bits."""
    binned = getattr(torch, ENCODINGS[dtype].binned)
    ends: list[int] = (2.0 ** torch.tensor(triton.WINDOWS[ENCODINGS[dtype].binned])).to(binned).view(torch.int16).tolist()
    return ends


def special_magnitudes(dtype: torch.dtype) -> list[int]:
    """Those near the ends of the window, near zero, and near infinity."""
    encoding = ENCODINGS[dtype]
    shift = encoding.bits - 16
    near = [(end << shift) + step for end, step in product(ends_of_window(dtype), range(-2, 3))]
    if shift:  # those that are rounded to the ends
        near += [
            (end << shift) + half + step for end, half, step in product(ends_of_window(dtype), (-0x8000, 0x8000), (-1, 0, 1))
        ]
    return [*near, 0, 1, 2, encoding.infinity - 1, encoding.infinity, encoding.infinity + 1, encoding.magnitude_mask]


@every_dtype
def test_magnitudes_at_the_ends_of_the_window_are_counted_once(dtype: torch.dtype) -> None:
    encoding = ENCODINGS[dtype]
    signs = torch.tensor([0, -(encoding.magnitude_mask + 1)])
    check((torch.tensor(special_magnitudes(dtype))[:, None] + signs).to(encoding.integer).view(dtype))


@every_dtype
def test_the_window_is_where_it_is_said_to_be(dtype: torch.dtype, constants: Callable[..., None]) -> None:
    constants(HAS_WINDOWS=True)
    parameters = triton._parameters(8, ENCODINGS[dtype])
    assert [parameters["FIRST"], parameters["FIRST"] + parameters["SPAN"]] == ends_of_window(dtype)


@pytest.mark.usefixtures("counting")
@sixteen_bits
def test_each_of_all_patterns_is_counted_once(dtype: torch.dtype) -> None:
    everything = torch.arange(PATTERNS).sub(PATTERNS // 2).to(torch.int16).view(dtype).reshape(64, 1024)
    rows = check(everything, median=False)
    assert torch.equal(rows.counts.cpu() - torch.arange(PATTERNS), torch.ones(PATTERNS, dtype=torch.int64))


def test_float32_is_rounded_to_bfloat16_to_the_nearest_and_of_two_to_the_even_one() -> None:
    upper = torch.arange(PATTERNS).sub(PATTERNS // 2) << 16
    below, above = upper[::7] + 0x7FFF, upper[3::7] + 0x8001
    bits = torch.cat([upper + 0x8000, below, above])[: 10 * 8192].to(torch.int32)
    check(bits.view(torch.float32).reshape(-1, 1024), median=False)


def test_sums_of_float32_are_those_of_the_same_roundings() -> None:
    generator = torch.Generator().manual_seed(3)
    wide = torch.randn(12, 100, generator=generator) * torch.exp(20 * torch.randn(12, 100, generator=generator))
    subnormal = torch.randint(-(2**23), 2**23, (3, 100), generator=generator).to(torch.int32).view(torch.float32)
    largest = torch.full((2, 100), torch.finfo(torch.float32).max)
    largest[1, ::2] *= -1
    small = torch.arange(100) * 2.0**-149
    one = torch.cat([torch.ones(1), 2.0**-44 * torch.arange(-49, 50) / 2])
    check(torch.cat([wide, subnormal, largest, small[None], -small[None], one[None], -one[None]]))


@every_dtype
def test_totals_of_batches_add_up(dtype: torch.dtype) -> None:
    check(heavy_tailed(dtype, 20, 33), ragged(20), calls=2)


# --- Tensors as sites give them.


@every_dtype
def test_any_strides_and_dimensions(dtype: torch.dtype) -> None:
    flat = heavy_tailed(dtype, 24, 40)
    check(flat.reshape(4, 6, 40), ragged(24))
    for tensor in (
        flat.T.contiguous().T,
        flat[::2, 3:37],
        flat[:, ::2],
        flat.reshape(4, 6, 40).transpose(0, 1),
        flat[:1].expand(5, 40),
        flat.clone().requires_grad_(),
        flat.flatten()[1:-39].reshape(23, 40),  # at an odd address
    ):
        check(tensor, median=False)


@every_dtype
def test_rows_too_wide_to_hold_go_to_the_eager_kernel(dtype: torch.dtype, constants: Callable[..., None]) -> None:
    constants(WIDEST=16)
    asked = []
    original = eager.scan

    def scan(activations: torch.Tensor, rows: Rows) -> None:
        asked.append(activations.device)
        original(activations, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager, "scan", scan)
        check(heavy_tailed(dtype, 5, 16))
        assert len(asked) == 1, "the comparison's own call"
        check(heavy_tailed(dtype, 5, 17))
        assert len(asked) == 3, "and the kernel's"


def test_the_widest_row_has_room_for_its_spots() -> None:
    row = torch.zeros(1, triton.WIDEST, dtype=torch.bfloat16)
    row[0, -1] = -5
    assert check(row, median=False).spot.tolist() == [2 * triton.WIDEST - 1]


def patterns(dtype: torch.dtype) -> st.SearchStrategy[int]:
    """Any value at all, often one of few that are special."""
    info, least = torch.iinfo(ENCODINGS[dtype].integer), -(ENCODINGS[dtype].magnitude_mask + 1)
    special = [bits + sign for bits, sign in product(special_magnitudes(dtype), (0, least))]
    return st.integers(info.min, info.max) | st.sampled_from(special)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_figures_of_anything_are_the_eager_kernel_s(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(list(ENCODINGS)))
    rows, width = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([1, 3, 8]))
    pool = torch.tensor(data.draw(st.lists(patterns(dtype), min_size=1, max_size=8)), dtype=ENCODINGS[dtype].integer)
    picks = data.draw(st.lists(st.integers(0, len(pool) - 1), min_size=rows * width, max_size=rows * width))
    real = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    check(pool.view(dtype)[torch.tensor(picks)].reshape(rows, width), real, median=data.draw(st.booleans()))


# --- Machine code.

COMPILE = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from pytest_maxact.reducers.encoding import ENCODINGS
from pytest_maxact.reducers.kernels import triton

for case in sys.argv[1:]:
    name, width, median = case.split(",")
    encoding = ENCODINGS[getattr(torch, name)]
    integer = f"*i{encoding.bits}"
    wide = ["*fp32", "*fp32", "*i32", "*i32", "*fp64"] if encoding.bits == 32 else [None] * 5
    types = [integer, "*i1", integer, "*i32", "*i32", integer if median == "True" else None, "*i64", *wide, "i32"]
    parameters = triton._parameters(int(width), encoding)
    constants = {key: value for key, value in parameters.items() if key.isupper()}
    signature = dict(zip(triton._scan.arg_names, types + ["constexpr"] * len(constants), strict=True))
    constants |= {key: None for key, kind in signature.items() if kind is None}
    signature = {key: kind or "constexpr" for key, kind in signature.items()}
    source = ASTSource(triton._scan, signature, constants, {(0,): [["tt.divisibility", 16]]})
    options = {key: value for key, value in parameters.items() if not key.isupper()}
    found = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = found.asm["ptx"]
    each_value = ptx.count("shared.add.u32")
    print(case, found.metadata.shared, each_value, "abs.bf16" in ptx or "abs.f16" in ptx or "ftz" in ptx)
"""


@pytest.mark.skipif(not triton.HAS_WINDOWS, reason="older compilers are asked in another way")
def test_it_compiles_for_hopper(tmp_path: Path) -> None:
    cases = {"bfloat16,4096,True": 32, "float16,14336,False": 32, "float32,576,True": 16}
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", COMPILE, *cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for line, (case, values) in zip(done.stdout.splitlines(), cases.items(), strict=True):
        name, shared, additions, loses_bits = line.split()
        assert name == case
        assert int(shared) <= 65536, "what every device has since Volta"
        assert int(additions) == values, "to shared memory, one for each value that a thread holds"
        assert loses_bits == "False", "abs() loses what a NaN carries, ftz the subnormals"


# --- On a device.


@needs_device
@every_dtype
@pytest.mark.parametrize("width", [128, 4096, 14336, 18944])
def test_figures_of_large_tensors_on_a_device(dtype: torch.dtype, width: int) -> None:
    rows = 40_000_000 // width
    check(heavy_tailed(dtype, rows, width), ragged(rows), calls=2)
    check(torch.randn(rows, width).relu().to(dtype), median=False)


@needs_device
@every_dtype
def test_the_host_does_not_wait_for_the_device(dtype: torch.dtype) -> None:
    activations = heavy_tailed(dtype, 40, 576).to(DEVICE)
    rows = rows_for(dtype, torch.ones(40, dtype=torch.bool, device=DEVICE), median=True)[0]
    triton.scan(activations, rows)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        triton.scan(activations, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
