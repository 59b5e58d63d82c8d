"""SentencePiece's model file, a protocol buffer, read and written by hand: the library shows only part of it.

Numbers of fields are those of sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from camelid.tokenizer.vocabulary import PieceType, ScoredVocabulary

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_MODEL_TYPE, _VOCAB_SIZE, _BYTE_FALLBACK, _SUFFIX = 3, 4, 35, 24
_UNK_ID, _BOS_ID, _EOS_ID, _PAD_ID = 40, 41, 42, 43
_UNK_SURFACE, _UNK_PIECE, _BOS_PIECE, _EOS_PIECE = 44, 45, 46, 47
_NAME, _CHARACTER_MAP, _DUMMY_PREFIX, _EXTRA_SPACES, _ESCAPE_SPACES, _RULES = 1, 2, 3, 4, 5, 6
_UNIGRAM, _BPE = 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SMALL = [bytes([value]) for value in range(0x80)]
_NO_ID = (1 << 64) - 1  # -1, as protocol buffers write it


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds, as far as ids depend on it."""

    vocabulary: ScoredVocabulary
    is_bpe: bool
    changes_text: bool
    """Whether it normalises characters, drops spaces, or marks them otherwise than the released LLaMA tokenizer."""


def read_model(data: bytes) -> ModelFile:
    """Reads a model file.

    Raises:
        ValueError: it is no protocol buffer of that kind.
    """
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == _PIECE and isinstance(value, bytes):
            text, score, kind = _read_piece(value)
            pieces.append(text)
            scores.append(score)
            types.append(kind)
        elif number == _TRAINER and isinstance(value, bytes):
            trainer.update(_fields(value))
        elif number == _NORMALIZER and isinstance(value, bytes):
            normalizer.update(_fields(value))
    has_space_prefix = bool(normalizer.get(_DUMMY_PREFIX, 1))
    return ModelFile(
        ScoredVocabulary(pieces, types, scores, has_space_prefix),
        is_bpe=trainer.get(_MODEL_TYPE, _UNIGRAM) == _BPE,
        changes_text=bool(
            normalizer.get(_CHARACTER_MAP)
            or normalizer.get(_RULES)
            or normalizer.get(_EXTRA_SPACES, 1)
            or not normalizer.get(_ESCAPE_SPACES, 1)
            or trainer.get(_SUFFIX, 0)
        ),
    )


def write_model(vocabulary: ScoredVocabulary, *, bos: str, eos: str) -> bytes:
    """A model file that leaves text as it is and writes as bytes what it has no piece for.

    Args:
        bos: the piece that is BOS.
        eos: the piece that is EOS.

    Raises:
        ValueError: the vocabulary has not exactly one unknown piece, which SentencePiece asks for.
    """
    unknown = [index for index, kind in enumerate(vocabulary.types) if kind == PieceType.UNKNOWN]
    if len(unknown) != 1:
        raise ValueError(f"it has {len(unknown)} tokens for what is unknown, where one must be")
    ids = {piece: index for index, piece in enumerate(vocabulary.pieces)}
    entries = []
    to_bytes = struct.Struct("<f").pack
    for text, score, kind in zip(vocabulary.pieces, vocabulary.scores, vocabulary.types, strict=True):
        piece = text.encode()
        # Text, score and type, with the keys of their fields.
        entry = b"\x0a%s%s\x15%s\x18%c" % (_varint(len(piece)), piece, to_bytes(score), kind)
        entries.append(b"\x0a%s%s" % (_varint(len(entry)), entry))
    trainer = b"".join(
        (
            _number(_MODEL_TYPE, _BPE),
            _number(_VOCAB_SIZE, len(entries)),
            _number(_BYTE_FALLBACK, 1),
            _number(_UNK_ID, unknown[0]),
            _number(_BOS_ID, ids[bos]),
            _number(_EOS_ID, ids[eos]),
            _number(_PAD_ID, _NO_ID),
            _text(_UNK_PIECE, vocabulary.pieces[unknown[0]]),
            _text(_BOS_PIECE, bos),
            _text(_EOS_PIECE, eos),
        )
    )
    normalizer = b"".join(
        (
            _text(_NAME, "identity"),
            _number(_DUMMY_PREFIX, vocabulary.has_space_prefix),
            _number(_EXTRA_SPACES, 0),
            _number(_ESCAPE_SPACES, 1),
        )
    )
    return b"".join((*entries, _nested(_TRAINER, trainer), _nested(_NORMALIZER, normalizer)))


def _read_piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, int(PieceType.NORMAL)
    for number, value in _fields(data):
        if number == _PIECE_TEXT and isinstance(value, bytes):
            text = value.decode()
        elif number == _PIECE_SCORE and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == _PIECE_TYPE and isinstance(value, int):
            kind = value
    return text, score, kind


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: integers, or the bytes of texts, nested messages and floats."""
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, place = _read_varint(data, place)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, place = _read_varint(data, place)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"it is no SentencePiece model: byte {place:,} begins no field")
        if place + length > len(data):
            raise ValueError("it is no SentencePiece model, or cut off")
        yield number, data[place : place + length]
        place += length


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("it is no SentencePiece model, or cut off")


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _SMALL[value]
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _nested(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(data)) + data


def _text(field: int, value: str) -> bytes:
    return _nested(field, value.encode())
