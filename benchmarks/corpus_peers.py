"""C4's rules beside datatrove, and shards encoded by gigatoken and by SentencePiece: corpus_peers.py DATA --out x.json

DATA is the folder of sample data. datatrove runs in the Python that --datatrove names, on the same pages, in turn with
ours, each in one process and by blocks of 64 MB; processor seconds count. Neither side splits sentences: datatrove's
splitter, NLTK's Punkt, wants a download, and its filter is told not to ask for sentences. The texts that both keep are
compared.
"""

import argparse
import gzip
import json
import platform
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from corpus_web import iterate_pages

from camelid.corpus.steps.c4 import filter_lines
from camelid.corpus.web_settings import C4Rules
from camelid.tokenizer.bulk import BulkEncoder
from camelid.tokenizer.load import load_tokenizer

_BLOCK_BYTES = 64e6
_PEER = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter
texts = json.load(open(sys.argv[1]))
rules = C4QualityFilter(min_num_sentences=-1)
documents = [Document(text=text, id=str(n)) for n, text in enumerate(texts)]
kept = [rules.filter(document) is True for document in documents]
answers = [document.text if is_kept else "" for document, is_kept in zip(documents, kept)]
documents = [Document(text=text, id=str(n)) for n, text in enumerate(texts)]
start = time.process_time()
while documents:
    rules.filter(documents.pop())
json.dump([time.process_time() - start, answers], open(sys.argv[2], "w"))
"""


def measure_c4(data: Path, python: str, folder: Path, num_bytes: float, turns: int) -> dict[str, Any]:
    """MB/s of both sides by turn, and the share of pages of which both keep the same; a block of pages at a time."""
    turn_rows = [_run_turn(_blocks(data, num_bytes), python, folder) for _ in range(turns)]
    megabytes, num_pages = turn_rows[0]["bytes"] / 1e6, turn_rows[0]["pages"]
    return {
        "megabytes": megabytes,
        "camelid": [megabytes / row["camelid"] for row in turn_rows],
        "datatrove": [megabytes / row["datatrove"] for row in turn_rows],
        "times": [row["datatrove"] / row["camelid"] for row in turn_rows],
        "same_share": min(row["same"] for row in turn_rows) / num_pages,
    }


def _blocks(data: Path, num_bytes: float) -> Iterator[list[str]]:
    """Texts in blocks of about `_BLOCK_BYTES`, so that little is held whatever their sum."""
    block: list[str] = []
    size = done = 0
    for pages in iterate_pages(data / "commoncrawl"):
        block += [page.text for page in pages]
        size += sum(len(page.text.encode()) for page in pages)
        if size >= _BLOCK_BYTES or done + size >= num_bytes:
            yield block
            block, size, done = [], 0, done + size
        if done >= num_bytes:
            return


def _run_turn(blocks: Iterator[list[str]], python: str, folder: Path) -> defaultdict[str, float]:
    """Processor seconds of both sides, bytes, pages, and pages of which both keep the same."""
    pages, answer = folder / "pages.json", folder / "answer.json"
    rules = C4Rules(edition="datatrove")
    end_marks = (".", "?", "!", '"', "'")
    sums: defaultdict[str, float] = defaultdict(float)
    for texts in blocks:
        # Both sides are timed when they have seen the pages once, and keep nothing then, as in a pipeline.
        found = [filter_lines(text, rules, 3, end_marks) for text in texts]
        start = time.process_time()
        for text in texts:
            filter_lines(text, rules, 3, end_marks)
        sums["camelid"] += time.process_time() - start
        pages.write_text(json.dumps(texts))
        subprocess.run([python, "-c", _PEER, str(pages), str(answer)], check=True)
        seconds, kept = json.loads(answer.read_text())
        sums["datatrove"] += seconds
        sums["bytes"] += sum(len(text.encode()) for text in texts)
        sums["pages"] += len(texts)
        sums["same"] += sum("\n".join(lines) == other for (lines, _), other in zip(found, kept, strict=True))
    return sums


def measure_encoding(data: Path, turns: int) -> dict[str, Any]:
    """MB/s of gigatoken, as shards are encoded, and of SentencePiece on one thread, and whether all ids are equal."""
    tokenizer = load_tokenizer(data / "models" / "llama-tokenizer" / "tokenizer.model")
    text = gzip.decompress((data / "text" / "tinystories_sample.txt.gz").read_bytes()).decode()
    raw = gzip.decompress((data / "text" / "wikitext-2-raw" / "wiki.test.raw.gz").read_bytes()).decode()
    texts = [part[start : start + 4000] for part in (text, raw) for start in range(0, len(part), 4000)]
    megabytes = sum(len(part.encode()) for part in texts) / 1e6
    encoder = BulkEncoder(tokenizer)

    def rate(run: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
        start = time.process_time()
        ids = run()
        return megabytes / (time.process_time() - start), ids

    fast: list[float] = []
    slow: list[float] = []
    is_equal = True
    for _ in range(turns):
        speed, found = rate(lambda: encoder.encode(texts))
        fast.append(speed)
        speed, wanted = rate(lambda: tokenizer.encode_batch(texts, 1))
        slow.append(speed)
        is_equal = is_equal and found == wanted
    return {"megabytes": megabytes, "gigatoken": fast, "sentencepiece": slow, "ids_equal": is_equal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datatrove", metavar="PYTHON")
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--without-encoding", action="store_true", help="Measure C4's rules alone.")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": platform.processor() or platform.machine()}
    if not options.without_encoding:
        result["encoding"] = measure_encoding(options.data, options.turns)
    if options.datatrove:
        with tempfile.TemporaryDirectory() as name:
            num_bytes = options.megabytes * 1e6
            result["c4"] = measure_c4(options.data, options.datatrove, Path(name), num_bytes, options.turns)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
