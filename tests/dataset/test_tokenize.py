import json
from pathlib import Path

import pytest
from small_dataset import SEED, SOURCES, expected_stream, make_corpus, make_dataset, make_tokenizer

from camelid import artifact
from camelid.dataset import tokenize
from camelid.dataset.settings import DatasetSettings
from camelid.dataset.shards import open_dataset
from camelid.dataset.tokenize import build_dataset
from camelid.errors import UserError
from camelid.settings import validate


def test_facts_count_documents_tokens_and_bytes(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    manifest = artifact.verify(tmp_path / "dataset", "dataset")
    assert manifest.inputs == {
        "corpus": artifact.read_manifest(tmp_path / "corpus").digest,
        "tokenizer": artifact.read_manifest(tmp_path / "tokenizer").digest,
    }
    assert manifest.seed == SEED
    assert manifest.facts["vocab_size"] == dataset.vocab_size == 330
    assert manifest.facts["dtype"] == "uint16"
    assert manifest.facts["splits"]["train"] == {
        source: {
            "num_documents": len(texts),
            "num_tokens": len(expected_stream(tmp_path, texts)),
            "num_bytes": sum(len(text.encode()) for text in texts),
        }
        for source, texts in SOURCES.items()
    }
    assert {source: counts["num_documents"] for source, counts in manifest.facts["splits"]["held_out"].items()} == {
        "books": 3,
        "code": 3,
        "wiki": 3,
    }


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path, shard_tokens=300)
    monkeypatch.setattr(tokenize, "_BATCH_CHARACTERS", 50)
    settings = DatasetSettings(shard_tokens=300)
    again = build_dataset(settings, tmp_path / "corpus", tmp_path / "tokenizer", tmp_path / "deep/again", seed=SEED)
    assert again.digest == artifact.read_manifest(tmp_path / "dataset").digest
    assert len(again.files) > 20


def test_a_mixture_of_other_sources_is_refused_before_the_work(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus")
    make_tokenizer(tmp_path / "tokenizer")
    settings = DatasetSettings(mixture={"book": 1, "code": 1, "wiki": 1})
    with pytest.raises(UserError, match=r"dataset\.mixture names 'book', .* did you mean 'books'"):
        build_dataset(settings, tmp_path / "corpus", tmp_path / "tokenizer", tmp_path / "dataset", seed=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "tokenizer"]


def test_a_corpus_without_training_text_is_refused(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", train={}, held_out={"books": ["text"]})
    make_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="corpus holds no training document"):
        build_dataset(DatasetSettings(), tmp_path / "corpus", tmp_path / "tokenizer", tmp_path / "dataset", seed=1)


def test_a_source_without_held_out_text_has_no_held_out_stream(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", held_out={"wiki": ["one text"]})
    make_tokenizer(tmp_path / "tokenizer")
    build_dataset(DatasetSettings(), tmp_path / "corpus", tmp_path / "tokenizer", tmp_path / "dataset", seed=1)
    assert open_dataset(tmp_path / "dataset").held_out_sources == ["wiki"]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"a": 0}, "mixture gives no source a share above 0"),
        ({"a": -1, "b": 2}, r"mixture.a must be at least 0.0, not -1"),
        ({"a": "much"}, r"mixture.a must be a number"),
    ],
)
def test_shares_that_are_none_are_refused(mixture: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(DatasetSettings, json.loads(json.dumps({"mixture": mixture})), "recipe.toml")
