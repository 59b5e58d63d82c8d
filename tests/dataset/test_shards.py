import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_dataset import SOURCES, expected_stream, make_dataset, make_texts

from camelid import artifact
from camelid.dataset import shards
from camelid.dataset.shards import choose_dtype, open_dataset
from camelid.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    make_dataset(root, shard_tokens=100)
    return root


@pytest.mark.parametrize(("vocab_size", "name"), [(400, "<u2"), (65_536, "<u2"), (65_537, "<u4"), (128_256, "<u4")])
def test_tokens_take_two_bytes_where_every_id_fits(vocab_size: int, name: str) -> None:
    assert choose_dtype(vocab_size) == np.dtype(name)


def test_files_are_the_documents_tokens_and_nothing_else(root: Path) -> None:
    for source, texts in SOURCES.items():
        expected = expected_stream(root, texts)
        files = sorted((root / "dataset/train").glob(f"{source}-*.bin"))
        assert [file.stat().st_size for file in files[:-1]] == [200] * (len(expected) // 100)
        assert np.frombuffer(b"".join(file.read_bytes() for file in files), dtype="<u2").tolist() == expected


def test_offsets_and_rows_describe_the_documents(root: Path) -> None:
    stream = open_dataset(root / "dataset").stream("train", "code")
    lengths = [len(expected_stream(root, [text])) for text in SOURCES["code"]]
    assert np.fromfile(root / "dataset/train/code.offsets.bin", dtype="<u8").tolist() == [0, *np.cumsum(lengths)]
    assert stream.offsets().tolist() == [0, *np.cumsum(lengths)]
    rows = pq.read_table(root / "dataset/train/code.documents.parquet").to_pylist()
    assert rows == list(stream.read_rows())
    assert rows[7] == stream.read_row(7)
    assert [row["num_tokens"] for row in rows] == lengths
    assert [row["num_bytes"] for row in rows] == [len(text.encode()) for text in SOURCES["code"]]
    assert [(row["path"], row["url"], row["offset"]) for row in rows[:2]] == [
        ("code.txt", "file:code.txt#0", 0),
        ("code.txt", "file:code.txt#1", 1),
    ]


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 100), (99, 101), (100, 200), (30, 430), (150, 151), (7, 7)])
def test_a_stream_reads_over_shard_borders(root: Path, start: int, stop: int) -> None:
    stream = open_dataset(root / "dataset").stream("train", "books")
    expected = expected_stream(root, SOURCES["books"])
    assert stream.num_tokens == len(expected) > 430
    assert stream.read(start, stop).tolist() == expected[start:stop]
    assert stream.read(stream.num_tokens - 120, stream.num_tokens).tolist() == expected[-120:]


def test_rows_beyond_one_row_group_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_ROWS_IN_GROUP", 7)
    stream = make_dataset(tmp_path, {"only": make_texts(30)}).stream("train", "only")
    assert [stream.read_row(index)["offset"] for index in (0, 6, 7, 20, 29)] == [0, 6, 7, 20, 29]
    assert [row["offset"] for row in stream.read_rows()] == list(range(30))


def test_held_out_documents_come_whole_and_in_the_corpus_order(root: Path) -> None:
    dataset = open_dataset(root / "dataset")
    assert dataset.sources == dataset.held_out_sources == ["books", "code", "wiki"]
    for source in dataset.held_out_sources:
        documents = list(dataset.read_held_out(source))
        assert [size for size, _ in documents] == [len(text.encode()) for text in SOURCES[source][:3]]
        assert [tokens.tolist() for _, tokens in documents] == [
            expected_stream(root, [text]) for text in SOURCES[source][:3]
        ]


def test_an_unknown_source_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"no source 'poems' in its held_out split; it has books, code, wiki"):
        open_dataset(root / "dataset").stream("held_out", "poems")


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path, shard_tokens=100)
    shard = tmp_path / "dataset/train/books-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    for read in (open_dataset, artifact.verify):
        with pytest.raises(UserError, match=r"books-00001.bin holds 198 bytes, but its manifest says 200 with SHA-256"):
            read(tmp_path / "dataset")


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path, shard_tokens=100)
    (tmp_path / "dataset/held_out/wiki-00000.bin").unlink()
    with pytest.raises(UserError, match=r"wiki-00000.bin is missing"):
        open_dataset(tmp_path / "dataset")


def test_a_changed_shard_of_the_right_length_is_found_by_its_hash(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    shard = tmp_path / "dataset/train/books-00000.bin"
    damaged = bytearray(shard.read_bytes())
    damaged[10] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(UserError, match=r"the file was changed or damaged"):
        artifact.verify(tmp_path / "dataset", "dataset")


def test_a_manifest_that_promises_other_tokens_is_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    path = tmp_path / "dataset/manifest.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    num_tokens = tree["facts"]["splits"]["train"]["books"]["num_tokens"]
    tree["facts"]["splits"]["train"]["books"]["num_tokens"] += 10
    path.write_text(json.dumps(tree), encoding="utf-8")
    message = f"the train shards of 'books' hold {2 * num_tokens:,} bytes, but {num_tokens + 10:,} tokens take"
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path / "dataset")
    del tree["facts"]["splits"]
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest.json is damaged: it lacks 'splits'"):
        open_dataset(tmp_path / "dataset")


def test_another_product_is_no_dataset(root: Path) -> None:
    with pytest.raises(UserError, match="holds a corpus, not a dataset"):
        open_dataset(root / "corpus")
