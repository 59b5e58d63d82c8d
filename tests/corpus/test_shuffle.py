"""Marks of keys over many files: against dictionaries, whatever the memory and the number of processes."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.corpus.engine import Engine
from camelid.corpus.shuffle import Rule, mark, read_marks, write_keys

Rows = list[tuple[int, int]]
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
        write_keys(place, np.array(rows, np.uint64).reshape(-1, 2))
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


@pytest.mark.slow
def test_a_hundred_million_keys_in_a_gigabyte(tmp_path: Path) -> None:
    """Equal to numpy's answer, in a process whose memory the system keeps below 1 GiB beyond what numpy takes empty."""
    import resource

    rng = np.random.default_rng(1)
    files = []
    for number in range(50):
        place = tmp_path / f"keys-{number}"
        # Half of the keys come from a pool of 20 million and repeat, half do not.
        pooled = rng.integers(0, 20_000_000, 1_000_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        write_keys(place, rng.permutation(np.concatenate([pooled, rng.integers(0, 2**64, 1_000_000, dtype=np.uint64)])))
        files.append(place)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Engine(1) as engine:
        num_keys, num_marked = mark(files, tmp_path / "marks", "repeated", 700 << 20, engine)
    peak_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert max(peak_kilobytes, before) < 1 << 20
    every = np.concatenate([np.load(place.with_suffix(".npy"))[:, 0] for place in files])
    _, counts = np.unique(every, return_counts=True)
    assert num_keys == 100_000_000
    assert num_marked == int(counts[counts > 1].sum())
