"""Books that share most of their content: a sketch of each finds candidates, the texts themselves decide.

The overlap of a book with another is the share of its words that lie in a passage of `overlap_words` words which the
other has too. A changed word costs itself and no more, so that two editions are told from two books, whatever their
spelling, line breaks and encoding. The paper names the bound, 90 %, and not the measure (section 2.1).
"""

import functools
import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NAME = "overlap"
Hashes = NDArray[np.uint64]

_WORD = re.compile(r"[^\W_]+")
_SKETCH_SHARE = 512
_MIN_SKETCH = 32
_MIN_SHARED = 2
# Every tenth word changed leaves half of all passages of five words whole; two novels share one in a hundred.
_CANDIDATE_SHARE = 0.25
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


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


def sketch(text: str, overlap_words: int) -> Sketch:
    """The sketch of a book's whole text."""
    num_words, passages = _hash_passages(text, overlap_words)
    distinct = np.unique(passages)
    below = int(np.searchsorted(distinct, np.uint64(2**64 // _SKETCH_SHARE)))
    return Sketch(num_words, distinct[: max(below, _MIN_SKETCH)])


def measure_overlap(text: str, other: str, overlap_words: int) -> float:
    """Share of the words of `text` that lie in passages that `other` has too, 0 for a text without words."""
    num_words, passages = _hash_passages(text, overlap_words)
    return _covered_share(num_words, passages, np.unique(_hash_passages(other, overlap_words)[1]), overlap_words)


def find_overlaps(
    sketches: Sequence[Sketch],
    read_text: Callable[[int], str],
    *,
    max_overlap: float,
    overlap_words: int,
    keep: Literal["longest", "first"],
) -> dict[int, Overlap]:
    """Which books go, by their number.

    Books are taken longest first, or in their order; one goes when more than `max_overlap` of its words lie in passages
    of a single book that stays. What is only partly in another book stays, so that nothing is lost but repetition.

    Args:
        read_text: gives the text of a book by its number.
    """
    order = list(range(len(sketches)))
    if keep == "longest":
        order.sort(key=lambda number: (-sketches[number].num_words, number))
    shared = _shared_passages(sketches)
    holders: dict[int, list[int]] = defaultdict(list)

    @functools.lru_cache(maxsize=8)
    def distinct_passages(number: int) -> Hashes:
        return np.unique(_hash_passages(read_text(number), overlap_words)[1])

    overlaps: dict[int, Overlap] = {}
    for number in order:
        mine = sketches[number].passages
        marks = mine[np.isin(mine, shared, assume_unique=True)].tolist()
        candidates = _find_candidates(number, marks, holders, sketches)
        if candidates and max_overlap < 1:
            num_words, passages = _hash_passages(read_text(number), overlap_words)
            for candidate in candidates:
                share = _covered_share(num_words, passages, distinct_passages(candidate), overlap_words)
                if share > max_overlap:
                    overlaps[number] = Overlap(candidate, share)
                    break
        if number not in overlaps:
            for mark in marks:
                holders[mark].append(number)
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
    """Share of the words that lie in one of the passages that are among `others`."""
    if not num_words:
        return 0.0
    length = min(overlap_words, num_words)
    edges = np.zeros(num_words + 1, np.int64)
    starts = np.flatnonzero(np.isin(passages, others))
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + length, -1)
    return float(np.count_nonzero(np.cumsum(edges[:-1]))) / num_words


def _hash_passages(text: str, overlap_words: int) -> tuple[int, Hashes]:
    """Number of words, and a hash of each run of `overlap_words` words, equal on every machine.

    Case, accents, punctuation and line breaks do not count.
    """
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    words = _WORD.findall(text.casefold())
    numbers = {word: _hash_word(word) for word in set(words)}
    hashes = np.fromiter((numbers[word] for word in words), np.uint64, len(words))
    length = min(overlap_words, len(words))
    num_passages = len(words) - length + 1 if words else 0
    passages = np.zeros(num_passages, np.uint64)
    for offset in range(length):
        passages = _mix(passages + hashes[offset : offset + num_passages])
    return len(words), passages


def _hash_word(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _mix(values: Hashes) -> Hashes:
    """A bijection of 64 bits whose every output bit depends on every input bit (splitmix64)."""
    first, second, third = (np.uint64(multiplier) for multiplier in _MULTIPLIERS)
    values = values + first
    values = (values ^ (values >> np.uint64(30))) * second
    values = (values ^ (values >> np.uint64(27))) * third
    return values ^ (values >> np.uint64(31))
