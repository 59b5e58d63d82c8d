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
_LARGEST = 1e9
# Shares kept below this, or above 1 less this, may be rounding.
_BLENDED = 1e-6


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

    They are not unique: the frequency factors and the original length may grow together, and few channels say little.
    Llama 3's own come first, then those with a low_frequency_factor of 1 or of few digits.

    Args:
        factors: [E / 2]
        original_length: the context before stretching, where the file says it.

    Returns:
        None where no parameters give them.
    """
    factor = float(factors.max())
    if not (np.isfinite(factors).all() and factors.min() > 0 and factor > 1):
        return None
    frequencies = _frequencies(theta, head_dim)
    kept = (1 / factors - 1 / factor) / (1 - 1 / factor)  # [E / 2], 1 for short wavelengths and 0 for long ones
    for low, high, length in _candidates(kept, frequencies, original_length):
        for digits in (3, 12):  # people choose short numbers
            scaling = _scaling(factor, round(low, digits), round(high, digits), round(length))
            if scaling is None:
                continue
            if np.allclose(rope_factors(scaling, theta, head_dim), factors, rtol=_TOLERANCE * factor, atol=0):
                return scaling
    return None


def _frequencies(theta: float, head_dim: int) -> Factors:
    return theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def _candidates(
    kept: Factors, frequencies: Factors, original_length: int | None
) -> Iterator[tuple[float, float, float]]:
    """Low and high frequency factor and original length that may have given the shares kept."""
    length = original_length or _LLAMA3_LENGTH
    yield 1.0, 4.0, length
    turns = length * frequencies / (2 * math.pi)
    is_blended = (kept > _BLENDED) & (kept < 1 - _BLENDED)
    longest_kept = float(turns[kept >= 1 - _BLENDED].min(initial=math.inf))
    shortest_stretched = float(turns[kept <= _BLENDED].max(initial=0))
    if is_blended.sum() >= 2:
        slope, constant = _fit_line(turns[is_blended], kept[is_blended])  # kept = (turns - low) / (high - low)
        if slope > 0 > constant:
            low, high = -constant / slope, (1 - constant) / slope
            if original_length is None:
                yield 1.0, high / low, length / low
            yield low, high, length
    elif is_blended.any():
        turn, share = float(turns[is_blended][0]), float(kept[is_blended][0])
        # high = low + (turn - low) / share must not lie beyond the turns of a channel that is kept.
        least = max(shortest_stretched, (longest_kept - turn / share) / (1 - 1 / share))
        low = 1.0 if least <= 1 < turn else (least + turn) / 2
        yield low, low + (turn - low) / share, length
    elif shortest_stretched:
        # Any bounds between the last wavelength kept and the first stretched do.
        ratio = min(longest_kept / shortest_stretched, 8.0)
        yield shortest_stretched * ratio ** (1 / 3), shortest_stretched * ratio ** (2 / 3), length


def _fit_line(x: Factors, y: Factors) -> tuple[float, float]:
    """Slope and constant with the least squares; level where all x are equal."""
    distances = x - x.mean()
    spread = float(distances @ distances)
    slope = float(distances @ y) / spread if spread else 0.0
    return slope, float(y.mean() - slope * x.mean())


def _scaling(factor: float, low: float, high: float, length: int) -> RopeScaling | None:
    if not (0 < low < high < _LARGEST and 0 < length < _LARGEST):
        return None
    return RopeScaling(
        factor=float(str(np.float32(factor))),
        low_frequency_factor=low,
        high_frequency_factor=high,
        original_max_sequence_length=length,
    )
