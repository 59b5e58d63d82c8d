"""Hashes of 64 bits over many things at once, equal on every machine."""

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.intp]

_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def mix(values: Hashes) -> Hashes:
    """A bijection of 64 bits whose every output bit depends on every input bit (splitmix64)."""
    first, second, third = (np.uint64(multiplier) for multiplier in _MULTIPLIERS)
    values = values + first
    values = (values ^ (values >> np.uint64(30))) * second
    values = (values ^ (values >> np.uint64(27))) * third
    return values ^ (values >> np.uint64(31))


def sort_stably(hashes: Hashes) -> Places:
    """The order of the hashes in which equal ones stay as they are, at most 2^31 of them; [hashes].

    numpy sorts several times as fast where equal ones may go anywhere, and few are equal.
    """
    order = np.argsort(hashes)
    ordered = hashes[order]
    is_again = np.concatenate([[False], ordered[1:] == ordered[:-1], [False]])
    places = np.flatnonzero(is_again[1:] | is_again[:-1])
    if len(places):
        runs = np.cumsum(~is_again[places])
        in_runs = (runs << 32) | order[places]
        in_runs.sort()
        order[places] = in_runs & 0xFFFFFFFF
    return order
