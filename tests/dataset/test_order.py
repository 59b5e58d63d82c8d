import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.dataset.order import Ints, Order, SourceOrder, deal, permute, rows_of_rank

SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 97, 100, 1000, 1009, 1024, 4095, 4096, 4097, 65537]


def permutation(size: int, key: int) -> Ints:
    return permute(np.arange(size), np.full(size, size), np.full(size, key, dtype=np.uint64))


def make_order(sources: dict[str, tuple[float, int]], seed: int = 1) -> Order:
    """An order of sources with a share and a number of samples each."""
    return Order({name: SourceOrder(share, count) for name, (share, count) in sources.items()}, seed)


@pytest.mark.parametrize("size", SIZES)
def test_a_permutation_takes_every_index_once(size: int) -> None:
    for key in (0, 1, 2**64 - 1):
        assert sorted(permutation(size, key).tolist()) == list(range(size))


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_any_size_and_key_give_a_permutation(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permutation(size, key)), np.arange(size))


@pytest.mark.parametrize("size", [2**31, 2**40 + 1, 2**42 - 1, (2**21) ** 2])
def test_very_large_sizes_need_no_memory_and_stay_within_range(size: int) -> None:
    indices = np.unique(np.random.default_rng(0).integers(0, size, 20_000))
    result = permute(indices, np.full_like(indices, size), np.full(len(indices), 7, dtype=np.uint64))
    assert len(np.unique(result)) == len(indices)
    assert 0 <= result.min() < size * 0.01
    assert size * 0.99 < result.max() < size


@pytest.mark.parametrize("size", [2, 3, 5, 6, 12, 13])
def test_over_many_keys_an_index_goes_everywhere_equally_often(size: int) -> None:
    num_keys = 6000
    keys = np.arange(num_keys, dtype=np.uint64)
    for index in range(size):
        places = permute(np.full(num_keys, index), np.full(num_keys, size), keys)
        counts = np.bincount(places, minlength=size)
        expected = num_keys / size
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        # Mean and spread of chi-square with size - 1 degrees of freedom.
        assert chi_square < (size - 1) + 5 * math.sqrt(2 * (size - 1)), (index, counts)


def test_all_orders_of_four_come_about_equally_often() -> None:
    num_keys = 6000
    keys = np.arange(num_keys, dtype=np.uint64)
    columns = [permute(np.full(num_keys, i), np.full(num_keys, 4), keys) for i in range(4)]
    counts = Counter(zip(*(column.tolist() for column in columns), strict=True))
    assert len(counts) == 24
    assert sum((count - 250) ** 2 / 250 for count in counts.values()) < 23 + 5 * math.sqrt(46)


def test_a_permutation_looks_like_chance() -> None:
    size = 20_011
    places = permutation(size, 3)
    steps = np.diff(places)
    assert abs(np.corrcoef(np.arange(size), places)[0, 1]) < 5 / math.sqrt(size)
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 5 / math.sqrt(size)
    assert int((places == np.arange(size)).sum()) <= 8  # about 1 is expected
    assert int((np.abs(steps) == 1).sum()) <= 15  # about 2
    # Neighbouring keys have nothing to do with each other.
    assert int((places == permutation(size, 4)).sum()) <= 8


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 70))
def test_a_batch_is_the_same_for_any_number_of_processes(step: int, batch_size: int, world_size: int) -> None:
    order = make_order({"a": (0.7, 1000), "b": (0.2, 77), "c": (0.1, 3)})
    whole = order.locate(step, batch_size)
    parts = [order.locate(step, batch_size, rows_of_rank(batch_size, rank, world_size)) for rank in range(world_size)]
    for column in range(3):
        assert np.array_equal(np.concatenate([part[column] for part in parts]), whole[column])


def test_steps_do_not_depend_on_the_batch_size() -> None:
    order = make_order({"a": (0.5, 40), "b": (0.5, 9)})
    small = [order.locate(step, 4) for step in range(6)]
    large = order.locate(0, 24)
    for column in range(3):
        assert np.array_equal(np.concatenate([part[column] for part in small]), large[column])


def test_every_sample_comes_once_in_every_epoch() -> None:
    counts = {"a": 100, "b": 37, "c": 5}
    order = make_order({name: (1 + index, count) for index, (name, count) in enumerate(counts.items())})
    located = order.locate(0, 3000)
    for index, name in enumerate(order.sources):
        is_here = located.source == index
        seen = Counter(zip(located.epoch[is_here].tolist(), located.sample[is_here].tolist(), strict=True))
        assert set(seen.values()) == {1}
        last = int(located.epoch[is_here].max())
        assert last >= 1
        for epoch in range(last):
            assert {sample for e, sample in seen if e == epoch} == set(range(counts[name]))


def test_epochs_sources_and_seeds_have_orders_of_their_own() -> None:
    samples = make_order({"a": (1, 50)}).locate(0, 100).sample.reshape(2, 50)
    assert not np.array_equal(samples[0], samples[1])
    assert not np.array_equal(samples[0], make_order({"a": (1, 50)}, seed=2).locate(0, 50).sample)
    assert not np.array_equal(samples[0], make_order({"b": (1, 50)}).locate(0, 50).sample)
    # A further source leaves the order within the first one as it was.
    beside = make_order({"a": (1, 50), "b": (1, 50)}).locate(0, 100)
    assert np.array_equal(beside.sample[beside.source == 0], samples[0])


@settings(deadline=None)
@given(st.lists(st.integers(1, 2**20), min_size=1, max_size=12), st.integers(0, 10**9), st.integers(1, 400))
def test_dealing_is_proportional_over_any_stretch(weights: list[int], start: int, length: int) -> None:
    source, rank = deal(np.arange(start, start + length), tuple(weights))
    halvings = math.ceil(math.log2(len(weights))) if len(weights) > 1 else 0
    for index, weight in enumerate(weights):
        here = rank[source == index]
        due = length * weight / sum(weights)
        assert abs(len(here) - due) <= halvings + 1e-6
        # Ranks go up by one without a gap, and agree with what was dealt before.
        assert np.array_equal(here, np.arange(here[0], here[0] + len(here)) if len(here) else here)
        if len(here):
            assert abs(here[0] - start * weight / sum(weights)) <= halvings / 2 + 1e-6


def test_the_papers_mixture_is_kept_over_a_long_training() -> None:
    shares = {"cc": 67.0, "c4": 15.0, "github": 4.5, "wikipedia": 4.5, "books": 4.5, "arxiv": 2.5, "stack": 2.0}
    order = make_order({name: (share, 10_000) for name, share in shares.items()})
    for start in (0, 10**7):
        located = order.locate(start, 2000)
        for index, name in enumerate(order.sources):
            assert abs((located.source == index).sum() - 20 * shares[name]) <= 4, name
    # Ranks tell how much was drawn since the beginning: exactly the share, however long ago that was.
    located = order.locate(10**9, 1000)
    for index, name in enumerate(order.sources):
        is_here = located.source == index
        drawn = int((located.epoch[is_here] * 10_000).max())
        assert drawn / (1000 * 10**9) == pytest.approx(shares[name] / 100, abs=1e-5)


def test_a_share_too_small_to_be_told_apart_is_still_read() -> None:
    located = make_order({"a": (1.0, 10), "b": (1e-9, 10)}).locate(0, 2**20)
    assert int((located.source == 1).sum()) == 1


@pytest.mark.parametrize(("batch_size", "world_size"), [(8, 1), (8, 2), (8, 3), (3, 8)])
def test_rows_of_all_ranks_are_the_batch(batch_size: int, world_size: int) -> None:
    rows = [row for rank in range(world_size) for row in rows_of_rank(batch_size, rank, world_size)]
    assert rows == list(range(batch_size))
