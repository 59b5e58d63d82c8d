"""Raw text becomes a corpus: read, cut, clean, deduplicate, hold out.

Tasks over files run side by side; each writes its documents to a part and hands back hashes. The duplicates and the
split are decided from the hashes alone, in the order of the files, so that the number of workers changes nothing.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from camelid import artifact
from camelid.artifact import Draft, Manifest
from camelid.corpus.document import SPLITS, Document, Split, make_id, read_document_file, write_documents
from camelid.corpus.engine import run_tasks
from camelid.corpus.ledger import LEDGER_NAME, Books, Drop, write_ledger
from camelid.corpus.settings import CorpusSettings, Source
from camelid.corpus.sources import list_files, read_file, source_root
from camelid.corpus.sources.record import RawRecord
from camelid.corpus.steps import exact
from camelid.corpus.steps.clean import clean
from camelid.corpus.steps.cut import cut
from camelid.corpus.steps.exact import ExactDuplicates, content_hash
from camelid.errors import UserError
from camelid.progress import progress

KIND = "corpus"
_TASK_BYTES = 4 * 1024**2
_FILE_CHARACTERS = 64 * 1024**2
_PARTS = "parts"


@dataclass(frozen=True)
class _Task:
    """Some files of one source, and where their documents go."""

    settings: CorpusSettings
    source: Source
    root: Path
    files: tuple[str, ...]
    num_bytes: int
    part: Path


@dataclass(frozen=True)
class _Outcome:
    """What a task hands back: no texts."""

    books: Books
    drops: list[Drop]
    contents: list[bytes]
    keys: list[tuple[str, int, int]]
    """Path, offset and part of each document, beside `contents`."""


def corpus_identity(settings: CorpusSettings) -> dict[str, object]:
    """The settings that decide the corpus; the number of workers does not."""
    return settings.model_dump(mode="json", exclude={"num_workers"})


def fingerprint_sources(settings: CorpusSettings, base: Path) -> dict[str, str]:
    """For each source a hash over path, size and time of change of its files, which notices a change without reading.

    Raises:
        UserError: a source is missing or empty.
    """
    prints = {}
    for source in settings.sources:
        root = source_root(source, base)
        listing = hashlib.sha256()
        for path in list_files(source, base):
            status = (root / path).stat()
            listing.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        prints[f"raw:{source.name}"] = listing.hexdigest()
    return prints


def build_corpus(settings: CorpusSettings, directory: Path, *, seed: int, base: Path) -> Manifest:
    """Publishes train-*.parquet, held_out-*.parquet and ledger.parquet.

    Args:
        base: where relative paths of sources start.

    Raises:
        UserError: a source is missing or empty, or too little text is left.
    """
    with artifact.publish(
        directory,
        kind=KIND,
        settings=corpus_identity(settings),
        inputs=fingerprint_sources(settings, base),
        seed=seed,
    ) as draft:
        tasks = _plan(settings, base, draft.path / _PARTS)
        books = {source.name: Books() for source in settings.sources}
        outcomes: list[_Outcome] = []
        with progress("corpus", sum(task.num_bytes for task in tasks), "bytes") as advance:
            for task, outcome in zip(tasks, run_tasks(_run_task, tasks, settings.num_workers), strict=True):
                outcomes.append(outcome)
                books[task.source.name].add(outcome.books)
                advance(task.num_bytes)
        splits, duplicates = _decide(settings, tasks, outcomes, books)
        _write_splits(draft.path, tasks, splits, draft, books)
        write_ledger(draft.path / LEDGER_NAME, _in_order(outcomes, duplicates))
        shutil.rmtree(draft.path / _PARTS)
    return artifact.read_manifest(directory)


def _in_order(outcomes: Sequence[_Outcome], duplicates: Sequence[list[Drop]]) -> Iterator[Drop]:
    for outcome, repeated in zip(outcomes, duplicates, strict=True):
        yield from outcome.drops
        yield from repeated


def _plan(settings: CorpusSettings, base: Path, parts: Path) -> list[_Task]:
    parts.mkdir()
    tasks: list[_Task] = []
    for source in settings.sources:
        root = source_root(source, base)
        files: list[str] = []
        num_bytes = 0
        for path in [*list_files(source, base), None]:
            if path is None or num_bytes >= _TASK_BYTES:
                part = parts / f"{len(tasks):08d}.parquet"
                tasks.append(_Task(settings, source, root, tuple(files), num_bytes, part))
                files, num_bytes = [], 0
            if path is not None:
                files.append(path)
                num_bytes += (root / path).stat().st_size
    return tasks


def _run_task(task: _Task) -> _Outcome:
    books = Books()
    drops: list[Drop] = []
    contents: list[bytes] = []
    keys: list[tuple[str, int, int]] = []

    def recorded() -> Iterator[Document]:
        documents = cut(_read(task, books, drops), task.settings)
        for document in clean(_count_parts(documents, books), task.settings, drops):
            contents.append(content_hash(document.text))
            keys.append((document.path, document.offset, document.part))
            yield document

    write_documents(task.part, recorded())
    books.dropped = Counter((drop.step, drop.reason) for drop in drops)
    return _Outcome(books, drops, contents, keys)


def _read(task: _Task, books: Books, drops: list[Drop]) -> Iterator[Document]:
    source = task.source
    for path in task.files:
        for found in read_file(source, task.root, path):
            books.records_in += 1
            if not isinstance(found, RawRecord):
                drops.append(Drop(source.name, found.path, found.offset, 0, found.step, found.reason, found.detail))
                continue
            books.bytes_in += len(found.text.encode()) if found.num_raw_bytes is None else found.num_raw_bytes
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


def _count_parts(documents: Iterator[Document], books: Books) -> Iterator[Document]:
    for document in documents:
        books.parts_added += document.part > 0
        yield document


def _decide(
    settings: CorpusSettings, tasks: Sequence[_Task], outcomes: Sequence[_Outcome], books: Mapping[str, Books]
) -> tuple[list[list[Split | None]], list[list[Drop]]]:
    """Which split each document of each task goes to, None for a duplicate, and the duplicates as drops."""
    seen = ExactDuplicates()
    splits: list[list[Split | None]] = []
    duplicates: list[list[Drop]] = []
    kept: list[tuple[bytes, int, int]] = []
    for number, (task, outcome) in enumerate(zip(tasks, outcomes, strict=True)):
        splits.append([])
        duplicates.append([])
        for place, (content, key) in enumerate(zip(outcome.contents, outcome.keys, strict=True)):
            if not seen.is_first(content):
                duplicates[-1].append(Drop(task.source.name, *key, exact.NAME, "duplicate"))
                books[task.source.name].dropped[exact.NAME, "duplicate"] += 1
                splits[-1].append(None)
                continue
            splits[-1].append("held_out" if _is_held_out(content, settings.held_out_share) else "train")
            kept.append((content, number, place))
    _refuse_too_little(kept, books)
    # Few documents may all fall on one side of the hash; the outermost ones then change it.
    present = {splits[number][place] for _, number, place in kept}
    if "held_out" not in present:
        _, number, place = min(kept)
        splits[number][place] = "held_out"
    if "train" not in present:
        _, number, place = max(kept)
        splits[number][place] = "train"
    return splits, duplicates


def _is_held_out(content: bytes, share: float) -> bool:
    return int.from_bytes(content[:8]) < share * 2**64


def _refuse_too_little(kept: Sequence[object], books: Mapping[str, Books]) -> None:
    if len(kept) >= 2:
        return
    met = sum(book.records_in for book in books.values())
    reasons = sum((book.dropped for book in books.values()), Counter[tuple[str, str]]())
    why = ", ".join(f"{number} {reason}" for (_, reason), number in reasons.most_common(3)) or "nothing was dropped"
    raise UserError(
        f"the corpus has no usable text: of {met} records {len(kept)} documents are left, and two are needed, one to "
        f"train on and one to hold out ({why}); look at corpus.sources, min_characters and max_characters"
    )


def _write_splits(
    directory: Path,
    tasks: Sequence[_Task],
    splits: Sequence[Sequence[Split | None]],
    draft: Draft,
    books: Mapping[str, Books],
) -> None:
    counts: dict[str, Counter[str]] = {name: Counter() for name in books}
    for split in SPLITS:
        documents = _documents_of(split, tasks, splits, counts)
        for number, group in enumerate(_group(documents)):
            write_documents(directory / f"{split}-{number:05d}.parquet", group)
    for name, book in books.items():
        book.check(name, sum(counts[name][f"{split}_documents"] for split in SPLITS))
    draft.facts["sources"] = {
        name: {
            "records_in": book.records_in,
            "bytes_in": book.bytes_in,
            "parts_added": book.parts_added,
            **{
                f"{split}_{what}": counts[name][f"{split}_{what}"]
                for split in SPLITS
                for what in ("documents", "bytes")
            },
            "dropped": book.by_step(),
        }
        for name, book in books.items()
    }


def _documents_of(
    split: Split,
    tasks: Sequence[_Task],
    splits: Sequence[Sequence[Split | None]],
    counts: Mapping[str, Counter[str]],
) -> Iterator[Document]:
    for task, choices in zip(tasks, splits, strict=True):
        if split not in choices:
            continue
        for document, choice in zip(read_document_file(task.part), choices, strict=True):
            if choice == split:
                counts[document.source][f"{split}_documents"] += 1
                counts[document.source][f"{split}_bytes"] += len(document.text.encode())
                yield document


def _group(documents: Iterator[Document]) -> Iterator[Iterator[Document]]:
    """Cuts a stream into groups of about `_FILE_CHARACTERS`; each must be used up before the next is asked for."""
    pending = next(documents, None)

    def take() -> Iterator[Document]:
        nonlocal pending
        num_characters = 0
        while pending is not None and num_characters < _FILE_CHARACTERS:
            document = pending
            num_characters += len(document.text)
            pending = next(documents, None)
            yield document

    while pending is not None:
        yield take()
