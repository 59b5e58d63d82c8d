"""CCNet's chain beside what its bare library calls allow: corpus_chain.py DATA --out x.json

DATA is the folder of sample data. Its WARC files, and its WET files, go through the chain step by step on one core;
beside each step the libraries do the same work and nothing else, on the very same pages: FastWARC and resiliparse,
fastText, SentencePiece and KenLM. Paragraphs have no library: their time is ours on both sides. Lines are planted so
that a third of each copy of a page stays after deduplication. Processor seconds count, of the best turn. A gigabyte is
--copies 26 of WARC and --copies 244 of WET.
"""

import argparse
import itertools
import json
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from corpus_web import extract_alone, read_alone
from fastwarc.warc import ArchiveIterator

from camelid.corpus.document import Document
from camelid.corpus.engine import Engine
from camelid.corpus.folding import Folding, fold_for_model
from camelid.corpus.language_model import train_language_model
from camelid.corpus.model_settings import LanguageModelSettings
from camelid.corpus.settings import CorpusSettings
from camelid.corpus.sources.common_crawl import read_file
from camelid.corpus.sources.record import RawRecord
from camelid.corpus.steps import language, paragraphs, perplexity
from camelid.corpus.steps.pages import drop_short_pages
from camelid.corpus.task import Task, Work
from camelid.corpus.web_settings import CommonCrawlSource, LanguageSettings, ParagraphSettings, PerplexitySettings

_KEPT_SHARE = 0.35
_SUFFIXES = {"WARC": ".warc.gz", "WET": ".warc.wet.gz"}


class Chain:
    """The steps of one kind of archive, each timed beside its libraries."""

    def __init__(self, folder: Path, copies: int, turns: int) -> None:
        self.rows: list[dict[str, Any]] = []
        self._copies = copies
        self._turns = turns
        source = CommonCrawlSource(kind="common_crawl", name="web", path=".")
        place = folder / "task"
        place.mkdir(exist_ok=True)
        self._task = Task(CorpusSettings(sources=(source,)), folder, source, folder, (), 0, 0, place)
        self._folder = folder

    def run(self, archives: Path, kind: str) -> None:
        """Adds a row for each step."""
        files = [path for path in sorted(archives.iterdir()) if path.name.endswith(_SUFFIXES[kind])]
        source = self._task.source
        assert isinstance(source, CommonCrawlSource)
        blocks = [
            bytes(record.reader.read())
            for path in files
            for record in ArchiveIterator(str(path), parse_http=True, fsspec_args=False)
            if record.headers["WARC-Type"] != "warcinfo"
        ]

        def read() -> list[RawRecord]:
            found = [record for path in files for record in read_file(source, archives, path.name)]
            return [record for record in found if isinstance(record, RawRecord)]

        def read_bare() -> None:
            for path in files:
                read_alone(path)
            if kind == "WARC":
                for block in blocks:
                    extract_alone(block)

        amount = sum(map(len, blocks))
        self._add("records and text", amount * self._copies, read, read_bare, self._copies)
        pages = _plant(read(), self._copies)
        step = partial(drop_short_pages, source.min_page_characters)
        self._add("short pages", _size(pages), lambda: list(step(iter(pages), Work(self._task))), None)
        pages = list(step(iter(pages), Work(self._task)))
        collect = partial(paragraphs.collect, ParagraphSettings())
        self._add("paragraphs, keys", _size(pages), lambda: list(collect(iter(pages), Work(self._task))), None)
        collected = list(collect(iter(pages), Work(self._task)))
        with Engine(1) as engine:
            decide = partial(paragraphs.decide, [self._task], self._folder, engine)
            self._add("paragraphs, shuffle", _size(collected), decide, None)
        remove = paragraphs.remove
        self._add(
            "paragraphs, removal", _size(collected), lambda: list(remove(iter(collected), Work(self._task))), None
        )
        left = list(remove(iter(collected), Work(self._task)))
        self._run_models(left)

    def _run_models(self, pages: list[Document]) -> None:
        model = language.load_fasttext(language.find_language_model(None, Path()))

        def identify_bare() -> None:
            for page in pages:
                model.f.predict(page.text.replace("\n", " ") + "\n", 1, 0.0, "strict")

        identify = partial(language.identify, LanguageSettings())
        self._add("language", _size(pages), lambda: list(identify(iter(pages), Work(self._task))), identify_bare)
        english = list(identify(iter(pages), Work(self._task)))
        loaded = perplexity.load_language_model(self._folder / "lm")
        folding = Folding(fold_for_model)
        lines = [[line for line in folding(d.text).decode().split("\n") if line.strip()] for d in english]

        def score_bare() -> None:
            for found in lines:
                for pieces in loaded.pieces.encode(found, out_type=str):
                    loaded.ngrams.score(" ".join(pieces))

        score = partial(perplexity.score, PerplexitySettings(models={"en": "lm"}))
        self._add("perplexity", _size(english), lambda: list(score(iter(english), Work(self._task))), score_bare)

    def _add(
        self, step: str, amount: int, ours: Callable[[], object], bare: Callable[[], object] | None, copies: int = 1
    ) -> None:
        seconds, bare_seconds = [], []
        for _ in range(self._turns):
            seconds.append(_time(ours) * copies)
            bare_seconds.append(_time(bare) * copies if bare else seconds[-1])
        row = {"step": step, "megabytes": amount / 1e6, "seconds": min(seconds), "bare_seconds": min(bare_seconds)}
        self.rows.append(row)


def _time(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _size(pages: list[Document]) -> int:
    return sum(len(page.text.encode()) for page in pages)


def _plant(records: list[RawRecord], copies: int, seed: int = 1) -> list[Document]:
    """Copies of pages in which a share of the lines is on no other page."""
    rng = random.Random(seed)
    found = []
    for copy in range(copies):
        for number, record in enumerate(records):
            lines = [_change(line, rng) for line in record.text.split("\n")]
            place = copy * len(records) + number
            found.append(Document(str(place), "\n".join(lines), "web", record.url, record.path, place))
    return found


def _change(line: str, rng: random.Random) -> str:
    word = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=8))
    return f"{line} {word}" if line and rng.random() < _KEPT_SHARE else line


def plant_archives(data: Path, folder: Path) -> Iterator[Path]:
    """Writes planted copies of the sample's pages, as WARC's plain text records, file by file and without end."""
    source = CommonCrawlSource(kind="common_crawl", name="web", path=".")
    archives = data / "commoncrawl" / "assembled"
    for copy in itertools.count():
        for path in sorted(archives.glob("*.wet.gz")):
            records = [record for record in read_file(source, archives, path.name) if isinstance(record, RawRecord)]
            target = folder / f"{path.name.partition('.')[0]}-{copy:04d}.wet"
            with target.open("wb") as file:
                for page in _plant(records, 1, seed=copy):
                    block = page.text.encode()
                    head = (
                        f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: {page.url}#{copy}\r\n"
                        f"Content-Length: {len(block)}\r\n\r\n"
                    )
                    file.write(head.encode() + block + b"\r\n\r\n")
            yield target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--kind", choices=_SUFFIXES, action="append", help="WARC and WET unless given")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": platform.processor() or platform.machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [page.text for page in _english(options.data)]
        train_language_model(LanguageModelSettings(vocab_size=8000), lambda: texts, folder / "lm", {})
        for kind in options.kind or _SUFFIXES:
            chain = Chain(folder, options.copies, options.turns)
            chain.run(options.data / "commoncrawl" / "assembled", kind)
            share = sum(row["bare_seconds"] for row in chain.rows) / sum(row["seconds"] for row in chain.rows)
            result[kind] = {"share_of_libraries": share, "steps": chain.rows}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _english(data: Path) -> Iterator[RawRecord]:
    source = CommonCrawlSource(kind="common_crawl", name="web", path=".")
    archives = data / "commoncrawl" / "assembled"
    model = language.load_fasttext(language.find_language_model(None, Path()))
    for path in sorted(archives.glob("*.wet.gz")):
        for record in read_file(source, archives, path.name):
            if isinstance(record, RawRecord) and language.predict(model, record.text)[0] == "en":
                yield record


if __name__ == "__main__":
    main()
