"""The unit of a corpus, and the Parquet files that hold it."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")


@dataclass(frozen=True, slots=True)
class Document:
    """One text, with the way back to the raw record that it came from."""

    id: str
    """First 16 bytes of SHA-256 over source, path and offset, in hexadecimal."""
    text: str
    source: str
    """Name of the source in the recipe; mixture weights and held-out losses go by it."""
    url: str
    path: str
    """The raw file, relative to its source's folder; a member of an archive follows a `!`."""
    offset: int
    """Place of the record in the raw file: line or row number, or 0 where the file is one record."""
    title: str | None = None
    licence: str | None = None
    language: str | None = None


SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("language", pa.string()),
    ]
)


def make_id(source: str, path: str, offset: int) -> str:
    """The identity of a raw record: the same in every build, whatever happens to its text."""
    return hashlib.sha256(f"{source}\0{path}\0{offset}".encode()).hexdigest()[:32]


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """Writes one zstd Parquet file; the same documents give the same bytes."""
    rows = [{name: getattr(document, name) for name in SCHEMA.names} for document in documents]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd", row_group_size=1024)


def read_documents(corpus: Path, split: Split) -> Iterator[Document]:
    """Yields the documents of one split of a finished corpus in their stored order."""
    for path in sorted(corpus.glob(f"{split}-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                yield Document(**row)
