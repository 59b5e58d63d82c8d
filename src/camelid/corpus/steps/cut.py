"""Records that are too long for one document are cut where the text itself has a break."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from camelid.corpus.document import Document, make_id
from camelid.corpus.settings import CorpusSettings


def cut(documents: Iterable[Document], settings: CorpusSettings) -> Iterator[Document]:
    """Yields documents of at most `max_characters`; the parts of one, joined, are its text."""
    for document in documents:
        for part, text in enumerate(_parts(document.text, settings.max_characters)):
            identity = make_id(document.source, document.path, document.offset, part)
            yield replace(document, id=identity, part=part, text=text)


def _parts(text: str, max_characters: int) -> Iterator[str]:
    start = 0
    while len(text) - start > max_characters:
        window_end = start + max_characters
        end = text.rfind("\n\n", start, window_end) + 2
        if end <= start + 1:
            end = text.rfind("\n", start, window_end) + 1
        if end <= start:
            end = window_end
        yield text[start:end]
        start = end
    yield text[start:]
