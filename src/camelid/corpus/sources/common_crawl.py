"""CommonCrawl as it is published: WET files hold text, WARC and ARC files hold pages from which text is extracted."""

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

from camelid.corpus.sources.listing import list_all
from camelid.corpus.sources.record import Found, RawRecord, Refused, Unreadable
from camelid.corpus.sources.warc import MAX_BLOCK_BYTES, ArchiveRecord, Damage, read_archive
from camelid.corpus.web_settings import C4Source, CommonCrawlSource

STEP = "pages"
_SUFFIXES = (".warc", ".warc.gz", ".wet", ".wet.gz", ".arc", ".arc.gz")
_DECODINGS: tuple[Literal["all", "content"], ...] = ("all", "content")
_NOT_ASCII = re.compile("[^\x00-\x7f\ufffd]")
_MIN_RIGHT_PER_WRONG = 4
_HTML_TYPES = ("text/html", "application/xhtml+xml")


def list_files(source: CommonCrawlSource | C4Source, root: Path) -> list[str]:
    """All archives below a folder by relative path, sorted."""
    return [path for path in list_all(root) if path.endswith(_SUFFIXES)]


def read_file(source: CommonCrawlSource | C4Source, root: Path, path: str) -> Found:
    """The pages of one archive; records that are no pages are refused, and damage is told where it lies."""
    for offset, record in enumerate(read_archive(root / path)):
        if isinstance(record, Damage):
            yield Unreadable(path, offset, "damaged", record.detail)
        elif record.block is None:
            detail = f"{record.num_bytes:,} bytes, {MAX_BLOCK_BYTES:,} are allowed"
            yield Refused(path, offset, STEP, "too large", detail)
        else:
            yield read_page(
                record,
                record.block,
                path,
                offset,
                is_main_content=isinstance(source, CommonCrawlSource) and source.is_main_content,
            )


def read_page(
    record: ArchiveRecord, block: bytes, path: str, offset: int, *, is_main_content: bool
) -> RawRecord | Refused | Unreadable:
    """The text of a record, or why it has none.

    Args:
        is_main_content: whether navigation, headers and footers are left out of HTML.
    """
    url = record.headers.get("warc-target-uri", "").strip("<>")
    if record.kind == "conversion":
        return _make_record(path, offset, block.decode("utf-8", "replace"), url, None, len(block))
    if record.kind not in ("response", "resource"):
        return Refused(path, offset, STEP, f"{record.kind or 'untyped'} record", url)
    try:
        message = _parse_message(record, block)
    except (OSError, ValueError, RuntimeError) as error:
        return Unreadable(path, offset, "damaged", f"HTTP headers: {error} ({url})")
    if message.status != 200:
        reason = f"status {message.status}" if 100 <= message.status <= 599 else "no status"
        return Refused(path, offset, STEP, reason, url)
    if message.media_type not in (*_HTML_TYPES, "text/plain"):
        return Refused(path, offset, STEP, "not text", f"{message.media_type} ({url})")
    try:
        payload = message.body if not message.http else _decode_body(message.http)
    except (OSError, ValueError, RuntimeError) as error:
        return Unreadable(path, offset, "damaged", f"body: {error} ({url})")
    if not payload or payload.isspace():
        return Refused(path, offset, STEP, "empty", url)
    text = _decode_text(payload, message.charset)
    title = None
    if message.media_type in _HTML_TYPES:
        try:
            tree = HTMLTree.parse(text)
            title = " ".join((tree.title or "").split()) or None
            text = extract_plain_text(tree, main_content=is_main_content)
        except (ValueError, RuntimeError) as error:
            return Unreadable(path, offset, "damaged", f"HTML: {error} ({url})")
    return _make_record(path, offset, text, url, title, len(block))


@dataclass(frozen=True, slots=True)
class _Message:
    """What was sent for a page."""

    status: int
    media_type: str
    charset: str | None
    body: bytes
    """As it lies in the record."""
    http: bytes = b""
    """The record again as WARC, where the body is still to be decoded."""


def _parse_message(record: ArchiveRecord, block: bytes) -> _Message:
    """
    Raises:
        OSError, RuntimeError, ValueError: the block claims to be HTTP and is not.
    """
    if not block.startswith(b"HTTP/"):
        declared = record.headers.get("content-type", "").partition(";")[0].strip().lower()
        return _Message(200, declared or _sniff(block), None, block)
    end = block.find(b"\r\n\r\n")
    bare = block.find(b"\n\n", 0, end if end >= 0 else len(block))
    if bare >= 0:
        head, body = block[:bare].replace(b"\n", b"\r\n"), block[bare + 2 :]
    else:
        head, body = (block[:end], block[end + 4 :]) if end >= 0 else (block.rstrip(b"\r\n"), b"")
    # The library reads the headers alone; bodies are long, and most are as they were sent.
    parsed = WarcRecord()
    parsed.set_bytes_content(head + b"\r\n\r\n")
    parsed.record_type, parsed.is_http = WarcRecordType.response, True
    parsed.parse_http(auto_decode="none")
    media_type = (parsed.http_content_type or "").lower() or _sniff(body)
    names = {name.lower() for name, _ in parsed.http_headers.items()}
    is_encoded = not names.isdisjoint(("content-encoding", "transfer-encoding"))
    status = parsed.http_headers.status_code or 0
    return _Message(status, media_type, parsed.http_charset, body, _wrap(head, body) if is_encoded else b"")


def _wrap(head: bytes, body: bytes) -> bytes:
    """An HTTP message as a record of a WARC file."""
    length = len(head) + 4 + len(body)
    fields = f"Content-Type: application/http; msgtype=response\r\nContent-Length: {length}\r\n\r\n"
    return b"".join((b"WARC/1.0\r\nWARC-Type: response\r\n", fields.encode(), head, b"\r\n\r\n", body, b"\r\n\r\n"))


def _decode_body(http: bytes) -> bytes:
    """A body without transfer and content encodings; crawlers often undo one and keep its header.

    Raises:
        OSError, RuntimeError, ValueError: the body is damaged.
    """
    failure: Exception | None = None
    for decoding in _DECODINGS:
        try:
            return bytes(_parse_http(http, decoding).reader.read())
        except (OSError, ValueError, RuntimeError) as error:
            failure = failure or error
    body = bytes(_parse_http(http, "none").reader.read())
    if failure is not None and b"\0" in body[:1024]:
        raise failure
    return body


def _decode_text(payload: bytes, charset: str | None) -> str:
    """The text of a page, by the encoding that the server names if there is one of that name."""
    if charset:
        with contextlib.suppress(LookupError):
            return _decode_as(payload, charset)
    return _decode_as(payload, detect_encoding(payload, from_html_meta=True) or "utf-8")


def _decode_as(payload: bytes, encoding: str) -> str:
    """A few wrong bytes in UTF-8 are left out; the library would take all of the page for Windows 1252.

    Raises:
        LookupError: there is no encoding of that name.
    """
    if encoding.lower() in ("utf-8", "utf8"):
        try:
            return payload.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError:
            text = payload.decode("utf-8", "replace")
        if len(_NOT_ASCII.findall(text)) >= _MIN_RIGHT_PER_WRONG * text.count("\ufffd"):
            return payload.decode("utf-8", "ignore").removeprefix("\ufeff")
    return bytes_to_str(payload, encoding)


def _parse_http(http: bytes, decoding: Literal["all", "content", "none"]) -> Any:
    for parsed in ArchiveIterator(io.BytesIO(http), parse_http=True, auto_decode=decoding, fsspec_args=False):
        return parsed
    raise ValueError("it holds no HTTP message")


def _sniff(payload: bytes) -> str:
    begin = payload[:512].lstrip().lower()
    return "text/html" if begin.startswith((b"<!doctype html", b"<html")) else "unknown"


def _mend(text: str) -> str:
    """Text that UTF-8 can hold: an extractor may make half of a surrogate pair of a character reference."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _make_record(path: str, offset: int, text: str, url: str, title: str | None, num_bytes: int) -> RawRecord:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _mend(text)
    title = title and _mend(title)
    return RawRecord(path, offset, text, url=url or path, title=title, num_raw_bytes=num_bytes)
