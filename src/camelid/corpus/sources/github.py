"""Source code under a free licence: repositories as folders or archives, and BigQuery exports (paper section 2.1)."""

import contextlib
import functools
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from camelid.corpus.source_settings import GithubSource
from camelid.corpus.sources.archive import READ_ERRORS, TAR_SUFFIXES, iterate_tar, read_at_most
from camelid.corpus.sources.github_header import strip_header
from camelid.corpus.sources.github_licence import (
    MAX_LICENCE_BYTES,
    collect,
    foreign_licences,
    is_allowed,
    is_licence_file,
    nearest_licence,
)
from camelid.corpus.sources.github_quality import find_fault, is_wanted
from camelid.corpus.sources.parquet import decode_rows
from camelid.corpus.sources.record import Found, RawRecord, Refused, Unreadable, decode

STEP = "code"
LICENCE_STEP = "licence"
_EXPORTS = (".jsonl", ".jsonl.gz", ".json.gz", ".parquet")
_MAX_LINE_BYTES = 64 << 20
_HIDDEN_FOLDERS = {".git", ".hg", ".svn"}


def list_files(source: GithubSource, root: Path) -> list[str]:
    """All files below a folder, sorted; what version control keeps for itself is left out, and links to other files."""
    whole = root.resolve()
    paths = (
        path.relative_to(root)
        for path in root.rglob("*")
        if path.is_file() and not (path.is_symlink() and path.resolve().is_relative_to(whole))
    )
    return sorted(path.as_posix() for path in paths if not _HIDDEN_FOLDERS.intersection(path.parts))


def read_file(source: GithubSource, root: Path, path: str) -> Found:
    """The source file, or those of an archive or export."""
    if path.endswith(TAR_SUFFIXES):
        yield from _read_archive(source, root / path, path)
    elif path.endswith(".parquet"):
        yield from _read_parquet(source, root / path, path)
    elif path.endswith(_EXPORTS):
        yield from _read_json_lines(source, root / path, path)
    else:
        licences = nearest_licence(path, _folder_licences(root, path))
        try:
            with (root / path).open("rb") as stream:
                yield _read_code(source, path, path, 0, stream, licences)
        except OSError as error:
            yield Unreadable(path, 0, "damaged", str(error))


def _folder_licences(root: Path, path: str) -> Mapping[str, tuple[str, ...]]:
    folders = [str(folder) for folder in Path(path).parents]
    return {folder: found for folder in folders if (found := _licences_in(root, folder)) is not None}


@functools.lru_cache(maxsize=65536)
def _licences_in(root: Path, folder: str) -> tuple[str, ...] | None:
    """What the licence files of one folder say."""
    texts = []
    for path in sorted((root / folder).iterdir()):
        if is_licence_file(path.name) and path.is_file():
            with path.open("rb") as file:
                texts.append((str(Path(folder) / path.name), file.read(MAX_LICENCE_BYTES).decode("utf-8", "replace")))
    return collect(texts).get(folder)


def _read_archive(source: GithubSource, file: Path, path: str) -> Found:
    number = num_kept = 0
    licences = collect(_iterate_licence_files(file))
    try:
        for member in iterate_tar(file):
            licence = nearest_licence(member.name, licences)
            found = _read_code(source, f"{path}!{member.name}", member.name, 0, member.stream, licence)
            number += 1
            num_kept += isinstance(found, RawRecord)
            yield found
    except READ_ERRORS as error:
        yield Unreadable(path, number, "damaged", f"{error} after {number} files, {num_kept} of which were kept")


def _iterate_licence_files(file: Path) -> Iterator[tuple[str, str]]:
    """Names and texts of an archive's licence files; a damaged place ends them, and reading the code names it."""
    with contextlib.suppress(*READ_ERRORS):
        for member in iterate_tar(file):
            if is_licence_file(member.name):
                yield member.name, member.stream.read(MAX_LICENCE_BYTES).decode("utf-8", "replace")


def _read_code(
    source: GithubSource, name: str, path: str, offset: int, stream: IO[bytes], licences: tuple[str, ...] | None
) -> RawRecord | Refused | Unreadable:
    """One source file, its licence first, so that what may not be used is not looked at."""
    licences = licences or ((source.licence,) if source.licence else ())
    if (refused := _check_licence(source, name, offset, licences)) is not None:
        return refused
    if is_licence_file(path):
        return Refused(name, offset, STEP, "licence file")
    if not is_wanted(path, source.quality):
        return Refused(name, offset, STEP, "other suffix")
    data = read_at_most(stream, source.quality.max_bytes)
    if data is None:
        return Refused(name, offset, STEP, "too large", f"more than {source.quality.max_bytes:,} bytes")
    try:
        text = decode(data)
    except UnicodeDecodeError as error:
        return Unreadable(name, offset, "not UTF-8", f"byte {error.start}")
    return _make_record(source, name, offset, text, licences, name)


def _check_licence(source: GithubSource, name: str, offset: int, licences: tuple[str, ...]) -> Refused | None:
    if not licences:
        return Refused(name, offset, LICENCE_STEP, "no licence")
    wrong = [licence for licence in licences if not is_allowed(licence, source.licences)]
    return Refused(name, offset, LICENCE_STEP, "other licence", ", ".join(wrong)) if wrong else None


def _make_record(
    source: GithubSource, name: str, offset: int, text: str, licences: tuple[str, ...], url: str
) -> RawRecord | Refused:
    code = strip_header(text)
    if wrong := foreign_licences(code.boilerplate, (*source.licences, *licences)):
        return Refused(name, offset, LICENCE_STEP, "other licence in its header", ", ".join(wrong))
    if (fault := find_fault(code.text, source.quality)) is not None:
        return Refused(name, offset, STEP, *fault)
    return RawRecord(
        name,
        offset,
        code.text,
        url=url,
        title=name.rpartition("!")[2].rpartition("/")[2],
        licence=" AND ".join(licences),
        num_raw_bytes=len(text.encode()),
    )


def _read_json_lines(source: GithubSource, file: Path, path: str) -> Found:
    number = 0
    try:
        with file.open("rb") as raw:
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.endswith(".gz") else raw
            while line := stream.readline(_MAX_LINE_BYTES):
                if line.strip():
                    yield _read_line(source, path, number, line)
                number += 1
    except READ_ERRORS as error:
        yield Unreadable(path, number, "damaged", f"{error} after {number:,} lines, which were kept")


def _read_line(source: GithubSource, path: str, number: int, line: bytes) -> RawRecord | Refused | Unreadable:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unreadable(path, number, "not JSON", f"line {number + 1}: {error}")
    if not isinstance(row, dict):
        return Unreadable(path, number, "not JSON", f"line {number + 1} is no object")
    return _read_row(source, path, number, row)


def _read_parquet(source: GithubSource, file: Path, path: str) -> Found:
    number = 0
    try:
        with pq.ParquetFile(file) as table:
            pairs = (source.path_field, source.repository_field)
            wanted = {source.content_field, source.licence_field, *pairs, *(f"sample_{field}" for field in pairs)}
            names = [name for name in table.schema_arrow.names if name in wanted]
            if source.content_field not in names:
                yield Unreadable(path, 0, "no text", f"no column {source.content_field!r}")
                return
            for batch in table.iter_batches(batch_size=64, columns=names):
                for row in decode_rows(batch):
                    if isinstance(row, UnicodeDecodeError):
                        yield Unreadable(path, number, "not UTF-8", f"row {number}, byte {row.start} of a field")
                    else:
                        yield _read_row(source, path, number, row)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        yield Unreadable(path, number, "damaged", str(error))


def _read_row(source: GithubSource, path: str, number: int, row: Mapping[str, Any]) -> RawRecord | Refused | Unreadable:
    """A row of a BigQuery export."""
    text = row.get(source.content_field)
    licence = row.get(source.licence_field) or source.licence
    name = next((str(row[f]) for f in (source.path_field, f"sample_{source.path_field}") if row.get(f)), "")
    fields = (source.repository_field, f"sample_{source.repository_field}")
    repository = next((str(row[field]) for field in fields if row.get(field)), "")
    licences = (str(licence),) if licence else ()
    if (refused := _check_licence(source, path, number, licences)) is not None:
        return refused
    if not isinstance(text, str):
        return Unreadable(path, number, "no text", f"row {number} has no {source.content_field!r}")
    if name and (is_licence_file(name) or not is_wanted(name, source.quality)):
        return Refused(path, number, STEP, "licence file" if is_licence_file(name) else "other suffix", name)
    if len(text) > source.quality.max_bytes:
        return Refused(path, number, STEP, "too large", f"more than {source.quality.max_bytes:,} bytes")
    text = text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    return _make_record(source, path, number, text, licences, "/".join(filter(None, (repository, name))) or path)
