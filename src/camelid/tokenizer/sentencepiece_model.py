"""A SentencePiece model at work."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import sentencepiece

from camelid.errors import UserError
from camelid.tokenizer.interface import Tokenizer, to_utf8
from camelid.tokenizer.sentencepiece_proto import read_model, write_model
from camelid.tokenizer.vocabulary import SPACE, ScoredVocabulary

KIND = "SentencePiece"


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model.

    With Camelid's own models and the released one any text comes back unchanged from `decode(encode(text))`, except
    that U+2581 comes back as a space.

    Args:
        model: bytes of a SentencePiece model file.

    Raises:
        ValueError: the bytes are no such file, or the model has no BOS, no EOS or no byte pieces.
    """

    def __init__(
        self,
        model: bytes,
        *,
        adds_bos: bool = True,
        chat_template: str | None = None,
        stop_ids: Sequence[int] = (),
    ):
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            everything = range(processor.vocab_size())
            self._pieces: list[str] = processor.id_to_piece(list(everything))
        except (RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(f"SentencePiece refuses it ({error})") from error
        self._processor = processor
        bos_id, eos_id, unk_id = processor.bos_id(), processor.eos_id(), processor.unk_id()
        if bos_id < 0 or eos_id < 0:
            raise ValueError("it has no <s> or no </s> piece")
        is_byte = processor.is_byte(list(everything))
        self._byte_ids = frozenset(index for index in everything if is_byte[index])
        if len(self._byte_ids) != 256:
            raise ValueError("it has no piece for each byte, so it cannot write every text")
        is_control = processor.is_control(list(everything))
        super().__init__(
            kind=KIND,
            vocab_size=len(everything),
            special_tokens={self._pieces[i]: i for i in everything if is_control[i] or i == unk_id},
            bos_id=bos_id,
            eos_id=eos_id,
            unk_id=unk_id,
            adds_bos=adds_bos,
            chat_template=chat_template,
            stop_ids=stop_ids,
        )

    @classmethod
    def from_vocabulary(
        cls,
        vocabulary: ScoredVocabulary,
        *,
        bos: str,
        eos: str,
        adds_bos: bool = True,
        chat_template: str | None = None,
        stop_ids: Sequence[int] = (),
    ) -> "SentencePieceTokenizer":
        """The tokenizer of a vocabulary that came from another format; `bos` and `eos` are pieces.

        Raises:
            ValueError: SentencePiece cannot run it.
        """
        model = write_model(vocabulary, bos=bos, eos=eos)
        return cls(model, adds_bos=adds_bos, chat_template=chat_template, stop_ids=stop_ids)

    @property
    def model(self) -> bytes:
        """The bytes of the model file."""
        model: bytes = self._processor.serialized_model_proto()
        return model

    @property
    def byte_ids(self) -> frozenset[int]:
        return self._byte_ids

    @property
    def vocabulary(self) -> ScoredVocabulary:
        file = read_model(self.model)
        if not file.is_bpe or file.changes_text:
            why = "it changes text before it encodes it" if file.is_bpe else "it does not encode byte pairs"
            raise UserError(f"the SentencePiece model cannot be written in another format: {why}; keep its file")
        return file.vocabulary

    def _find_surface(self, index: int) -> bytes:
        piece = self._pieces[index]
        if index == self._processor.unk_id():
            return str(self._processor.decode([index])).encode()
        if index in self._control_ids:
            return b""
        return bytes([int(piece[1:-1], 16)]) if index in self._byte_ids else piece.replace(SPACE, " ").encode()

    @cached_property
    def _spaced_ids(self) -> frozenset[int]:
        if not self._processor.normalize("a").startswith(SPACE):
            return frozenset()
        return frozenset(index for index, piece in enumerate(self._pieces) if piece.startswith(SPACE))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.encode(to_utf8(text))
        return ids

    def encode_batch(self, texts: Iterable[str], num_threads: int = -1) -> list[list[int]]:
        ids: list[list[int]] = self._processor.encode([to_utf8(text) for text in texts], num_threads=num_threads)
        return ids
