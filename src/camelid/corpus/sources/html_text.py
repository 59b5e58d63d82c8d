"""The text of HTML: paragraphs apart, lists with their marks, code as it stands, all other tags gone."""

import re
from dataclasses import dataclass, field

from lxml import etree

_BLANKS = re.compile(r"[ \t\n\r\f]+")
_NUMBER = re.compile(r"\s*-?\d{1,9}\s*")
_POWER = re.compile(r"[-+−]?(?:\d{1,4}|\d{0,3}[nkmxyzijt])\Z", re.IGNORECASE)

# Line breaks that an element has around it: 2 makes an empty line.
_BREAKS = {
    **dict.fromkeys(("li", "tr", "dt", "dd", "caption", "figcaption"), 1),
    **dict.fromkeys(
        (
            "p", "div", "blockquote", "pre", "ul", "ol", "dl", "table", "hr", "h1", "h2", "h3", "h4", "h5", "h6",
            "section", "article", "header", "footer", "figure", "body",
        ),
        2,
    ),
}  # fmt: skip
_SKIPPED = frozenset({"script", "style", "title", "template", "iframe", "object", "svg", "audio", "video", "select"})
_WALKED = ("start", "end")
_TEXT_PARSER = etree.HTMLParser(remove_comments=True, remove_pis=True, no_network=True, encoding="utf-8")
_BYTES_PARSER = etree.HTMLParser(remove_comments=True, remove_pis=True, no_network=True)


def html_to_text(html: str | bytes) -> str:
    """The text of an HTML document or fragment.

    What stands in `pre` keeps every character. List items begin with `* ` or their number and are indented by two
    spaces for each list around them. A number or variable in `sup` after text becomes `^x`, so that a power stays one.
    Bytes are decoded as they say themselves.
    """
    data, parser = html, _BYTES_PARSER
    if isinstance(html, str):
        data, parser = html.replace("\0", "").encode("utf-8", "replace"), _TEXT_PARSER
    if not data.strip():
        return ""
    try:
        root = etree.fromstring(data, parser)
    except (etree.ParserError, etree.XMLSyntaxError):  # nothing but comments
        return ""
    return "" if root is None else element_to_text(root)


def element_to_text(root: etree._Element) -> str:
    """The text of a parsed element, by the same rules."""
    writer = _Writer()
    skipped = 0
    for event, element in etree.iterwalk(root, events=_WALKED):
        tag = element.tag if isinstance(element.tag, str) else ""
        tag = tag.rpartition("}")[2].lower()
        if event == "start":
            skipped += tag in _SKIPPED
            if not skipped:
                writer.start(tag, element.get("start" if tag == "ol" else "value"))
                writer.write(element.text)
        else:
            if not skipped:
                writer.end(tag)
            skipped -= tag in _SKIPPED
            if not skipped and element is not root:
                writer.write(element.tail)
    return writer.text()


@dataclass
class _Writer:
    """Collects text; breaks and blanks are written only once more text follows."""

    pieces: list[str] = field(default_factory=list)
    num_breaks: int = 0
    has_blank: bool = False
    mark: str = ""
    """Mark of a list item that has no text yet."""
    lists: list[int | None] = field(default_factory=list)
    """For each list around, its next number, None where it has none."""
    num_pre: int = 0
    is_pre_start: bool = False
    is_sup: bool = False

    def start(self, tag: str, number: str | None = None) -> None:
        """
        Args:
            number: where a list starts to count, or what an item counts as.
        """
        given = int(number) if number and _NUMBER.fullmatch(number) else None
        self.is_pre_start = tag == "pre"
        if tag == "br":
            self._break(self.num_breaks + 1 if self.num_pre else max(1, self.num_breaks))
            return
        if tag in ("ul", "ol"):
            self._break(1 if self.lists else 2)
            self.lists.append((1 if given is None else given) if tag == "ol" else None)
        elif tag in _BREAKS:
            self._break(_BREAKS[tag])
        if tag == "li":
            count = self.lists[-1] if self.lists else None
            if count is not None:
                count = count if given is None else given
                self.lists[-1] = count + 1
            self.mark = "  " * (len(self.lists) - 1) + ("* " if count is None else f"{count}. ")
        elif tag == "pre":
            self.num_pre += 1
        elif tag in ("td", "th"):
            self.has_blank = True
        self.is_sup = tag == "sup"

    def end(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self.lists.pop()
            self._break(1 if self.lists else 2)
        elif tag in _BREAKS:
            self._break(_BREAKS[tag])
        if tag == "pre":
            self.num_pre -= 1
        self.is_sup = False

    def write(self, text: str | None) -> None:
        if not text:
            return
        if self.num_pre:
            self._write_verbatim(text)
            return
        words = _BLANKS.sub(" ", text)
        if not words.strip(" \xa0"):
            self.has_blank = True
            return
        stripped = words.strip(" ")
        blank = words[0] == " " or self.has_blank
        if self.is_sup and not blank and not self.num_breaks and self.pieces and _POWER.match(stripped):
            stripped = "^" + stripped
        self._flush(blank)
        self.pieces.append(stripped)
        self.has_blank = words[-1] == " "

    def text(self) -> str:
        return "".join(self.pieces)

    def _write_verbatim(self, text: str) -> None:
        if self.is_pre_start:
            self.is_pre_start = False
            text = text.removeprefix("\n")
        # The line breaks at the end of code belong to the break after it.
        body = text.rstrip("\n")
        if body:
            self._flush(blank=False)
            self.pieces.append(body)
        self.num_breaks += len(text) - len(body) if self.pieces else 0

    def _break(self, number: int) -> None:
        self.num_breaks = max(self.num_breaks, number)
        self.has_blank = False

    def _flush(self, blank: bool) -> None:
        if self.num_breaks:
            if self.pieces:
                self.pieces.append("\n" * self.num_breaks)
        elif blank and self.pieces:
            self.pieces.append(" ")
        self.num_breaks = 0
        self.has_blank = False
        if self.mark:
            self.pieces.append(self.mark)
            self.mark = ""
