"""What readers yield."""

import codecs
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One text as its publisher ships it, decoded, with line feeds only."""

    path: str
    offset: int
    text: str
    url: str
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file or record that could not be read, and why."""

    path: str
    offset: int
    reason: str
    detail: str = ""


def decode(data: bytes) -> str:
    """UTF-8 text with or without a byte order mark, its line ends turned into line feeds.

    Raises:
        UnicodeDecodeError: the bytes are not UTF-8.
    """
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")
