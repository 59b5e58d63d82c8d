"""Books that share most of their content: a sketch of each finds candidates, the texts themselves decide.

The overlap of a book with another is the share of its words that lie in a passage of `overlap_words` words which the
other has too. A changed word costs itself and no more, so that two editions are told from two books, whatever their
spelling, line breaks and encoding. The paper names the bound, 90 %, and not the measure (section 2.1).
"""

import functools
import hashlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from camelid.corpus.document import Document
from camelid.corpus.engine import Engine
from camelid.corpus.hashing import Hashes, mix
from camelid.corpus.ledger import Drop
from camelid.corpus.source_settings import BooksSource
from camelid.corpus.task import Task, Work, write_whole

NAME = "overlap"
Comparison = tuple[int, tuple[int, ...]]
"""A book, and those that it may be an edition of."""

_BOOKS_AT_ONCE = 1024
_SKETCHES = "sketches.npz"
_OVERLAPS = "overlaps.json"

_WORD = re.compile(r"[^\W_]+")
_SKETCH_SHARE = 512
_MIN_SKETCH = 32
_MIN_SHARED = 2
# Every tenth word changed leaves half of all passages of five words whole; two novels share one in a hundred.
_CANDIDATE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is remembered of a book until all are known: about 8 bytes for every 500 words."""

    num_words: int
    passages: Hashes
    """The smallest hashes of its passages, sorted: those below a bound that all books share, and at least a few."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Why a book goes."""

    kept: int
    """Number of the book that stays."""
    share: float
    """Share of the words of the one that goes that lie in passages of the one that stays."""


def collect(settings: BooksSource, documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields all books, and stores a sketch of each."""
    sketches = []
    for document in documents:
        sketches.append(sketch(document.text, settings.overlap_words))
        yield document
    empty = np.zeros(0, np.uint64)
    np.savez(
        work.path(_SKETCHES),
        num_words=np.array([item.num_words for item in sketches], np.int64),
        lengths=np.array([len(item.passages) for item in sketches], np.int64),
        passages=np.concatenate([empty, *(item.passages for item in sketches)]),
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a book lies: the Parquet file of its task, and the row."""

    part: Path
    row: int


def decide(settings: BooksSource, tasks: Sequence[Task], parts: Sequence[Path], engine: Engine) -> dict[str, Any]:
    """Stores for each task which of its books go, and returns the numbers.

    Args:
        parts: where the books of each task lie.
    """
    sketches: list[Sketch] = []
    places: list[_Place] = []
    owners: list[int] = []  # the task of each book
    for number, task in enumerate(tasks):
        with np.load(task.folder / _SKETCHES) as stored:
            starts = np.cumsum(stored["lengths"]) - stored["lengths"]
            for row, passages in enumerate(np.split(stored["passages"], starts[1:]) if len(starts) else []):
                sketches.append(Sketch(int(stored["num_words"][row]), passages))
                places.append(_Place(parts[number], row))
                owners.append(number)

    def compare(pairs: Sequence[Comparison]) -> Iterator[list[float]]:
        chosen = [(places[number], tuple(places[other] for other in others)) for number, others in pairs]
        return engine.run(functools.partial(_compare_stored, settings.overlap_words), chosen)

    overlaps = find_overlaps(sketches, compare, max_overlap=settings.max_overlap, keep=settings.keep)
    going: list[dict[int, str]] = [{} for _ in tasks]
    for number, overlap in overlaps.items():
        holder = _read_row(places[overlap.kept])["path"]
        going[owners[number]][places[number].row] = f"{100 * overlap.share:.1f} % of it is in {holder}"
    for task, rows in zip(tasks, going, strict=True):
        write_whole(task.folder / _OVERLAPS, json.dumps(rows))
    return {"books_compared": len(sketches), "books_overlapping": len(overlaps)}


def _compare_stored(overlap_words: int, books: tuple[_Place, tuple[_Place, ...]]) -> list[float]:
    place, others = books
    texts = (str(_read_row(other)["text"]) for other in others)
    return measure_overlaps(str(_read_row(place)["text"]), texts, overlap_words)


def remove(documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields the books that stay, and books the others with the book that holds them."""
    going = json.loads(work.path(_OVERLAPS).read_text(encoding="utf-8"))
    for row, document in enumerate(documents):
        detail = going.get(str(row))
        if detail is None:
            yield document
        else:
            place = (document.source, document.path, document.offset, document.part)
            work.drops.rows.append(Drop(*place, NAME, "in another book", detail))


def _read_row(place: _Place) -> dict[str, Any]:
    row = place.row
    with pq.ParquetFile(place.part) as file:
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            if row < num_rows:
                break
            row -= num_rows
        for batch in file.iter_batches(batch_size=1, row_groups=[group], columns=["path", "text"]):
            if row == 0:
                found: dict[str, Any] = batch.to_pylist()[0]
                return found
            row -= 1
    raise AssertionError(f"{place.part} has too few rows")


def sketch(text: str, overlap_words: int) -> Sketch:
    """The sketch of a book's whole text."""
    num_words, passages = _hash_passages(text, overlap_words)
    chosen = np.unique(passages[passages < np.uint64(2**64 // _SKETCH_SHARE)])
    if len(chosen) < _MIN_SKETCH:
        chosen = np.unique(passages)[:_MIN_SKETCH]
    return Sketch(num_words, chosen)


def measure_overlaps(text: str, others: Iterable[str], overlap_words: int) -> list[float]:
    """For each of the others the share of the words of `text` that lie in passages which it has too.

    A text without words has none.
    """
    num_words, passages = _hash_passages(text, overlap_words)
    return [
        _covered_share(num_words, passages, np.sort(_hash_passages(other, overlap_words)[1]), overlap_words)
        for other in others
    ]


def find_overlaps(
    sketches: Sequence[Sketch],
    compare: Callable[[Sequence[Comparison]], Iterable[Sequence[float]]],
    *,
    max_overlap: float,
    keep: Literal["longest", "first"],
) -> dict[int, Overlap]:
    """Which books go, by their number.

    Books are taken longest first, or in their order; one goes when more than `max_overlap` of its words lie in passages
    of a single book that stays. What is only partly in another book stays, so that nothing is lost but repetition.

    Args:
        compare: gives for each book the shares of it that are in the books beside it, as `measure_overlaps` does; it is
            asked for many at once, of which some may turn out not to matter.
    """
    order = list(range(len(sketches)))
    if keep == "longest":
        order.sort(key=lambda number: (-sketches[number].num_words, number))
    shared = _shared_passages(sketches)
    holders: dict[int, list[int]] = defaultdict(list)
    overlaps: dict[int, Overlap] = {}
    for start in range(0, len(order), _BOOKS_AT_ONCE):
        chosen = order[start : start + _BOOKS_AT_ONCE]
        pairs: list[Comparison] = []
        marks: dict[int, list[int]] = {}
        for number in chosen:
            mine = sketches[number].passages
            marks[number] = mine[np.isin(mine, shared, assume_unique=True)].tolist()
            others = _find_candidates(number, marks[number], holders, sketches)
            if others:
                pairs.append((number, tuple(others)))
            for mark in marks[number]:
                holders[mark].append(number)
        for (number, candidates), shares in zip(pairs, compare(pairs), strict=True):
            staying = ((c, s) for c, s in zip(candidates, shares, strict=True) if c not in overlaps and s > max_overlap)
            if (found := next(staying, None)) is not None:
                overlaps[number] = Overlap(*found)
                for mark in marks[number]:
                    holders[mark].remove(number)
    return overlaps


def _shared_passages(sketches: Sequence[Sketch]) -> Hashes:
    """Hashes that more than one book has, sorted; the others need no place in the index."""
    if not sketches:
        return np.zeros(0, np.uint64)
    passages, counts = np.unique(np.concatenate([item.passages for item in sketches]), return_counts=True)
    return passages[counts > 1]


def _find_candidates(
    number: int, marks: list[int], holders: dict[int, list[int]], sketches: Sequence[Sketch]
) -> list[int]:
    """Books that stay and share enough of the sketch of this one, the likeliest first."""
    counts = Counter(holder for mark in marks for holder in holders.get(mark, ()))
    found = []
    for holder, count in counts.items():
        theirs = sketches[holder].passages
        # Beyond its largest hash a sketch says nothing about its book.
        num_comparable = int(np.searchsorted(sketches[number].passages, theirs[-1], side="right"))
        if count >= _MIN_SHARED and count > _CANDIDATE_SHARE * num_comparable:
            found.append((-count, holder))
    return [holder for _, holder in sorted(found)]


def _covered_share(num_words: int, passages: Hashes, others: Hashes, overlap_words: int) -> float:
    """Share of the words that lie in one of the passages that are among `others`, which are sorted."""
    if not num_words or not len(others):
        return 0.0
    length = min(overlap_words, num_words)
    edges = np.zeros(num_words + 1, np.int64)
    places = np.minimum(np.searchsorted(others, passages), len(others) - 1)
    starts = np.flatnonzero(others[places] == passages)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + length, -1)
    return float(np.count_nonzero(np.cumsum(edges[:-1]))) / num_words


def _hash_passages(text: str, overlap_words: int) -> tuple[int, Hashes]:
    """Number of words, and a hash of each run of `overlap_words` words, equal on every machine.

    Case, accents, punctuation and line breaks do not count.
    """
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    words = _WORD.findall(text.casefold())
    numbers = {word: _hash_word(word) for word in set(words)}
    hashes = np.fromiter(map(numbers.__getitem__, words), np.uint64, len(words))
    length = min(overlap_words, len(words))
    num_passages = len(words) - length + 1 if words else 0
    passages = np.zeros(num_passages, np.uint64)
    for offset in range(length):
        passages = mix(passages + hashes[offset : offset + num_passages])
    return len(words), passages


def _hash_word(word: str) -> int:
    if not word.isascii():
        word = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())
