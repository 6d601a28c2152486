"""How floating-point dtypes lay out their bits, which is what kernels and reducers work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class Encoding:
    """A dtype's layout.

    The *magnitude* is the bit pattern without its sign, whose order is the order of |x|; from `infinity` upwards it is not
    finite. `binned` is the 16-bit dtype whose patterns a histogram counts: the dtype itself, or the one values are rounded to.
    """

    dtype: torch.dtype
    integer: torch.dtype
    bits: int
    infinity: int
    binned: Literal["bfloat16", "float16"]

    @property
    def name(self) -> str:
        """The dtype as users write it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def magnitude_mask(self) -> int:
        """All bits but the sign."""
        return (1 << (self.bits - 1)) - 1

    @property
    def exact(self) -> bool:
        """Whether a histogram of 16-bit patterns loses nothing."""
        return self.bits == 16

    def values(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Magnitudes (integers >= 0, any shape) as the float64 values they stand for, exactly."""
        return magnitudes.to(self.integer).view(self.dtype).to(torch.float64)


ENCODINGS = {
    torch.bfloat16: Encoding(torch.bfloat16, torch.int16, 16, 0x7F80, "bfloat16"),
    torch.float16: Encoding(torch.float16, torch.int16, 16, 0x7C00, "float16"),
    torch.float32: Encoding(torch.float32, torch.int32, 32, 0x7F800000, "bfloat16"),
}
