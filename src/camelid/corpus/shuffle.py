"""Which of many keys come again: decided over all tasks at once, in bounded memory.

A task writes one key per item, in the order of its items. Keys are 64-bit hashes, so ranges of equal width hold equally
many: each range is read from all files, sorted and decided on its own, and a task later reads the marks of its items
back. Only hashes cross from one task to another, and no order of work shows in the result.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from camelid.corpus.engine import Engine
from camelid.corpus.hashing import sort_stably

Keys = npt.NDArray[np.uint64]
Marks = npt.NDArray[np.bool_]
Rule = Literal["repeated", "later", "not_lowest"]
"""What is marked: every item whose key another item has; all but the first item of a key; all but the item of a key
with the lowest second column, the first of those."""

# Peak while one range is decided, per key of one column and of two.
_BYTES_PER_KEY = (48, 80)
_USUAL_BYTES = 1 << 29
# What a process holds besides: the interpreter, its libraries, and what it kept of earlier tasks.
_PROCESS_BYTES = 160 << 20
_LEAST_RANGE_KEYS = 100_000
_PLACE_SUFFIX = ".place.json"
_COUNTS = "counts.json"


def write_keys(path: Path, keys: Keys, *, is_stable: bool = True) -> None:
    """Stores the keys of a task's items.

    Args:
        keys: [items] or [items, 2]; ranges go by the first column, which must be a hash. A second column is part of
            the key, except for the rule `not_lowest`, where it is what is compared.
        is_stable: whether equal keys are stored in the order of their items; the rule `repeated` can do without, and
            where many are equal it costs as much again.
    """
    keys = keys if keys.ndim == 2 else keys[:, None]
    order = (sort_stably if is_stable else np.argsort)(keys[:, 0]).astype(np.uint32)
    np.save(path.with_suffix(".order.npy"), order)
    # Published last, for its presence says that both are whole.
    temporary = path.with_suffix(".partial.npy")
    np.save(temporary, keys[order])
    temporary.rename(path.with_suffix(".npy"))


def mark(files: Sequence[Path], folder: Path, rule: Rule, memory_bytes: int | None, engine: Engine) -> tuple[int, int]:
    """Decides over the keys of all files.

    Args:
        files: as they were given to `write_keys`; their order is the order of the items.
        folder: where the marks go; it is made anew.
        memory_bytes: bound on what all processes hold together, this one among them; half a GiB each where it is None.

    Returns:
        How many items there are, and how many are marked.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shapes = [np.load(path.with_suffix(".npy"), mmap_mode="r").shape for path in files]
    num_keys = sum(shape[0] for shape in shapes)
    share = _share_memory(memory_bytes, engine.num_workers)
    room = max(share // _BYTES_PER_KEY[shapes[0][1] - 1], 1) if shapes else 1
    # How the keys are cut changes no mark, so that each worker has a range where that is worth sending one.
    num_ranges = max(-(-num_keys // room), min(engine.num_workers, num_keys // _LEAST_RANGE_KEYS), 1)
    ranges = [_Range(number, num_ranges) for number in range(num_ranges)]
    num_marked = sum(engine.run(partial(_mark_range, tuple(files), folder, rule), ranges))
    (folder / _COUNTS).write_text(json.dumps({"ranges": num_ranges, "keys": num_keys, "marked": num_marked}))
    for place, path in enumerate(files):
        path.with_suffix(_PLACE_SUFFIX).write_text(json.dumps({"folder": folder.name, "place": place}))
    return num_keys, num_marked


def _share_memory(memory_bytes: int | None, num_workers: int) -> int:
    """Bytes of keys and what they take to sort, for each worker."""
    if memory_bytes is None:
        return _USUAL_BYTES
    num_processes = num_workers + (num_workers > 1)
    return max(memory_bytes - num_processes * _PROCESS_BYTES, memory_bytes // 4) // num_workers


def read_marks(path: Path, folders: Path) -> Marks:
    """The marks of one task's items, in their order.

    Args:
        path: as it was given to `write_keys`.
        folders: where the folders of marks lie.
    """
    where = json.loads(path.with_suffix(_PLACE_SUFFIX).read_text())
    folder, place = folders / where["folder"], where["place"]
    order = np.load(path.with_suffix(".order.npy"))
    marks = np.zeros(len(order), np.bool_)
    done = 0
    for number in range(json.loads((folder / _COUNTS).read_text())["ranges"]):
        start, end = np.load(folder / f"{number:05d}.bounds.npy", mmap_mode="r")[place : place + 2].tolist()
        if start < end:
            marks[order[done : done + end - start]] = np.load(folder / f"{number:05d}.npy", mmap_mode="r")[start:end]
            done += end - start
    assert done == len(order), f"{path}: {done} marks for {len(order)} items"
    return marks


@dataclass(frozen=True)
class _Range:
    number: int
    num_ranges: int

    def bounds(self) -> tuple[int, int]:
        """First key and last key."""
        return (
            -(-(self.number << 64) // self.num_ranges),
            -(-((self.number + 1) << 64) // self.num_ranges) - 1,
        )


def _mark_range(files: Sequence[Path], folder: Path, rule: Rule, keys_range: _Range) -> int:
    first, last = (np.uint64(bound) for bound in keys_range.bounds())
    segments = []
    for path in files:
        stored = np.load(path.with_suffix(".npy"), mmap_mode="r")
        start = np.searchsorted(stored[:, 0], first, side="left")
        end = np.searchsorted(stored[:, 0], last, side="right")
        segments.append(np.array(stored[start:end]))
    bounds = np.concatenate([[0], np.cumsum([len(segment) for segment in segments], dtype=np.int64)])
    marks = _decide([segment for segment in segments if len(segment)], rule)
    del segments
    np.save(folder / f"{keys_range.number:05d}.bounds.npy", bounds)
    np.save(folder / f"{keys_range.number:05d}.npy", marks)
    return int(marks.sum())


def _decide(segments: Sequence[Keys], rule: Rule) -> Marks:
    """Marks of the rows of all segments, one after another."""
    if not segments:
        return np.zeros(0, np.bool_)
    keys = np.concatenate(segments)
    columns = [keys[:, column] for column in range(keys.shape[1])]
    # A stable sort goes along what is sorted already, as each segment is.
    order = np.lexsort(columns[::-1]) if len(columns) > 1 else np.argsort(columns[0], kind="stable")
    compared = columns[:1] if rule == "not_lowest" else columns
    # Whether a row, in sorted order, has the key of the row before it.
    again = np.ones(len(keys), np.bool_)
    again[0] = False
    for column in compared:
        ordered = column[order]
        again[1:] &= ordered[1:] == ordered[:-1]
    if rule == "repeated":
        again[:-1] |= again[1:]
    marks = np.empty(len(keys), np.bool_)
    marks[order] = again
    return marks
