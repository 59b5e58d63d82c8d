"""What a tokenizer knows, apart from the library that runs it: the ground of reading one format and writing another."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, pairwise

import numpy as np

SPACE = "\u2581"
"""SentencePiece's sign for a space inside a piece."""

_MAX_PIECES = 1 << 24
_MAX_SCORE = 3.4e38  # of a float of four bytes, in which files store it


class PieceType(IntEnum):
    """What a piece is for; SentencePiece and GGUF use the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_RESERVED = (PieceType.UNKNOWN, PieceType.CONTROL)


@dataclass(frozen=True)
class ScoredVocabulary:
    """SentencePiece's byte-pair encoding: the pair of neighbours whose union scores highest is joined first."""

    pieces: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float]
    has_space_prefix: bool = True
    """Whether a text is read as if a space stood before it."""

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the pieces that text never becomes, by name."""
        return find_pieces(self.pieces, self.types, _RESERVED)


@dataclass(frozen=True)
class MergedVocabulary:
    """Byte-level byte-pair encoding: inside a word, the neighbours that stand first among the merges are joined first.

    Pieces are written in GPT-2's alphabet, one character a byte; control and user-defined pieces are plain text.
    """

    pieces: Sequence[str]
    types: Sequence[int]
    merges: Sequence[tuple[str, str]]
    pre_tokenizer: str
    """How text is cut into words: a name of `byte_level.PRE_TOKENIZERS`."""

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the pieces that text never becomes, by name."""
        return find_pieces(self.pieces, self.types, _RESERVED)


Vocabulary = ScoredVocabulary | MergedVocabulary


def find_pieces(pieces: Sequence[str], types: Sequence[int], kinds: Sequence[int]) -> dict[str, int]:
    """Ids of the pieces of some types, by piece, in their order."""
    indices: list[int] = np.flatnonzero(np.isin(types, kinds)).tolist()
    return {pieces[index]: index for index in indices}


def check_pieces(pieces: Sequence[str], types: Sequence[int]) -> None:
    """Refuses a vocabulary that names no piece, one twice, one that is no text, or a type that there is not.

    Raises:
        ValueError: it does.
    """
    if not 0 < len(pieces) <= _MAX_PIECES:
        raise ValueError(f"it has {len(pieces):,} tokens, where 1 to {_MAX_PIECES:,} are possible")
    if len(types) != len(pieces):
        raise ValueError(f"it has {len(pieces):,} tokens and the types of {len(types):,}")
    try:
        "".join(pieces).encode()
    except UnicodeEncodeError as error:
        raise ValueError("one of its tokens is not Unicode: it holds half of a surrogate pair") from error
    if len(set(pieces)) != len(pieces):
        piece, count = Counter(pieces).most_common(1)[0]
        raise ValueError(f"it names the token {piece!r} {count} times")
    if "" in pieces:
        raise ValueError(f"its token {list(pieces).index('')} is empty")
    known = frozenset(map(int, PieceType))
    if unknown := set(types) - known:
        raise ValueError(f"a token is of type {min(unknown)}, which there is not")


def check_scores(vocabulary: ScoredVocabulary) -> None:
    """Refuses scores that are not one finite number for each piece.

    Raises:
        ValueError: they are not.
    """
    if len(vocabulary.scores) != len(vocabulary.pieces):
        raise ValueError(f"it has {len(vocabulary.pieces):,} tokens and the scores of {len(vocabulary.scores):,}")
    for piece, score in zip(vocabulary.pieces, vocabulary.scores, strict=True):
        if not abs(score) <= _MAX_SCORE:
            raise ValueError(f"the score of its token {piece!r} is {score:g}")


def split_merges(merges: list[str]) -> list[tuple[str, str]]:
    """Merges as pairs, where a file writes them with a space between.

    Raises:
        ValueError: one of them is not two pieces.
    """
    parts = " ".join(merges).split(" ")
    pairs = list(zip(parts[::2], parts[1::2], strict=False))
    if list(map(" ".join, pairs)) == merges:  # a third of the time that splitting one by one takes
        return pairs
    rank = next(rank for rank, merge in enumerate(merges) if merge.count(" ") != 1)
    raise ValueError(f"its merge {rank:,} is {merges[rank]!r}, and not two tokens")


def check_merges(merges: Sequence[tuple[str, str]], known: set[str]) -> None:
    """Refuses merges whose parts or whole are not among the known pieces.

    Raises:
        ValueError: there is such a merge.
    """
    wholes = map("".join, merges)
    if known.issuperset(chain.from_iterable(merges)) and known.issuperset(wholes):
        return
    for rank, (left, right) in enumerate(merges):
        if not known.issuperset((left, right, left + right)):
            raise ValueError(f"its merge {rank:,} joins {left!r} and {right!r}, and not all of that are plain tokens")


def merges_from_scores(vocabulary: ScoredVocabulary) -> list[tuple[str, str]]:
    """The pairs that make a piece, best score first: what the Hugging Face form of the same encoding consists of.

    Raises:
        ValueError: unlike pieces have one score, so that their place in the text decides, which merges cannot say; or
            pieces are used in joining that must not stay.
    """
    mergeable = (PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.UNUSED)
    known = {
        piece: index
        for index, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.types, strict=True))
        if kind in mergeable
    }
    made: list[tuple[float, str, str]] = []
    for piece, index in known.items():
        cuts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        pairs = [(left, right) for left, right in cuts if left in known and right in known]
        if pairs and vocabulary.types[index] == PieceType.UNUSED:
            raise ValueError(f"its unused piece {piece!r} takes part in joining others")
        made += [(vocabulary.scores[index], left, right) for left, right in pairs]
    # Of equal scores SentencePiece joins the leftmost pair. Long left sides first do the same for runs of one
    # character, such as the released tokenizer's runs of spaces: what has begun to grow grows on.
    made.sort(key=lambda pair: (-pair[0], -len(pair[1]), -len(pair[2])))
    for (score, *pair), (next_score, *next_pair) in pairwise(made):
        whole, next_whole = "".join(pair), "".join(next_pair)
        if score == next_score and whole != next_whole and len({*whole, *next_whole}) > 1:
            raise ValueError(f"its pieces {whole!r} and {next_whole!r} have one score")
    return [(left, right) for _, left, right in made]


def scores_from_merges(
    pieces: Sequence[str], types: Sequence[int], merges: Sequence[tuple[str, str]], *, has_space_prefix: bool
) -> ScoredVocabulary:
    """The scored form of merges that were made from scores; what is never joined scores below everything else.

    Raises:
        ValueError: the merges are not all pairs that make a piece, one piece after the other.
    """
    rank: dict[str, int] = {}
    for left, right in merges:
        rank.setdefault(left + right, len(rank))
    last = len(rank)
    scores = [
        0.0 if kind != PieceType.NORMAL else float(-rank.get(piece, last))
        for piece, kind in zip(pieces, types, strict=True)
    ]
    vocabulary = ScoredVocabulary(pieces, types, scores, has_space_prefix)
    expected = merges_from_scores(vocabulary)
    if set(expected) != set(merges) or [a + b for a, b in expected] != [a + b for a, b in merges]:
        raise ValueError("its merges follow no scores, as those of SentencePiece do")
    return vocabulary
