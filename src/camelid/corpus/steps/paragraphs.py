"""Paragraphs that more than one page of a block has are removed, all of them (CCNet, section 3.1).

A paragraph is a line. Its key is the first 64 bits of SHA-1 of the folded line. Within a page only the first of equal
lines stays, and lines with nothing in them go.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from camelid.corpus.document import Document
from camelid.corpus.engine import Engine
from camelid.corpus.folding import Folding, fold_as_paper, fold_as_released
from camelid.corpus.shuffle import mark, read_marks, write_keys
from camelid.corpus.task import Task, Work
from camelid.corpus.web_settings import ParagraphSettings

NAME = "paragraphs"
_KEY_BYTES = 8
_REMEMBERED_BYTES = 100
_MOST_REMEMBERED = 1 << 16
_NUMBER = re.compile(rb"00+")
_BLANK = hashlib.sha1(b"", usedforsecurity=False).digest()[:_KEY_BYTES]


@cache
def make_keys(normalisation: str) -> Callable[[str], list[bytes]]:
    """A function that gives the key of each line of a text.

    Args:
        normalisation: as in `ParagraphSettings`.
    """
    folding = Folding(fold_as_paper if normalisation == "paper" else fold_as_released)
    key_of = _KeysOfLines().__getitem__

    def keys(text: str) -> list[bytes]:
        folded = folding(text)
        if normalisation == "paper":
            # A number is one placeholder, however long it is.
            folded = _NUMBER.sub(b"0", folded)
        return list(map(key_of, folded.split(b"\n")))

    return keys


class _KeysOfLines(dict[bytes, bytes]):
    """Keys that were made lately: much of the web is the same few lines, and looking up is ten times faster."""

    def __missing__(self, line: bytes) -> bytes:
        key = hashlib.sha1(line.strip(), usedforsecurity=False).digest()[:_KEY_BYTES]
        if len(line) <= _REMEMBERED_BYTES:
            if len(self) >= _MOST_REMEMBERED:
                self.clear()
            self[line] = key
        return key


def collect(settings: ParagraphSettings, documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields pages without blank and repeated lines, and stores the key of every line that is left."""
    keys_of = make_keys(settings.normalisation)
    stored: list[bytes] = []
    for document in documents:
        keys = keys_of(document.text)
        distinct = dict.fromkeys(keys)
        distinct.pop(_BLANK, None)
        work.counts["paragraphs_in"] += len(keys)
        work.counts["paragraph_characters_in"] += len(document.text)
        if len(distinct) < len(keys):
            seen = {_BLANK}
            is_kept = [not (key in seen or seen.add(key)) for key in keys]  # type: ignore[func-returns-value]
            document = replace(document, text="\n".join(compress(document.text.split("\n"), is_kept)))
            work.counts["paragraphs_dropped_in_page"] += len(keys) - len(distinct)
        if not distinct:
            work.drops.add(document, NAME, "nothing left", "only blank lines")
            continue
        stored.append(b"".join(distinct))
        yield document
    write_keys(work.path(NAME), np.frombuffer(b"".join(stored), "<u8").astype(np.uint64))


def decide(tasks: Sequence[Task], folder: Path, engine: Engine) -> dict[str, Any]:
    """Marks the lines that occur in more than one page of a block."""
    facts = {"paragraphs_compared": 0, "paragraphs_dropped_in_block": 0}
    for block in sorted({task.block for task in tasks}):
        files = [task.folder / NAME for task in tasks if task.block == block]
        marks = folder / f"{tasks[0].source.name}-{NAME}-{block}"
        num_keys, num_marked = mark(files, marks, "repeated", tasks[0].settings.memory_bytes, engine)
        facts["paragraphs_compared"] += num_keys
        facts["paragraphs_dropped_in_block"] += num_marked
    return facts


def remove(documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields the pages without the lines that were marked; those with nothing left are dropped."""
    is_kept = ~read_marks(work.path(NAME), work.task.shared_folder)
    place = 0
    for document in documents:
        lines = document.text.split("\n")
        kept = is_kept[place : place + len(lines)]
        place += len(lines)
        if kept.all():
            yield document
        elif kept.any():
            yield replace(document, text="\n".join(compress(lines, kept.tolist())))
        else:
            work.drops.add(document, NAME, "nothing left", f"{len(lines)} paragraphs that other pages have too")
    assert place == len(is_kept), f"{place} paragraphs were read and {len(is_kept)} compared"
