"""Byte-pair encodings that the tokenizers library runs: byte-level ones, and SentencePiece's in Hugging Face's form."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import tokenizers

from camelid.errors import UserError
from camelid.tokenizer.byte_level import DIGIT, GPT2, name_pre_tokenizer, piece_to_bytes
from camelid.tokenizer.interface import Tokenizer, to_utf8
from camelid.tokenizer.vocabulary import SPACE, MergedVocabulary, PieceType, Vocabulary, scores_from_merges

BYTE_LEVEL = "byte-level BPE"
BYTE_FALLBACK = "BPE with byte fallback"

_BYTE_PIECES = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
_MAX_HOLES = 1 << 16
_MARK_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


class BytePairTokenizer(Tokenizer):
    """A tokenizer of the tokenizers library.

    A byte-level vocabulary may lack bytes; what it cannot write it leaves out, as its model learnt it.

    Args:
        engine: its added tokens are the special tokens where they are marked so, and otherwise pieces that are found
            in text before everything else; it belongs to the tokenizer from now on.

    Raises:
        ValueError: it is neither byte-level nor with byte fallback, or its ids have large holes.
    """

    def __init__(
        self,
        engine: tokenizers.Tokenizer,
        *,
        vocab_size: int,
        bos_id: int | None,
        eos_id: int,
        unk_id: int | None,
        adds_bos: bool,
        chat_template: str | None = None,
        stop_ids: Sequence[int] = (),
    ):
        engine.no_padding()
        engine.no_truncation()
        engine.encode_special_tokens = True
        self._engine = engine
        num_tokens = engine.get_vocab_size(with_added_tokens=True)
        if vocab_size > num_tokens + _MAX_HOLES:
            raise ValueError(f"its ids go up to {vocab_size - 1:,} for {num_tokens:,} tokens")
        kinds = {part["type"] for part in _parts(engine.decoder)}
        has_bytes = "ByteFallback" in kinds and all(engine.token_to_id(piece) is not None for piece in _BYTE_PIECES)
        if "ByteLevel" not in kinds and not has_bytes:
            raise ValueError("it is neither byte-level nor has a piece for each byte, so it cannot write every text")
        added: dict[int, tokenizers.AddedToken] = engine.get_added_tokens_decoder()
        self._added = added
        super().__init__(
            kind=BYTE_LEVEL if "ByteLevel" in kinds else BYTE_FALLBACK,
            vocab_size=vocab_size,
            special_tokens={token.content: index for index, token in added.items() if token.special},
            bos_id=bos_id,
            eos_id=eos_id,
            unk_id=unk_id,
            adds_bos=adds_bos,
            chat_template=chat_template,
            stop_ids=stop_ids,
            stripping={t.content: (t.lstrip, t.rstrip) for t in added.values() if t.special and (t.lstrip or t.rstrip)},
        )

    @property
    def is_byte_level(self) -> bool:
        """Whether pieces are written in GPT-2's alphabet, and not in SentencePiece's way."""
        return self.kind == BYTE_LEVEL

    def to_json(self) -> str:
        """The tokenizer as the text of a tokenizer.json."""
        return str(self._engine.to_str())

    @cached_property
    def _ids(self) -> Mapping[str, int]:
        ids: dict[str, int] = self._engine.get_vocab(with_added_tokens=True)
        return ids

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        if not self.is_byte_level:
            return frozenset(self._ids[piece] for piece in _BYTE_PIECES)
        surfaces = ((index, self._surfaces[index]) for index in range(self.vocab_size))
        return frozenset(index for index, surface in surfaces if len(surface) == 1 and surface[0] > 0x7F)

    @property
    def vocabulary(self) -> Vocabulary:
        try:
            return self._read_vocabulary()
        except ValueError as error:
            raise UserError(
                f"the tokenizer cannot be written in another format: {error}; keep its tokenizer.json"
            ) from error

    def _read_vocabulary(self) -> Vocabulary:
        merges = [tuple(merge) for merge in json.loads(self.to_json())["model"]["merges"]]
        pieces = [f"[PAD{index}]" for index in range(self.vocab_size)]
        types: list[int] = [PieceType.UNUSED] * self.vocab_size
        for piece, index in self._ids.items():
            pieces[index] = piece
            types[index] = PieceType.NORMAL
        for index, token in self._added.items():
            types[index] = PieceType.CONTROL if token.special else PieceType.USER_DEFINED
        if self.is_byte_level:
            if self._engine.normalizer is not None:
                raise ValueError("it normalises text")
            patterns = tuple(_read_patterns(_parts(self._engine.pre_tokenizer)))
            name = name_pre_tokenizer(patterns, ignores_merges=self._engine.model.ignore_merges)
            return MergedVocabulary(pieces, types, merges, name)
        if self.unk_id is None:
            raise ValueError("it has no token for what is unknown, which SentencePiece asks for")
        types[self.unk_id] = PieceType.UNKNOWN
        for piece in _BYTE_PIECES:
            types[self._ids[piece]] = PieceType.BYTE
        return scores_from_merges(pieces, types, merges, has_space_prefix=self._has_space_prefix())

    def _has_space_prefix(self) -> bool:
        """Whether the spaces of a text are marked as SentencePiece does it, and one put before it.

        Raises:
            ValueError: spaces are marked in another way, or text is cut or normalised.
        """
        steps = [*_parts(self._engine.normalizer), *_parts(self._engine.pre_tokenizer)]
        match steps:
            case [{"type": "Prepend", "prepend": "\u2581"}, replace] if replace == _MARK_SPACES:
                return True
            case [replace] if replace == _MARK_SPACES:
                return False
            case [{"type": "Metaspace", "replacement": "\u2581", "split": False, "prepend_scheme": scheme}]:
                return bool(scheme != "never")
        raise ValueError("it normalises or cuts text in a way that SentencePiece models of this kind do not")

    def _find_surface(self, index: int) -> bytes:
        if index in self._added:
            return b"" if index in self._control_ids else self._added[index].content.encode()
        piece: str | None = self._engine.id_to_token(index)
        if piece is None:
            return b""
        if self.is_byte_level:
            return piece_to_bytes(piece)
        return _BYTE_PIECES.get(piece) or piece.replace(SPACE, " ").encode()

    @cached_property
    def _spaced_ids(self) -> frozenset[int]:
        if self.is_byte_level or not any(map(_drops_space, _parts(self._engine.decoder))):
            return frozenset()
        return frozenset(index for index in range(self.vocab_size) if self._surfaces[index].startswith(b" "))

    def _encode(self, text: str) -> list[int]:
        return self._run(self._engine, [text])[0]

    def encode_batch(self, texts: Iterable[str], num_threads: int = -1) -> list[list[int]]:
        if num_threads == 1:
            return [self._encode(text) for text in texts]
        return self._run(self._engine, list(texts))

    def encode_parts(self, parts: Iterable[str | int]) -> list[int]:
        engine_of_later_parts = self._without_space_prefix
        if engine_of_later_parts is None:
            return super().encode_parts(parts)
        ids: list[int] = []
        for place, part in enumerate(parts):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._run(engine_of_later_parts if place else self._engine, [part])[0]
        return ids

    def _run(self, engine: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
        """Ids of each text; several are encoded by as many threads as there are processors.

        Raises:
            UserError: a text is not Unicode or too much for the library, or the file makes control tokens of text.
        """
        for text in texts:
            to_utf8(text)
        try:
            if len(texts) == 1:
                encodings = [engine.encode(texts[0], add_special_tokens=False)]
            else:
                encodings = engine.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:
            if not is_panic(error):
                raise
            raise UserError(f"the tokenizers library gives up ({error}); encode the text in shorter pieces") from error
        ids: list[list[int]] = [encoding.ids for encoding in encodings]
        for found in ids:
            if not self._control_ids.isdisjoint(found):
                index = next(iter(self._control_ids.intersection(found)))
                raise UserError(
                    f"the tokenizer's file makes its control token {index} of plain text, so that no text can be told "
                    "from control; get the file again"
                )
        return ids

    @cached_property
    def _without_space_prefix(self) -> tokenizers.Tokenizer | None:
        """For what is not the beginning of a text, where that alone gets a space."""
        match list(_parts(self._engine.pre_tokenizer)):
            case [{"type": "Metaspace", "replacement": str(sign), "split": bool(is_split), "prepend_scheme": "first"}]:
                engine = tokenizers.Tokenizer.from_str(self.to_json())
                engine.encode_special_tokens = True
                engine.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(sign, prepend_scheme="never", split=is_split)
                return engine
        return None


def is_panic(error: BaseException) -> bool:
    """Whether the library broke down, which it tells by an exception that is none to Python."""
    return type(error).__name__ == "PanicException"


def flatten_steps(step: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a decoder, normaliser, pre-tokenizer or post-processor as tokenizer.json writes it, in one row."""
    if not isinstance(step, dict):
        return
    if step.get("type") != "Sequence":
        yield step
        return
    for value in step.values():
        for part in value if isinstance(value, list) else ():
            yield from flatten_steps(part)


def _parts(component: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a component of the library."""
    return flatten_steps(json.loads(component.__getstate__()) if component is not None else None)


def _drops_space(decoder: Mapping[str, Any]) -> bool:
    """Whether a step of decoding takes the space away that encoding put before the text."""
    match decoder:
        case {"type": "Strip", "content": " ", "start": int(count)}:
            return count > 0
        case {"type": "Metaspace", "prepend_scheme": scheme}:
            return bool(scheme != "never")
    return False


def _read_patterns(steps: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A way of cutting words as regular expressions, one after the other.

    Raises:
        ValueError: a step does something else.
    """
    for step in steps:
        match step:
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
                yield pattern
            case {"type": "Digits", "individual_digits": True}:
                yield DIGIT
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(has_pattern)}:
                if has_pattern:
                    yield GPT2
            case _:
                raise ValueError(f"its step {step['type']} of cutting words is none that GGUF files name")
