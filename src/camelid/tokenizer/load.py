"""A trained tokenizer at work: text to token ids and back, whole or as a stream."""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from camelid.errors import UserError

MODEL_NAME = "tokenizer.model"

_SPACE = "\u2581"  # SentencePiece's sign for a space inside a piece


def load_tokenizer(path: Path) -> "Tokenizer":
    """Loads a SentencePiece model, or the one in a folder.

    Raises:
        UserError: there is no such file, it is damaged, or it lacks the pieces that Camelid needs.
    """
    file = path / MODEL_NAME if path.is_dir() else path
    try:
        return Tokenizer(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read as a tokenizer: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise UserError(f"{file} is not a tokenizer that Camelid can use: {error}; restore or replace it") from error


class Tokenizer:
    """A SentencePiece model.

    No text ever encodes to a control id. With Camelid's own models and the released one any text comes back unchanged
    from `decode(encode(text))`, except that U+2581 comes back as a space.

    Args:
        model: bytes of a SentencePiece model file.

    Raises:
        ValueError: the bytes are no such file, or the model has no BOS, no EOS or no byte pieces.
    """

    def __init__(self, model: bytes):
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = [self._processor.id_to_piece(index) for index in range(self._processor.vocab_size())]
        except (RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(f"SentencePiece refuses it ({error})") from error
        self.vocab_size: int = len(pieces)
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        self.unk_id: int = self._processor.unk_id()
        if self.bos_id < 0 or self.eos_id < 0:
            raise ValueError("it has no <s> or no </s> piece")
        self.byte_ids = frozenset(index for index in range(self.vocab_size) if self._processor.is_byte(index))
        """Ids that stand for one byte of UTF-8 each."""
        if len(self.byte_ids) != 256:
            raise ValueError("it has no piece for each byte, so it cannot write every text")
        self._is_control = [self._processor.is_control(index) for index in range(self.vocab_size)]
        self._surfaces = [self._surface(index, piece) for index, piece in enumerate(pieces)]
        has_dummy_prefix = self._processor.normalize("a").startswith(_SPACE)
        self._can_lose_space = [has_dummy_prefix and piece.startswith(_SPACE) for piece in pieces]

    def _surface(self, index: int, piece: str) -> bytes:
        """The bytes that an id stands for in the middle of a text."""
        if self._is_control[index]:
            return b""
        if index in self.byte_ids:
            return bytes([int(piece[1:-1], 16)])
        if index == self.unk_id:
            return str(self._processor.decode([index])).encode()
        return piece.replace(_SPACE, " ").encode()

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Token ids of a text.

        Raises:
            UserError: the text is not Unicode: it holds half of a surrogate pair.
        """
        ids: list[int] = self._processor.encode(_to_utf8(text), add_bos=bos, add_eos=eos)
        return ids

    def encode_batch(self, texts: Iterable[str], num_threads: int = -1) -> list[list[int]]:
        """Token ids of each text, without BOS and EOS.

        Args:
            num_threads: how many texts to encode at once, -1 for one per processor; the ids do not depend on it.

        Raises:
            UserError: as `encode`.
        """
        ids: list[list[int]] = self._processor.encode([_to_utf8(text) for text in texts], num_threads=num_threads)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD, control ids nothing.

        Raises:
            ValueError: an id is not of this vocabulary.
        """
        decoder = self.stream_decoder()
        return "".join([*map(decoder.push, ids), decoder.flush()])

    def stream_decoder(self, prompt: Sequence[int] = ()) -> "StreamDecoder":
        """A decoder of ids that come one by one, after those of a prompt, whose text it does not repeat."""
        return StreamDecoder(self._surfaces, self._is_control, self._can_lose_space, prompt)


class StreamDecoder:
    """Turns ids into text as they come; a character whose bytes are not all there yet waits.

    What it returns, joined, is `decode` of all ids less the whole characters of the prompt.
    """

    def __init__(
        self,
        surfaces: Sequence[bytes],
        is_control: Sequence[bool],
        can_lose_space: Sequence[bool],
        prompt: Sequence[int],
    ):
        self._surfaces = surfaces
        self._is_control = is_control
        self._can_lose_space = can_lose_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_at_start = True
        for token in prompt:
            self.push(token)

    def push(self, token: int) -> str:
        """The text that this id completes, often empty.

        Raises:
            ValueError: the id is not of this vocabulary.
        """
        if not 0 <= token < len(self._surfaces):
            raise ValueError(f"token id {token} is not in a vocabulary of {len(self._surfaces):,}")
        if self._is_control[token]:
            return self.flush()  # no character runs over the end of a text
        surface = self._surfaces[token]
        if self._is_at_start:
            self._is_at_start = False
            # The space that SentencePiece puts before every text.
            if self._can_lose_space[token]:
                surface = surface[1:]
        return self._utf8.decode(surface)

    def flush(self) -> str:
        """What is left at the end of a text: U+FFFD for a character that was never completed."""
        return self._utf8.decode(b"", final=True)


def _to_utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):X}"
        raise UserError(
            f"the text is not Unicode: its character {error.start:,}, counted from 0, is half of a surrogate pair "
            f"({surrogate}); remove it"
        ) from error
