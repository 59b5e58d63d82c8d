"""Text without control characters, trailing blanks and long gaps; too little text is dropped."""

import re
from collections.abc import Iterable, Iterator

from camelid.corpus.document import Document
from camelid.corpus.ledger import Drops
from camelid.corpus.settings import CorpusSettings

NAME = "clean"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")


def clean(
    documents: Iterable[Document], settings: CorpusSettings, min_characters: int, drops: Drops
) -> Iterator[Document]:
    """Yields the cleaned documents; nothing of their wording, indentation or spacing inside a line changes."""
    gap = re.compile(rf"\n{{{settings.max_blank_lines + 2},}}")
    squeezed = "\n" * (settings.max_blank_lines + 1)
    for document in documents:
        text = "\n".join([line.rstrip(" \t") for line in _CONTROL.sub("", document.text).split("\n")])
        text = gap.sub(squeezed, text).strip("\n") + "\n"
        if len(text) - 1 < min_characters:
            drops.add(document, NAME, "too short", f"{len(text) - 1} characters")
            continue
        yield document.with_text(text)
