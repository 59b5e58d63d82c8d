"""Raw text becomes a corpus: read, passed through the steps of its source, deduplicated, held out.

Tasks over files run side by side, pass by pass; what a task finished is kept, so that a build that was killed goes on
where it was. What concerns more than one task is decided from hashes and numbers alone, in the order of the files, so
that the number of workers changes nothing.
"""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from camelid import artifact
from camelid.artifact import Manifest
from camelid.corpus.chain import (
    models_of,
    part_path,
    passes_of,
    read_summaries,
    summary_path,
    uses_installed_language_model,
)
from camelid.corpus.document import Document, read_document_file, write_documents
from camelid.corpus.engine import Engine, open_engine
from camelid.corpus.ledger import LEDGER_NAME, LEDGER_SCHEMA, write_ledger
from camelid.corpus.settings import CorpusSettings
from camelid.corpus.sources import list_files, list_refused, source_root
from camelid.corpus.splits import DUPLICATES_NAME, split_documents, write_splits
from camelid.corpus.steps.language import find_language_model
from camelid.corpus.task import Task, Work, decision_path, plan_tasks, read_raw, write_whole
from camelid.errors import UserError
from camelid.progress import progress

KIND = "corpus"
TIMINGS_NAME = "timings.json"
_WORK = "work"
_IDENTITY = "identity.json"
_LEDGER_ROWS = 16_384
# Between passes documents are written and read once: speed counts, not size.
_PART_COMPRESSION = "lz4"


def corpus_identity(settings: CorpusSettings) -> dict[str, object]:
    """The settings that decide the corpus; what runs the tasks, on how many workers and with what memory does not."""
    return settings.model_dump(mode="json", exclude={"engine", "num_workers", "memory_bytes"})


def fingerprint_sources(settings: CorpusSettings, base: Path) -> dict[str, str]:
    """For each source, and each model or list that steps ask, a hash over path, size and time of change of its files.

    A change is noticed without reading.

    Raises:
        UserError: a source is missing or empty.
    """
    prints = {}
    for source in settings.sources:
        root = source_root(source, base)
        listing = hashlib.sha256()
        files = list_files(source, base)
        for path in files:
            status = (root / path).stat()
            listing.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        for refused in list_refused(source, base, files):
            listing.update(f"{refused.path}\0{refused.reason}\n".encode())
        prints[f"raw:{source.name}"] = listing.hexdigest()
    for name in sorted(models_of(settings)):
        prints[f"model:{name}"] = _fingerprint_model(base / name)
    if uses_installed_language_model(settings):
        prints["model:lid.176"] = artifact.hash_file(find_language_model(None, base))
    return prints


def _fingerprint_model(path: Path) -> str:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    listing = hashlib.sha256()
    for file in files:
        if not file.exists():
            raise UserError(f"{file} does not exist; make it, or mend the recipe")
        status = file.stat()
        listing.update(f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return listing.hexdigest()


def build_corpus(settings: CorpusSettings, directory: Path, *, seed: int, base: Path) -> Manifest:
    """Publishes train-*.parquet, held_out-*.parquet and ledger.parquet.

    Args:
        base: where relative paths of sources start.

    Raises:
        UserError: a source is missing or empty, or too little text is left.
    """
    # Workers of another machine have another working folder.
    directory, base = directory.absolute(), base.absolute()
    identity = corpus_identity(settings)
    inputs = fingerprint_sources(settings, base)
    with (
        artifact.publish(
            directory, kind=KIND, settings=identity, inputs=inputs, seed=seed, logs=(TIMINGS_NAME,), is_resumable=True
        ) as draft,
        open_engine(settings.engine, settings.num_workers, settings.memory_bytes) as engine,
    ):
        work = _open_work(draft.path, json.dumps([identity, inputs, seed], sort_keys=True))
        tasks = plan_tasks(settings, base, work)
        decisions = _run_passes(settings, tasks, work, engine)
        splits = split_documents(settings, tasks, work, engine)
        draft.facts["sources"] = write_splits(draft.path, settings, tasks, splits, engine)
        for name, decided in decisions.items():
            draft.facts["sources"][name] |= {"decided": decided} if decided else {}
        _write_ledger(draft.path / LEDGER_NAME, tasks)
        _write_timings(draft.path / TIMINGS_NAME, tasks)
        shutil.rmtree(work)
    return artifact.read_manifest(directory)


def _open_work(partial_folder: Path, identity: str) -> Path:
    """The folder of what is kept between passes; that of a killed build with the same settings and files goes on."""
    work = partial_folder / _WORK
    told = work / _IDENTITY
    is_same = told.exists() and told.read_text(encoding="utf-8") == identity
    for path in partial_folder.iterdir():
        if path != work or not is_same:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    work.mkdir(exist_ok=True)
    write_whole(told, identity)
    return work


def _run_passes(
    settings: CorpusSettings, tasks: Sequence[Task], work: Path, engine: Engine
) -> dict[str, dict[str, Any]]:
    """Runs all passes of all sources, and returns what was decided between them by source."""
    decisions: dict[str, dict[str, Any]] = {source.name: {} for source in settings.sources}
    num_passes = {source.name: len(passes_of(source)) for source in settings.sources}
    for number in range(max(num_passes.values())):
        chosen = [task for task in tasks if number < num_passes[task.source.name]]
        label = "corpus" if max(num_passes.values()) == 1 else f"corpus, pass {number + 1}"
        with progress(label, sum(task.num_bytes for task in chosen), "bytes") as advance:
            for task, _ in zip(chosen, engine.run(partial(_run_task, number), chosen), strict=True):
                advance(task.num_bytes)
        for source in settings.sources:
            own = [task for task in chosen if task.source.name == source.name]
            decide = passes_of(source)[number].decide if own else None
            if decide is not None:
                path = decision_path(work, source, number)
                if not path.exists():
                    write_whole(path, json.dumps(decide(own, work, engine)))
                decisions[source.name] |= json.loads(path.read_text(encoding="utf-8"))
        for task in chosen:
            part_path(task, number - 1).unlink(missing_ok=True)
    return decisions


def _run_task(number: int, task: Task) -> None:
    """One pass over one task; a task that went through it before is left alone."""
    done = summary_path(task, number)
    if done.exists():
        return
    task.folder.mkdir(exist_ok=True)
    work = Work(task)
    clock = _Clock()
    documents = clock.watch("read", read_raw(work) if number == 0 else read_document_file(part_path(task, number - 1)))
    for name, step in passes_of(task.source)[number].steps:
        documents = clock.watch(name, step(documents, work))
    write_documents(part_path(task, number), documents, _PART_COMPRESSION)
    write_ledger(task.folder / f"drops-{number}.parquet", work.drops.rows)
    dropped = Counter((drop.step, drop.reason) for drop in work.drops.rows)
    books = work.books
    summary = {
        "books": [books.records_in, books.bytes_in, books.parts_added],
        "dropped": [[*key, count] for key, count in dropped.items()],
        "counts": work.counts,
        "timings": clock.lines(),
    }
    write_whole(done, json.dumps(summary))


class _Clock:
    """Seconds that each step of a pass takes by itself, and what comes out of it."""

    def __init__(self) -> None:
        self._rows: list[list[Any]] = []

    def watch(self, name: str, documents: Iterator[Document]) -> Iterator[Document]:
        row: list[Any] = [name, 0.0, 0, 0]
        self._rows.append(row)
        return self._watch(row, documents)

    @staticmethod
    def _watch(row: list[Any], documents: Iterator[Document]) -> Iterator[Document]:
        while True:
            start = time.perf_counter()
            document = next(documents, None)
            row[1] += time.perf_counter() - start
            if document is None:
                return
            row[2] += 1
            row[3] += len(document.text)
            yield document

    def lines(self) -> list[dict[str, Any]]:
        """For each step its own seconds, without those of the steps before it, and the documents that it was given."""
        before = [0.0, 0, 0]
        lines = []
        for name, seconds, num_documents, num_characters in self._rows:
            own = {"seconds": seconds - before[0], "documents_in": before[1], "characters_in": before[2]}
            lines.append({"step": name, **own, "documents_out": num_documents, "characters_out": num_characters})
            before = [seconds, num_documents, num_characters]
        return lines


def _write_ledger(path: Path, tasks: Sequence[Task]) -> None:
    """The drops of all tasks, in their order; those of one task by pass, duplicates last."""
    with pq.ParquetWriter(path, LEDGER_SCHEMA, compression="zstd") as writer:
        tables: list[pa.Table] = []
        for task in tasks:
            names = [
                *(f"drops-{number}.parquet" for number in range(len(passes_of(task.source)))),
                DUPLICATES_NAME,
            ]
            tables += [pq.read_table(task.folder / name, schema=LEDGER_SCHEMA) for name in names]
            if sum(table.num_rows for table in tables) >= _LEDGER_ROWS:
                writer.write_table(pa.concat_tables(tables))
                tables = []
        if tables:
            writer.write_table(pa.concat_tables(tables))


def _write_timings(path: Path, tasks: Sequence[Task]) -> None:
    """Seconds and amounts of each step of each source, all workers together."""
    sources: dict[str, dict[str, Counter[str]]] = {}
    for task in tasks:
        steps = sources.setdefault(task.source.name, {})
        for number, summary in enumerate(read_summaries(task)):
            for line in summary["timings"]:
                name = "reread" if line["step"] == "read" and number else line["step"]
                steps.setdefault(name, Counter()).update({key: line[key] for key in line if key != "step"})
    path.write_text(json.dumps(sources, indent=1), encoding="utf-8")
