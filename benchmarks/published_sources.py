"""Speed of the readers of published dumps on one core: python benchmarks/published_sources.py DATA --out results/x.json

DATA is the folder of sample data beside the checkout. Each source is read to its records, from the packed files, two
times in turn with the others; processor seconds count, so that a busy machine disturbs little. With --wikiextractor and
the path of a Python that has the package, our reader and wikiextractor, in one process, then read the English dump in
turn, `PAIRS` times; `COPIES` of it as one file, so that starting counts for little, and without keeping records.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from camelid.corpus.settings import Source
from camelid.corpus.sources import list_files, read_file, source_root
from camelid.corpus.sources.record import RawRecord
from camelid.corpus.steps.overlap import find_overlaps, measure_overlaps, sketch

TURNS, PAIRS, COPIES = 2, 5, 10
ENGLISH = "wikipedia/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
SOURCES: tuple[dict[str, Any], ...] = (
    {"kind": "github", "path": "github"},
    {"kind": "wikipedia", "path": "wikipedia", "languages": ()},
    {"kind": "books", "path": "books"},
    {"kind": "arxiv", "path": "arxiv"},
    {"kind": "stack_exchange", "path": "stackexchange"},
)


def iterate_records(data: Path, settings: dict[str, Any]) -> Iterator[RawRecord]:
    """The records of one source."""
    source: Source = TypeAdapter(Source).validate_python({"name": settings["kind"], **settings})
    root = source_root(source, data)
    for path in list_files(source, data):
        for record in read_file(source, root, path):
            if isinstance(record, RawRecord):
                yield record


def measure(data: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Megabytes of raw records and of text, and processor seconds."""
    start = time.process_time()
    records = list(iterate_records(data, settings))
    seconds = time.process_time() - start
    text = sum(len(record.text.encode()) for record in records) / 1e6
    raw = sum(record.num_raw_bytes or 0 for record in records) / 1e6
    return {"records": len(records), "raw_mb": raw, "text_mb": text, "seconds": seconds}


def measure_overlap(data: Path) -> dict[str, float]:
    """Processor seconds of sketches and of the search for editions, over all books."""
    texts = [record.text for record in iterate_records(data, {"kind": "books", "path": "books"})]
    start = time.process_time()
    sketches = [sketch(text, 5) for text in texts]
    middle = time.process_time()
    found = find_overlaps(
        sketches,
        lambda pairs: (measure_overlaps(texts[book], [texts[other] for other in others], 5) for book, others in pairs),
        max_overlap=0.9,
        keep="longest",
    )
    end = time.process_time()
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    return {"text_mb": megabytes, "sketch_seconds": middle - start, "search_seconds": end - middle, "found": len(found)}


def measure_wikiextractor(python: str, dump: Path) -> float:
    """Processor seconds of wikiextractor with one process, its parent's among them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            python,
            "-m",
            "wikiextractor.WikiExtractor",
            str(dump),
            "--processes",
            "1",
            "-o",
            folder,
            "--no-templates",
        ]
        subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare_english(data: Path, python: str) -> dict[str, Any]:
    """Processor seconds of both sides by pair, and how many times ours wikiextractor takes."""
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        dump = Path(name) / ENGLISH
        dump.parent.mkdir()
        dump.write_bytes((data / ENGLISH).read_bytes() * COPIES)
        for _ in range(PAIRS):
            start = time.process_time()
            for _record in iterate_records(Path(name), {"kind": "wikipedia", "path": ENGLISH}):
                pass
            ours = time.process_time() - start
            pairs.append((ours, measure_wikiextractor(python, dump)))
    ratios = [theirs / ours for ours, theirs in pairs]
    return {"times": statistics.median(ratios), "least": min(ratios), "most": max(ratios), "seconds": pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wikiextractor", metavar="PYTHON")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": platform.processor() or platform.machine()}
    result["turns"] = []
    for _ in range(TURNS):
        turn: dict[str, Any] = {settings["kind"]: measure(arguments.data, settings) for settings in SOURCES}
        turn["overlap"] = measure_overlap(arguments.data)
        result["turns"].append(turn)
    if arguments.wikiextractor:
        result["english_dump"] = pairs = compare_english(arguments.data, arguments.wikiextractor)
        print("English dump beside wikiextractor:", {name: pairs[name] for name in ("times", "least", "most")})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for name in result["turns"][0]:
        print(name, [turn[name] for turn in result["turns"]])


if __name__ == "__main__":
    main()
