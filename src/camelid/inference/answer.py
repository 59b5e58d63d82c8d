"""An answer while it is written: logits to tokens, tokens to characters, and stop texts that never show.

Shapes: V vocabulary.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from camelid.inference.request import Event, Request, TokenLogprob
from camelid.inference.sampler import InvalidLogitsError, Sampler, measure_logprob
from camelid.tokenizer.interface import Tokenizer


class StopFinder:
    """Finds the first of several texts to be complete in a text that comes in pieces, however it is cut.

    Characters that may turn out to begin one are held back.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = [(stop, _fallbacks(stop)) for stop in stops]
        self._num_matched = [0] * len(stops)
        self._held = ""
        self._is_found = False

    def has_found(self) -> bool:
        """Whether one of the texts is complete."""
        return self._is_found

    def push(self, text: str) -> str:
        """What is certain to stand before any of the texts."""
        if not self._stops or not text:
            return text
        self._held += text
        for place in range(len(self._held) - len(text), len(self._held)):
            length = self._match(self._held[place])
            if length:
                self._is_found = True
                return self._take(place + 1 - length)
        return self._take(len(self._held) - max(self._num_matched))

    def flush(self) -> str:
        """What was held back, when nothing more comes."""
        return self._take(len(self._held))

    def _match(self, character: str) -> int:
        """Goes on by one character; the length of the longest text that it completes, or 0."""
        found = 0
        for index, (stop, fallbacks) in enumerate(self._stops):
            matched = self._num_matched[index]
            while matched and stop[matched] != character:
                matched = fallbacks[matched - 1]
            matched += stop[matched] == character
            if matched == len(stop):
                found = max(found, matched)
                matched = fallbacks[matched - 1]
            self._num_matched[index] = matched
        return found

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        return taken


def _fallbacks(text: str) -> list[int]:
    """For each beginning of a text, the length of the longest shorter one that it ends with (Knuth, Morris, Pratt)."""
    lengths = [0]
    for character in text[1:]:
        matched = lengths[-1]
        while matched and text[matched] != character:
            matched = lengths[matched - 1]
        lengths.append(matched + (text[matched] == character))
    return lengths


class Answer:
    """A request and what it writes."""

    __slots__ = ("_decoder", "_stops", "inbox", "request", "sampler", "stop_ids")

    def __init__(self, request: Request, tokenizer: Tokenizer, vocab_size: int):
        settings = request.settings
        self.request = request
        self._decoder = tokenizer.stream_decoder(request.tokens)
        self._stops = StopFinder(settings.stop)
        self.sampler = None if settings.is_plain_greedy else Sampler(settings, request.tokens, vocab_size)
        """None where the likeliest token is taken."""
        self.stop_ids = frozenset() if settings.ignore_eos else tokenizer.stop_ids
        self.inbox: deque[Event] | None = None
        """Where an iterator of the engine looks for events, if it is one that waits for them."""

    def write(self, logits: NDArray[np.float32], likeliest: Sequence[int]) -> tuple[Event, list[int]]:
        """Chooses tokens as far as the request's draft agrees.

        Args:
            logits: [1 + draft, V]
            likeliest: [1 + draft] the likeliest tokens, or nothing where there is a sampler.

        Returns:
            What to tell the caller, and all tokens that were chosen: an end token too.
        """
        request, settings = self.request, self.request.settings
        event = Event(request.id)
        chosen: list[int] = []
        logprobs: list[TokenLogprob] = []
        for row in range(len(request.draft) + 1):
            token = self._choose(logits[row], len(request.tokens) + row) if self.sampler else likeliest[row]
            if token < 0:
                event.finish_reason = "error"
                break
            chosen.append(token)
            if token in self.stop_ids:
                event.finish_reason = "stop"
                break
            if settings.logprobs is not None:
                logprobs.append(measure_logprob(logits[row], token, settings.logprobs))
            event.text += self._stops.push(self._decoder.push(token))
            if self._stops.has_found():
                event.finish_reason = "stop"
                break
            if len(request.tokens) + len(chosen) == request.max_length:
                event.finish_reason = "length"
                break
            if row < len(request.draft) and token != request.draft[row]:
                break
        is_ended = bool(chosen) and chosen[-1] in self.stop_ids
        event.tokens = chosen[:-1] if is_ended else chosen
        event.logprobs = logprobs
        if event.finish_reason and not self._stops.has_found():
            event.text += self._stops.push(self._decoder.flush())
            if self._stops.has_found():
                event.finish_reason = "stop"
            else:
                event.text += self._stops.flush()
        return event, chosen

    def _choose(self, logits: NDArray[np.float32], position: int) -> int:
        """A token, or -1 where the logits are no numbers."""
        assert self.sampler is not None
        try:
            token = self.sampler.choose(logits, position)
        except InvalidLogitsError:
            return -1
        self.sampler.observe(token)
        return token
