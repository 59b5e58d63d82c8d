"""Held-out loss: nats per token, and bits per byte, which compares across tokenizers and with compressors.

Shapes: B windows, T positions, D model width.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camelid.model.llama import Transformer
from camelid.parallel.spread import IGNORED
from camelid.training.device import Execution
from camelid.training.loss import linear_cross_entropy

Tokens = NDArray[np.integer]

Score = Callable[[Tensor, Tensor], Tensor]
"""(inputs [B, T], targets [B, T], some of them IGNORED) -> summed cross-entropy in nats."""


@dataclass(frozen=True)
class HeldOutLoss:
    """Loss summed over documents; every token after the first (BOS) is predicted, the final EOS included."""

    num_bytes: int
    num_tokens: int
    nats: float

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.num_tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs per byte of UTF-8 text, the end of each document included."""
        return self.nats / math.log(2) / self.num_bytes


def score_with(model: Transformer) -> Score:
    """The score of a model in one process."""

    def score(inputs: Tensor, targets: Tensor) -> Tensor:
        hidden, is_scored = model.hidden_states(inputs), targets != IGNORED
        return linear_cross_entropy(hidden[is_scored], model.output.weight, targets[is_scored])

    return score


@torch.no_grad()
def measure_held_out(
    score: Score,
    documents: Iterable[tuple[int, Tokens]],
    *,
    execution: Execution,
    sequence_length: int,
    stride: int,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
) -> HeldOutLoss:
    """Loss of documents, each read from its own beginning through windows of `sequence_length` tokens.

    Args:
        documents: UTF-8 bytes of the text, and its tokens from BOS to EOS.
        stride: tokens that each window predicts; the others of it are context. Smaller is better and slower.
        share: which of how many processes this is; each takes its part of the windows, and `nats` is of those alone.
    """
    num_bytes = num_tokens = 0
    nats = 0.0

    def read() -> Iterator[Tokens]:
        nonlocal num_bytes, num_tokens
        for size, tokens in documents:
            num_bytes += size
            num_tokens += len(tokens) - 1
            yield tokens

    windows = _windows(read(), sequence_length, stride)
    rank, num_shares = share
    while batch := list(_take(windows, batch_size * num_shares)):
        # Rows that a last batch lacks are padded with ignored ones: generated code is made for one shape, and all
        # processes must go through the model equally often.
        batch += [np.full_like(batch[0], IGNORED)] * (batch_size * num_shares - len(batch))
        own = batch[rank * batch_size : (rank + 1) * batch_size]
        rows = torch.from_numpy(np.stack(own)).to(execution.device)  # [B, 2, T]
        with execution.autocast():
            nats += score(rows[:, 0].clamp(min=0), rows[:, 1]).item()
    return HeldOutLoss(num_bytes, num_tokens, nats)


def choose_documents(documents: Iterable[tuple[int, Tokens]], max_tokens: int) -> list[tuple[int, Tokens]]:
    """The first documents that together hold at least `max_tokens` tokens, or all of them."""
    chosen: list[tuple[int, Tokens]] = []
    num_tokens = 0
    for size, tokens in documents:
        chosen.append((size, tokens))
        num_tokens += len(tokens)
        if num_tokens >= max_tokens:
            break
    return chosen


def _windows(documents: Iterable[Tokens], sequence_length: int, stride: int) -> Iterator[NDArray[np.int64]]:
    """Arrays [2, T] of inputs and targets; targets that an earlier window predicted, and padding, are ignored."""
    for tokens in documents:
        num_targets = len(tokens) - 1
        num_predicted = 0
        while num_predicted < num_targets:
            # The first window predicts all that it holds, the others `stride` targets after a context.
            end = min(num_targets, sequence_length if num_predicted == 0 else num_predicted + stride)
            start = max(0, end - sequence_length)
            window = np.full((2, sequence_length), IGNORED, dtype=np.int64)
            window[0, : end - start] = tokens[start:end]
            window[1, num_predicted - start : end - start] = tokens[num_predicted + 1 : end + 1]
            yield window
            num_predicted = end


def _take(windows: Iterator[NDArray[np.int64]], count: int) -> Iterator[NDArray[np.int64]]:
    for _, window in zip(range(count), windows, strict=False):
        yield window
