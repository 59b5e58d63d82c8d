"""Learning a vocabulary: byte-pair encoding by SentencePiece, with the released LLaMA tokenizer's flags."""

import hashlib
import heapq
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

import sentencepiece

from camelid.errors import UserError
from camelid.tokenizer.settings import Newlines, TokenizerSettings

# What the file of the released tokenizer says about itself, which the paper (section 2.1) does not spell out.
_RELEASED_FLAGS: dict[str, Any] = {
    "model_type": "bpe",
    "input_sentence_size": 200_000_000,
    "shuffle_input_sentence": True,
    "seed_sentencepiece_size": 1_000_000,
    "shrinking_factor": 0.75,
    "num_sub_iterations": 2,
    "max_sentence_length": 4192,
    "max_sentencepiece_length": 16,
    "split_by_unicode_script": True,
    "split_by_number": True,
    "split_by_whitespace": True,
    "split_digits": True,
    "treat_whitespace_as_suffix": False,
    "allow_whitespace_only_pieces": True,
    "byte_fallback": True,
    "hard_vocab_limit": True,
    "use_all_vocab": False,
    "vocabulary_output_piece_score": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "unk_surface": " \u2047 ",
}

# SentencePiece skips sentences above 4192 bytes; this many characters never reach that.
_SENTENCE_CHARACTERS = _RELEASED_FLAGS["max_sentence_length"] // 4
_BLOCK_CHARACTERS = 1 << 16
_LOG_ERRORS_ONLY = 2
# SentencePiece skips every sentence that holds its mark of an unknown character.
_RESERVED = "\u2585"


def train_tokenizer(texts: Iterable[str], settings: TokenizerSettings, *, seed: int) -> bytes:
    """Learns a vocabulary from a sample of the texts.

    The same texts, in whatever order, give the same bytes in any folder and on any machine.

    Returns:
        A SentencePiece model file.

    Raises:
        UserError: there is no text, or the vocabulary is too large or too small for it.
    """
    sample = sample_texts(texts, settings.sample_bytes, seed)
    if not any(block.strip() for block in sample):
        raise UserError("there is no text to learn a tokenizer from; look at what the corpus kept and dropped")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(sample, settings.newlines),
            model_writer=model,
            vocab_size=settings.vocab_size,
            character_coverage=settings.character_coverage,
            num_threads=settings.num_threads,
            minloglevel=_LOG_ERRORS_ONLY,
            **_RELEASED_FLAGS,
        )
    except RuntimeError as error:
        raise UserError(_explain(str(error), settings.vocab_size)) from error
    return model.getvalue()


def sample_texts(texts: Iterable[str], max_bytes: int, seed: int) -> list[bytes]:
    """Draws blocks of the texts, as UTF-8, that together hold at most `max_bytes`; one block at the least.

    A block belongs to the sample when the hash of its content and the seed is among the smallest, so neither order nor
    number of workers matters, and memory is bounded by the sample.
    """
    kept: list[tuple[int, bytes]] = []  # a heap with the largest hash, negated, on top
    num_bytes = 0
    key = hashlib.sha256(str(seed).encode()).digest()
    for block in _blocks(texts):
        rank = int.from_bytes(hashlib.blake2b(block, digest_size=8, key=key).digest())
        heapq.heappush(kept, (-rank, block))
        num_bytes += len(block)
        while num_bytes > max_bytes and len(kept) > 1:
            num_bytes -= len(heapq.heappop(kept)[1])
    return [block for _, block in sorted(kept)]


def _blocks(texts: Iterable[str]) -> Iterator[bytes]:
    for text in texts:
        for start in range(0, len(text), _BLOCK_CHARACTERS):
            yield text[start : start + _BLOCK_CHARACTERS].encode()


def _sentences(sample: Iterable[bytes], newlines: Newlines) -> Iterator[str]:
    """Lines without their breaks, or runs of whole lines with them; what is too long for a sentence is cut."""
    for block in sample:
        lines = block.decode().replace(_RESERVED, "\n").split("\n")
        for sentence in lines if newlines == "bytes" else _join_lines(lines):
            for start in range(0, len(sentence), _SENTENCE_CHARACTERS):
                yield sentence[start : start + _SENTENCE_CHARACTERS]


def _join_lines(lines: Iterable[str]) -> Iterator[str]:
    """As many lines at a time as fit into a sentence."""
    sentence = ""
    for line in lines:
        if len(sentence) + len(line) >= _SENTENCE_CHARACTERS:
            yield sentence
            sentence = ""
        sentence += line + "\n"
    yield sentence


def _explain(message: str, vocab_size: int) -> str:
    if largest := re.search(r"Vocabulary size too high .* value <= (\d+)", message):
        return (
            f"tokenizer.vocab_size {vocab_size:,} is more than the text supports; set it to {int(largest[1]):,} or "
            "less, or add text"
        )
    if required := re.search(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"tokenizer.vocab_size {vocab_size:,} is too small for the characters of the text; set it to "
            f"{int(required[1]):,} or more, or lower tokenizer.character_coverage"
        )
    return f"SentencePiece could not learn a tokenizer: {message}"
