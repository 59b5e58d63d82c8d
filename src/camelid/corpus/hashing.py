"""Hashes of 64 bits over many things at once, equal on every machine."""

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def mix(values: Hashes) -> Hashes:
    """A bijection of 64 bits whose every output bit depends on every input bit (splitmix64)."""
    first, second, third = (np.uint64(multiplier) for multiplier in _MULTIPLIERS)
    values = values + first
    values = (values ^ (values >> np.uint64(30))) * second
    values = (values ^ (values >> np.uint64(27))) * third
    return values ^ (values >> np.uint64(31))
