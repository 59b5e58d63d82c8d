"""The rows of a Stack Exchange Posts file, and the posts in them."""

import re
from collections.abc import Callable
from typing import NamedTuple
from xml.parsers import expat

_MAX_ROW_BYTES = 16 << 20
_ROW = b"<row "
_PROBLEM_TOO_LONG = f"longer than {_MAX_ROW_BYTES:,} bytes"
# Characters that XML 1.0 forbids even as references; some old dumps hold them.
_FORBIDDEN = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|&#(?:0*(?:[0-8]|1[124-9]|2\d|3[01])|x0*(?:[0-8bcef]|1[0-9a-f]|d[89a-f]..|fff[ef]));",
    re.IGNORECASE,
)
# Stack Exchange changed its licence twice: posts before the first day are 2.5, from the second day on 4.0.
_LICENCES = (("2018-05-02", "CC BY-SA 4.0"), ("2011-04-08", "CC BY-SA 3.0"), ("2008", "CC BY-SA 2.5"))

Attributes = dict[str, str]


class Post(NamedTuple):
    """What is kept of a question or an answer until its page is made."""

    id: int
    parent: int | None
    """The question's id for an answer."""
    score: int
    row: int
    num_bytes: int
    title: str
    body: str
    """HTML."""
    licence: str


class Rows:
    """Cuts a stream of bytes into the rows of a table, each parsed for itself, so that a damaged one harms no other.

    Args:
        consume: is told each row's number, attributes or what is wrong with it, and number of bytes.
    """

    def __init__(self, consume: Callable[[int, Attributes | str, int], None]) -> None:
        self.num_rows = 0
        self._consume = consume
        self._pending = b""
        self._num_cut = 0
        self._is_in_row = False

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the file."""
        # XML allows no bare `<` in a value, so that wherever this stands a row begins.
        first, *rows = (self._pending + data).split(_ROW)
        if rows:
            self._end_row(first)
            self._is_in_row = True
            for row in rows[:-1]:
                self._end_row(row)
            first = rows[-1]
        if len(first) > _MAX_ROW_BYTES:
            self._num_cut += len(first) - len(_ROW)
            first = first[-len(_ROW) :]
        self._pending = first

    def close(self) -> None:
        """Says that the file has ended."""
        self._end_row(self._pending)
        self._is_in_row = False

    def _end_row(self, row: bytes) -> None:
        num_bytes = self._num_cut + len(row)
        self._num_cut = 0
        if self._is_in_row:
            found = _PROBLEM_TOO_LONG if num_bytes > _MAX_ROW_BYTES else parse_row(_ROW + row)
            self._consume(self.num_rows, found, num_bytes)
            self.num_rows += 1


def parse_row(data: bytes) -> Attributes | str:
    """The attributes of one `<row ... />`, or what is wrong with it; what follows the row does not matter."""
    found: list[Attributes] = []
    problem = "cut short"
    for text in (data, None):
        if text is None:  # a second try without what XML forbids
            text = _FORBIDDEN.sub(b"", data)
            if text == data:
                break
        parser = expat.ParserCreate("utf-8")
        parser.StartElementHandler = lambda _name, attributes: found.append(attributes)
        try:
            parser.Parse(text, True)
        except expat.ExpatError as error:
            problem = expat.errors.messages[error.code]
        if found:
            return found[0]
    return problem


def make_post(attributes: Attributes, row: int, num_bytes: int) -> Post | str:
    """The question or answer of a row, or why it is none."""
    kind = attributes.get("PostTypeId")
    if kind not in ("1", "2"):
        return f"PostTypeId {kind}"
    try:
        parent = int(attributes["ParentId"]) if kind == "2" else None
        post_id, score = int(attributes["Id"]), int(attributes.get("Score") or 0)
    except (KeyError, ValueError) as error:
        return f"no whole number in {error}"
    day = attributes.get("CreationDate", "")
    licence = next((licence for start, licence in _LICENCES if day >= start), "")
    return Post(
        post_id,
        parent,
        score,
        row,
        num_bytes,
        attributes.get("Title", ""),
        attributes.get("Body", ""),
        attributes.get("ContentLicense") or licence,
    )
