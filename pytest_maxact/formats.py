"""Number formats, and what they do to a site's values: overflow, and the SQNR after quantization. numpy only.

A threshold is the |a| from which a site is clipped: `Histogram.quantile(1)` for max-abs, `quantile(q)` for a percentile,
or `best_threshold`. All arithmetic is in float64; NaN and infinities of a site take no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pytest_maxact.histogram import Floats, Histogram, Ints


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format.

    largest: its largest finite value.
    mantissa_bits: bits of the mantissa, without the implicit one.
    min_exponent: the exponent of its smallest normal number.
    """

    largest: float
    mantissa_bits: int
    min_exponent: int

    def overflows(self, magnitudes: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether each |a|, in the shape given, rounds beyond the largest finite value; infinity does, NaN does not."""
        return self._nearest(np.asarray(magnitudes, dtype=np.float64)) > self.largest

    def quantize(self, magnitudes: Floats) -> Floats:
        """Each |a| as the nearest number of the format, or the largest one where it overflows."""
        return np.minimum(self._nearest(magnitudes), self.largest)

    def _nearest(self, magnitudes: Floats) -> Floats:
        """Each |a| rounded to nearest even, subnormal numbers included, as if exponents had no upper end."""
        _, exponent = np.frexp(magnitudes)  # |a| = fraction * 2^exponent, the fraction in [0.5, 1)
        step = np.ldexp(1.0, np.maximum(exponent - 1, self.min_exponent) - self.mantissa_bits)
        rounded: Floats = np.rint(magnitudes / step) * step
        return rounded


# IEEE 754; arXiv 2209.05433, table 1: E4M3 (torch's "fn") has no infinities and gives their exponent to numbers.
FLOAT16 = FloatFormat(largest=65504.0, mantissa_bits=10, min_exponent=-14)
FP8_E4M3 = FloatFormat(largest=448.0, mantissa_bits=3, min_exponent=-6)
FP8_E5M2 = FloatFormat(largest=57344.0, mantissa_bits=2, min_exponent=-14)


@dataclass(frozen=True)
class Format:
    """A format that `--maxact-format` can name.

    floating: how it represents numbers; None for integers, which are scaled to the tensor.
    sqnr_keys: the figures of `sqnr` that belong to it.
    """

    floating: FloatFormat | None
    sqnr_keys: tuple[str, ...] = ()


FORMATS = {
    "float16": Format(FLOAT16),
    "fp8_e4m3": Format(FP8_E4M3, sqnr_keys=("fp8_e4m3",)),
    "fp8_e5m2": Format(FP8_E5M2, sqnr_keys=("fp8_e5m2",)),
    "int8": Format(None, sqnr_keys=("int8_maxabs", "int8_p999")),
}


def sqnr(histogram: Histogram) -> dict[str, float]:
    """The SQNR figures of the record, in dB: inf where nothing is lost, NaN without a finite value other than 0."""
    values, counts = histogram.magnitudes
    maxabs, p999 = histogram.quantile(1), histogram.quantile(0.999)
    quantized = {}
    for bits in (8, 6, 4):
        quantized[f"int{bits}_maxabs"] = _int_quantized(values, bits, maxabs)
        quantized[f"int{bits}_p999"] = _int_quantized(values, bits, p999)
    for name, fp8 in (("fp8_e4m3", FP8_E4M3), ("fp8_e5m2", FP8_E5M2)):
        quantized[name] = fp8.quantize(values)
        quantized[f"{name}_scaled"] = _scaled(values, maxabs, fp8.largest, fp8.quantize)
    return {key: _decibels(values, counts, result) for key, result in quantized.items()}


def int_sqnr(histogram: Histogram, bits: int, threshold: float) -> float:
    """The SQNR in dB of symmetric per-tensor integer quantization.

    With scale = threshold / (2^(bits-1) - 1): a' = clamp(round(a / scale)) * scale, rounded to nearest even and clamped to
    +-(2^(bits-1) - 1), as in arXiv 2106.08295, section 2. A threshold of 0 makes every a' 0. NaN and inf as in `sqnr`.
    """
    values, counts = histogram.magnitudes
    return _decibels(values, counts, _int_quantized(values, bits, threshold))


# Sums of up to 32,640 float64 err by 4e-12 at most, and few of them make up an error.
TIE = 1e-10


def best_threshold(histogram: Histogram, bits: int) -> float:
    """The one of a site's distinct |a| that has the highest `int_sqnr` as threshold; of equals the largest.

    No sampled search: every distinct |a| is tried, so max-abs and percentiles are never better. First by the error from
    suffix sums, 2^(bits-1) look-ups each instead of a pass over all values, off by less than TIE of the signal; the ones
    within TIE of the least error are then compared by `int_sqnr` itself. All zeros: 0. No finite value: NaN.
    """
    values, counts = histogram.magnitudes
    thresholds = values[values > 0]
    if not thresholds.size:
        return histogram.quantile(1)
    error = _int_errors(values, counts, bits, thresholds)
    close = thresholds[error <= error.min() + TIE * (counts @ values**2)]
    return max((float(t) for t in close[::-1]), key=lambda t: int_sqnr(histogram, bits, t))


def _int_errors(values: Floats, counts: Ints, bits: int, thresholds: Floats) -> Floats:
    """The squared error sum((a - a')^2) of integer quantization at each threshold.

    As a' is a multiple k of the scale s, sum(a a') = s sum_k sum(a from the boundary (k - 1/2) s up), and as
    k^2 = 1 + 3 + ... + (2k - 1), sum(a'^2) = s^2 sum_k (2k - 1) (how many are from that boundary up).
    """
    from_here = np.append(counts[::-1].cumsum()[::-1], 0)
    sum_from_here = np.append((counts * values)[::-1].cumsum()[::-1], 0)
    scale = thresholds / _levels(bits)
    error = np.full(len(thresholds), counts @ values**2)
    for k in range(1, _levels(bits) + 1):
        boundary = np.searchsorted(values, (k - 0.5) * scale)
        error += (2 * k - 1) * scale**2 * from_here[boundary] - 2 * scale * sum_from_here[boundary]
    return error


def _levels(bits: int) -> int:
    return (1 << (bits - 1)) - 1


def _int_quantized(magnitudes: Floats, bits: int, threshold: float) -> Floats:
    return _scaled(magnitudes, threshold, _levels(bits), np.rint)


def _scaled(magnitudes: Floats, threshold: float, largest: float, rounded: Callable[[Floats], Floats]) -> Floats:
    """Each |a|, clipped at the threshold, rounded where the threshold is scaled to `largest`, and scaled back.

    Mantissas of |a| and of levels are so short that products are exact: ties are ties, and what the grid holds stays as is.
    """
    if not threshold:
        return np.zeros_like(magnitudes)
    return rounded(np.minimum(magnitudes, threshold) * largest / threshold) * threshold / largest


def _decibels(magnitudes: Floats, counts: Ints, quantized: Floats) -> float:
    """10 log10 of the sum of squares over the sum of squared errors."""
    signal, noise = float(counts @ magnitudes**2), float(counts @ (magnitudes - quantized) ** 2)
    if not signal:
        return math.nan
    return 10 * math.log10(signal / noise) if noise else math.inf
