"""Pages that are too short are dropped before anything else looks at them (CCNet)."""

from collections.abc import Iterator

from camelid.corpus.document import Document
from camelid.corpus.task import Work


def drop_short_pages(min_characters: int, documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields the pages of at least so many characters."""
    for document in documents:
        if len(document.text) < min_characters:
            work.drops.add(document, "pages", "too short", f"{len(document.text)} characters")
        else:
            yield document
