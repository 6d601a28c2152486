"""How many tokens a router sent to each expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ExpertTokens:
    """The state of one router: int64 [E], tokens by expert."""

    counts: torch.Tensor

    @classmethod
    def zeros(cls, experts: int, device: torch.device) -> ExpertTokens:
        """Nothing sent yet."""
        return cls(torch.zeros(experts, dtype=torch.int64, device=device))

    def update(self, chosen: torch.Tensor, real: torch.Tensor) -> ExpertTokens:
        """The state after a batch: `chosen` are the experts of its N tokens, [N, k]; `real` is bool [N], False for padding."""
        sent = real.to(torch.int64)[:, None].expand(chosen.shape)
        return ExpertTokens(self.counts.scatter_add(0, chosen.to(torch.int64).flatten(), sent.flatten()))

    def merge(self, other: ExpertTokens) -> ExpertTokens:
        """The state of both streams together."""
        return ExpertTokens(self.counts + other.counts)

    def finish(self) -> list[int]:
        """Tokens by expert."""
        counts: list[int] = self.counts.tolist()
        return counts


def chosen_experts(output: Any, rows: int) -> torch.Tensor | None:
    """The experts that a router's output names for each of its tokens, [rows, k]; None where it gives logits or scores only."""
    parts = output if isinstance(output, (tuple, list)) else ()
    for part in parts:
        if isinstance(part, torch.Tensor) and not part.is_floating_point() and part.ndim >= 2:
            chosen = part.reshape(-1, part.shape[-1])
            if len(chosen) == rows:
                return chosen
    return None
