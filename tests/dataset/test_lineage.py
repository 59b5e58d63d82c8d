from pathlib import Path

import pytest
from small_dataset import SOURCES, make_dataset, tokenizer_of

from camelid.dataset.lineage import trace
from camelid.dataset.loader import Loader
from camelid.dataset.shards import Dataset

T, BATCH, SEED = 24, 6, 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lineage")


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return make_dataset(root, shard_tokens=50)


@pytest.mark.parametrize("step", [0, 1, 17, 1000])
def test_a_sample_is_the_parts_of_the_documents_that_it_is_traced_to(root: Path, dataset: Dataset, step: int) -> None:
    tokenizer = tokenizer_of(root)
    rows = trace(dataset, step, sequence_length=T, batch_size=BATCH, seed=SEED)
    batch = Loader(dataset, T, BATCH, SEED).batch(step).tolist()
    assert [row["sample"] for row in rows] == list(range(BATCH))
    for row, sample in zip(rows, batch, strict=True):
        tokens: list[int] = []
        text = ""
        for part in row["documents"]:
            original = SOURCES[row["source"]][part["offset"]]
            assert part["path"] == f"{row['source']}.txt"
            assert part["url"] == f"file:{row['source']}.txt#{part['offset']}"
            ids = tokenizer.encode(original, bos=True, eos=True)
            assert part["num_tokens"] >= 1
            tokens += ids[part["first_token"] : part["first_token"] + part["num_tokens"]]
            text += _decode_part(root, ids, part["first_token"], part["num_tokens"])
        assert tokens == sample
        assert row["num_tokens"] == len(sample) == T + 1
        assert text.replace("\ufffd", "") == _decode_part(root, sample, 0, len(sample)).replace("\ufffd", "")
        assert row["epoch"] == Loader(dataset, T, BATCH, SEED).locate(step).epoch[row["sample"]]


def test_samples_that_end_with_a_document_are_traced_to_it_alone(dataset: Dataset) -> None:
    rows = trace(dataset, 0, sequence_length=1, batch_size=500, seed=SEED)
    counts = [[part["num_tokens"] for part in row["documents"]] for row in rows]
    assert {tuple(count) for count in counts} == {(2,), (1, 1)}


def test_parts_lie_in_the_documents_texts(root: Path, dataset: Dataset) -> None:
    for row in trace(dataset, 4, sequence_length=T, batch_size=BATCH, seed=SEED):
        for part in row["documents"]:
            original = SOURCES[row["source"]][part["offset"]]
            stream = dataset.stream("train", row["source"])
            start = int(stream.offsets()[part["offset"]]) + part["first_token"]
            read = stream.read(start, start + part["num_tokens"]).tolist()
            assert tokenizer_of(root).decode(read).strip("\ufffd ") in original


def _decode_part(root: Path, ids: list[int], first: int, count: int) -> str:
    """The text of some of a document's ids, read in the middle of a text so that no space is dropped."""
    decoder = tokenizer_of(root).stream_decoder(tokenizer_of(root).encode("a"))
    return "".join([*(decoder.push(token) for token in ids[first : first + count]), decoder.flush()])
