"""Which sample comes when: a pure function of seed and step, in constant memory however large the dataset.

Position k of a training (step x batch size + row) is dealt to a source, and is there the position r of that source's
own sequence. The sequence goes through all samples of the source in a random order, then again in another one, and so
on: position r is sample p(r mod n) of epoch r // n, where n is the number of samples and p a permutation that is
computed from seed, source and epoch and stored nowhere.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# 2**20 parts tell shares apart to a millionth, and leave room for 2**42 positions before int64 overflows.
_SHARE_PARTS = 1 << 20
_NUM_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Located(NamedTuple):
    """Where samples lie; all arrays have one entry per row of the batch."""

    source: Ints
    """Place of the source in `Order.sources`."""
    sample: Ints
    """Index of the sample within its source."""
    epoch: Ints
    """How often the source was read to its end before."""


@dataclass(frozen=True)
class SourceOrder:
    """What the order needs to know of a source."""

    share: float
    num_samples: int


class Order:
    """The order of all samples of a training.

    Args:
        sources: by name; shares are above 0 and on any scale.
    """

    def __init__(self, sources: Mapping[str, SourceOrder], seed: int):
        self.sources = tuple(sorted(sources))
        total = sum(source.share for source in sources.values())
        self._weights = tuple(max(1, round(sources[name].share / total * _SHARE_PARTS)) for name in self.sources)
        self._num_samples = np.array([sources[name].num_samples for name in self.sources], dtype=np.int64)
        self._keys = np.array([_source_key(seed, name) for name in self.sources], dtype=np.uint64)

    def locate(self, step: int, batch_size: int, rows: range | None = None) -> Located:
        """Where the samples of one step lie.

        Args:
            rows: rows of the batch that are wanted, all unless given. A row's sample depends on neither the other rows
                nor on how they are spread over processes.
        """
        wanted = np.arange(batch_size) if rows is None else np.array(rows, dtype=np.int64)
        source, rank = deal(step * batch_size + wanted, self._weights)
        num_samples = self._num_samples[source]
        epoch, index = np.divmod(rank, num_samples)
        keys = _mix(self._keys[source] + (epoch.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        return Located(source, permute(index, num_samples, keys), epoch)


def rows_of_rank(batch_size: int, rank: int, world_size: int) -> range:
    """The consecutive rows of a batch that one of several processes reads; over all of them each row comes once."""
    return range(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)


def deal(positions: Ints, weights: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Deals positions to sources in proportion to whole-number weights.

    The sources are halved again and again. Of the first k positions of a group, the first half of its sources gets k
    times its share, rounded, which for two halves is monotonous in k and leaves the rest to the other half. So after
    any number of positions no source is further from its due than half a sample for each time it was halved.

    Returns:
        For each position, the place of its source, and how many positions before it that source got.
    """
    source = np.zeros_like(positions)
    rank = positions.copy()
    groups = [(np.arange(len(positions)), 0, len(weights))]
    while groups:
        members, first, end = groups.pop()
        if not len(members):
            continue
        if end - first == 1:
            source[members] = first
            continue
        middle = (first + end) // 2
        weight, total = sum(weights[first:middle]), sum(weights[first:end])
        before = _round_share(rank[members], weight, total)
        is_first_half = _round_share(rank[members] + 1, weight, total) > before
        rank[members] = np.where(is_first_half, before, rank[members] - before)
        groups += [(members[is_first_half], first, middle), (members[~is_first_half], middle, end)]
    return source, rank


def permute(indices: Ints, sizes: Ints, keys: NDArray[np.uint64]) -> Ints:
    """Keyed permutations of 0 .. size - 1, each index with a size and a key of its own.

    A Feistel network over a grid of a x b >= size cells, whose halves are added to modulo a and b in turn; a result
    that is no index is put through again until it is one (cycle walking). After Black and Rogaway, "Ciphers with
    arbitrary finite domains" (2002).
    """
    width = np.ceil(np.sqrt(sizes)).astype(np.int64)
    width += width * width < sizes  # the root of a very large size may be rounded down
    height = -(-sizes // width)
    result = indices.copy()
    walking = np.arange(len(indices))
    while len(walking):
        result[walking] = _encipher(result[walking], width[walking], height[walking], keys[walking])
        walking = walking[result[walking] >= sizes[walking]]
    return result


def _encipher(cells: Ints, width: Ints, height: Ints, keys: NDArray[np.uint64]) -> Ints:
    row, column = np.divmod(cells.astype(np.uint64), width.astype(np.uint64))
    moduli = width.astype(np.uint64), height.astype(np.uint64)
    for round_number in range(0, _NUM_ROUNDS, 2):
        # Reduced before it is added: a sum that overflows would map two cells to one.
        column = (column + _mix(row ^ _round_key(keys, round_number)) % moduli[0]) % moduli[0]
        row = (row + _mix(column ^ _round_key(keys, round_number + 1)) % moduli[1]) % moduli[1]
    return (row * moduli[0] + column).astype(np.int64)


def _round_key(keys: NDArray[np.uint64], round_number: int) -> NDArray[np.uint64]:
    return _mix(keys + np.array(round_number + 1, dtype=np.uint64) * _GOLDEN)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64: every bit of the input changes every bit of the result."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _round_share(counts: Ints, weight: int, total: int) -> Ints:
    return (2 * counts * weight + total) // (2 * total)


def _source_key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8])
