"""Meta's tokenizer.model of Llama 3: byte strings and their ranks, one a line; control tokens are not in the file."""

import base64
import binascii
from collections.abc import Sequence

from camelid.tokenizer.byte_level import bytes_to_piece
from camelid.tokenizer.byte_pair import BytePairTokenizer
from camelid.tokenizer.engine import build_engine
from camelid.tokenizer.vocabulary import (
    MergedVocabulary,
    PieceType,
    ScoredVocabulary,
    check_pieces,
    merges_from_scores,
)

_BOS, _EOS = "<|begin_of_text|>", "<|end_of_text|>"
_NUM_CONTROL = 256
# By their places behind the ranks (Llama 3.1, which gave names to some of Llama 3's reserved tokens).
_NAMED = {
    0: _BOS,
    1: _EOS,
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}


def load_tiktoken(data: bytes, *, chat_template: str | None = None, stop_ids: Sequence[int] = ()) -> BytePairTokenizer:
    """The tokenizer of a file's bytes.

    Raises:
        ValueError: the bytes are no such file.
    """
    pieces = _read_ranks(data)
    types = [int(PieceType.NORMAL)] * len(pieces)
    merges = merges_from_scores(ScoredVocabulary(pieces, types, [-float(rank) for rank in range(len(pieces))]))
    pieces += _control_tokens()
    types += [int(PieceType.CONTROL)] * _NUM_CONTROL
    check_pieces(pieces, types)
    return BytePairTokenizer(
        build_engine(MergedVocabulary(pieces, types, merges, "llama-bpe"), bos=_BOS),
        vocab_size=len(pieces),
        bos_id=pieces.index(_BOS),
        eos_id=pieces.index(_EOS),
        unk_id=None,
        adds_bos=True,
        chat_template=chat_template,
        stop_ids=stop_ids,
    )


def _read_ranks(data: bytes) -> list[str]:
    pieces: list[str] = []
    for line in data.splitlines():
        text, _, rank = line.partition(b" ")
        try:
            token = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"its line {len(pieces) + 1:,} is no base64 ({error})") from error
        if rank != b"%d" % len(pieces):
            raise ValueError(f"its line {len(pieces) + 1:,} is not of rank {len(pieces):,}")
        pieces.append(bytes_to_piece(token))
    return pieces


def _control_tokens() -> list[str]:
    """The names of all control tokens; those without one are numbered."""
    names = []
    num_reserved = 0
    for place in range(_NUM_CONTROL):
        names.append(_NAMED.get(place) or f"<|reserved_special_token_{num_reserved}|>")
        num_reserved += place not in _NAMED
    return names
