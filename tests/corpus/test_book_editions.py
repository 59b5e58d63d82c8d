"""Editions are found and books are not confused: real pairs, planted ones, and the measure against counting by hand."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest
from read_source import read_source

from camelid.artifact import Manifest
from camelid.corpus import task as task_module
from camelid.corpus.build import build_corpus
from camelid.corpus.document import read_documents
from camelid.corpus.ledger import LEDGER_NAME
from camelid.corpus.settings import CorpusSettings
from camelid.corpus.steps import overlap
from camelid.corpus.steps.overlap import Comparison, find_overlaps, measure_overlaps, sketch

_OTHER_EDITIONS = {
    "Charles Dickens___A Christmas Carol": "46",
    "Charles Dickens___A Tale of Two Cities": "98-0",
    "Herbert George Wells___The Time Machine": "35",
    "Herman Melville___Moby Dick": "2701-0",
    "Jane Austen___Pride and Prejudice": "1342-0",
    "Jane Austen___Sense and Sensibility": "161",
    "Joseph Conrad___Heart of Darkness, Version 1": "219-0",
    "Lewis Carroll___Alice's Adventures in Wonderland": "11-0",
    "Lewis Carroll___Through the Looking-Glass": "12-0",
    "Mark Twain___The Adventures of Tom Sawyer, Complete": "74-0",
    "Oscar Wilde___The Picture of Dorian Gray": "174",
    "Sir Arthur Conan Doyle___The Adventures of Sherlock Holmes": "1661",
}
"""Real pairs by title, told by hand; the thirteenth, Tess, is there once only."""


def _find(texts: list[str], keep: Literal["longest", "first"] = "longest", **settings: Any) -> dict[int, int]:
    values = {"max_overlap": 0.9, "overlap_words": 5, **settings}
    sketches = [sketch(text, values["overlap_words"]) for text in texts]

    def compare(pairs: Sequence[Comparison]) -> Iterator[list[float]]:
        for number, others in pairs:
            yield measure_overlaps(texts[number], [texts[other] for other in others], values["overlap_words"])

    found = find_overlaps(sketches, compare, max_overlap=values["max_overlap"], keep=keep)
    return {number: overlap.kept for number, overlap in found.items()}


def _measure(text: str, other: str, overlap_words: int) -> float:
    (share,) = measure_overlaps(text, [other], overlap_words)
    return share


def _book(seed: int, num_words: int = 3000) -> list[str]:
    chance = random.Random(seed)
    return [f"w{chance.randrange(4000)}" for _ in range(num_words)]


def _real_pairs(shared_data: Path, max_bytes: int) -> set[frozenset[str]]:
    """Pairs that are found among the real books of at most so many bytes, by name."""
    records, _ = read_source(shared_data / "books", kind="books")
    chosen = [record for record in records if (record.num_raw_bytes or 0) <= max_bytes]
    names = [record.path.rpartition("!")[2].removesuffix(".txt") for record in chosen]
    found = _find([record.text for record in chosen])
    return {frozenset((names[gone], names[kept])) for gone, kept in found.items()}


def _true_pairs(editions: Iterable[str], eight_bit: Iterable[int]) -> set[frozenset[str]]:
    return {
        *(frozenset((f"other-editions/{name}", f"gutenberg/{_OTHER_EDITIONS[name]}")) for name in editions),
        *(frozenset((f"gutenberg-10000s/{number}", f"gutenberg-10000s/{number}-8")) for number in eight_bit),
        frozenset(("gutenberg/10007", "gutenberg-10000s/10007-8")),
    }


def test_short_real_editions_are_found_and_nothing_else(shared_data: Path) -> None:
    short = [
        name for name in _OTHER_EDITIONS if name.startswith(("Charles Dickens___A Chr", "Lewis", "Herbert", "Joseph"))
    ]
    assert _real_pairs(shared_data, 240_000) == _true_pairs(short, (10006, 10007))


def test_books_are_taken_in_groups_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Editions in a chain: what a book that goes holds counts no more, in one group or in many."""
    story = _book(1, 9000)
    texts = [" ".join(story[start:] + _book(start, start)) for start in (0, 400, 800, 1200, 1600)]
    texts += [" ".join(_book(7)), texts[1], texts[3]]
    whole = _find(texts, "first")
    assert whole[1] == 0
    assert set(whole) >= {1, 2, 6, 7}
    assert not set(whole.values()) & set(whole)
    monkeypatch.setattr(overlap, "_BOOKS_AT_ONCE", 1)
    assert _find(texts, "first") == whole
    monkeypatch.setattr(overlap, "_BOOKS_AT_ONCE", 3)
    assert _find(texts, "first") == whole


@pytest.mark.slow
def test_every_real_pair_of_editions_is_found_and_nothing_else(shared_data: Path) -> None:
    every = _true_pairs(_OTHER_EDITIONS, (10002, 10004, 10005, 10006, 10007, 10008))
    assert _real_pairs(shared_data, 10**9) == every


def test_the_measure_is_the_share_of_words_in_shared_passages() -> None:
    words = _book(1, 1000)
    other = list(words)
    for place in (100, 101, 500):  # two changes of which one is of two words
        other[place] = "changed"
    text = " ".join(words)
    assert _measure(text, " ".join(other), 5) == pytest.approx(0.997)
    assert _measure(text, " ".join(words[:400]), 5) == pytest.approx(0.4)
    assert _measure(" ".join(words[:400]), text, 5) == 1
    assert _measure(text, " ".join(_book(2, 1000)), 5) == 0
    assert _measure("", text, 5) == 0
    assert _measure("two words", "just TWO words.", 5) == 0
    assert _measure("Two — WORDS", "two words!", 5) == 1


def test_case_accents_and_lines_do_not_count() -> None:
    text = "Élan vital, said the naïve — and rather old — Señor\nto his friend."
    assert _measure(text, "ELAN VITAL said the naive, and rather\n\nold Senor to his friend", 5) == 1
    assert _measure("cafe\u0301 au lait s'il vous plaît", "café au lait s'il vous plaît", 5) == 1


@pytest.mark.parametrize(("changed", "is_found"), [(0.02, True), (0.06, True), (0.15, False), (0.4, False)])
def test_planted_editions(changed: float, is_found: bool) -> None:
    chance = random.Random(3)
    original = _book(7, 20_000)
    edition = [word if chance.random() > changed else f"x{chance.randrange(9999)}" for word in original]
    texts = [" ".join(original), " ".join(edition), " ".join(_book(8, 20_000))]
    assert (1 in _find(texts) or 0 in _find(texts)) == is_found
    assert 2 not in _find(texts)


def test_short_books_and_parts_of_books_are_found() -> None:
    for length in (30, 100, 700):
        text = " ".join(_book(length, length))
        assert _find([text, f"{text} End.", " ".join(_book(1000 + length, length))]) == {0: 1}
    whole = _book(5, 30_000)
    part = " ".join(whole[:20_000])
    assert _find([part, " ".join(whole)]) == {0: 1}


def test_which_of_two_stays_is_a_setting_and_nothing_is_lost_but_repetition() -> None:
    story = _book(1, 9000)
    short, long = " ".join(story), " ".join(story + _book(2, 500))
    assert _find([short, long], "longest") == {0: 1}
    assert _find([short, long], "first") == {1: 0}
    much_longer = " ".join(story + _book(2, 9000))
    assert _find([short, much_longer], "longest") == {0: 1}
    assert _find([short, much_longer], "first") == {}
    assert _find([short, short], "longest") == {1: 0}
    assert _find([short, short, short], "first") == {1: 0, 2: 0}
    assert _find([]) == {}
    assert _find(["", "", "a"]) == {}


def _build(folder: Path, name: str, num_workers: int, **source: Any) -> Manifest:
    settings = CorpusSettings.model_validate(
        {"sources": [{"kind": "books", "name": "books", "path": "raw", **source}], "num_workers": num_workers}
    )
    return build_corpus(settings, folder / name, seed=0, base=folder)


def test_whole_books_go_with_all_their_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module, "_TASK_BYTES", 100_000)
    (tmp_path / "raw").mkdir()
    for number in range(6):
        text = (
            "\n\n".join(" ".join(_book(number, 2000)) for _ in range(1)) + "\n\n" + " ".join(_book(50 + number, 25_000))
        )
        (tmp_path / "raw" / f"book{number}.txt").write_text(text)
        if number % 2:
            (tmp_path / "raw" / f"copy{number}.txt").write_text("A new foreword.\n\n" + text.upper())
    manifests = [_build(tmp_path, f"corpus-{workers}", workers) for workers in (1, 2)]
    assert len({manifest.digest for manifest in manifests}) == 1
    facts = manifests[0].facts["sources"]["books"]
    assert facts["decided"] == {"books_compared": 9, "books_overlapping": 3}
    assert facts["dropped"]["overlap"] == {"in another book": 3}
    rows = [row for row in pq.read_table(tmp_path / "corpus-1" / LEDGER_NAME).to_pylist() if row["step"] == "overlap"]
    assert [(row["path"], row["detail"]) for row in rows] == [
        (f"book{number}.txt", f"100.0 % of it is in copy{number}.txt") for number in (1, 3, 5)
    ]
    splits: tuple[Literal["train", "held_out"], ...] = ("train", "held_out")
    documents = [document for split in splits for document in read_documents(tmp_path / "corpus-1", split)]
    kept = {"book0.txt", "book2.txt", "book4.txt", "copy1.txt", "copy3.txt", "copy5.txt"}
    assert {document.path for document in documents} == kept
    assert len(documents) > 6
    assert _build(tmp_path, "all", 1, max_overlap=1).facts["sources"]["books"]["records_in"] == 9
