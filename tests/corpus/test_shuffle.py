"""Marks of keys over many files: against dictionaries, whatever the memory and the number of processes."""

import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from process_tree import run_watched

from camelid.corpus import shuffle
from camelid.corpus.engine import Engine, open_engine
from camelid.corpus.shuffle import Rule, mark, read_marks, write_keys

Rows = list[tuple[int, int]]
_CHILD = Path(__file__).with_name("shuffle_child.py")
_RULES: tuple[Rule, ...] = get_args(Rule)


def _expected(files: list[Rows], rule: Rule) -> list[list[bool]]:
    rows = [(key, second, number) for number, (key, second) in enumerate(row for rows in files for row in rows)]
    marked = set()
    for key, second, number in rows:
        same = [row for row in rows if row[0] == key and (rule == "not_lowest" or row[1] == second)]
        if rule == "repeated":
            is_marked = len(same) > 1
        elif rule == "later":
            is_marked = number != same[0][2]
        else:
            is_marked = number != min(same, key=lambda row: (row[1], row[2]))[2]
        if is_marked:
            marked.add(number)
    numbers = iter(range(len(rows)))
    return [[next(numbers) in marked for _ in file] for file in files]


def _mark(folder: Path, files: list[Rows], rule: Rule, memory_bytes: int, num_workers: int = 1) -> list[list[bool]]:
    places = [folder / f"keys-{number}" for number in range(len(files))]
    for place, rows in zip(places, files, strict=True):
        write_keys(place, np.array(rows, np.uint64).reshape(-1, 2), is_stable=rule != "repeated")
    with Engine(num_workers) as engine:
        num_keys, num_marked = mark(places, folder / "marks", rule, memory_bytes, engine)
    marks: list[list[bool]] = [read_marks(place, folder).tolist() for place in places]
    assert num_keys == sum(map(len, files))
    assert num_marked == sum(map(sum, marks))
    return marks


# Few distinct keys, at both ends of the range and in between.
_KEYS = st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1, *(n << 59 for n in range(32))])


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(st.lists(st.tuples(_KEYS, st.integers(0, 3)), max_size=12), min_size=1, max_size=4),
    rule=st.sampled_from(_RULES),
    memory_bytes=st.sampled_from([1, 400, 1 << 30]),
)
def test_marks_are_those_of_dictionaries(
    tmp_path_factory: pytest.TempPathFactory, files: list[Rows], rule: Rule, memory_bytes: int
) -> None:
    assert _mark(tmp_path_factory.mktemp("shuffle"), files, rule, memory_bytes) == _expected(files, rule)


def test_workers_and_memory_change_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    pool = rng.integers(0, 2**64, 4000, dtype=np.uint64)
    files = [[(int(key), 0) for key in rng.choice(pool, 3000)] for _ in range(5)]
    results = []
    for number, (memory_bytes, num_workers) in enumerate([(1 << 30, 1), (50_000, 1), (90_000, 2)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        results.append(_mark(folder, files, "later", memory_bytes, num_workers))
    assert results[0] == results[1] == results[2] == _expected_fast(files)


def _expected_fast(files: list[Rows]) -> list[list[bool]]:
    seen: set[int] = set()
    return [[key in seen or seen.add(key) is not None for key, _ in file] for file in files]  # type: ignore[func-returns-value]


def test_the_bound_counts_the_processes_themselves() -> None:
    """What workers may hold for keys, and what they and their parent hold besides, is no more than was given."""
    for memory_bytes in (1 << 29, 1 << 30, 1 << 34):
        with open_engine("processes", 64, memory_bytes) as engine:
            num_workers = engine.num_workers
        assert num_workers == min(64, memory_bytes // (320 << 20))
        num_processes = num_workers + 1 if num_workers > 1 else 1
        share = shuffle._share_memory(memory_bytes, num_workers)
        assert share >= 64 << 20
        assert num_processes * (160 << 20) + num_workers * share <= memory_bytes
    assert shuffle._share_memory(None, 7) == 1 << 29


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_hundred_million_keys_in_a_gigabyte(tmp_path: Path, num_workers: int) -> None:
    """All processes together, sampled while they work; every mark equal to numpy's answer over all keys at once."""
    rng = np.random.default_rng(1)
    files = []
    for number in range(50):
        place = tmp_path / f"keys-{number}"
        # Half of the keys come from a pool of 20 million and repeat, half do not.
        pooled = rng.integers(0, 20_000_000, 1_000_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        keys = rng.permutation(np.concatenate([pooled, rng.integers(0, 2**64, 1_000_000, dtype=np.uint64)]))
        np.save(tmp_path / f"raw-{number}.npy", keys)
        write_keys(place, keys, is_stable=False)
        files.append(place)
    command = [sys.executable, str(_CHILD), str(tmp_path), "50", str(1 << 30), str(num_workers)]
    told, peak_bytes = run_watched(command)
    assert peak_bytes < 1 << 30
    every = np.concatenate([np.load(tmp_path / f"raw-{number}.npy") for number in range(50)])
    order = np.argsort(every, kind="stable")
    is_equal = every[order][1:] == every[order][:-1]
    wanted = np.zeros(len(every), np.bool_)
    wanted[order[1:][is_equal]] = True
    wanted[order[:-1][is_equal]] = True
    assert told.split() == ["100000000", str(int(wanted.sum()))]
    found = np.concatenate([read_marks(place, tmp_path) for place in files])
    assert np.array_equal(found, wanted)
