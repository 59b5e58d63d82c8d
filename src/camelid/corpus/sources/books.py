"""Books: Project Gutenberg's files, and folders of .txt and .epub (paper section 2.1)."""

import gzip
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from camelid.corpus.source_settings import BooksSource
from camelid.corpus.sources.archive import READ_ERRORS, TAR_SUFFIXES, Member, iterate_tar, read_at_most
from camelid.corpus.sources.epub import EpubError, read_epub
from camelid.corpus.sources.gutenberg import decode_book, strip_gutenberg
from camelid.corpus.sources.listing import list_all
from camelid.corpus.sources.record import Found, RawRecord, Refused, Unreadable

STEP = "books"
_BOOKS = (".txt", ".epub")
_MAX_BOOK_BYTES = 64 << 20
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1f]")
_MAX_BINARY_SHARE = 0.005


def list_files(source: BooksSource, root: Path) -> list[str]:
    """Books and archives below a folder, sorted; hidden ones are left out."""
    return [path for path in list_all(root) if path.lower().endswith((*_BOOKS, ".txt.gz", ".zip", *TAR_SUFFIXES))]


def read_file(source: BooksSource, root: Path, path: str) -> Found:
    """The book of a file or the books of an archive."""
    number = 0
    try:
        for member in _iterate_members(root / path):
            name = f"{path}!{member.name}" if member.name else path
            data = read_at_most(member.stream, _MAX_BOOK_BYTES)
            number += 1
            if data is None:
                yield Unreadable(name, 0, "too large", f"more than {_MAX_BOOK_BYTES:,} bytes")
            else:
                yield _read_book(name, data)
    except (*READ_ERRORS, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        yield Unreadable(path, number, "damaged", f"{error} after {number} books, which were kept")


def _iterate_members(file: Path) -> Iterator[Member]:
    if file.name.endswith(TAR_SUFFIXES):
        for member in iterate_tar(file):
            name = PurePosixPath(member.name).name
            if name.lower().endswith(_BOOKS) and not name.startswith("."):
                yield member
    elif file.name.lower().endswith(".zip"):
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.filename.lower().endswith(_BOOKS):
                    with archive.open(entry) as stream:
                        yield Member(entry.filename, entry.file_size, stream)
    else:
        with file.open("rb") as raw:
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if file.name.endswith(".gz") else raw
            yield Member("", file.stat().st_size, stream)


def _read_book(name: str, data: bytes) -> RawRecord | Refused | Unreadable:
    title = language = None
    if name.lower().endswith(".epub"):
        try:
            epub = read_epub(data)
        except EpubError as error:
            return Unreadable(name, 0, "unreadable EPUB", str(error))
        text, title, language = epub.text, epub.title, epub.language
    else:
        text = decode_book(data)
        if len(_BINARY.findall(text)) > _MAX_BINARY_SHARE * len(text):
            return Unreadable(name, 0, "not text", "it is full of control characters")
    book = strip_gutenberg(text)
    if not book.text.strip():
        return Refused(name, 0, STEP, "no text", f"{len(data):,} bytes")
    return RawRecord(
        name,
        0,
        book.text,
        url=name,
        title=book.title or title or PurePosixPath(name.rpartition("!")[2]).stem,
        licence=book.licence,
        language=book.language or (language or "").partition("-")[0].lower() or None,
        num_raw_bytes=len(data),
    )
