"""Random requests to an engine: arrivals, aborts, small caches, shared prefixes, drafts that are right and wrong."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Protocol

from fake_model import VOCAB_SIZE, FakeTokenizer, decode_alone

from camelid.inference.engine import Engine
from camelid.inference.request import Event, SamplingSettings
from camelid.inference.speculative import Drafter, LookupDrafter, ModelDrafter
from camelid.inference.step import Runner

TOKENIZER = FakeTokenizer()
CONTEXT = 64


class Model(Protocol):
    """A model under test, of `fake_model`'s vocabulary and `CONTEXT` positions."""

    def make_runner(self, num_pages: int, page_size: int) -> Runner:
        """A runner with an empty cache."""
        ...

    def make_draft_runner(self, rng: random.Random) -> Runner:
        """A model that guesses, more or less well."""
        ...

    def write_alone(self, prompt: list[int], settings: SamplingSettings) -> tuple[list[int], str]:
        """Tokens without the end token and the reason to end, by the plainest way there is."""
        ...


class Schedule:
    """Random requests to an engine, their events by request, and what was given up."""

    def __init__(self, model: Model, rng: random.Random):
        self.model = model
        self.rng = rng
        page_size = rng.choice((1, 4, 8))
        num_pages = rng.randint(64 // page_size, 130 // page_size)
        max_sequences = rng.randint(1, 6)
        max_step_tokens = max_sequences + rng.randint(0, 40)
        self.drafter = self.make_drafter(max_sequences, max_step_tokens)
        self.engine = Engine(
            model.make_runner(num_pages, page_size),
            TOKENIZER,
            max_sequences=max_sequences,
            max_step_tokens=max_step_tokens,
            drafter=self.drafter,
        )
        self.prefix = self.some_tokens(rng.randint(0, 30))
        self.requests: dict[int, tuple[list[int], SamplingSettings]] = {}
        self.events: dict[int, list[Event]] = defaultdict(list)
        self.given_up: set[int] = set()

    def make_drafter(self, max_sequences: int, max_step_tokens: int) -> Drafter | None:
        kind = self.rng.choice(("none", "lookup", "model"))
        if kind == "none":
            return None
        max_rows = self.rng.randint(2, 20)
        if kind == "lookup":
            return LookupDrafter(max_rows)
        return ModelDrafter(
            self.model.make_draft_runner(self.rng),
            VOCAB_SIZE,
            max_rows=max_rows,
            max_sequences=max_sequences,
            max_step_tokens=max_step_tokens,
        )

    def some_tokens(self, count: int) -> list[int]:
        return [self.rng.randrange(4, VOCAB_SIZE) for _ in range(count)]

    def settings(self) -> SamplingSettings:
        rng = self.rng
        chosen = {"max_tokens": rng.randint(1, 40), "ignore_eos": rng.random() < 0.5, "seed": rng.randrange(5)}
        if rng.random() < 0.5:
            return SamplingSettings.model_validate({**chosen, "temperature": 0.0})
        penalties = {"repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2}
        extra = penalties if rng.random() < 0.5 else {"top_k": rng.choice((0, 5)), "min_p": rng.choice((0, 0.1))}
        return SamplingSettings.model_validate({**chosen, "temperature": 0.9, **extra})

    def arrive(self) -> None:
        prompt = [0, *self.prefix[: self.rng.randint(0, 30)], *self.some_tokens(self.rng.randint(0, 20))]
        settings = self.settings()
        self.requests[self.engine.add_request(prompt, settings)] = (prompt, settings)

    def step(self) -> None:
        for event in self.engine.step():
            self.events[event.request_id].append(event)

    def run(self) -> None:
        for _ in range(self.rng.randint(1, 10)):
            for _ in range(self.rng.randint(0, 2)):
                self.arrive()
            if self.requests and self.rng.random() < 0.1:
                victim = self.rng.choice(list(self.requests))
                self.given_up.add(victim)
                self.engine.abort(victim)
            self.step()
            self.engine.check_integrity()
        while self.engine.has_work:
            self.step()
        self.step()
        self.check()

    def check(self) -> None:
        self.engine.check_integrity()
        assert self.engine.statistics.num_pages_held == 0
        if isinstance(self.drafter, ModelDrafter):
            self.drafter.check_integrity()
            assert self.drafter.num_pages_held == 0
        for request_id, (prompt, settings) in self.requests.items():
            events = self.events[request_id]
            tokens = [token for event in events for token in event.tokens]
            expected, reason = self.model.write_alone(prompt, settings)
            assert [event.finish_reason for event in events[:-1]] == [None] * (len(events) - 1)
            if events[-1].finish_reason == "abort":
                assert request_id in self.given_up
                assert tokens == expected[: len(tokens)]
            else:
                assert (tokens, events[-1].finish_reason) == (expected, reason)
                assert "".join(event.text for event in events) == decode_alone(tokens)


def run_schedules(models: Iterable[tuple[int, Model]]) -> None:
    """Runs a schedule for each seed and model."""
    totals: Counter[str] = Counter({"num_schedules": 0})
    for seed, model in models:
        schedule = Schedule(model, random.Random(seed))
        try:
            schedule.run()
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error
        counts = schedule.engine.statistics
        totals += Counter({name: getattr(counts, name) for name in ("num_reused", "num_preemptions", "num_accepted")})
        totals["num_schedules"] += 1
    # The schedules are hard enough to mean something.
    for name in ("num_reused", "num_preemptions", "num_accepted"):
        assert totals[name] > totals["num_schedules"] / 5, totals
