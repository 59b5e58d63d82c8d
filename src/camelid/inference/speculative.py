"""Drafts: guesses at the next tokens, verified by the model in one step. Nothing is lost by a wrong one but its rows.

A draft's tokens are computed beside the last known token. At each of their positions the request's sampler chooses as
it would have without a draft, with the same random number; the draft is followed as far as it agrees with the choices
(the coupling that Leviathan et al. 2023 call exact for greedy choice; with one number per position it is so for drawn
tokens too). The text is hence the same with and without drafts, wherever logits do not depend on the batch.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from camelid.errors import UserError
from camelid.inference.batch import Piece, StepWriter
from camelid.inference.pages import Pages, PageTable
from camelid.inference.request import Request, Status
from camelid.inference.sampler import InvalidLogitsError, Sampler, choose_likeliest
from camelid.inference.step import Runner


class Drafter(Protocol):
    """Something that guesses."""

    def propose(self, requests: Sequence[Request]) -> None:
        """Sets `draft` of requests that write, which are all that are given."""
        ...

    def observe(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        """Learns how many of a draft's tokens were computed, and how many of them were right."""
        ...

    def forget(self, request: Request) -> None:
        """Drops what is kept for a request."""
        ...

    def reset(self) -> None:
        """Drops what is kept for all requests, even where it is in disorder."""
        ...


NGRAM = 3
"""Tokens that must have stood together before, for what came after them then to be guessed."""

FREE_ROWS, FREE_SHARE = 3, 0.03
"""Rows that a request may compute in vain: so many, and this part of one for each token that it writes. Beyond them
only as many as its drafts have saved, so that text that does not repeat itself costs 3 % of rows and little more."""
LEAST_CHANCE = 0.7
"""A token is drafted if it and all drafted before it are right with this probability at least."""

_LENGTHS = (4, 6, 9, 17, 33)
_CHANCES = (0.42, 0.60, 0.75, 0.85, 0.93, 0.97)
"""How often the next token is right where 3, 4, 6, 9, 17, 33 or more were right before it, on texts of all kinds. Where
a text repeats its prompt it is more, where it does not less: each request keeps count."""
_WEIGHT = 4.0
"""Tokens of a request's own that count as much as what is known of texts in general."""

_MISSES_BEFORE_PAUSE = 3
_LONGEST_PAUSE = 64
_TOKEN_BITS = 21
_MASK = (1 << (_TOKEN_BITS * NGRAM)) - 1


class LookupDrafter:
    """Guesses that text goes on as it did after the same tokens before, in the prompt or the answer.

    Every written token is compared with the guess, drafted or not, which costs no row: how often the guess was right
    after how long an agreement says how far to trust the next one. Rows in vain are spent from an allowance.

    Args:
        max_rows: no draft makes a step longer than this: beyond a few rows a step's cost grows with their number.
    """

    def __init__(self, max_rows: int = 16):
        self._max_rows = max_rows
        self._lookups: dict[int, _Lookup] = {}

    def propose(self, requests: Sequence[Request]) -> None:
        """See `Drafter`."""
        num_left = self._max_rows - len(requests)
        if num_left <= 0:
            return
        for request in requests:
            lookup = self._lookups.get(request.id)
            if lookup is None:
                lookup = self._lookups[request.id] = _Lookup(self._max_rows)
            request.draft = lookup.draft(request.tokens, request.num_written, num_left)
            num_left -= len(request.draft)
            if num_left <= 0:
                break

    def observe(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        """See `Drafter`."""
        self._lookups[request.id].earn(2 * num_accepted - num_drafted)

    def forget(self, request: Request) -> None:
        """See `Drafter`."""
        self._lookups.pop(request.id, None)

    def reset(self) -> None:
        """See `Drafter`."""
        self._lookups.clear()


class _Lookup:
    """One request's text, by its runs of `NGRAM` tokens."""

    def __init__(self, max_rows: int):
        self._max_allowance = float(max_rows)
        self._allowance = float(FREE_ROWS)
        self._tried = [_WEIGHT] * len(_CHANCES)
        self._right = [_WEIGHT * chance for chance in _CHANCES]
        """By length of the agreement, as `_CHANCES`: tokens that were compared with a guess, and that were equal."""
        self._followers: dict[int, int] = {}
        """Where the text went on after the latest time that a run stood in it."""
        self._source = -1
        """Where the next token is guessed to be found, or -1."""
        self._num_right = 0
        """How many tokens up to the source are known to equal those up to the end."""
        self._num_read = 0
        self._key = 0

    def earn(self, num_rows: float) -> None:
        """Changes the allowance by rows that were saved, or lost where there are less than none."""
        self._allowance = min(self._max_allowance, self._allowance + num_rows)

    def draft(self, tokens: "array[int]", num_written: int, limit: int) -> "array[int]":
        """A guess of at most `limit` tokens at what comes after `tokens`."""
        self._read(tokens, num_written)
        if self._source < 0:
            return _NOTHING
        length = self._count_likely(min(limit, int(self._allowance)))
        draft = tokens[self._source : self._source + length]
        while len(draft) < length:  # the end repeats itself, and so does the guess
            draft += draft[: length - len(draft)]
        return draft

    def _count_likely(self, limit: int) -> int:
        chance = 1.0
        for length in range(limit):
            place = bisect_right(_LENGTHS, self._num_right + length)
            chance *= self._right[place] / self._tried[place]
            if chance < LEAST_CHANCE:
                return length
        return max(0, limit)

    def _read(self, tokens: "array[int]", num_written: int) -> None:
        """Goes on to the end of the text."""
        followers = self._followers
        first_written = len(tokens) - num_written
        for place in range(self._num_read, len(tokens)):
            token = tokens[place]
            self._key = (self._key << _TOKEN_BITS | token) & _MASK
            is_guessed = self._source >= 0
            is_right = is_guessed and tokens[self._source] == token
            if place >= first_written:
                self.earn(FREE_SHARE)
                if is_guessed:
                    length = bisect_right(_LENGTHS, self._num_right)
                    self._tried[length] += 1
                    self._right[length] += is_right
            if is_right:
                self._source += 1
                self._num_right += 1
            else:
                self._source = followers.get(self._key, -1) if place >= NGRAM - 1 else -1
                self._num_right = NGRAM
            if place >= NGRAM - 1:
                followers[self._key] = place + 1
        self._num_read = len(tokens)


_NOTHING: "array[int]" = array("i")


class ModelDrafter:
    """Guesses with a smaller model: a few tokens more than were right the last time, and none for a while after misses.

    Args:
        runner: the smaller model; the drafter has its cache for itself.
        vocab_size: of the model that verifies.
        max_rows: as for `LookupDrafter`.
        max_sequences: requests that run at once.
        max_step_tokens: rows of the smaller model's steps at most.

    Raises:
        UserError: the vocabularies differ in size.
    """

    def __init__(
        self, runner: Runner, vocab_size: int, *, max_rows: int = 8, max_sequences: int = 16, max_step_tokens: int = 512
    ):
        if runner.config.vocab_size != vocab_size:
            raise UserError(
                f"the draft model has {runner.config.vocab_size:,} token ids and the model {vocab_size:,}; a draft "
                "model must have the same vocabulary: name another, or draft by look-up"
            )
        self._runner = runner
        self._max_rows = max_rows
        self._max_step_tokens = max_step_tokens
        self._pages = Pages(runner.num_pages, runner.page_size)
        max_pages = self._pages.num_pages_for(runner.config.max_sequence_length)
        self._writer = StepWriter(max_step_tokens, max_sequences, max_pages)
        self._guesses: dict[int, _Guess] = {}
        self.num_rows = 0
        """Rows that the smaller model has computed."""

    def propose(self, requests: Sequence[Request]) -> None:
        """See `Drafter`."""
        limit = (self._max_rows - len(requests)) // len(requests)
        if limit < 1:
            return
        num_rows = self._max_step_tokens
        guesses = []
        for request in requests:
            guess = self._guesses.get(request.id)
            if guess is None:
                guess = self._guesses[request.id] = _Guess(request, self._runner.config.vocab_size)
            num_rows -= self._begin(guess, limit, num_rows)
            guesses.append(guess)
        while pieces := [(guess, guess.next_piece()) for guess in guesses if guess.num_next]:
            logits = self._runner.run(self._writer.write([piece for _, piece in pieces]))
            self.num_rows += sum(len(piece.tokens) for _, piece in pieces)
            row = 0
            for guess, piece in pieces:
                guess.go_on(logits[row : row + piece.num_outputs])
                row += piece.num_outputs
        for guess in guesses:
            guess.request.draft = guess.draft

    def observe(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        """See `Drafter`."""
        self._guesses[request.id].learn(num_drafted, num_accepted)

    def forget(self, request: Request) -> None:
        """See `Drafter`."""
        guess = self._guesses.pop(request.id, None)
        if guess is not None:
            guess.table.release(self._pages)

    def reset(self) -> None:
        """See `Drafter`."""
        self._guesses.clear()
        self._pages = Pages(self._runner.num_pages, self._runner.page_size)

    @property
    def num_pages_held(self) -> int:
        """Pages of the smaller model's cache that requests hold."""
        return self._pages.num_pages - self._pages.num_free

    def check_integrity(self) -> None:
        """Raises AssertionError where a page of the smaller model's cache is lost."""
        self._pages.check_integrity(guess.table for guess in self._guesses.values())

    def _begin(self, guess: "_Guess", limit: int, num_rows: int) -> int:
        """Prepares a guess of at most `limit` tokens.

        Returns:
            Rows of the first step.
        """
        guess.begin(
            self._pages, min(limit, self._runner.config.max_sequence_length - len(guess.request.tokens)), num_rows
        )
        if guess.num_missing_pages(self._pages) > self._pages.num_free:
            for other in self._guesses.values():
                if other.request.status is not Status.RUNNING:
                    other.drop(self._pages)
        if guess.num_missing_pages(self._pages) > self._pages.num_free:
            guess.num_next = 0
        guess.grow(self._pages)
        return guess.num_next


class _Guess:
    """What a smaller model knows of one request, and how far it was right."""

    def __init__(self, request: Request, vocab_size: int):
        self.request = request
        self.table = PageTable()
        self.draft = array("i")
        self.num_next = 0
        """Tokens to compute in the next step."""
        self._sampler = None if request.settings.is_plain_greedy else Sampler(request.settings, (), vocab_size)
        self._num_computed = 0
        self._num_known = 0
        """Length of the text that the draft continues."""
        self._wanted = 0
        self._length = 3
        self._num_misses = 0
        self._due = 0

    def begin(self, pages: Pages, limit: int, num_rows: int) -> None:
        tokens = self.request.tokens
        # What was computed of the draft stays as far as the draft was right; its last token never was computed.
        num_right = 0
        for drafted, token in zip(self.draft[:-1], tokens[self._num_known :], strict=False):
            if drafted != token:
                break
            num_right += 1
        self._num_computed = min(self._num_computed, self._num_known + num_right, len(tokens) - 1)
        self.table.publish(pages, tokens, self._num_computed)
        if len(self.table.pages) * pages.page_size == self._num_computed:
            self._num_computed += self.table.share(pages, tokens, len(tokens) - 1)
        self.draft = array("i")
        self._num_known = len(tokens)
        self._wanted = min(limit, self._length, self.request.max_length - len(tokens) - 1)
        is_due = self._wanted > 0 and len(tokens) >= self._due
        self.num_next = min(num_rows, len(tokens) - self._num_computed) if is_due else 0

    def num_missing_pages(self, pages: Pages) -> int:
        return pages.num_pages_for(self._num_positions) - len(self.table.pages)

    def grow(self, pages: Pages) -> None:
        if self.num_next:
            self.table.grow(pages, self._num_positions)

    @property
    def _num_positions(self) -> int:
        return self._num_computed + self.num_next + self._wanted

    def drop(self, pages: Pages) -> None:
        self.table.release(pages)
        self._num_computed = 0

    def next_piece(self) -> Piece:
        start = self._num_computed
        tokens = self.draft[-1:] or self.request.tokens[start : start + self.num_next]
        is_last = bool(self.draft) or start + self.num_next == self._num_known
        return Piece(tokens, start, self.table.pages, int(is_last))

    def go_on(self, logits: NDArray[np.float32]) -> None:
        """Takes the logits [1, V] that follow, or [0, V] where the text is not read to its end."""
        self._num_computed += self.num_next
        token = self._choose(logits) if len(logits) else -1
        if token >= 0:
            self.draft.append(token)
        self.num_next = int(token >= 0 and len(self.draft) < self._wanted)

    def _choose(self, logits: NDArray[np.float32]) -> int:
        if self._sampler is None:
            return choose_likeliest(logits)[0]
        try:
            return self._sampler.choose(logits[0], self._num_known + len(self.draft))
        except InvalidLogitsError:
            return -1

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        self._num_misses = 0 if num_accepted else self._num_misses + 1
        if self._num_misses >= _MISSES_BEFORE_PAUSE:
            self._due = self._num_known + 1 + min(2**self._num_misses, _LONGEST_PAUSE)
        self._length = num_drafted + 2 if num_accepted == num_drafted else num_accepted + 1
