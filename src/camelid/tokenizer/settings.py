"""What a person can set about the tokenizer; every other flag is that of the released LLaMA tokenizer."""

from typing import Literal

from pydantic import Field

from camelid.settings import Settings

Newlines = Literal["bytes", "pieces"]


class TokenizerSettings(Settings):
    """A byte-pair vocabulary made by SentencePiece."""

    vocab_size: int = Field(32_000, ge=260, le=1_000_000)
    """Number of pieces, the 3 control pieces and 256 byte pieces included."""
    character_coverage: float = Field(0.99995, ge=0.98, le=1)
    """Share of the text's characters that get a piece of their own; the others are written as bytes."""
    newlines: Newlines = "bytes"
    """Whether a line break is a byte of its own, as in the released tokenizer, or may be part of a longer piece."""
    sample_bytes: int = Field(2**28, gt=0)
    """Most bytes of text to learn from, a sample of the corpus; training takes about six times as much memory."""
    num_threads: int = Field(2, ge=1, le=1024)
    """Threads of the training; SentencePiece writes the number into the model file, so it is fixed and not measured."""
