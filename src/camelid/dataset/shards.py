"""Token shards: flat little-endian files that map into memory, one stream of tokens per split and source.

<split>/<source>-00000.bin           tokens, uint16 or uint32, `shard_tokens` in each file but the last
<split>/<source>.offsets.bin         uint64: first token of each document in the stream, then the stream's length
<split>/<source>.documents.parquet   a row per document, in the same order: where it comes from and how large it is
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from camelid import artifact
from camelid.artifact import Manifest
from camelid.corpus.document import Document, Split
from camelid.errors import UserError

KIND = "dataset"

Tokens = NDArray[np.unsignedinteger[Any]]
Row = dict[str, Any]

_OFFSET_DTYPE = np.dtype("<u8")
_LARGEST_UINT16_VOCAB = 1 << 16
_ROWS_IN_GROUP = 4096
# Every mapped file holds a file descriptor, of which a process commonly has 1024.
_MAPPED_SHARDS = 256
_KEPT_ROW_GROUPS = 8

_DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("part", pa.int64(), nullable=False),
        pa.field("num_tokens", pa.int64(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
    ]
)


def choose_dtype(vocab_size: int) -> np.dtype[Any]:
    """The type of a stored token: little-endian uint16 where every id fits, uint32 elsewhere."""
    return np.dtype("<u2" if vocab_size <= _LARGEST_UINT16_VOCAB else "<u4")


class StreamWriter:
    """Writes the documents of one source and split, as they come, with memory for a few of them."""

    def __init__(self, folder: Path, source: str, shard_tokens: int, dtype: np.dtype[Any]):
        self.num_tokens = 0
        self.num_documents = 0
        self.num_bytes = 0
        self._stem = folder / source
        self._shard_tokens = shard_tokens
        self._dtype = dtype
        self._shard: BinaryIO | None = None
        self._rows: list[Row] = []
        self._offsets = _offsets_path(self._stem).open("wb")
        self._documents = pq.ParquetWriter(_documents_path(self._stem), _DOCUMENT_SCHEMA, compression="zstd")

    def write(self, document: Document, ids: Sequence[int]) -> None:
        """Appends a document's tokens, BOS and EOS among them."""
        tokens = np.array(ids, dtype=self._dtype)
        num_bytes = len(document.text.encode())
        self._offsets.write(np.array(self.num_tokens, dtype=_OFFSET_DTYPE).tobytes())
        self._rows.append(
            {
                "id": document.id,
                "url": document.url,
                "path": document.path,
                "offset": document.offset,
                "part": document.part,
                "num_tokens": len(tokens),
                "num_bytes": num_bytes,
            }
        )
        if len(self._rows) == _ROWS_IN_GROUP:
            self._write_rows()
        self.num_documents += 1
        self.num_bytes += num_bytes
        self._write_tokens(tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._offsets.write(np.array(self.num_tokens, dtype=_OFFSET_DTYPE).tobytes())
        self._offsets.close()
        self._write_rows()
        self._documents.close()
        if self._shard is not None:
            self._shard.close()

    def _write_tokens(self, tokens: Tokens) -> None:
        while len(tokens):
            index, used = divmod(self.num_tokens, self._shard_tokens)
            if used == 0:
                if self._shard is not None:
                    self._shard.close()
                self._shard = _shard_path(self._stem, index).open("wb")
            assert self._shard is not None
            part = tokens[: self._shard_tokens - used]
            self._shard.write(part.tobytes())
            self.num_tokens += len(part)
            tokens = tokens[len(part) :]

    def _write_rows(self) -> None:
        if self._rows:
            self._documents.write_table(pa.Table.from_pylist(self._rows, schema=_DOCUMENT_SCHEMA))
            self._rows.clear()


class TokenStream:
    """All tokens of one source and split, one document after the other; nothing is read before it is asked for."""

    def __init__(self, stem: Path, num_tokens: int, shard_tokens: int, dtype: np.dtype[Any]):
        self.num_tokens = num_tokens
        self._stem = stem
        self._shard_tokens = shard_tokens
        self._dtype = dtype
        self._shard = lru_cache(maxsize=_MAPPED_SHARDS)(self._map_shard)
        self._row_group = lru_cache(maxsize=_KEPT_ROW_GROUPS)(self._read_row_group)

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens `start` to `stop`, a view of the file where they lie in one."""
        first, begin = divmod(start, self._shard_tokens)
        end = begin + stop - start
        if end <= self._shard_tokens:
            return self._shard(first)[begin:end]
        parts = [self._shard(first)[begin:]]
        for index in range(first + 1, -(-stop // self._shard_tokens)):
            parts.append(self._shard(index)[: stop - index * self._shard_tokens])
        return np.concatenate(parts)

    def offsets(self) -> NDArray[np.uint64]:
        """First token of each document, then the number of tokens: [num_documents + 1]."""
        return _map(_offsets_path(self._stem), _OFFSET_DTYPE)

    def read_row(self, document: int) -> Row:
        """The row of one document, by its place in the stream; columns as in `documents.parquet`."""
        group, row = divmod(document, _ROWS_IN_GROUP)
        found: Row = self._row_group(group).slice(row, 1).to_pylist()[0]
        return found

    def read_rows(self) -> Iterator[Row]:
        """The rows of all documents in turn."""
        with pq.ParquetFile(_documents_path(self._stem)) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()

    def _map_shard(self, index: int) -> Tokens:
        return _map(_shard_path(self._stem, index), self._dtype)

    def _read_row_group(self, group: int) -> pa.Table:
        with pq.ParquetFile(_documents_path(self._stem)) as file:
            return file.read_row_group(group)


class Dataset:
    """A finished dataset."""

    def __init__(self, path: Path, manifest: Manifest):
        facts = manifest.facts
        self.path = path
        self.manifest = manifest
        self.vocab_size: int = facts["vocab_size"]
        self._splits: dict[str, dict[str, Row]] = facts["splits"]
        self._dtype = choose_dtype(self.vocab_size)
        self._streams = {
            (split, source): TokenStream(
                path / split / source, counts["num_tokens"], facts["shard_tokens"], self._dtype
            )
            for split, sources in self._splits.items()
            for source, counts in sources.items()
        }

    @property
    def sources(self) -> list[str]:
        """Names of the sources with training documents, sorted."""
        return sorted(self._splits["train"])

    @property
    def held_out_sources(self) -> list[str]:
        """Names of the sources with held-out documents, sorted."""
        return sorted(self._splits["held_out"])

    @property
    def mixture(self) -> dict[str, float]:
        """Shares as the settings give them."""
        mixture: dict[str, float] = self.manifest.settings["mixture"]
        return mixture

    def num_tokens(self, split: Split = "train") -> dict[str, int]:
        """Tokens of each source."""
        return {source: counts["num_tokens"] for source, counts in self._splits[split].items()}

    def stream(self, split: Split, source: str) -> TokenStream:
        """The tokens of one source.

        Raises:
            UserError: the split has no such source.
        """
        if (split, source) not in self._streams:
            known = ", ".join(sorted(self._splits[split])) or "none"
            raise UserError(f"{self.path} has no source {source!r} in its {split} split; it has {known}")
        return self._streams[split, source]

    def read_held_out(self, source: str) -> Iterator[tuple[int, Tokens]]:
        """Yields UTF-8 bytes of the text and tokens, BOS to EOS, of each held-out document in the corpus's order."""
        stream = self.stream("held_out", source)
        start = 0
        for row in stream.read_rows():
            stop = start + row["num_tokens"]
            yield row["num_bytes"], stream.read(start, stop)
            start = stop


def open_dataset(path: Path) -> Dataset:
    """Opens a finished dataset.

    Raises:
        UserError: there is none, a file of it is missing or cut short, or it does not hold what its manifest says.
    """
    manifest = artifact.read_manifest(path, KIND)
    try:
        dataset = Dataset(path, manifest)
        _check_lengths(dataset, manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / artifact.MANIFEST_NAME} is damaged: it lacks {error}; build {path} again") from error
    return dataset


def _check_lengths(dataset: Dataset, manifest: Manifest) -> None:
    dtype = choose_dtype(dataset.vocab_size)
    for split, sources in manifest.facts["splits"].items():
        for source, counts in sources.items():
            stem = Path(split) / source
            expected = _shard_bytes(counts["num_tokens"], manifest.facts["shard_tokens"], dtype)
            found = [
                stored.num_bytes
                for index in range(len(expected))
                if (stored := manifest.files.get(_shard_path(stem, index).as_posix()))
            ]
            if found != expected:
                raise UserError(
                    f"{dataset.path}: the {split} shards of {source!r} hold {sum(found):,} bytes, but "
                    f"{counts['num_tokens']:,} tokens take {sum(expected):,}; build it again"
                )


def _shard_bytes(num_tokens: int, shard_tokens: int, dtype: np.dtype[Any]) -> list[int]:
    full, rest = divmod(num_tokens, shard_tokens)
    return [size * dtype.itemsize for size in [shard_tokens] * full + [rest] * (rest > 0)]


def _shard_path(stem: Path, index: int) -> Path:
    return stem.with_name(f"{stem.name}-{index:05}.bin")


def _offsets_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.offsets.bin")


def _documents_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.documents.parquet")


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    # Slices of numpy's own memmap class are slow; a plain array over the same pages is not.
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)
