"""What readers yield."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One text as its publisher ships it, decoded, with line feeds only."""

    path: str
    offset: int
    text: str
    url: str
    title: str | None = None
    licence: str | None = None
    """Licence that the record itself names; without it the source's holds."""
    language: str | None = None
    num_raw_bytes: int | None = None
    """Size of the record as shipped, where the text is made from it; without it the text's UTF-8 bytes count."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file or record that could not be read, and why."""

    step: ClassVar[str] = "read"

    path: str
    offset: int
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that was read and that its source's own rules leave out."""

    path: str
    offset: int
    step: str
    """Name of the rule's step in the ledger."""
    reason: str
    detail: str = ""


Found = Iterator[RawRecord | Unreadable | Refused]


def decode(data: bytes) -> str:
    """UTF-8 text with or without a byte order mark, its line ends turned into line feeds.

    Raises:
        UnicodeDecodeError: the bytes are not UTF-8.
    """
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")
