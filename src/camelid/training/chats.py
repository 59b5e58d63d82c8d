"""Chats become rows of training: answers are learnt, prompts are only read, and no chat sees another.

A file of chats is JSON lines, each with `messages`, a list of {"role": ..., "content": ...}.

Shapes: B rows, T positions.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camelid.errors import UserError
from camelid.tokenizer.chat import render_chat
from camelid.tokenizer.interface import Tokenizer

IGNORED = -1
"""The target of a position whose prediction is not learnt."""

_MAX_LINE_BYTES = 1 << 26


@dataclass(frozen=True)
class Chat:
    """A chat as tokens, of which some are an assistant's."""

    tokens: NDArray[np.int64]
    is_answer: NDArray[np.bool_]
    num_answer_bytes: int

    def cut(self, length: int) -> "Chat":
        """The first `length` tokens."""
        return Chat(self.tokens[:length], self.is_answer[:length], self.num_answer_bytes)


def read_chats(path: Path) -> Iterator[list[Mapping[str, Any]]]:
    """Yields the messages of each chat of a file.

    Raises:
        UserError: the file is missing, or a line is no chat.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), start=1):
                if line.strip():
                    yield _parse(line, f"{path}, line {number}")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}; name a .jsonl file"
        ) from error


def _parse(line: bytes, where: str) -> list[Mapping[str, Any]]:
    if len(line) == _MAX_LINE_BYTES:
        raise UserError(f"{where} is longer than {_MAX_LINE_BYTES:,} bytes; write one chat in each line")
    try:
        messages = json.loads(line)["messages"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f'{where} is no chat; write {{"messages": [{{"role": ..., "content": ...}}]}}') from error
    is_chat = isinstance(messages, list) and all(
        isinstance(message, dict) and isinstance(message.get("content"), str) for message in messages
    )
    if not is_chat or not any(message.get("role") == "assistant" for message in messages):
        raise UserError(f"{where} has no answer to learn from; give each message a role and text, one of an assistant")
    chat: list[Mapping[str, Any]] = messages
    return chat


def tokenize_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], template: str | None) -> Chat:
    """Tokens of a chat as the template writes it, the assistants' up to the end of the chat or the next message marked.

    Raises:
        UserError: the template refuses the messages, or writes a beginning otherwise once the chat goes on.
    """
    tokens = render_chat(tokenizer, messages, add_generation_prompt=False, template=template)
    is_answer = np.zeros(len(tokens), dtype=np.bool_)
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            before = render_chat(tokenizer, messages[:index], template=template) if index else []
            after = render_chat(tokenizer, messages[: index + 1], add_generation_prompt=False, template=template)
            for part in (before, after):
                if tokens[: len(part)] != part:
                    raise UserError(
                        "the chat template writes a chat's beginning otherwise once it goes on, so that answers cannot "
                        "be told from prompts; name another with instruct.template"
                    )
            is_answer[len(before) : len(after)] = True
    num_bytes = sum(len(message["content"].encode()) for message in messages if message["role"] == "assistant")
    return Chat(np.array(tokens, dtype=np.int64), is_answer, num_bytes)


def split_held_out(chats: Sequence[Chat], share: float) -> tuple[list[Chat], list[Chat]]:
    """Chats to train on and chats to measure on, chosen by a hash of their tokens."""
    parts: tuple[list[Chat], list[Chat]] = ([], [])
    for chat in chats:
        digest = hashlib.sha256(chat.tokens.tobytes()).digest()
        parts[int.from_bytes(digest[:8]) < share * 2**64].append(chat)
    return parts


def pack(chats: Sequence[Chat], length: int) -> NDArray[np.int64]:
    """Chats side by side, each whole and with positions from 0 on: [rows, 3, T] of inputs, targets and positions.

    A chat goes into the first row that has room; one that is longer than a row is cut. What is left is filled with
    positions from 0 on that learn nothing.
    """
    rows: list[NDArray[np.int64]] = []
    room: list[int] = []
    for chat in (chat.cut(length + 1) for chat in chats):
        needed = len(chat.tokens) - 1
        place = next((i for i, free in enumerate(room) if free >= needed), None)
        if place is None:
            place = len(rows)
            rows.append(np.stack([np.zeros(length), np.full(length, IGNORED), np.zeros(length)]).astype(np.int64))
            room.append(length)
        start = length - room[place]
        row = rows[place][:, start : start + needed]
        row[0] = chat.tokens[:-1]
        row[1] = np.where(chat.is_answer[1:], chat.tokens[1:], IGNORED)
        row[2] = np.arange(needed)
        room[place] -= needed
    for row, free in zip(rows, room, strict=True):
        row[2, length - free :] = np.arange(free)
    return np.stack(rows)


class ChatLoader:
    """Batches of packed chats; every epoch is shuffled and packed anew, and the state is the step alone.

    Raises:
        UserError: there are too few chats for one row that learns something.
    """

    def __init__(self, chats: Sequence[Chat], sequence_length: int, batch_size: int, seed: int):
        self._chats = [chat for chat in chats if chat.is_answer[1 : sequence_length + 1].any()]
        if not self._chats:
            raise UserError(
                f"no chat has an answer within {sequence_length:,} tokens; add chats, or raise train.sequence_length"
            )
        self._sequence_length = sequence_length
        self._batch_size = batch_size
        self._seed = seed
        self._epochs: list[NDArray[np.int64]] = []

    @property
    def num_chats(self) -> int:
        """Chats with an answer to learn."""
        return len(self._chats)

    def batch(self, step: int) -> NDArray[np.int64]:
        """Rows [B, 3, T] of one step: inputs, targets, positions."""
        first = step * self._batch_size
        epoch = 0
        rows: list[NDArray[np.int64]] = []
        while len(rows) < self._batch_size:
            packed = self._epoch(epoch)
            rows += list(packed[first : first + self._batch_size - len(rows)])
            first = max(0, first - len(packed))
            epoch += 1
        return np.stack(rows)

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        while len(self._epochs) <= epoch:
            order = np.random.default_rng([self._seed, len(self._epochs)]).permutation(len(self._chats))
            self._epochs.append(pack([self._chats[index] for index in order], self._sequence_length))
        return self._epochs[epoch]
