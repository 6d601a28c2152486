"""One run of a layer in the probe, and what is found there."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from pytest_maxact.anatomy.probe import Call, Trace
from pytest_maxact.taps import Tap


@dataclass(frozen=True)
class Found:
    """One site of a layer: `taps` read it, `experts` is the module whose routing its rows follow."""

    component: str
    taps: tuple[Tap, ...]
    rule: str
    experts: nn.Module | None = None


@dataclass
class Layer:
    """One run of a layer: `found` are its sites, `missed` what is there and is not observed."""

    number: int
    name: str
    module: nn.Module
    trace: Trace
    found: list[Found] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def calls(self, module: nn.Module, *, gate: bool = False) -> list[Call]:
        """Those of a module in this run of the layer."""
        return self.trace.of(module, self.number, gate=gate)

    def ran(self, module: nn.Module) -> bool:
        """Whether a module was called in this run of the layer."""
        return bool(self.calls(module))
