"""Many texts at once: gigatoken gives SentencePiece's ids seven to fourteen times as fast, where it gives the same ids.

It reads the text of a control piece, such as `</s>`, as that piece, which SentencePiece never does. Texts that hold one
go to SentencePiece; so does everything where the model is none that gigatoken is known to encode alike.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from camelid.errors import UserError
from camelid.tokenizer.interface import Tokenizer, to_utf8
from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer
from camelid.tokenizer.vocabulary import SPACE, PieceType

# White space of every kind, bytes without a piece, joined characters, marks of SentencePiece's own, and plain words.
_PROBE = (
    "  The llama\t ran 3,141.59 km.\n\n\n    def f(x):\r\n\treturn {'a': x}  # ▁▁ ok\x00\x7f",
    "Жили-были 犬も歩けば棒に当たる 👩‍👩‍👧 e\u0301é ﬁ Ⅷ ‮שלום‬ \ufeff\u3000 नमस्ते  ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa                     ----------------================",
    "",
    " ",
)


class BulkEncoder:
    """Encodes as its tokenizer does, id by id."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._fast: Any = None
        if isinstance(tokenizer, SentencePieceTokenizer) and _is_plain(tokenizer):
            self._fast = _load(tokenizer)
        self._has_control = re.compile("|".join(map(re.escape, tokenizer.special_tokens)) or r"(?!)").search

    @property
    def is_fast(self) -> bool:
        """Whether gigatoken does most of the work."""
        return self._fast is not None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without BOS and EOS.

        Raises:
            UserError: a text is not Unicode.
        """
        if self._fast is None:
            return self._tokenizer.encode_batch(texts)
        ids: list[list[int]] = self._fast([to_utf8(text) for text in texts])
        careful = [number for number, text in enumerate(texts) if self._has_control(text)]
        for number, found in zip(
            careful, self._tokenizer.encode_batch(texts[number] for number in careful), strict=True
        ):
            ids[number] = found
        return ids


def _is_plain(tokenizer: SentencePieceTokenizer) -> bool:
    """Whether the model joins pairs by scores that decide, and has no pieces that are looked for before it does."""
    try:
        vocabulary = tokenizer.vocabulary
    except UserError:
        return False
    scores = Counter(
        score
        for piece, kind, score in zip(vocabulary.pieces, vocabulary.types, vocabulary.scores, strict=True)
        # Runs of spaces may share a score, as the released model's do: any order grows them from the left.
        if kind == PieceType.NORMAL and len(piece) > 1 and piece.strip(SPACE)
    )
    kinds = {PieceType.USER_DEFINED, PieceType.UNUSED}
    return kinds.isdisjoint(vocabulary.types) and max(scores.values(), default=1) == 1


def _load(tokenizer: SentencePieceTokenizer) -> Any:
    """What encodes a list of texts in UTF-8, or None where gigatoken is missing, refuses the model or differs."""
    try:
        import gigatoken

        fast = gigatoken.Tokenizer.from_sentencepiece(tokenizer.model)
    except (ImportError, ValueError):
        return None
    encode = partial(fast.encode_batch_list, parallel=True)
    return encode if encode([text.encode() for text in _PROBE]) == tokenizer.encode_batch(_PROBE) else None
