"""Which steps the documents of each kind of source pass through, and what is decided over all of them in between.

A pass is what is done to a document without looking at others. Between two passes something is decided from hashes or
numbers of all documents of a source, and the next pass acts on it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camelid.corpus.document import Document
from camelid.corpus.engine import Engine
from camelid.corpus.settings import Source
from camelid.corpus.steps import exact
from camelid.corpus.steps.clean import clean
from camelid.corpus.steps.cut import cut
from camelid.corpus.task import Task, Work

Step = Callable[[Iterator[Document], Work], Iterator[Document]]


@dataclass(frozen=True)
class Pass:
    """Steps that are done in one go, by name, and what is decided when all tasks are through."""

    steps: tuple[tuple[str, Step], ...] = ()
    decide: Callable[[Sequence[Task], Path, Engine], dict[str, Any]] | None = None
    """Takes the tasks of the source, the folder that they share, and the engine; what it returns goes to the manifest
    and to the next pass."""


def passes_of(source: Source) -> tuple[Pass, ...]:
    """The passes of a source; the last one ends with the steps that all sources share."""
    *first, last = _own_passes(source)
    return (*first, Pass((*last.steps, *_FINISHING)))


def _own_passes(source: Source) -> tuple[Pass, ...]:
    return (Pass(),)


def _cut(documents: Iterator[Document], work: Work) -> Iterator[Document]:
    for document in cut(documents, work.settings):
        work.books.parts_added += document.part > 0
        yield document


def _clean(documents: Iterator[Document], work: Work) -> Iterator[Document]:
    return clean(documents, work.settings, work.drops)


_FINISHING: tuple[tuple[str, Step], ...] = (("cut", _cut), ("clean", _clean), (exact.NAME, exact.write_contents))


def part_path(task: Task, number: int) -> Path:
    """Where the documents of a task lie after a pass."""
    return task.folder / f"pass-{number}.parquet"


def last_part(task: Task) -> Path:
    """Where the documents of a task lie after all passes."""
    return part_path(task, len(passes_of(task.source)) - 1)


def summary_path(task: Task, number: int) -> Path:
    """Where a task says what it did in a pass; it is there when the pass is done."""
    return task.folder / f"pass-{number}.json"


def read_summaries(task: Task) -> Iterator[dict[str, Any]]:
    """What a task said after each of its passes."""
    for number in range(len(passes_of(task.source))):
        yield json.loads(summary_path(task, number).read_text(encoding="utf-8"))
