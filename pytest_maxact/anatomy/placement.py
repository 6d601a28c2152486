"""A site and how it is read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pytest_maxact.anatomy.routing import Order
from pytest_maxact.record import Site
from pytest_maxact.taps import Tap


@dataclass(frozen=True)
class Placement:
    """One site, and the taps that read it, `rule` saying how they were found.

    `once` is whether each token is one row, in one call of a forward. Where rows are routed tokens `experts` is the module
    that they are sent to, and `order` that of the rows; for routers, `experts` is the module that is told their choice.
    `only_with_images` is whether text alone does not reach it. dtype, widths and device are those of the values, widths being
    the taps' numbers of features.
    """

    site: Site
    taps: tuple[Tap, ...]
    rule: str
    once: bool
    dtype: torch.dtype
    widths: tuple[int, ...]
    device: torch.device
    experts: nn.Module | None = None
    order: Order | None = None
    only_with_images: bool = False

    @property
    def name(self) -> str:
        """What the taps read, in words."""
        return " and ".join(map(str, self.taps))
