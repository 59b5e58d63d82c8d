"""What of the documents that are left is trained on and what is held out, and the files that hold them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from camelid.corpus.chain import last_part, read_summaries
from camelid.corpus.document import SPLITS, Document, Split, read_document_file, write_documents
from camelid.corpus.engine import Engine
from camelid.corpus.ledger import Books, Drop, write_ledger
from camelid.corpus.settings import CorpusSettings, Source
from camelid.corpus.shuffle import mark, read_marks
from camelid.corpus.steps import exact
from camelid.corpus.task import Task
from camelid.errors import UserError
from camelid.progress import progress

_FILE_BYTES = 64 * 1024**2
_SPLITS_FILE = "splits.npy"
DUPLICATES_NAME = "drops-exact.parquet"


@dataclass(frozen=True)
class Shares:
    """What of a task goes where."""

    documents: dict[str, int]
    num_bytes: dict[str, int]
    duplicates: int
    lowest: tuple[int, int, int] | None
    """Smallest hash of its kept texts in two halves, and its place."""
    highest: tuple[int, int, int] | None


def split_documents(settings: CorpusSettings, tasks: Sequence[Task], work: Path, engine: Engine) -> list[Shares]:
    """Decides for each document which split it goes to, or that it is a duplicate."""
    files = [exact.contents_path(task.folder) for task in tasks]
    mark(files, work / exact.NAME, "later", settings.memory_bytes, engine)
    splits = list(engine.run(partial(_split_task, None), tasks))
    if sum(sum(split.documents.values()) for split in splits) < 2:
        _refuse_too_little(settings, tasks, splits)
    # Few documents may all fall on one side of the hash; the outermost ones then change it.
    for wanted, choose in (("held_out", min), ("train", max)):
        if not any(split.documents[wanted] for split in splits):
            outermost = [
                (extreme, number)
                for number, split in enumerate(splits)
                if (extreme := split.lowest if wanted == "held_out" else split.highest) is not None
            ]
            (_, _, place), number = choose(outermost)
            splits[number] = _split_task((place, SPLITS.index(wanted)), tasks[number])
    return splits


def _split_task(change: tuple[int, int] | None, task: Task) -> Shares:
    contents, sizes = exact.read_contents(task.folder)
    is_duplicate = read_marks(exact.contents_path(task.folder), task.shared_folder)
    held_out = contents[:, 0] < np.uint64(min(int(task.settings.held_out_share * 2**64), 2**64 - 1))
    choices = np.where(is_duplicate, len(SPLITS), np.where(held_out, SPLITS.index("held_out"), SPLITS.index("train")))
    if change is not None:
        choices[change[0]] = change[1]
    np.save(task.folder / _SPLITS_FILE, choices.astype(np.int8))
    _book_duplicates(task, is_duplicate)
    kept = [(int(contents[place, 0]), int(contents[place, 1]), int(place)) for place in np.flatnonzero(~is_duplicate)]
    return Shares(
        {split: int((choices == number).sum()) for number, split in enumerate(SPLITS)},
        {split: int(sizes[choices == number].sum()) for number, split in enumerate(SPLITS)},
        int(is_duplicate.sum()),
        min(kept, default=None),
        max(kept, default=None),
    )


def _book_duplicates(task: Task, is_duplicate: Any) -> None:
    table = pq.read_table(last_part(task), columns=["path", "offset", "part"]).filter(pa.array(is_duplicate))
    rows = (
        Drop(task.source.name, row["path"], row["offset"], row["part"], exact.NAME, "duplicate")
        for row in table.to_pylist()
    )
    write_ledger(task.folder / DUPLICATES_NAME, rows)


def _books_of(source: Source, tasks: Sequence[Task], splits: Sequence[Shares]) -> tuple[Books, Counter[str]]:
    """The books of a source over all passes of its tasks, and what its steps counted."""
    books = Books()
    counts: Counter[str] = Counter()
    for task, split in zip(tasks, splits, strict=True):
        if task.source.name != source.name:
            continue
        for summary in read_summaries(task):
            records_in, bytes_in, parts_added = summary["books"]
            dropped = Counter({(step, reason): count for step, reason, count in summary["dropped"]})
            books.add(Books(records_in, bytes_in, parts_added, dropped))
            counts.update(summary["counts"])
        if split.duplicates:
            books.dropped[exact.NAME, "duplicate"] += split.duplicates
    return books, counts


def _refuse_too_little(settings: CorpusSettings, tasks: Sequence[Task], splits: Sequence[Shares]) -> None:
    books = [_books_of(source, tasks, splits)[0] for source in settings.sources]
    met = sum(book.records_in for book in books)
    kept = sum(sum(split.documents.values()) for split in splits)
    reasons = sum((book.dropped for book in books), Counter[tuple[str, str]]())
    why = ", ".join(f"{number} {reason}" for (_, reason), number in reasons.most_common(3)) or "nothing was dropped"
    raise UserError(
        f"the corpus has no usable text: of {met} records {kept} documents are left, and two are needed, one to "
        f"train on and one to hold out ({why}); look at corpus.sources, min_characters and max_characters"
    )


@dataclass(frozen=True)
class _Output:
    """A file of the product and the tasks whose documents it holds."""

    path: Path
    split: Split
    tasks: tuple[Task, ...]


def write_splits(
    directory: Path, settings: CorpusSettings, tasks: Sequence[Task], splits: Sequence[Shares], engine: Engine
) -> dict[str, dict[str, Any]]:
    """Writes the files of both splits, checks the books and returns the facts of each source."""
    outputs: list[_Output] = []
    for split in SPLITS:
        sizes = [found.num_bytes[split] for found in splits]
        for number, group in enumerate(_group(tasks, sizes)):
            outputs.append(_Output(directory / f"{split}-{number:05d}.parquet", split, group))
    written: Counter[tuple[str, str]] = Counter()
    with progress("corpus, writing", len(outputs), "files") as advance:
        for output, counts in zip(outputs, engine.run(_write_output, outputs), strict=True):
            written.update({(name, output.split): num_documents for name, num_documents in counts.items()})
            advance(1)
    facts = {}
    for source in settings.sources:
        books, counts_of_steps = _books_of(source, tasks, splits)
        books.check(source.name, sum(written[source.name, split] for split in SPLITS))
        own = [split for task, split in zip(tasks, splits, strict=True) if task.source.name == source.name]
        facts[source.name] = {
            "records_in": books.records_in,
            "bytes_in": books.bytes_in,
            "parts_added": books.parts_added,
            **{f"{split}_documents": written[source.name, split] for split in SPLITS},
            **{f"{split}_bytes": sum(found.num_bytes[split] for found in own) for split in SPLITS},
            "dropped": books.by_step(),
        }
        if counts_of_steps:
            facts[source.name]["counts"] = dict(sorted(counts_of_steps.items()))
    return facts


def _group(tasks: Sequence[Task], sizes: Sequence[int]) -> Iterator[tuple[Task, ...]]:
    """Consecutive tasks with about `_FILE_BYTES` of text; those that give none are left out."""
    group: list[Task] = []
    num_bytes = 0
    for task, size in zip(tasks, sizes, strict=True):
        if size:
            group.append(task)
            num_bytes += size
        if num_bytes >= _FILE_BYTES:
            yield tuple(group)
            group, num_bytes = [], 0
    if group:
        yield tuple(group)


def _write_output(output: _Output) -> Counter[str]:
    """Writes one file and returns the number of documents by source."""
    counts: Counter[str] = Counter()

    def chosen() -> Iterator[Document]:
        for task in output.tasks:
            wanted = np.load(task.folder / _SPLITS_FILE) == SPLITS.index(output.split)
            for document, is_wanted in zip(read_document_file(last_part(task)), wanted.tolist(), strict=True):
                if is_wanted:
                    counts[document.source] += 1
                    yield document

    write_documents(output.path, chosen())
    return counts
