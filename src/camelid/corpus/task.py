"""A share of the work: some files of one source, and what is noted while their documents pass through the steps."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from camelid.corpus.document import Document, make_id
from camelid.corpus.ledger import Books, Drop, Drops
from camelid.corpus.settings import CorpusSettings, Source
from camelid.corpus.sources import block_files, list_files, list_refused, read_file, source_root, split_file
from camelid.corpus.sources.record import RawRecord, Unreadable

_TASK_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Task:
    """Some files of one source."""

    settings: CorpusSettings
    base: Path
    """Where relative paths of the recipe start."""
    source: Source
    root: Path
    files: tuple[str, ...]
    num_bytes: int
    block: int
    """Number of the block of files whose paragraphs are compared, for sources that have such blocks."""
    folder: Path
    """What is kept between passes."""
    refused: tuple[Unreadable, ...] = ()
    """Files of the source that nothing is read from; its first task books them."""

    @property
    def shared_folder(self) -> Path:
        """What was decided over all tasks."""
        return self.folder.parent

    def read_decision(self, number: int) -> dict[str, Any]:
        """What was decided after a pass of this task's source."""
        decision: dict[str, Any] = json.loads(decision_path(self.shared_folder, self.source, number).read_text())
        return decision


def decision_path(folder: Path, source: Source, number: int) -> Path:
    """Where the decision after a pass lies."""
    return folder / f"{source.name}-{number}.json"


def plan_tasks(settings: CorpusSettings, base: Path, folder: Path) -> list[Task]:
    """Cuts the files of all sources, in their order, into tasks; the number of workers plays no part."""
    tasks: list[Task] = []
    for source in settings.sources:
        root = source_root(source, base)
        files = list_files(source, base)
        refused = tuple(list_refused(source, base, files))
        length = block_files(source) or len(files)
        for block, start in enumerate(range(0, len(files), length)):
            for group, num_bytes in _group_files(source, root, files[start : start + length]):
                place = folder / f"{len(tasks):08d}"
                tasks.append(Task(settings, base, source, root, tuple(group), num_bytes, block, place, refused))
                refused = ()
    return tasks


def _group_files(source: Source, root: Path, files: list[str]) -> Iterator[tuple[list[str], int]]:
    group: list[str] = []
    num_bytes = 0
    for path in files:
        for piece, piece_bytes in split_file(source, root, path, _TASK_BYTES):
            group.append(piece)
            num_bytes += piece_bytes
            if num_bytes >= _TASK_BYTES:
                yield group, num_bytes
                group, num_bytes = [], 0
    if group:
        yield group, num_bytes


@dataclass
class Work:
    """One task in one pass: what its steps may look at, and where they note what they did."""

    task: Task
    drops: Drops = field(default_factory=Drops)
    books: Books = field(default_factory=Books)
    counts: Counter[str] = field(default_factory=Counter)
    """Numbers for the manifest, by name; those of all tasks are added up."""

    def path(self, name: str) -> Path:
        """A file of this task for a later pass, or for a decision."""
        return self.task.folder / name

    @cached_property
    def settings(self) -> CorpusSettings:
        """The settings of the whole corpus."""
        return self.task.settings


def read_raw(work: Work) -> Iterator[Document]:
    """The documents of a task's files; what gives none is booked."""
    task = work.task
    source = task.source
    records = itertools.chain.from_iterable(read_file(source, task.root, path) for path in task.files)
    for found in itertools.chain(task.refused, records):
        work.books.records_in += 1
        if not isinstance(found, RawRecord):
            place = (source.name, found.path, found.offset, 0)
            work.drops.rows.append(Drop(*place, found.step, found.reason, found.detail))
            continue
        num_bytes = len(found.text.encode()) if found.num_raw_bytes is None else found.num_raw_bytes
        work.books.bytes_in += num_bytes
        yield Document(
            id=make_id(source.name, found.path, found.offset),
            text=found.text,
            source=source.name,
            url=found.url,
            path=found.path,
            offset=found.offset,
            title=found.title,
            licence=found.licence or source.licence,
            language=found.language,
        )


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there with its whole text or not at all, whenever the process ends."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)
