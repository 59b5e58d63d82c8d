"""The tokenizer.bin of llama2.c: the scores and texts of a SentencePiece model's pieces, and nothing else."""

import struct

from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer
from camelid.tokenizer.vocabulary import SPACE, PieceType, ScoredVocabulary, check_pieces, check_scores

_HEADER = struct.Struct("<i")
_ENTRY = struct.Struct("<fi")
_UNKNOWN, _BOS, _EOS = "<unk>", "<s>", "</s>"
# The first ids mean the same in every file, which writes them in one way or another.
_LAYOUT = {
    _UNKNOWN: int(PieceType.UNKNOWN),
    _BOS: int(PieceType.CONTROL),
    _EOS: int(PieceType.CONTROL),
    **{f"<0x{byte:02X}>": int(PieceType.BYTE) for byte in range(256)},
}


def load_llama2c_tokenizer(data: bytes) -> SentencePieceTokenizer:
    """The tokenizer of a file's bytes.

    Raises:
        ValueError: the bytes are no such file.
    """
    pieces: list[str] = []
    scores: list[float] = []
    place = _HEADER.size
    while place < len(data):
        if place + _ENTRY.size > len(data):
            raise ValueError("it is no llama2.c tokenizer, or cut off")
        score, length = _ENTRY.unpack_from(data, place)
        place += _ENTRY.size
        if length < 0 or place + length > len(data):
            raise ValueError(f"it is no llama2.c tokenizer, or cut off: piece {len(pieces):,} is {length:,} bytes long")
        pieces.append(data[place : place + length].decode().replace(" ", SPACE))
        scores.append(score)
        place += length
    if len(pieces) < len(_LAYOUT):
        raise ValueError(f"it has {len(pieces):,} pieces, where {len(_LAYOUT)} are there for bytes and control alone")
    pieces[: len(_LAYOUT)] = _LAYOUT
    types = [*_LAYOUT.values(), *[int(PieceType.NORMAL)] * (len(pieces) - len(_LAYOUT))]
    vocabulary = ScoredVocabulary(pieces, types, scores)
    check_pieces(pieces, types)
    check_scores(vocabulary)
    return SentencePieceTokenizer.from_vocabulary(vocabulary, bos=_BOS, eos=_EOS)
