"""The engine: requests in, events out. Each step is one forward pass over pieces of several requests.

A step: requests that were given up leave; the drafter guesses; the scheduler decides; the runner computes; each request
whose last token was computed chooses what follows, as far as its draft agrees; texts and reasons to end become events.

All methods may be called from any thread. One thread at a time does a step, on behalf of all; the others wait for it
only where they need its outcome.
"""

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, repeat
from threading import Condition, Lock

import numpy as np
from numpy.typing import NDArray

from camelid.errors import UserError
from camelid.inference.answer import Answer
from camelid.inference.batch import Piece, StepWriter
from camelid.inference.pages import Pages
from camelid.inference.request import Completion, Event, FinishReason, Request, SamplingSettings
from camelid.inference.sampler import choose_likeliest
from camelid.inference.scheduler import Scheduler
from camelid.inference.speculative import Drafter
from camelid.inference.step import Runner
from camelid.tokenizer.interface import Tokenizer

_PATIENCE_SECONDS = 0.05


@dataclass
class Statistics:
    """Counts since the engine was made, and what is the case now."""

    num_steps: int = 0
    num_rows: int = 0
    """Positions that were computed, those of prompts and drafts included."""
    num_prompt_tokens: int = 0
    num_reused: int = 0
    """Positions that were found in the cache instead."""
    num_tokens: int = 0
    """Tokens of answers."""
    num_drafted: int = 0
    """Rows of drafts."""
    num_accepted: int = 0
    """Rows of drafts that were right, each of which saved a step."""
    num_preemptions: int = 0
    num_finished: dict[FinishReason, int] = field(default_factory=dict)
    runner_seconds: float = 0.0
    draft_seconds: float = 0.0
    step_seconds: float = 0.0
    """Of which what is neither the runner's nor the drafter's is the engine's own."""
    num_running: int = 0
    num_waiting: int = 0
    num_pages: int = 0
    num_pages_held: int = 0
    num_pages_cached: int = 0
    """Pages that nobody holds, whose content can still be found."""
    peak_pages_held: int = 0
    max_batch: int = 0
    """Most requests in one step."""

    @property
    def accept_rate(self) -> float:
        """Share of drafted rows that were right; 0 where none was drafted."""
        return self.num_accepted / self.num_drafted if self.num_drafted else 0.0


class Engine:
    """Continuous batching over one runner.

    Args:
        context: positions of one request at most; the model's own limit unless given.
        max_sequences: requests that run at once.
        max_step_tokens: rows of one step at most; long prompts are read in chunks of this size.
        drafter: something that guesses tokens; the text is the same with it where the runner `is_batch_invariant`.

    Raises:
        UserError: the sizes contradict one another.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        *,
        context: int | None = None,
        max_sequences: int = 16,
        max_step_tokens: int = 512,
        drafter: Drafter | None = None,
    ):
        self.runner = runner
        self.tokenizer = tokenizer
        longest = runner.config.max_sequence_length
        if context is not None and context > longest:
            raise UserError(f"a context of {context:,} tokens was asked for and the model's is {longest:,}")
        self.context = context or longest
        self._max_sequences = max_sequences
        self._max_step_tokens = max_step_tokens
        self._scheduler = self._make_scheduler()
        max_pages = min(runner.num_pages, self._pages.num_pages_for(self.context))
        self._writer = StepWriter(max_step_tokens, max_sequences, max_pages)
        self._drafter = drafter
        self._vocab_size = min(runner.config.vocab_size, tokenizer.vocab_size)
        self._ids = count()
        self._answers: dict[int, Answer] = {}
        self._arrived: deque[Request] = deque()
        """Requests that the scheduler does not know yet."""
        self._events: list[Event] = []
        """Of requests that no iterator waits for."""
        self._given_up: deque[int] = deque()
        self._counts = Statistics()
        self._is_computing = False
        self._entry = Lock()
        """Held for a moment, to bring arrivals into an order."""
        self._lock = Lock()
        """Held by whoever does a step or looks at what steps change."""
        self._stepped = Condition()

    @property
    def _pages(self) -> Pages:
        return self._scheduler.pages

    def _make_scheduler(self) -> Scheduler:
        pages = Pages(self.runner.num_pages, self.runner.page_size)
        return Scheduler(pages, self.context, self._max_sequences, self._max_step_tokens)

    @property
    def has_work(self) -> bool:
        """Whether a request waits or runs."""
        return bool(self._answers)

    @property
    def statistics(self) -> Statistics:
        """A copy of the counts."""
        with self._lock:
            scheduler, pages = self._scheduler, self._pages
            return replace(
                self._counts,
                num_reused=scheduler.num_reused,
                num_preemptions=scheduler.num_preemptions,
                num_finished=Counter(self._counts.num_finished),
                num_running=len(scheduler.running),
                num_waiting=len(scheduler.waiting) + len(self._arrived),
                num_pages=pages.num_pages,
                num_pages_held=pages.num_pages - pages.num_free,
                num_pages_cached=pages.num_idle,
            )

    def add_request(self, prompt: Sequence[int], settings: SamplingSettings) -> int:
        """Takes a request in.

        Args:
            prompt: token ids.

        Returns:
            Its id, which its events bear.

        Raises:
            UserError: the prompt is empty, longer than the context or not of this vocabulary, or the settings or the
                cache do not allow it.
        """
        return self._add(prompt, settings, None)

    def abort(self, request_id: int) -> None:
        """Gives a request up, at any time and from any thread; one that has ended is left alone.

        Its pages are free when this returns, or when the step under way has ended. Its last event says abort.
        """
        # Garbage collection may call this in the middle of a step, so it must not wait for the lock.
        self._given_up.append(request_id)
        self._try_to_settle()

    def step(self) -> list[Event]:
        """Does one step.

        Returns:
            What happened since the last call to the requests of `add_request`; empty where there is nothing to do.
        """
        with self._lock:
            self._advance()
            events, self._events = self._events, []
        self._after_step()
        return events

    def stream(self, prompt: Sequence[int], settings: SamplingSettings) -> Iterator[Event]:
        """Yields a request's events as they come; the request is given up when the iterator is closed or dropped.

        Other requests of the engine go on meanwhile. Raises as `add_request`, when the first event is asked for.
        """
        inbox: deque[Event] = deque()
        request_id = self._add(prompt, settings, inbox)
        try:
            yield from self._follow(inbox)
        finally:
            self.abort(request_id)

    def generate(
        self, prompts: Sequence[Sequence[int]], settings: SamplingSettings | Sequence[SamplingSettings]
    ) -> list[Completion]:
        """Whole answers to several prompts, which run side by side. Raises as `add_request`.

        Args:
            settings: for all of them, or for each.
        """
        each = repeat(settings) if isinstance(settings, SamplingSettings) else settings
        request_ids: list[int] = []
        completions = [Completion(len(prompt)) for prompt in prompts]
        inboxes: list[deque[Event]] = [deque() for _ in prompts]
        try:
            request_ids.extend(map(self._add, prompts, each, inboxes))
            for inbox, completion in zip(inboxes, completions, strict=True):
                for event in self._follow(inbox):
                    completion.add(event)
        finally:
            for request_id in request_ids:
                self.abort(request_id)
        return completions

    def forget_prefixes(self) -> None:
        """Makes the cache's content unfindable, for the weights may have changed; requests that run keep theirs."""
        with self._lock:
            self._settle()
            if not self._answers:
                self._pages.forget()

    def check_integrity(self) -> None:
        """Raises AssertionError where a page or a request is lost."""
        with self._lock:
            self._settle()
            self._scheduler.check_integrity()
            alive = {request.id for request in (*self._scheduler.running, *self._scheduler.waiting)}
            assert alive == set(self._answers), "a request was lost"

    def _add(self, prompt: Sequence[int], settings: SamplingSettings, inbox: deque[Event] | None) -> int:
        for token in (*prompt, *settings.logit_bias):
            if not 0 <= token < self._vocab_size:
                raise UserError(f"token id {token} is not in the model's vocabulary of {self._vocab_size:,}")
        max_length = min(self.context, len(prompt) + settings.max_tokens)
        request = Request(prompt, max_length, settings)
        self._scheduler.check(request)
        answer = Answer(request, self.tokenizer, self._vocab_size)
        answer.inbox = inbox
        with self._entry:
            request.id = next(self._ids)
            self._answers[request.id] = answer
            self._arrived.append(request)
        return request.id

    def _follow(self, inbox: deque[Event]) -> Iterator[Event]:
        while True:
            while not inbox:
                if self._lock.acquire(blocking=False):
                    try:
                        self._advance()
                    finally:
                        self._lock.release()
                    self._after_step()
                else:
                    self._wait_for_step(inbox)
            event = inbox.popleft()
            yield event
            if event.finish_reason:
                return

    def _wait_for_step(self, inbox: deque[Event]) -> None:
        with self._stepped:
            if not inbox and self._lock.locked():
                # An abort does not wake anybody, hence the timeout.
                self._stepped.wait(_PATIENCE_SECONDS)

    def _after_step(self) -> None:
        with self._stepped:
            self._stepped.notify_all()
        self._try_to_settle()

    def _advance(self) -> None:
        """Does a step; the lock must be held."""
        start = time.perf_counter()
        self._is_computing = False
        try:
            self._settle()
            self._step()
        except BaseException:
            # What a runner raises leaves all in order, and the step can be done again; but whoever presses Ctrl-C may
            # do so between two lines of the books.
            if not self._is_computing:
                self._start_over()
            raise
        finally:
            self._counts.step_seconds += time.perf_counter() - start

    def _start_over(self) -> None:
        """Gives all requests up and begins with an empty cache."""
        self._scheduler = self._make_scheduler()
        if self._drafter is not None:
            self._drafter.reset()
        for answer in self._answers.values():
            inbox = self._events if answer.inbox is None else answer.inbox
            inbox.append(Event(answer.request.id, finish_reason="abort"))
        self._answers.clear()
        self._arrived.clear()

    def _try_to_settle(self) -> None:
        while self._given_up and self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    def _settle(self) -> None:
        """Passes arrivals on to the scheduler, and lets requests go that were given up."""
        while self._arrived:
            self._scheduler.add(self._arrived.popleft())
        while self._given_up:
            answer = self._answers.get(self._given_up.popleft())
            if answer is not None:
                self._tell(answer, Event(answer.request.id, finish_reason="abort"))

    def _step(self) -> None:
        self._propose()
        plan = self._scheduler.schedule()
        assert plan or not (self._scheduler.running or self._scheduler.waiting), "there is work and nothing to do"
        if not plan:
            return
        step = self._writer.write([_piece(request) for request in plan])
        start = time.perf_counter()
        self._is_computing = True
        logits = self.runner.run(step)[:, : self._vocab_size]
        self._is_computing = False
        self._count(plan, time.perf_counter() - start)
        is_any_greedy = any(self._answers[request.id].sampler is None for request in plan)
        likeliest = choose_likeliest(logits) if is_any_greedy and len(logits) else []
        row = 0
        for request in plan:
            if request.is_at_end:
                end = row + 1 + len(request.draft)
                self._write(self._answers[request.id], logits[row:end], likeliest[row:end])
                row = end
            else:
                self._scheduler.advance(request, ())

    def _propose(self) -> None:
        if self._drafter is None:
            return
        writing = [request for request in self._scheduler.running if request.num_uncomputed == 1]
        if writing:
            start = time.perf_counter()
            self._drafter.propose(writing)
            self._counts.draft_seconds += time.perf_counter() - start

    def _write(self, answer: Answer, logits: NDArray[np.float32], likeliest: Sequence[int]) -> None:
        request = answer.request
        event, chosen = answer.write(logits, likeliest)
        if request.draft:
            num_accepted = max(0, len(chosen) - 1)
            self._counts.num_accepted += num_accepted
            if self._drafter is not None:
                self._drafter.observe(request, len(request.draft), num_accepted)
        self._counts.num_tokens += len(event.tokens)
        if chosen:
            self._scheduler.advance(request, chosen)
        self._tell(answer, event)

    def _tell(self, answer: Answer, event: Event) -> None:
        """Passes an event on, and lets the request go with its last one."""
        (self._events if answer.inbox is None else answer.inbox).append(event)
        if event.finish_reason:
            self._scheduler.finish(answer.request)
            if self._drafter is not None:
                self._drafter.forget(answer.request)
            del self._answers[answer.request.id]
            finished = self._counts.num_finished
            finished[event.finish_reason] = finished.get(event.finish_reason, 0) + 1

    def _count(self, plan: Sequence[Request], runner_seconds: float) -> None:
        counts = self._counts
        counts.num_steps += 1
        counts.runner_seconds += runner_seconds
        for request in plan:
            counts.num_rows += request.num_scheduled
            counts.num_drafted += len(request.draft)
            if request.num_uncomputed > 1 or not request.num_written:
                counts.num_prompt_tokens += request.num_scheduled
        counts.max_batch = max(counts.max_batch, len(plan))
        counts.peak_pages_held = max(counts.peak_pages_held, self._pages.num_pages - self._pages.num_free)


def _piece(request: Request) -> Piece:
    start = request.num_computed
    tokens = request.tokens[start : start + request.num_scheduled]
    if request.draft:
        tokens.extend(request.draft)
    return Piece(tokens, start, request.table.pages, len(request.draft) + 1 if request.is_at_end else 0)
