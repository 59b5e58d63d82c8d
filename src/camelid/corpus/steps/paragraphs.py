"""Paragraphs that more than one page of a block has are removed, all of them (CCNet, section 3.1).

A paragraph is a line, and its key is a hash of 64 bits over the folded line. Within a page only the first of equal
lines stays, and lines with nothing in them go.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from camelid.corpus.document import Document
from camelid.corpus.engine import Engine
from camelid.corpus.folding import fold_as_paper, fold_as_released
from camelid.corpus.hashing import sort_stably
from camelid.corpus.line_keys import LineKeys
from camelid.corpus.shuffle import mark, read_marks, write_keys
from camelid.corpus.task import Task, Work
from camelid.corpus.web_settings import ParagraphSettings

NAME = "paragraphs"
_BATCH_CHARACTERS = 1 << 18


@cache
def make_keys(normalisation: str) -> LineKeys:
    """What gives the key of each line.

    Args:
        normalisation: as in `ParagraphSettings`.
    """
    is_paper = normalisation == "paper"
    return LineKeys(fold_as_paper if is_paper else fold_as_released, is_number_one=is_paper)


def collect(settings: ParagraphSettings, documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields pages without blank and repeated lines, and stores the key of every line that is left."""
    keys_of = make_keys(settings.normalisation)
    stored = [np.zeros(0, np.uint64)]
    for batch in _batches(documents):
        keys, is_blank = keys_of([document.text for document in batch])
        # Most pages lose a line; to split a page costs little more than to count its lines.
        lines = [document.text.split("\n") for document in batch]
        num_lines = np.array(list(map(len, lines)))
        ends = np.cumsum(num_lines)
        pages = np.repeat(np.arange(len(batch)), num_lines)
        # A stable order puts the equal lines of a page side by side, the first of them first.
        order = sort_stably(keys)
        ordered = keys[order]
        again = np.flatnonzero(ordered[1:] == ordered[:-1])
        again = again[pages[order[again + 1]] == pages[order[again]]]
        is_kept = ~is_blank
        is_kept[order[again + 1]] = False
        stored.append(keys[is_kept])
        num_kept = np.diff(np.concatenate([[0], np.cumsum(is_kept)])[np.concatenate([[0], ends])])
        work.counts["paragraphs_in"] += len(keys)
        work.counts["paragraph_characters_in"] += sum(len(document.text) for document in batch)
        for document, own, end, kept in zip(batch, lines, ends.tolist(), num_kept.tolist(), strict=True):
            if not kept:
                work.drops.add(document, NAME, "nothing left", "only blank lines")
                continue
            work.counts["paragraphs_dropped_in_page"] += len(own) - kept
            is_whole = kept == len(own)
            yield document if is_whole else _keep(document, own, is_kept[end - len(own) : end].tolist())
    write_keys(work.path(NAME), np.concatenate(stored), is_stable=False)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    num_characters = 0
    for document in documents:
        batch.append(document)
        num_characters += len(document.text)
        if num_characters >= _BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _keep(document: Document, lines: Sequence[str], is_kept: Sequence[bool]) -> Document:
    return document.with_text("\n".join(compress(lines, is_kept)))


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
    num_kept = np.concatenate([[0], np.cumsum(is_kept)])
    place = 0
    for document in documents:
        lines = document.text.split("\n")
        start, place = place, place + len(lines)
        kept = int(num_kept[place] - num_kept[start])
        if kept == len(lines):
            yield document
        elif kept:
            yield _keep(document, lines, is_kept[start:place].tolist())
        else:
            work.drops.add(document, NAME, "nothing left", f"{len(lines)} paragraphs that other pages have too")
    assert place == len(is_kept), f"{place} paragraphs were read and {len(is_kept)} compared"
