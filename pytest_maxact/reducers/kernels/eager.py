"""The kernel in plain PyTorch: right on every device and dtype, without a device synchronisation."""

from __future__ import annotations

import torch

from pytest_maxact.reducers.rows import ENCODINGS, Encoding, Scan

# On a CPU temporaries beyond the cache cost more than the arithmetic; on a GPU each chunk would cost a launch.
CPU_CHUNK_ELEMENTS = 512 * 1024


def scan(activations: torch.Tensor, order: torch.Tensor, *, median: bool) -> Scan:
    """Condense activations of shape [..., d] to figures of their N rows of d features.

    Args:
        activations: any shape [..., d], of a dtype in `ENCODINGS`.
        order: int64 [N], the rank of each row's token in the batch by (sample, position); -1 for padding.
        median: whether the lower median of |x| is wanted too; it costs more than all the rest.

    Raises:
        KeyError: for a dtype that is no key of `ENCODINGS`.

    """
    encoding = ENCODINGS[activations.dtype]
    width = activations.shape[-1]
    bits = activations.detach().reshape(-1, width).view(encoding.integer)
    step = max(1, CPU_CHUNK_ELEMENTS // width if bits.device.type == "cpu" else len(bits))
    chunks = [_scan_rows(bits[i : i + step], encoding, median) for i in range(0, len(bits), step)]
    max_key, min_key, nan, inf, *medians = (torch.cat(column) for column in zip(*chunks, strict=True))
    peak_row, feature, peak_key = _peak(bits, order, encoding, max_key, min_key, nan + inf < width)
    return Scan(encoding, width, max_key, min_key, nan, inf, medians[0] if median else None, peak_row, feature, peak_key)


def _scan_rows(bits: torch.Tensor, encoding: Encoding, median: bool) -> tuple[torch.Tensor, ...]:
    # Masks are integers, 0 or -1, made from the sign of a difference: several times faster than bool tensors.
    top, sign = encoding.magnitude_mask, encoding.bits - 1
    magnitude = bits & top
    key = bits ^ ((bits >> sign) & top)
    not_finite = (encoding.infinity - 1 - magnitude) >> sign
    largest = (key ^ ((key ^ ~top) & not_finite)).amax(-1)
    smallest = (key ^ ((key ^ top) & not_finite)).amin(-1)
    nan = _count((encoding.infinity - magnitude) >> sign)
    inf = _count(not_finite) - nan
    if not median:
        return largest, smallest, nan, inf
    return largest, smallest, nan, inf, _lower_median(magnitude, encoding)


def _count(mask: torch.Tensor) -> torch.Tensor:
    """How many of each row's entries are -1, the others being 0; a wide row needs a wider counter."""
    counter = mask.dtype if mask.shape[-1] <= torch.iinfo(mask.dtype).max else torch.int32
    return -mask.sum(-1, dtype=counter)


def _peak(
    bits: torch.Tensor,
    order: torch.Tensor,
    encoding: Encoding,
    max_key: torch.Tensor,
    min_key: torch.Tensor,
    has_finite: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row, feature and key of the largest finite |x| among real rows; of equals the lowest (order, feature)."""
    top, sign = encoding.magnitude_mask, encoding.bits - 1
    rows = torch.maximum(max_key ^ (max_key >> sign), min_key ^ (min_key >> sign))
    rows = torch.where(has_finite & (order >= 0), rows, -1)
    row = torch.where(rows == rows.max(), order, len(order)).argmin()
    values = bits.index_select(0, row[None])[0]
    magnitude = values & top
    feature = torch.where(magnitude < encoding.infinity, magnitude, -1).argmax()  # the first of equals
    value = values.index_select(0, feature[None])[0]
    return row, feature, value ^ ((value >> sign) & top)


def _lower_median(magnitude: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """Lower median of each row of non-negative integers [n, d], by a count for each bit from the highest.

    Half the time of `torch.median` for 16-bit patterns.
    """
    width = magnitude.shape[-1]
    rank = (width - 1) // 2
    median = magnitude.new_zeros((len(magnitude), 1))
    for bit in range(encoding.bits - 2, -1, -1):
        candidate = median | (1 << bit)
        below = _count((magnitude - candidate) >> (encoding.bits - 1))  # cannot overflow: both are >= 0
        median = torch.where(below[:, None] <= rank, candidate, median)
    return median.squeeze(-1)
