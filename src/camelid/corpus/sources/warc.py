"""The records of WARC, WET and ARC files: plain or gzip, one member per record or one for all, whole or damaged.

FastWARC reads sound files only: it stops at the first thing that it does not know. The framing is therefore read here,
and goes on at the next record wherever one is broken; what is inside a record is left to the library.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CHUNK_BYTES = 1 << 18
# Each member of a gzip file copies what was read beyond it, so that little is read at a time.
_GZIP_BYTES = 1 << 16
MAX_BLOCK_BYTES = 32 << 20
"""Records with larger blocks (videos, archives) are passed over."""

_MAX_HEADER_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b\x08"
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_VERSION = re.compile(rb"WARC/\d\.\d+[ \t]*\r?\n")
# URL, address, 14 digits of time, media type, (more fields in version 2,) length.
_ARC_LINE = re.compile(rb"([a-z]+:\S*(?: \S+)*?) (\d[\d.]*|[0-9a-f:.]*) (\d{14}) (\S+)(?: \S+){0,6}? (\d+) ?\r?\n")
_NEXT_WARC = re.compile(rb"\n(?=WARC/\d\.\d+[ \t]*\r?\n)")
# In an ARC file only the lengths say where a record begins; a line of its form is the next best thing.
_NEXT_ARC = re.compile(rb"\n(?=" + _ARC_LINE.pattern + rb")")
_BEGIN = re.compile(rb"WARC/|[a-z]+:")


@dataclass(frozen=True, slots=True)
class ArchiveRecord:
    """One record as it lies in the archive."""

    kind: str
    """The WARC-Type, or `response` and `filedesc` in an ARC file."""
    headers: dict[str, str] = field(repr=False)
    """By name in lower case."""
    block: bytes | None = field(repr=False)
    """What follows the headers; None where it is larger than `MAX_BLOCK_BYTES`."""
    num_bytes: int
    """Length of the block."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A place that could not be read, and what was done about it."""

    detail: str


def read_archive(path: Path) -> Iterator[ArchiveRecord | Damage]:
    """All records of a file in their order, and the places where there was none to be made out."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP_MAGIC[:2]
    stretches = _Inflater(path) if is_gzip else _Plain(path)
    while True:
        text = _Text(stretches)
        yield from _read_stretch(text)
        if stretches.damage:
            yield Damage(stretches.damage)
            stretches.damage = ""
        if not stretches.seek_next():
            break


class _Plain:
    """A file as it is: one stretch of bytes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.damage = ""

    def read(self) -> bytes:
        """The next bytes, none at the end."""
        return self._file.read(CHUNK_BYTES)

    def seek_next(self) -> bool:
        """Whether there is another stretch."""
        self._file.close()
        return False


class _Inflater:
    """A gzip file: stretches of bytes, each ended by the end of the file or by damage."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._pending = b""
        self._offset = 0
        """Where in the file `_pending` begins."""
        self._member_start = 0
        self._is_in_member = False
        self._inflate = zlib.decompressobj(31)
        self.damage = ""

    def read(self) -> bytes:
        """The next decompressed bytes; none at the end, or where the file is damaged."""
        while not self.damage:
            if not self._pending:
                self._pending = self._file.read(_GZIP_BYTES)
                if not self._pending:
                    if self._is_in_member:
                        self.damage = f"the file ends in the middle of the gzip member at byte {self._member_start:,}"
                    return b""
            if not self._is_in_member:
                self._pending = self._pending.lstrip(b"\0") or self._file.read(_GZIP_BYTES)
                if not self._pending:
                    return b""
                self._member_start = self._file.tell() - len(self._pending)
                self._inflate = zlib.decompressobj(31)
                self._is_in_member = True
            data = self._feed()
            if data:
                return data
        return b""

    def _feed(self) -> bytes:
        position = self._file.tell() - len(self._pending)
        try:
            data = self._inflate.decompress(self._pending, CHUNK_BYTES * 4)
        except zlib.error as error:
            reason = str(error).rpartition(": ")[2]
            self.damage = f"gzip member at byte {self._member_start:,} is damaged near byte {position:,} ({reason})"
            return b""
        if self._inflate.eof:
            self._pending = self._inflate.unused_data
            self._is_in_member = False
        else:
            self._pending = self._inflate.unconsumed_tail
        return data

    def seek_next(self) -> bool:
        """Goes to the next gzip member after the damaged one in which a record begins."""
        self._file.seek(max(self._member_start + 1, 1))
        window = b""
        while chunk := self._file.read(CHUNK_BYTES):
            window += chunk
            start = self._file.tell() - len(window)
            place = window.find(_GZIP_MAGIC)
            while place >= 0:
                if self._is_record_at(start + place):
                    self._file.seek(start + place)
                    self._pending, self._is_in_member = b"", False
                    return True
                place = window.find(_GZIP_MAGIC, place + 1)
            window = window[-2:]
        self._file.close()
        return False

    def _is_record_at(self, offset: int) -> bool:
        here = self._file.tell()
        self._file.seek(offset)
        head = self._file.read(4096)
        self._file.seek(here)
        try:
            begin = zlib.decompressobj(31).decompress(head, 1024)
        except zlib.error:
            return False
        return bool(_VERSION.match(begin.lstrip()) or _ARC_LINE.match(begin.lstrip()))


class _Text:
    """Decompressed bytes, of which those from `at` on are not used up yet."""

    def __init__(self, source: _Plain | _Inflater) -> None:
        self._source = source
        self.data = b""
        self.at = 0
        self._num_dropped = 0

    @property
    def offset(self) -> int:
        """How many bytes were used up."""
        return self._num_dropped + self.at

    def fill(self, num_bytes: int) -> bool:
        """Whether so many bytes can be had."""
        length = len(self.data) - self.at
        if length >= num_bytes:
            return True
        # What lies in one piece is not copied.
        pieces = [self.data[self.at :]] if length else []
        self._num_dropped += self.at
        self.at = 0
        while length < num_bytes and (data := self._source.read()):
            pieces.append(data)
            length += len(data)
        self.data = b"".join(pieces)
        return length >= num_bytes

    def take(self, num_bytes: int) -> bytes:
        """Uses up bytes, at most those that are there without reading."""
        taken = self.data[self.at : self.at + num_bytes]
        self.at += len(taken)
        return taken

    def skip(self, num_bytes: int) -> int:
        """Passes over bytes, and says how many there were."""
        left = num_bytes
        while left and self.fill(1):
            passed = min(left, len(self.data) - self.at)
            self.at += passed
            left -= passed
        return num_bytes - left


def _read_stretch(text: _Text) -> Iterator[ArchiveRecord | Damage]:
    is_arc = False
    while text.fill(1):
        if text.data[text.at] in b"\r\n":
            text.at += 1
            continue
        start = text.offset
        header = _take_header(text)
        if header is None:
            passed = _pass_to_next(text, is_arc)
            yield Damage(f"no record at byte {start:,} of the decompressed file; {passed:,} bytes passed over")
            continue
        kind, headers, num_bytes = header
        is_arc = is_arc or kind == "filedesc"
        yield _take_block(text, kind, headers, num_bytes, start)


def _take_header(text: _Text) -> tuple[str, dict[str, str], int] | None:
    """Type, fields and length of the block, or None where no record begins here."""
    text.fill(4096)
    if _VERSION.match(text.data, text.at):
        while (end := _HEADER_END.search(text.data, text.at)) is None:
            length = len(text.data) - text.at
            if length > _MAX_HEADER_BYTES or not text.fill(length + 1):
                return None
        fields = _parse_fields(text.data[text.at : end.start()])
        num_bytes = fields.get("content-length", "")
        if not (num_bytes.isascii() and num_bytes.isdecimal()):
            return None
        text.at = end.end()
        return fields.get("warc-type", "").lower(), fields, int(num_bytes[:18])
    if line := _ARC_LINE.match(text.data, text.at):
        url, address, date, media_type, length_bytes = line.groups()
        text.at = line.end()
        fields = {
            "warc-target-uri": url.decode("utf-8", "replace"),
            "warc-ip-address": address.decode(),
            "warc-date": date.decode(),
            "content-type": media_type.decode("utf-8", "replace"),
        }
        return "filedesc" if url.startswith(b"filedesc:") else "response", fields, int(length_bytes[:18])
    return None


def _parse_fields(header: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    last = ""
    for line in header.decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if line[:1] in (" ", "\t") and last:
            fields[last] += " " + line.strip()
        elif colon:
            last = name.strip().lower()
            fields.setdefault(last, value.strip())
    return fields


def _take_block(text: _Text, kind: str, headers: dict[str, str], num_bytes: int, start: int) -> ArchiveRecord | Damage:
    if num_bytes > MAX_BLOCK_BYTES:
        passed = text.skip(num_bytes)
        if passed == num_bytes:
            return ArchiveRecord(kind, headers, None, num_bytes)
    else:
        is_whole = text.fill(num_bytes)
        text.fill(num_bytes + 1)
        if text.data[text.at + num_bytes : text.at + num_bytes + 1] not in b"\r\n":
            text.fill(num_bytes + 8)
        end = text.at + num_bytes
        follows = text.data[end : end + 8]
        if is_whole and (not follows or follows[:1] in b"\r\n" or _BEGIN.match(follows)):
            return ArchiveRecord(kind, headers, text.take(num_bytes), num_bytes)
        # The length is wrong or the file is cut: a record that begins inside ends this one.
        found = _NEXT_WARC.search(text.data, text.at, end + 8)
        passed = len(text.take(found.end() - text.at if found else num_bytes))
    address = headers.get("warc-target-uri", kind)
    return Damage(
        f"the record at byte {start:,} of the decompressed file should have {num_bytes:,} bytes and has not; "
        f"{passed:,} bytes passed over ({address})"
    )


def _pass_to_next(text: _Text, is_arc: bool) -> int:
    """Passes over bytes up to the next record or the end, and says how many."""
    pattern = _NEXT_ARC if is_arc else _NEXT_WARC
    passed = len(text.take(1))
    while True:
        if found := pattern.search(text.data, text.at):
            return passed + len(text.take(found.end() - text.at))
        # The last bytes may be the beginning of a record's first line.
        length = len(text.data) - text.at
        passed += len(text.take(max(length - 4096, 0)))
        if not text.fill(len(text.data) - text.at + 1):
            return passed + len(text.take(len(text.data) - text.at))
