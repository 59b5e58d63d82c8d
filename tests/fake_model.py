"""A model whose logits are a function of the tokens that it reads back from the pages, and a tokenizer to go with it.

A page table, a position or a page's content that is wrong by one place gives other logits. `write_alone` is the same
model without an engine: whatever the engine does to a request, its tokens must be these.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from camelid.inference.request import SamplingSettings
from camelid.inference.sampler import Sampler
from camelid.inference.step import Step
from camelid.model.config import ModelConfig
from camelid.tokenizer.interface import StreamDecoder, Tokenizer
from camelid.tokenizer.vocabulary import Vocabulary

VOCAB_SIZE = 60
EOS = 1
_POWERS = np.array([pow(0x9E3779B97F4A7C15, place, 2**64) for place in range(4096)], np.uint64)
_SALTS = np.arange(1, VOCAB_SIZE + 1, dtype=np.uint64) * np.uint64(0xBF58476D1CE4E5B9)


def compute_logits(tokens: NDArray[np.int64], period: int) -> NDArray[np.float32]:
    """Logits [V] after these tokens: pseudo-random, and where a period is given mostly in favour of repeating it."""
    state = ((tokens.astype(np.uint64) + np.uint64(1)) * _POWERS[: len(tokens)]).sum(dtype=np.uint64)
    mixed = (_SALTS ^ state) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    logits: NDArray[np.float32] = ((mixed >> np.uint64(40)).astype(np.float32) / np.float32(2**24) * 8 - 4).astype(
        np.float32
    )
    if 0 < period <= len(tokens) and state % np.uint64(10):
        logits[tokens[-period]] += 12
    return logits


class FakeRunner:
    """Keeps tokens where a model keeps keys and values."""

    is_batch_invariant = True

    def __init__(self, num_pages: int, page_size: int, context: int = 96, period: int = 0):
        self.config = ModelConfig(
            dim=2, num_layers=1, num_heads=1, num_kv_heads=1, ffn_hidden_dim=1, vocab_size=VOCAB_SIZE,
            max_sequence_length=context,
        )  # fmt: skip
        self.num_pages = num_pages
        self.page_size = page_size
        self.period = period
        self.num_steps = 0
        self.num_rows = 0
        self._cells = np.full((num_pages, page_size), -1, np.int64)

    def run(self, step: Step) -> NDArray[np.float32]:
        self.num_steps += 1
        self.num_rows += len(step.tokens)
        assert len(step.num_new) == len(step.num_cached) == len(step.page_tables)
        assert step.num_new.min() >= 1
        assert step.num_new.sum() == len(step.tokens)
        for table in step.page_tables.tolist():
            pages = table[: table.index(-1)] if -1 in table else table
            assert len(set(pages)) == len(pages), "a page twice in a table"
            assert set(table[len(pages) :]) <= {-1}
        ends = np.cumsum(step.num_new)
        written: list[tuple[int, int]] = []
        for row, end in enumerate(ends):
            for offset in range(step.num_new[row]):
                page, cell = divmod(int(step.num_cached[row]) + offset, self.page_size)
                place = (int(step.page_tables[row, page]), cell)
                assert place[0] >= 0
                self._cells[place] = step.tokens[end - step.num_new[row] + offset]
                written.append(place)
        assert len(set(written)) == len(written), "two tokens at one place"
        rows = []
        for output in step.outputs:
            row = int(np.searchsorted(ends, output, side="right"))
            length = int(step.num_cached[row] + output - (ends[row] - step.num_new[row]) + 1)
            table = step.page_tables[row, : math.ceil(length / self.page_size)]
            assert table.min() >= 0
            rows.append(compute_logits(self._cells[table].reshape(-1)[:length], self.period))
        return np.array(rows, np.float32).reshape(-1, VOCAB_SIZE)


class FakeTokenizer(Tokenizer):
    """An id is a letter, half of an é, or nothing: BOS 0 and EOS 1."""

    def __init__(self) -> None:
        super().__init__(
            kind="fake", vocab_size=VOCAB_SIZE, special_tokens={"<s>": 0, "</s>": EOS}, bos_id=0, eos_id=EOS,
            unk_id=None, adds_bos=True, chat_template=None,
        )  # fmt: skip

    @property
    def byte_ids(self) -> frozenset[int]:
        return frozenset()

    @property
    def vocabulary(self) -> Vocabulary:
        raise AssertionError("nobody asks")

    def _find_surface(self, index: int) -> bytes:
        return (b"", b"", b"\xc3", b"\xa9")[index] if index < 4 else bytes([97 + index % 5])

    @property
    def _spaced_ids(self) -> frozenset[int]:
        return frozenset()

    def _encode(self, text: str) -> list[int]:
        return [4 + (ord(character) - 97) % (VOCAB_SIZE - 4) for character in text]

    def encode_batch(self, texts: object, num_threads: int = -1) -> list[list[int]]:
        raise AssertionError("nobody asks")


def write_alone(
    prompt: Sequence[int], settings: SamplingSettings, context: int = 96, period: int = 0
) -> tuple[list[int], str]:
    """Tokens without the end token, and the reason to end, stop texts apart."""
    tokens = list(prompt)
    sampler = Sampler(settings, prompt, VOCAB_SIZE)
    for _ in range(min(settings.max_tokens, context - len(prompt))):
        token = sampler.choose(compute_logits(np.array(tokens), period), len(tokens))
        if token == EOS and not settings.ignore_eos:
            return tokens[len(prompt) :], "stop"
        sampler.observe(token)
        tokens.append(token)
    return tokens[len(prompt) :], "length"


def decode_alone(tokens: Sequence[int]) -> str:
    """The text of an answer's tokens after a prompt that ended with a whole character."""
    decoder: StreamDecoder = FakeTokenizer().stream_decoder()
    return "".join([*map(decoder.push, tokens), decoder.flush()])
