"""The unit of a corpus, and the Parquet files that hold it."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from camelid.errors import UserError

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")

_ROWS_PER_GROUP = 512
_CHARACTERS_PER_GROUP = 16 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """One text, with the way back to the raw record that it came from."""

    id: str
    """First 16 bytes of SHA-256 over source, path, offset and part, in hexadecimal."""
    text: str
    source: str
    """Name of the source in the recipe; mixture shares and held-out losses go by it."""
    url: str
    path: str
    """The raw file, relative to its source's folder; a member of an archive follows a `!`."""
    offset: int
    """Number of the record in the raw file, from 0."""
    part: int = 0
    """Which piece of a record that was too long for one document, from 0."""
    title: str | None = None
    licence: str | None = None
    language: str | None = None
    language_score: float | None = None
    """Probability of `language`."""
    perplexity: float | None = None
    """Of the n-gram model of its language."""
    reference_score: float | None = None
    """Probability of being a page that Wikipedia would cite."""

    def with_text(self, text: str) -> "Document":
        """The same document with another text; `dataclasses.replace` takes several times as long."""
        identity, _, *rest = _ALL_FIELDS(self)
        return Document(identity, text, *rest)


SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("part", pa.int64(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("language", pa.string()),
        pa.field("language_score", pa.float64()),
        pa.field("perplexity", pa.float64()),
        pa.field("reference_score", pa.float64()),
    ]
)


_ALL_FIELDS = attrgetter(*SCHEMA.names)


def make_id(source: str, path: str, offset: int, part: int = 0) -> str:
    """The identity of a raw record or a part of it: the same in every build, whatever happens to its text."""
    return hashlib.sha256(f"{source}\0{path}\0{offset}\0{part}".encode()).hexdigest()[:32]


def write_documents(path: Path, documents: Iterable[Document], compression: str = "zstd") -> None:
    """Writes one Parquet file; the same documents give the same bytes."""
    names = SCHEMA.names
    iterator = iter(documents)
    with pq.ParquetWriter(path, SCHEMA, compression=compression) as writer:
        while group := _take_group(iterator):
            columns = [pa.array([getattr(item, name) for item in group], SCHEMA.field(name).type) for name in names]
            writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))


def _take_group(documents: Iterator[Document]) -> list[Document]:
    """The next documents that make a row group, limited in number and in text."""
    group: list[Document] = []
    num_characters = 0
    for document in islice(documents, _ROWS_PER_GROUP):
        group.append(document)
        num_characters += len(document.text)
        if num_characters >= _CHARACTERS_PER_GROUP:
            break
    return group


def write_rows(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Writes rows as zstd Parquet, a row group at a time."""
    iterator = iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(iterator, _ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def read_documents(corpus: Path, split: Split) -> Iterator[Document]:
    """Yields the documents of one split of a finished corpus in their stored order."""
    for path in sorted(corpus.glob(f"{split}-*.parquet")):
        yield from read_document_file(path)


def read_document_file(path: Path) -> Iterator[Document]:
    """Yields the documents of one Parquet file.

    Raises:
        UserError: another version of Camelid wrote it, with other columns.
    """
    with pq.ParquetFile(path) as file:
        missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
        if missing:
            raise UserError(
                f"{path} is of a corpus that another version of Camelid built: it has no column {missing[0]!r}; build "
                "the corpus again (--rebuild)"
            )
        for batch in file.iter_batches(batch_size=_ROWS_PER_GROUP, columns=SCHEMA.names):
            for values in zip(*(batch.column(name).to_pylist() for name in SCHEMA.names), strict=True):
                yield Document(*values)


def count_documents(corpus: Path, split: Split) -> dict[str, int]:
    """Number of documents of one split of a finished corpus by source, sources sorted by name; reads no texts."""
    counts: Counter[str] = Counter()
    for path in corpus.glob(f"{split}-*.parquet"):
        for batch in pq.ParquetFile(path).iter_batches(columns=["source"]):
            counts.update(batch.column("source").to_pylist())
    return dict(sorted(counts.items()))
