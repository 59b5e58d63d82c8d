"""CommonCrawl to documents: extraction against human gold, paragraphs against dictionaries, and the promises."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from read_source import read_source
from web_pages import write_wet

from camelid.artifact import Manifest
from camelid.corpus import task as task_module
from camelid.corpus.build import build_corpus
from camelid.corpus.document import Document, read_documents
from camelid.corpus.ledger import LEDGER_NAME
from camelid.corpus.settings import CorpusSettings
from camelid.corpus.sources.common_crawl import read_page
from camelid.corpus.sources.record import RawRecord, Unreadable
from camelid.corpus.sources.warc import ArchiveRecord


def _build(folder: Path, name: str = "corpus", num_workers: int = 1, **source: Any) -> Manifest:
    sources = [{"kind": "common_crawl", "name": "web", "path": "wet", "language": None, **source}]
    chosen = CorpusSettings.model_validate({"sources": sources, "min_characters": 1, "num_workers": num_workers})
    return build_corpus(chosen, folder / name, seed=0, base=folder)


def _documents(folder: Path, name: str = "corpus") -> list[Document]:
    return [*read_documents(folder / name, "train"), *read_documents(folder / name, "held_out")]


def _pages(number: int, seed: int = 2) -> list[tuple[str, str]]:
    """Pages with paragraphs of their own, paragraphs that many have, blank lines and repeated lines."""
    rng = random.Random(seed)
    shared = [f"Shared notice {chr(97 + n)} that stands on many pages." for n in range(12)]
    pages = []
    for page in range(number):
        own = [
            f"Page {chr(97 + page % 26)}{chr(97 + page // 26)} says {word} at some length."
            for word in ("this", "that", "more")
        ]
        lines = [*own, *rng.sample(shared, 3), "", own[0]]
        rng.shuffle(lines)
        pages.append((f"http://site/{page}", "\n".join(lines)))
    return pages


def _write(folder: Path, num_files: int = 4, per_file: int = 10) -> list[list[tuple[str, str]]]:
    pages = _pages(num_files * per_file)
    files = [pages[start : start + per_file] for start in range(0, len(pages), per_file)]
    for number, file in enumerate(files):
        write_wet(folder / "wet" / f"{number}.wet.gz", file)
    return files


def _expected(files: list[list[tuple[str, str]]], block_files: int) -> dict[str, str]:
    """What is left of each page: lines that one page of the block has, once."""
    left = {}
    for start in range(0, len(files), block_files):
        pages = [page for file in files[start : start + block_files] for page in file]
        num_pages = Counter(line for _, text in pages for line in set(text.split("\n")))
        for url, text in pages:
            lines = [line for line in dict.fromkeys(text.split("\n")) if line and num_pages[line] == 1]
            if lines:
                left[url] = "\n".join(lines) + "\n"
    return left


@pytest.mark.parametrize("block_files", [1, 2, None])
def test_paragraphs_of_a_block_are_compared(tmp_path: Path, block_files: int | None) -> None:
    files = _write(tmp_path)
    manifest = _build(tmp_path, min_page_characters=10, paragraphs={"block_files": block_files})
    assert {document.url: document.text for document in _documents(tmp_path)} == _expected(files, block_files or 4)
    facts = manifest.facts["sources"]["web"]
    lines = [line for file in files for _, text in file for line in text.split("\n")]
    assert facts["counts"]["paragraphs_in"] == len(lines)
    num_left = sum(document.text.count("\n") for document in _documents(tmp_path))
    removed = facts["counts"]["paragraphs_dropped_in_page"] + facts["decided"]["paragraphs_dropped_in_block"]
    assert num_left == len(lines) - removed


def test_short_pages_go_first_and_are_not_compared(tmp_path: Path) -> None:
    line = "A line that a short page and a long page both have."
    write_wet(tmp_path / "wet" / "a.wet.gz", [("u:1", line), ("u:2", line + "\n" + "x" * 300), ("u:3", "y" * 300)])
    _build(tmp_path)
    assert {document.url: document.text[:6] for document in _documents(tmp_path)} == {"u:2": "A line", "u:3": "yyyyyy"}
    (row,) = pq.read_table(tmp_path / "corpus" / LEDGER_NAME).to_pylist()
    assert (row["step"], row["reason"], row["excerpt"]) == ("pages", "too short", line)


def test_bytes_do_not_depend_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path)
    monkeypatch.setattr(task_module, "_TASK_BYTES", 1)
    digests = {_build(tmp_path, f"c{n}", n, min_page_characters=10).digest for n in (1, 2, 4)}
    assert len(digests) == 1


_KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from camelid.corpus import task
task._TASK_BYTES = 1
from test_common_crawl import _build
if __name__ == "__main__":
    _build(Path(sys.argv[1]), "killed", 1, min_page_characters=10)
"""


def test_a_killed_build_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, num_files=40, per_file=30)
    monkeypatch.setattr(task_module, "_TASK_BYTES", 1)
    wanted = _build(tmp_path, "whole", min_page_characters=10).digest
    command = [sys.executable, "-c", _KILLED, str(tmp_path), str(Path(__file__).parent)]
    work = tmp_path / "killed.partial" / "work"
    num_done = 0
    for wanted_done in (10, 50):  # in the first pass, and in the second
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and num_done < wanted_done:
            time.sleep(0.005)
            num_done = len(list(work.glob("*/pass-*.json")))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(list(work.glob("*/pass-*.json"))) >= wanted_done
    assert _build(tmp_path, "killed", min_page_characters=10).digest == wanted


def test_other_settings_do_not_take_up_what_was_left(tmp_path: Path) -> None:
    _write(tmp_path)
    wanted = _build(tmp_path, "c", min_page_characters=10, paragraphs={"block_files": 1}).digest
    left = tmp_path / "d.partial" / "work"
    left.mkdir(parents=True)
    (left / "identity.json").write_text("of another recipe")
    (left / "00000000").mkdir()
    (left / "00000000" / "pass-0.json").write_text("{}")
    assert _build(tmp_path, "d", min_page_characters=10, paragraphs={"block_files": 1}).digest == wanted


def test_extracted_text_has_what_people_say_it_must(shared_data: Path) -> None:
    folder = shared_data / "commoncrawl" / "assembled"
    gold = json.loads((folder / "evaldata.json").read_text(encoding="utf-8"))
    records, others = read_source(folder, kind="common_crawl")
    assert len(records) == 900
    assert not any(isinstance(other, Unreadable) for other in others)
    texts = {record.url: " ".join(record.text.split()) for record in records if record.path.endswith("warc.gz")}
    wanted = [(url, " ".join(text.split())) for url, item in gold.items() for text in item.get("with", [])]
    found = [text in texts[url] for url, text in wanted if url in texts]
    assert len(found) > 1000
    assert sum(found) / len(found) > 0.95


def test_every_record_of_the_real_archives_is_accounted_for(shared_data: Path) -> None:
    records, others = read_source(shared_data / "commoncrawl", kind="common_crawl", path="warc")
    assert len(records) == 390
    assert len(records) + len(others) == 2526
    assert {(other.path, other.offset) for other in others if isinstance(other, Unreadable)} == {
        ("clipped.warc.gz", 0),
        ("clipped.warc.gz", 1),
    }
    japanese = [record for record in records if record.path == "clueweb-quirk.warc.gz"]
    assert len(japanese) == 29
    assert sum("ブランド" in record.text for record in japanese) > 20


@pytest.mark.parametrize("declared", ["; charset=utf-8", ""])
def test_a_wrong_byte_does_not_spoil_the_page(declared: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html{declared}\r\n\r\n"
    block = f"{head}<meta charset=utf-8><p>Schöne Seite über schöne Ärzte".encode() + b"\xe9 und so fort"
    record = ArchiveRecord("response", {}, block, len(block))
    page = read_page(record, block, "a", 0, is_main_content=False)
    assert isinstance(page, RawRecord)
    assert page.text == "Schöne Seite über schöne Ärzte und so fort"


@pytest.mark.parametrize("charset", ["bogus", '"latin-1"\r\n folded', '"l\x12tin-1"', "utf-8"])
def test_an_unknown_charset_costs_nothing(charset: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={charset}\r\n\r\n"
    block = f"{head}<meta charset=utf-8><p>Schöne Seite".encode()
    page = read_page(ArchiveRecord("response", {}, block, len(block)), block, "x.warc", 0, is_main_content=False)
    assert isinstance(page, RawRecord)
    assert page.text == "Schöne Seite"
