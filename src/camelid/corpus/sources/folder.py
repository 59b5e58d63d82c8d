"""Any folder of text files, JSON lines and Parquet, plain or compressed, also inside tar archives."""

import gzip
import io
import json
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from camelid.corpus.settings import FolderSource
from camelid.corpus.sources.archive import READ_ERRORS, TAR_SUFFIXES, iterate_tar, open_zst
from camelid.corpus.sources.listing import list_all
from camelid.corpus.sources.parquet import decode_rows
from camelid.corpus.sources.record import Found, RawRecord, Unreadable, decode

_COMPRESSED = (".gz", ".zst")


def list_files(source: FolderSource, root: Path) -> list[str]:
    """All files; those of another suffix are told when they are read."""
    return list_all(root)


def read_file(source: FolderSource, root: Path, path: str) -> Found:
    """The records of one file; what cannot be read is yielded as such, and the rest is kept."""
    if path.endswith(TAR_SUFFIXES):
        yield from _read_archive(source, root, path)
        return
    if path.endswith(".parquet"):
        yield from _read_parquet(source, root / path, path)
        return
    with (root / path).open("rb") as file:
        yield from _read_stream(source, file, path)


def _read_stream(source: FolderSource, file: IO[bytes], path: str) -> Found:
    name = path
    stream: IO[bytes] = file
    if path.endswith(".gz"):
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=file))
    elif path.endswith(".zst"):
        stream = open_zst(file)
    if path.endswith(_COMPRESSED):
        name = path.rpartition(".")[0]
    if name.endswith(".jsonl"):
        yield from _read_json_lines(source, stream, path)
    elif name.endswith(source.suffixes):
        yield from _read_text(source, stream, path)
    else:
        yield Unreadable(path, 0, "unrecognised suffix", f"text files here end in {', '.join(source.suffixes)}")


def _read_text(source: FolderSource, stream: IO[bytes], path: str) -> Found:
    data = bytearray()
    damage: Exception | None = None
    try:
        # One read of the compressed file at a time: what stands before a damaged place comes through.
        while piece := cast(io.BufferedIOBase, stream).read1(1 << 16):
            data += piece
    except READ_ERRORS as error:
        damage = error
    try:
        text = decode(bytes(data))
    except UnicodeDecodeError as error:
        # A cut in the middle of a character is the damage that is told below, not a wrong encoding.
        if damage is None or error.start < len(data) - 4:
            yield Unreadable(path, 0, "not UTF-8", f"byte {error.start}; convert the file to UTF-8")
            return
        text = decode(bytes(data[: error.start]))
    texts = text.split(source.separator) if source.separator else [text]
    for offset, part in enumerate(texts):
        if part.strip():
            yield RawRecord(path, offset, part, url=path)
    if damage is not None:
        yield Unreadable(path, len(texts), "damaged", f"{damage} after {len(data):,} bytes, which were kept")


def _read_json_lines(source: FolderSource, stream: IO[bytes], path: str) -> Found:
    offset = 0
    try:
        for offset, line in enumerate(stream):
            if line.strip():
                yield _parse_line(source, line, path, offset)
    except READ_ERRORS as error:
        yield Unreadable(path, offset + 1, "damaged", f"{error} after line {offset + 1:,}; the lines before were kept")


def _parse_line(source: FolderSource, line: bytes, path: str, offset: int) -> RawRecord | Unreadable:
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        return Unreadable(path, offset, "not UTF-8", f"line {offset + 1}, byte {error.start}")
    except (ValueError, RecursionError) as error:
        return Unreadable(path, offset, "not JSON", f"line {offset + 1}: {error}")
    text = record.get(source.text_field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        return Unreadable(path, offset, "no text", f"line {offset + 1} has no string {source.text_field!r}")
    return _make_record(record, text, path, offset)


def _make_record(record: dict[str, object], text: str, path: str, offset: int) -> RawRecord | Unreadable:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return Unreadable(path, offset, "not UTF-8", f"character {error.start} is half of a surrogate pair")
    url, title = record.get("url"), record.get("title")
    return RawRecord(
        path,
        offset,
        text.replace("\r\n", "\n").replace("\r", "\n"),
        url=url if isinstance(url, str) else path,
        title=title if isinstance(title, str) else None,
    )


def _read_parquet(source: FolderSource, file: Path, path: str) -> Found:
    offset = 0
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if source.text_field not in names:
                detail = f"no column {source.text_field!r}; there are {', '.join(names)}"
                yield Unreadable(path, 0, "no text", detail)
                return
            columns = [name for name in (source.text_field, "url", "title") if name in names]
            for batch in table.iter_batches(batch_size=256, columns=columns):
                for row in decode_rows(batch):
                    if isinstance(row, UnicodeDecodeError):
                        yield Unreadable(path, offset, "not UTF-8", f"row {offset}, byte {row.start} of a field")
                    elif isinstance(text := row[source.text_field], str):
                        yield _make_record(row, text, path, offset)
                    else:
                        yield Unreadable(path, offset, "no text", f"row {offset} has none")
                    offset += 1
    except (pa.ArrowException, OSError) as error:
        yield Unreadable(path, offset, "damaged", f"{error}")


def _read_archive(source: FolderSource, root: Path, path: str) -> Found:
    num_members = 0
    try:
        for member in iterate_tar(root / path):
            yield from _read_stream(source, member.stream, f"{path}!{member.name}")
            num_members += 1
    except READ_ERRORS as error:
        yield Unreadable(path, num_members, "damaged", f"{error} after {num_members} members, which were kept")
