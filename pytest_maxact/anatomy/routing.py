"""Which token each row of routed experts belongs to. The orders are those of transformers' implementations of experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from pytest_maxact.anatomy.probe import Call
from pytest_maxact.taps import Features, Tap

Order = Literal["by token", "by expert", "by expert and rank"]
# Those of transformers' implementations; of others nothing is known, and few tokens might agree by chance.
LOOP: Order = "by expert and rank"
ORDERS: dict[str | None, Order] = {"grouped_mm": "by expert", "batched_mm": "by token", "eager": LOOP, None: LOOP}


def index_of(calls: Sequence[Call]) -> torch.Tensor | None:
    """The experts [N, k] that the tokens of a call are sent to; None where it does not tell."""
    return chosen(calls[0].entered) if len(calls) == 1 else None


def chosen(values: Sequence[Any]) -> torch.Tensor | None:
    """Of what experts are called with the indices [N, k] of experts."""
    for value in values:
        if isinstance(value, torch.Tensor) and value.dtype in (torch.int64, torch.int32) and value.ndim >= 2:
            return value.reshape(-1, value.shape[-1])
    return None


def tokens(index: torch.Tensor, order: Order, experts: int) -> torch.Tensor:
    """int64 [n], the token of each row, for experts [N, k] of N tokens; those from `experts` on compute nothing."""
    return _pairs(index, order, experts) // index.shape[-1]


def _pairs(index: torch.Tensor, order: Order, experts: int) -> torch.Tensor:
    """Where in the flattened index each row stands."""
    if order == "by token":
        pairs = torch.arange(index.numel(), device=index.device)
    elif order == "by expert":  # the same call as transformers', so that equal experts fall in the same order
        pairs = torch.sort(index.reshape(-1)).indices
    else:
        by_rank = torch.sort(index.t().reshape(-1), stable=True).indices
        pairs = by_rank % len(index) * index.shape[-1] + by_rank // len(index)
    return pairs[index.reshape(-1)[pairs] < experts]


def find_order(tap: Tap, experts: Any, gates: torch.Tensor, calls: Sequence[Call]) -> Order | None:
    """The order of the gates [n, w] that a tap saw, confirmed by what the experts' weights make of their tokens; else None.

    NaN and infinities must be where the weights make some, and confirm nothing by themselves.
    """
    index, weights = index_of(calls), getattr(experts, "gate_up_proj", None)
    hidden = calls[0].input if calls else None
    if index is None or hidden is None or not isinstance(weights, nn.Parameter) or weights.dtype != gates.dtype:
        return None
    hidden, transposed = hidden.reshape(-1, hidden.shape[-1]), getattr(experts, "is_transposed", False)
    bias = getattr(experts, "gate_up_proj_bias", None)
    if len(hidden) != len(index) or len(gates) != int((index < len(weights)).sum()):
        return None
    rows = []
    for token, ranked in enumerate(index.clamp(max=len(weights) - 1).tolist()):
        for expert in ranked:
            weight = weights[expert] if transposed else weights[expert].t()
            row = hidden[token] @ weight
            rows.append(row if bias is None else row + bias[expert])
    features: Features = "even" if getattr(experts, "is_concatenated", True) is False else "first half"
    expected = Tap(experts, "", features=features, layout=(0,)).flat(torch.stack(rows)).float()
    chooses = hasattr(experts, "has_bias")  # experts that do not choose an implementation by the config loop
    order = ORDERS.get(experts.config._experts_implementation) if chooses else LOOP
    if order is None:
        return None
    gates, expected = gates.float(), expected[_pairs(index, order, len(weights))]
    finite = gates.isfinite()  # of a broken expert the others still tell
    if not bool(finite.any()) or not torch.equal(finite, expected.isfinite()):
        return None
    gates, expected = gates[finite], expected[finite]
    agrees = ((gates - expected).abs() <= 0.02 * expected.abs().max().clamp(min=1e-30)).all()
    return order if bool(agrees) else None
