"""Llama 3's stretched rotary wavelengths as GGUF files hold them: a factor for each pair of channels, no parameters.

A wavelength below a bound keeps its length, one above another bound is stretched by the whole factor, and between them
1 / factor runs linearly in the frequency. Reading goes back from the factors to the parameters.

Shapes: E head size.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from camelid.model.config import RopeScaling

Factors = NDArray[np.float64]

TENSOR_NAME = "rope_freqs.weight"

# Rounding of float32 in the file, and in whatever computed it, relative to a factor and for each unit of stretching.
_TOLERANCE = 2e-6
_LLAMA3_LENGTH = 8192


def rope_factors(scaling: RopeScaling, theta: float, head_dim: int) -> Factors:
    """By how much each wavelength is stretched.

    Returns:
        [E / 2]
    """
    turns = scaling.original_max_sequence_length * _frequencies(theta, head_dim) / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / (kept + (1 - kept) / scaling.factor)


def recover_scaling(factors: Factors, theta: float, head_dim: int, original_length: int | None) -> RopeScaling | None:
    """The parameters that give these factors.

    They are not unique: bounds and original length may grow together, and few channels say little. Those of Llama 3
    come first; others have a low_frequency_factor of 1, or the original length that the file names.

    Args:
        factors: [E / 2]
        original_length: what the file says of the context before stretching.

    Returns:
        None where no parameters give them.
    """
    factor = float(factors.max())
    if not (np.isfinite(factors).all() and factors.min() > 0 and factor > 1):
        return None
    frequencies = _frequencies(theta, head_dim)
    kept = (1 / factors - 1 / factor) / (1 - 1 / factor)  # [E / 2], 1 for short wavelengths and 0 for long ones
    for low, high, length in _candidates(kept, frequencies, original_length):
        scaling = _scaling(factor, low, high, length)
        if scaling and np.allclose(rope_factors(scaling, theta, head_dim), factors, rtol=_TOLERANCE * factor, atol=0):
            return scaling
    return None


def _frequencies(theta: float, head_dim: int) -> Factors:
    return theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def _candidates(
    kept: Factors, frequencies: Factors, original_length: int | None
) -> Iterator[tuple[float, float, float]]:
    """Low and high frequency factor and original length that may have given the shares kept."""
    if original_length:
        yield 1.0, 4.0, original_length
    yield 1.0, 4.0, _LLAMA3_LENGTH
    is_blended = (kept > 1e-5) & (kept < 1 - 1e-5)
    turning = frequencies[is_blended] / (2 * math.pi)
    if len(turning) >= 2:
        slope, constant = np.polyfit(turning, kept[is_blended], 1)  # kept = (turning * length - low) / (high - low)
        if slope > 0 > constant:
            yield 1.0, 1 - 1 / constant, -slope / constant
            if original_length:
                low = -constant / slope * original_length
                yield low, low + original_length / slope, original_length
    elif len(turning) == 1:
        yield 1.0, 4.0, (1 + 3 * float(kept[is_blended][0])) / float(turning[0])
    elif (kept < 0.5).any():
        # Any bounds between the last wavelength kept and the first stretched do.
        stretched = 2 * math.pi / float(frequencies[kept < 0.5][0])
        short = 2 * math.pi / float(frequencies[kept > 0.5][-1]) if (kept > 0.5).any() else stretched / 8
        length = max(1, math.ceil(stretched) - 1)
        yield 1.0, (1 + length / short) / 2, length


def _scaling(factor: float, low: float, high: float, length: float) -> RopeScaling | None:
    """Parameters rounded to what people choose: whole tokens, and factors of few digits."""
    low, high, length = round(low, 3), round(high, 3), round(length)
    if not (0 < low < high < 1e9 and 0 < length < 1e9):
        return None
    return RopeScaling(
        factor=float(f"{factor:.6g}"),
        low_frequency_factor=low,
        high_frequency_factor=high,
        original_max_sequence_length=length,
    )
