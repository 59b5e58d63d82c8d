"""Rows of n-grams sorted in bounded memory: sorted runs on disk, merged a range of keys at a time."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]
"""[rows] of a structured type."""
Keys = Callable[[Rows], list[npt.NDArray[np.uint64]]]
"""The columns that rows are sorted by, most significant first; rows with an equal first column stay in one chunk."""
Combine = Callable[[Rows, npt.NDArray[np.bool_]], Rows]
"""Makes one row of equal ones; takes sorted rows and whether each begins a new key."""

# What sorting holds beside the rows themselves: key columns, order, the sorted copy.
_COPIES = 3
_BYTES_BESIDE = 40


class Sorter:
    """Takes rows in any order and gives them back sorted."""

    def __init__(self, folder: Path, keys: Keys, memory_bytes: int, combine: Combine | None = None) -> None:
        """
        Args:
            folder: where runs go; it is made.
            memory_bytes: bound on what is held at a time, rows of one first key apart.
        """
        folder.mkdir(parents=True)
        self._folder = folder
        self._keys = keys
        self._combine = combine
        self._memory_bytes = memory_bytes
        self._pending: list[Rows] = []
        self._num_pending = 0
        self._runs: list[tuple[Path, Path]] = []

    def add(self, rows: Rows) -> None:
        """Takes some rows, fewer than memory holds."""
        self._pending.append(rows)
        self._num_pending += len(rows)
        if self._num_pending >= self._room(rows.dtype):
            self._flush()

    def chunks(self) -> Iterator[Rows]:
        """All rows, sorted, in chunks; the runs are deleted when the last one was taken."""
        if not self._runs:
            if self._pending:
                yield self._sort(self._pending)[0]
            self._pending = []
            return
        self._flush()
        keys = [np.load(path, mmap_mode="r") for _, path in self._runs]
        rows = [np.load(path, mmap_mode="r") for path, _ in self._runs]
        starts = [0] * len(rows)
        for bound in [*self._bounds(keys, rows[0].dtype), None]:
            ends = [
                len(found) if bound is None else int(np.searchsorted(found, np.uint64(bound), side="left"))
                for found in keys
            ]
            pieces = [
                np.array(run[start:end]) for run, start, end in zip(rows, starts, ends, strict=True) if start < end
            ]
            starts = ends
            if pieces:
                yield self._sort(pieces)[0]
        for paths in self._runs:
            for path in paths:
                path.unlink()

    def _room(self, dtype: np.dtype[Any]) -> int:
        return max(self._memory_bytes // (_COPIES * dtype.itemsize + _BYTES_BESIDE), 1024)

    def _bounds(self, keys: Sequence[npt.NDArray[np.uint64]], dtype: np.dtype[Any]) -> list[int]:
        """First keys at which a new chunk begins, so that each fits into memory."""
        room = self._room(dtype)
        step = max(room // (4 * len(keys)), 1)
        # Each sample stands for `step` rows of its run before it.
        samples = np.sort(np.concatenate([found[step - 1 :: step] for found in keys]))
        return sorted({int(sample) for sample in samples[room // (2 * step) :: max(room // (2 * step), 1)]})

    def _flush(self) -> None:
        if not self._pending:
            return
        rows, keys = self._sort(self._pending)
        self._pending, self._num_pending = [], 0
        paths = (self._folder / f"{len(self._runs)}.rows.npy", self._folder / f"{len(self._runs)}.keys.npy")
        np.save(paths[0], rows)
        np.save(paths[1], keys)
        self._runs.append(paths)

    def _sort(self, pieces: list[Rows]) -> tuple[Rows, npt.NDArray[np.uint64]]:
        rows = np.concatenate(pieces)
        pieces.clear()
        keys = self._keys(rows)
        order = np.lexsort(keys[::-1])
        rows = rows[order]
        keys = [column[order] for column in keys]
        if self._combine is None or not len(rows):
            return rows, keys[0]
        is_first = np.ones(len(rows), np.bool_)
        is_first[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in keys])
        return self._combine(rows, is_first), keys[0][is_first]


def pack(words: npt.NDArray[np.uint32], columns: Sequence[int], bits: int) -> npt.NDArray[np.uint64]:
    """One number of some columns, the first the most significant.

    Args:
        words: [rows, n] ids below 2 ** bits.
    """
    packed = np.zeros(len(words), np.uint64)
    for column in columns:
        packed = (packed << np.uint64(bits)) | words[:, column].astype(np.uint64)
    return packed


def key_columns(columns: Sequence[int], num_first: int, bits: int) -> Keys:
    """Sort keys over columns of `words`, most significant first.

    Args:
        num_first: how many columns the first key holds at most; rows that agree in them stay together.
    """
    fitting = 64 // bits
    first = min(num_first, fitting)
    groups = [columns[:first], *(columns[start : start + fitting] for start in range(first, len(columns), fitting))]
    return lambda rows: [pack(rows["words"], group, bits) for group in groups]
