"""MB/s of each step of the web sources on one core, beside the bare library calls: python benchmarks/corpus_web.py DATA

DATA is the folder of sample data. Its WET files are repeated with planted changes up to --megabytes; each step gets the
same documents and is timed by the processor time of this process, the best of --rounds, for the machine may be shared.
"""

import argparse
import itertools
import json
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fastwarc.warc import ArchiveIterator
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

from camelid.corpus.document import Document
from camelid.corpus.engine import Engine
from camelid.corpus.folding import Folding, fold_for_model
from camelid.corpus.language_model import train_language_model
from camelid.corpus.line_keys import LineKeys
from camelid.corpus.model_settings import LanguageModelSettings
from camelid.corpus.settings import CorpusSettings
from camelid.corpus.sources.common_crawl import read_file
from camelid.corpus.sources.record import RawRecord
from camelid.corpus.steps import c4, exact, language, paragraphs, perplexity
from camelid.corpus.steps.decontaminate import load_passages
from camelid.corpus.task import Task, Work
from camelid.corpus.web_settings import (
    C4Rules,
    CommonCrawlSource,
    LanguageSettings,
    ParagraphSettings,
    PerplexitySettings,
)


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--megabytes", type=float, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(options.data, Path(name), options.megabytes * 1e6, options.rounds)
    for row in rows:
        print(f"{row['step']:<44} {row['mb_per_second']:>8.1f} MB/s  {row['megabytes']:>7.1f} MB")
    if options.out:
        options.out.write_text(
            json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=1) + "\n"
        )


def measure(data: Path, folder: Path, num_bytes: float, rounds: int) -> list[dict[str, Any]]:
    """A row for each step."""
    rows: list[dict[str, Any]] = []

    def add(step: str, amount: float, run: Callable[[], object], times: int = rounds) -> None:
        seconds = min(_time(run) for _ in range(times))
        rows.append({"step": step, "megabytes": amount / 1e6, "mb_per_second": amount / 1e6 / seconds})

    _measure_archives(data / "commoncrawl", add)
    documents = repeat_pages(data / "commoncrawl", num_bytes)
    total = sum(len(document.text.encode()) for document in documents)
    task = _task(folder)
    for normalisation in ("paper", "released"):
        keys = paragraphs.make_keys(normalisation)
        add(f"paragraphs, keys ({normalisation})", total, partial(_all_keys, keys, documents))
    add(
        "paragraphs, keys and repeats in the page",
        total,
        lambda: _run(paragraphs.collect, ParagraphSettings(), documents, task),
    )
    collected = list(paragraphs.collect(ParagraphSettings(), iter(documents), Work(task)))
    with Engine(1) as engine:
        add("paragraphs, shuffle", total, lambda: paragraphs.decide([task], folder, engine))
        paragraphs.decide([task], folder, engine)
    add("paragraphs, removal", total, lambda: _exhaust(paragraphs.remove(iter(collected), Work(task))))
    add("C4, page and line rules", total, lambda: _run(c4.apply_page_rules, C4Rules(), documents, task))
    add("exact, hashes", total, lambda: _exhaust(exact.write_contents(iter(documents), Work(task))))
    passages = load_passages((data / "eval" / "gsm8k", data / "eval" / "openbookqa"), 13)
    add("decontaminate", total, lambda: [passages.find(d.text) for d in documents])
    few = documents[: max(len(documents) // 8, 1)]
    amount = sum(len(document.text.encode()) for document in few)
    model = language.load_fasttext(language.find_language_model(None, Path()))
    add("language", amount, lambda: _run(language.identify, LanguageSettings(languages=()), few, task))
    add(
        "language, fastText alone",
        amount,
        lambda: [model.f.predict(d.text.replace("\n", " ") + "\n", 1, 0.0, "strict") for d in few],
    )
    _measure_perplexity(few, amount, folder, task, add)
    return rows


def _measure_archives(folder: Path, add: Callable[..., None]) -> None:
    source = CommonCrawlSource(kind="common_crawl", name="web", path=".")
    for kind, suffix in (("WARC", ".warc.gz"), ("WET", ".warc.wet.gz")):
        files = [path for path in sorted((folder / "assembled").iterdir()) if path.name.endswith(suffix)]
        blocks = [
            bytes(record.reader.read())
            for path in files
            for record in ArchiveIterator(str(path), parse_http=True, fsspec_args=False)
            if record.headers["WARC-Type"] != "warcinfo"
        ]
        amount = sum(map(len, blocks))
        add(
            f"{kind}, records and text",
            amount,
            lambda files=files: [list(read_file(source, folder / "assembled", path.name)) for path in files],
        )
        add(f"{kind}, FastWARC alone", amount, lambda files=files: [read_alone(path) for path in files])
        if kind == "WARC":
            add(
                "HTML to text, resiliparse alone",
                amount,
                lambda blocks=blocks: [extract_alone(block) for block in blocks],
            )


def _all_keys(keys: LineKeys, documents: Sequence[Document]) -> None:
    for start in range(0, len(documents), 16):
        keys([document.text for document in documents[start : start + 16]])


def read_alone(path: Path) -> int:
    """FastWARC reads the records of a file and their HTTP headers, and nothing else is done."""
    return sum(len(record.reader.read()) for record in ArchiveIterator(str(path), parse_http=True, fsspec_args=False))


def extract_alone(block: bytes) -> str:
    """resiliparse makes text of a page, and nothing else is done."""
    text: str = extract_plain_text(
        HTMLTree.parse(bytes_to_str(block, detect_encoding(block, from_html_meta=True) or "utf-8"))
    )
    return text


def _measure_perplexity(
    documents: list[Document], amount: int, folder: Path, task: Task, add: Callable[..., None]
) -> None:
    settings = LanguageModelSettings(vocab_size=8000)
    texts = [document.text for document in documents if document.language == "en"][:400]
    size = sum(len(text.encode()) for text in texts)
    add("train-lm", size, lambda: train_language_model(settings, lambda: texts, folder / "lm", {}), 1)
    model = perplexity.load_language_model(folder / "lm")
    few = [replace(document, language="en") for document in documents]
    chosen = PerplexitySettings(models={"en": "lm"})
    add("perplexity", amount, lambda: _run(perplexity.score, chosen, few, task))
    folding = Folding(fold_for_model)
    lines = [[line for line in folding(d.text).decode().split("\n") if line.strip()] for d in few]

    def bare() -> None:
        for found in lines:
            for pieces in model.pieces.encode(found, out_type=str):
                model.ngrams.score(" ".join(pieces))

    add("perplexity, SentencePiece and KenLM alone", amount, bare)


def repeat_pages(folder: Path, num_bytes: float) -> list[Document]:
    """The pages of `iterate_pages` up to so many bytes."""
    documents: list[Document] = []
    done = 0
    for round_of_pages in iterate_pages(folder):
        documents += round_of_pages
        done += sum(len(document.text.encode()) for document in round_of_pages)
        if done >= num_bytes:
            return documents
    return documents


def iterate_pages(folder: Path) -> Iterator[list[Document]]:
    """The pages of the WET files again and again, without end, each time with one word in ten of a line changed."""
    source = CommonCrawlSource(kind="common_crawl", name="web", path=".")
    records = [
        record
        for path in sorted((folder / "assembled").glob("*.wet.gz"))
        for record in read_file(source, folder / "assembled", path.name)
        if isinstance(record, RawRecord)
    ]
    model = language.load_fasttext(language.find_language_model(None, Path()))
    languages = [language.predict(model, record.text)[0] for record in records]
    rng = random.Random(1)
    numbers = itertools.count()
    while True:
        documents = []
        for record, code in zip(records, languages, strict=True):
            lines = [
                line if rng.random() < 0.5 else f"{line} {rng.randrange(10**6)}x" for line in record.text.split("\n")
            ]
            number = next(numbers)
            documents.append(
                Document(str(number), "\n".join(lines), "web", record.url, record.path, number, language=code)
            )
        yield documents


def _task(folder: Path) -> Task:
    source = CommonCrawlSource(kind="common_crawl", name="web", path=".")
    place = folder / "task"
    place.mkdir()
    return Task(CorpusSettings(sources=(source,)), folder, source, folder, (), 0, 0, place)


def _run(step: Callable[..., Iterator[Document]], settings: Any, documents: Iterable[Document], task: Task) -> None:
    _exhaust(step(settings, iter(documents), Work(task)))


def _exhaust(documents: Iterator[Document]) -> None:
    for _ in documents:
        pass


def _time(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
