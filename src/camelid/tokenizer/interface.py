"""What every tokenizer offers, whatever library runs it and whatever file it came from."""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import cached_property

from camelid.errors import UserError
from camelid.tokenizer.vocabulary import Vocabulary

STOP_NAMES = frozenset(
    (
        "</s>",
        "<|end_of_text|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<EOT>",
        "<｜end▁of▁sentence｜>",
    )
)
"""Names of tokens that end an answer; they are control tokens even where a file forgets to say so."""


class Tokenizer(ABC):
    """Text to token ids and back.

    No text ever encodes to an id of `special_tokens`; those come from `bos`, `eos` and `chat.render_chat` alone.

    Args:
        special_tokens: ids by the text that stands for them.
        bos_id: None for a vocabulary without one; its EOS then stands between texts, as GPT-2 does it.
        stop_ids: ids that end an answer besides EOS and the special tokens of well-known names.
        stripping: special tokens of a chat that swallow the white space to their left and to their right.

    Raises:
        ValueError: BOS or EOS are no special tokens, or a stop id is of no token.
    """

    def __init__(
        self,
        *,
        kind: str,
        vocab_size: int,
        special_tokens: Mapping[str, int],
        bos_id: int | None,
        eos_id: int,
        unk_id: int | None,
        adds_bos: bool,
        chat_template: str | None,
        stop_ids: Sequence[int] = (),
        stripping: Mapping[str, tuple[bool, bool]] | None = None,
    ):
        control_ids = frozenset(special_tokens.values())
        if adds_bos and bos_id is None:
            raise ValueError("its prompts begin with BOS, but it names no BOS token")
        for name, index in (("BOS", bos_id), ("EOS", eos_id)):
            if index is not None and index not in control_ids:
                raise ValueError(f"its {name} token, id {index}, is no control token")
        self.kind = kind
        """What it is, for people: "SentencePiece" or "byte-level BPE"."""
        self.vocab_size = vocab_size
        self.special_tokens = special_tokens
        self.bos_id = eos_id if bos_id is None else bos_id
        """Id that stands before a text."""
        self.eos_id = eos_id
        """Id that stands after a text."""
        self.unk_id = unk_id
        self.has_bos = bos_id is not None
        """Whether BOS is a token of its own."""
        self.adds_bos = adds_bos
        """Whether a prompt begins with BOS."""
        self.chat_template = chat_template
        """Jinja text that turns messages into a prompt, or the name of one of `chat.NAMED_TEMPLATES`."""
        if beyond := [index for index in stop_ids if not 0 <= index < vocab_size]:
            raise ValueError(f"its stop token {beyond[0]:,} is not among its {vocab_size:,} ids")
        named = (special_tokens[name] for name in STOP_NAMES.intersection(special_tokens))
        self.stop_ids = frozenset((eos_id, *stop_ids, *named))
        """Ids that end an answer."""
        self.stripping = stripping or {}
        self._control_ids = control_ids

    @property
    @abstractmethod
    def byte_ids(self) -> frozenset[int]:
        """Ids that stand for a byte that is no character of its own."""

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """Everything it takes to write the tokenizer down elsewhere.

        Raises:
            UserError: it does something that no other format can say.
        """

    @abstractmethod
    def _find_surface(self, index: int) -> bytes:
        """The bytes that an id stands for in the middle of a text; nothing for control ids and for holes."""

    @property
    @abstractmethod
    def _spaced_ids(self) -> frozenset[int]:
        """Ids whose first space is not in the text when they stand at its start."""

    @abstractmethod
    def _encode(self, text: str) -> list[int]: ...

    @abstractmethod
    def encode_batch(self, texts: Iterable[str], num_threads: int = -1) -> list[list[int]]:
        """Token ids of each text, without BOS and EOS.

        Args:
            num_threads: how many texts to encode at once, -1 for one per processor; the ids do not depend on it, and
                byte-level vocabularies know only 1 and one per processor.

        Raises:
            UserError: as `encode`.
        """

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Token ids of a text.

        Raises:
            UserError: the text is not Unicode: it holds half of a surrogate pair.
        """
        ids = self._encode(text)
        if bos:
            ids.insert(0, self.bos_id)
        if eos:
            ids.append(self.eos_id)
        return ids

    def encode_parts(self, parts: Iterable[str | int]) -> list[int]:
        """Token ids of a text that was cut at its control tokens: stretches of plain text, and ids as they are."""
        ids: list[int] = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode(part)
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
        return StreamDecoder(self._surfaces, self._control_ids, self._spaced_ids, prompt)

    @cached_property
    def _surfaces(self) -> "Surfaces":
        return Surfaces(self._find_surface, self.vocab_size)


class Surfaces(dict[int, bytes]):
    """What each id stands for, found when it is first asked for: a text needs few of a vocabulary."""

    def __init__(self, find: Callable[[int], bytes], vocab_size: int):
        super().__init__()
        self._find = find
        self._vocab_size = vocab_size

    def __missing__(self, index: int) -> bytes:
        if not 0 <= index < self._vocab_size:
            raise ValueError(f"token id {index} is not in a vocabulary of {self._vocab_size:,}")
        surface = self[index] = self._find(index)
        return surface


class StreamDecoder:
    """Turns ids into text as they come; a character whose bytes are not all there yet waits.

    What it returns, joined, is `decode` of all ids less the whole characters of the prompt.
    """

    def __init__(
        self,
        surfaces: Surfaces,
        control_ids: Set[int],
        spaced_ids: frozenset[int],
        prompt: Sequence[int],
    ):
        self._surfaces = surfaces
        self._control_ids = control_ids
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._spaced_ids = spaced_ids
        self._is_at_start = True
        for token in prompt:
            self.push(token)

    def push(self, token: int) -> str:
        """The text that this id completes, often empty.

        Raises:
            ValueError: the id is not of this vocabulary.
        """
        surface = self._surfaces[token]
        if not surface and token in self._control_ids:
            return self.flush()  # no character runs over the end of a text
        if self._is_at_start:
            self._is_at_start = False
            if token in self._spaced_ids:
                surface = surface[1:]
        return self._utf8.decode(surface)

    def flush(self) -> str:
        """What is left at the end of a text: U+FFFD for a character that was never completed."""
        return self._utf8.decode(b"", final=True)


def to_utf8(text: str) -> bytes:
    """The text as bytes.

    Raises:
        UserError: it holds half of a surrogate pair.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):X}"
        raise UserError(
            f"the text is not Unicode: its character {error.start:,}, counted from 0, is half of a surrogate pair "
            f"({surrogate}); remove it"
        ) from error
