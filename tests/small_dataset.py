"""Finished corpora, tokenizers and datasets of a few kilobytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camelid import artifact
from camelid.corpus.document import Document, Split, make_id, write_documents
from camelid.dataset.settings import DatasetSettings
from camelid.dataset.shards import Dataset, open_dataset
from camelid.dataset.tokenize import build_dataset
from camelid.tokenizer.load import Tokenizer, load_tokenizer
from camelid.tokenizer.settings import TokenizerSettings
from camelid.tokenizer.train import train_tokenizer

SEED = 5

_SENTENCE = "the llama climbs a steep mountain path while seventy snow clouds gather over quiet lakes"
_WORDS = _SENTENCE.split()


def make_texts(count: int, start: int = 0) -> list[str]:
    """Texts of 1 to 40 words and a line break now and then, no two alike."""
    texts = []
    for i in range(start, start + count):
        words = [_WORDS[(i * k + k) % len(_WORDS)] for k in range(1, 2 + i * 7 % 40)]
        texts.append(f"{i} {' '.join(words)}" + "\n" * (i % 3) + "é\U0001f999" * (i % 5 == 0))
    return texts


SOURCES = {"books": make_texts(60), "code": make_texts(25, 100), "wiki": make_texts(40, 200)}


def make_corpus(
    directory: Path, train: Mapping[str, list[str]] = SOURCES, held_out: Mapping[str, list[str]] | None = None
) -> Path:
    """A finished corpus with the sources' documents in turn, in two files where there are several."""
    with artifact.publish(directory, kind="corpus", settings={}, inputs={}) as draft:
        _write_split(draft.path, "train", train)
        _write_split(draft.path, "held_out", held_out or {name: texts[:3] for name, texts in train.items()})
    return directory


def make_tokenizer(directory: Path, vocab_size: int = 330) -> Path:
    """A finished tokenizer."""
    with artifact.publish(directory, kind="tokenizer", settings={}, inputs={}) as draft:
        texts = [text for texts in SOURCES.values() for text in texts]
        model = train_tokenizer(texts, TokenizerSettings(vocab_size=vocab_size), seed=1)
        (draft.path / "tokenizer.model").write_bytes(model)
    return directory


def make_dataset(root: Path, train: Mapping[str, list[str]] = SOURCES, **settings: Any) -> Dataset:
    """A finished dataset and what it is made from, below `root`."""
    make_corpus(root / "corpus", train)
    make_tokenizer(root / "tokenizer")
    build_dataset(DatasetSettings(**settings), root / "corpus", root / "tokenizer", root / "dataset", seed=SEED)
    return open_dataset(root / "dataset")


def tokenizer_of(root: Path) -> Tokenizer:
    """The tokenizer of a dataset made below `root`."""
    return load_tokenizer(root / "tokenizer")


def expected_stream(root: Path, texts: list[str]) -> list[int]:
    """All tokens of documents one after the other, encoded one by one."""
    tokenizer = tokenizer_of(root)
    return [token for text in texts for token in tokenizer.encode(text, bos=True, eos=True)]


def _write_split(folder: Path, split: Split, sources: Mapping[str, list[str]]) -> None:
    documents = [
        _make_document(source, index, texts[index])
        for index in range(max(map(len, sources.values()), default=0))
        for source, texts in sources.items()
        if index < len(texts)
    ]
    middle = len(documents) // 2
    write_documents(folder / f"{split}-00000.parquet", documents[:middle])
    write_documents(folder / f"{split}-00001.parquet", documents[middle:])


def _make_document(source: str, index: int, text: str) -> Document:
    path = f"{source}.txt"
    return Document(
        id=make_id(source, path, index), text=text, source=source, url=f"file:{path}#{index}", path=path, offset=index
    )
