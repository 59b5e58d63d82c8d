"""HTML that is put together from escaped parts: a string becomes markup only by way of `element`."""

import html
import re
from collections.abc import Iterable

_VOID = frozenset({"meta", "link", "br"})
# Lone surrogates cannot be encoded, and browsers read control characters as errors.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Text that is markup already; every other string is escaped when it becomes part of an element."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str) -> Html:
    """One element; `class_` stands for the attribute class, and `_` in other names for a hyphen."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in attributes.items() if value
    )
    if tag in _VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{join(children)}</{tag}>")


def join(parts: Iterable[str]) -> Html:
    """Parts one after the other, escaped where they are not markup."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def escape(text: str) -> str:
    """Text that is safe between tags and in quoted attributes; what cannot be shown becomes U+FFFD."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n")))


def table(headers: Iterable[str], rows: Iterable[Iterable[str]], num_text_columns: int = 1) -> Html:
    """A table that scrolls sideways on its own; the columns after the first `num_text_columns` hold numbers."""

    def row(tag: str, cells: Iterable[str]) -> Html:
        return element(
            "tr",
            *(
                element(tag, cell, class_="number" if column >= num_text_columns else "")
                for column, cell in enumerate(cells)
            ),
        )

    head = element("thead", row("th", headers))
    body = element("tbody", *(row("td", cells) for cells in rows))
    return element("div", element("table", head, body), class_="scroll")


def section(anchor: str, title: str, *children: str) -> Html:
    """A part of the page with its heading."""
    return element("section", element("h2", title), *children, id=anchor)


def note(*children: str) -> Html:
    """A remark in small type."""
    return element("p", *children, class_="note")
