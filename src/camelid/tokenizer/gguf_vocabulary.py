"""The vocabulary inside a GGUF file, which its `tokenizer.*` keys describe.

Keys and numbers are llama.cpp's. Of its models Camelid reads "llama" (SentencePiece's byte pairs) and "gpt2"
(byte-level byte pairs).
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from camelid.errors import UserError
from camelid.tokenizer.byte_level import find_pre_tokenizer
from camelid.tokenizer.interface import STOP_NAMES, Tokenizer, to_utf8
from camelid.tokenizer.vocabulary import (
    MergedVocabulary,
    PieceType,
    ScoredVocabulary,
    check_pieces,
    check_scores,
    split_merges,
)

Value = TypeVar("Value", str, int, float, bool)

SCORED_MODEL, BYTE_LEVEL_MODEL = "llama", "gpt2"
TEMPLATE_KEY = "tokenizer.chat_template"


def ggml_key(name: str) -> str:
    """The whole name of one of the keys that describe the vocabulary."""
    return f"tokenizer.ggml.{name}"


def load_gguf_vocabulary(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes.

    Args:
        metadata: at least its `tokenizer.*` keys: text, numbers, truth values, lists or numpy arrays.

    Raises:
        UserError: it describes none, contradicts itself, or asks for what Camelid does not know.
    """
    try:
        return _load(_Keys(metadata))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the file's vocabulary cannot be used: {error}; get or convert the file again") from error


class _Keys:
    """Typed access to keys of unknown content."""

    def __init__(self, metadata: Mapping[str, Any]):
        self._metadata = metadata

    def find(self, key: str, kind: type[Value]) -> Value | None:
        """The value of a key that need not be there."""
        value = self._metadata.get(key)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, str):
            to_utf8(value)
        if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
            return value
        raise ValueError(f"{key} is no {kind.__name__}")

    def read(self, key: str, kind: type[Value]) -> Value:
        value = self.find(key, kind)
        if value is None:
            raise ValueError(f"{key} is missing")
        return value

    def read_list(self, key: str, kind: type[Value]) -> list[Value]:
        values = self._metadata.get(key)
        if values is None:
            raise ValueError(f"{key} is missing")
        if isinstance(values, np.ndarray):
            values = values.tolist()
        # Exactly the type: a truth value is no number here.
        if not isinstance(values, list | tuple) or not set(map(type, values)) <= {kind}:
            raise ValueError(f"{key} is no list of {kind.__name__}")
        return list(values)

    def find_id(self, name: str, vocab_size: int) -> int | None:
        """The id of a token with a role."""
        index = self.find(ggml_key(f"{name}_token_id"), int)
        if index is not None and not 0 <= index < vocab_size:
            raise ValueError(f"{ggml_key(f'{name}_token_id')} is {index:,}, and there are {vocab_size:,} tokens")
        return index


def _load(keys: _Keys) -> Tokenizer:
    model = keys.read(ggml_key("model"), str)
    if model not in (SCORED_MODEL, BYTE_LEVEL_MODEL):
        raise ValueError(
            f"{ggml_key('model')} is {model!r}, and Camelid knows {SCORED_MODEL!r} and {BYTE_LEVEL_MODEL!r}"
        )
    pieces = keys.read_list(ggml_key("tokens"), str)
    types = [kind or int(PieceType.NORMAL) for kind in keys.read_list(ggml_key("token_type"), int)]
    check_pieces(pieces, types)
    _correct_types(keys, pieces, types)
    return _load_scored(keys, pieces, types) if model == SCORED_MODEL else _load_byte_level(keys, pieces, types)


def _correct_types(keys: _Keys, pieces: list[str], types: list[int]) -> None:
    """Makes control tokens of those that have the role of one, whatever type the file gives them."""
    for role, kind in (("unknown", PieceType.UNKNOWN), ("bos", PieceType.CONTROL), ("eos", PieceType.CONTROL)):
        index = keys.find_id(role, len(pieces))
        # The unknown token of byte-level vocabularies is often EOS too.
        if index is not None and types[index] not in (PieceType.CONTROL, PieceType.UNKNOWN):
            types[index] = kind
    for name in STOP_NAMES.intersection(pieces):
        index = pieces.index(name)
        if types[index] in (PieceType.NORMAL, PieceType.USER_DEFINED):
            types[index] = PieceType.CONTROL


def _load_scored(keys: _Keys, pieces: list[str], types: list[int]) -> Tokenizer:
    from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer

    scores = keys.read_list(ggml_key("scores"), float)
    if keys.find(ggml_key("remove_extra_whitespaces"), bool):
        raise ValueError("it removes spaces, which Camelid does for no model")
    has_space_prefix = keys.find(ggml_key("add_space_prefix"), bool)
    vocabulary = ScoredVocabulary(pieces, types, scores, has_space_prefix is not False)
    check_scores(vocabulary)
    bos_id = keys.find_id("bos", len(pieces))
    eos_id = keys.find_id("eos", len(pieces))
    if eos_id is None or bos_id is None:
        raise ValueError(f"{ggml_key('bos_token_id')} or {ggml_key('eos_token_id')} is missing")
    return SentencePieceTokenizer.from_vocabulary(
        vocabulary,
        bos=pieces[bos_id],
        eos=pieces[eos_id],
        adds_bos=keys.find(ggml_key("add_bos_token"), bool) is not False,
        chat_template=keys.find(TEMPLATE_KEY, str),
        stop_ids=_find_stop_ids(keys, len(pieces)),
    )


def _load_byte_level(keys: _Keys, pieces: list[str], types: list[int]) -> Tokenizer:
    from camelid.tokenizer.byte_pair import BytePairTokenizer
    from camelid.tokenizer.engine import build_engine

    name = keys.read(ggml_key("pre"), str)
    merges = split_merges(keys.read_list(ggml_key("merges"), str))
    eos_id = keys.find_id("eos", len(pieces))
    if eos_id is None:
        raise ValueError(f"{ggml_key('eos_token_id')} is missing")
    bos_id = keys.find_id("bos", len(pieces))
    adds_bos = keys.find(ggml_key("add_bos_token"), bool)
    if adds_bos is None:
        adds_bos = find_pre_tokenizer(name).adds_bos
    bos = pieces[bos_id] if adds_bos and bos_id is not None else None
    return BytePairTokenizer(
        build_engine(MergedVocabulary(pieces, types, merges, name), bos=bos),
        vocab_size=len(pieces),
        bos_id=bos_id,
        eos_id=eos_id,
        unk_id=keys.find_id("unknown", len(pieces)),
        adds_bos=adds_bos,
        chat_template=keys.find(TEMPLATE_KEY, str),
        stop_ids=_find_stop_ids(keys, len(pieces)),
    )


def _find_stop_ids(keys: _Keys, vocab_size: int) -> list[int]:
    found = (keys.find_id(role, vocab_size) for role in ("eot", "eom"))
    return [index for index in found if index is not None]
