from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_dataset import SOURCES, expected_stream, make_dataset, make_texts

from camelid.dataset.loader import Loader
from camelid.dataset.shards import Dataset
from camelid.errors import UserError

T = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loader")


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return make_dataset(root, shard_tokens=37)


def test_rows_are_the_samples_that_the_order_names(root: Path, dataset: Dataset) -> None:
    streams = {source: expected_stream(root, texts) for source, texts in SOURCES.items()}
    loader = Loader(dataset, T, 8, seed=3)
    for step in range(20):
        located = loader.locate(step)
        batch = loader.batch(step)
        assert batch.shape == (8, T + 1)
        for row, source, sample in zip(batch.tolist(), located.source, located.sample, strict=True):
            start = int(sample) * T
            assert row == streams[loader.order.sources[source]][start : start + T + 1]


@pytest.mark.usefixtures("dataset")
@pytest.mark.parametrize("remainder", [0, 1, 2])
def test_an_epoch_reads_every_whole_sample_once(root: Path, tmp_path: Path, remainder: int) -> None:
    candidates = (make_texts(count) for count in range(20, 200))
    texts = next(t for t in candidates if len(expected_stream(root, t)) % T == remainder)
    stream = expected_stream(root, texts)
    only = make_dataset(tmp_path, {"only": texts})
    num_samples = len(range(0, len(stream) - T, T))
    first, second = (Loader(only, T, num_samples, seed=1).batch(step) for step in (0, 1))
    expected = sorted(stream[i * T : i * T + T + 1] for i in range(num_samples))
    assert sorted(first.tolist()) == sorted(second.tolist()) == expected
    assert first.tolist() != second.tolist()


def test_sources_come_in_their_shares(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, mixture={"books": 0, "code": 3, "wiki": 1})
    loader = Loader(dataset, T, 100, seed=1)
    counts = np.bincount(loader.locate(5).source)
    assert loader.order.sources == ("code", "wiki")
    assert np.abs(counts - [75, 25]).max() <= 1


@settings(max_examples=25, deadline=None)
@given(step=st.integers(0, 10**6), world_size=st.integers(1, 9))
def test_processes_share_one_batch(dataset: Dataset, step: int, world_size: int) -> None:
    parts = [Loader(dataset, T, 7, 3, rank=rank, world_size=world_size).batch(step) for rank in range(world_size)]
    assert np.array_equal(np.concatenate(parts), Loader(dataset, T, 7, 3).batch(step))


def test_a_step_does_not_depend_on_the_steps_before(dataset: Dataset) -> None:
    forwards = [Loader(dataset, T, 4, seed=3).batch(step).tolist() for step in range(5)]
    loader = Loader(dataset, T, 4, seed=3)
    assert [loader.batch(step).tolist() for step in reversed(range(5))] == forwards[::-1]
    assert Loader(dataset, T, 4, seed=4).batch(0).tolist() != forwards[0]


def test_a_sequence_longer_than_the_data_is_refused_with_the_numbers(dataset: Dataset) -> None:
    longest = dataset.num_tokens()["code"] - 1
    assert Loader(dataset, longest, 1, seed=1).batch(0).shape == (1, longest + 1)
    message = rf"sequence length {longest + 1:,} .* 'code' has {longest + 1:,} training tokens .* takes {longest + 2:,}"
    with pytest.raises(UserError, match=message):
        Loader(dataset, longest + 1, 1, seed=1)
