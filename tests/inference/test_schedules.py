"""Scheduler and pages alone, under thousands of random schedules: nothing is lost, mixed up, starved or overbooked."""

import random
from array import array

import pytest

from camelid.errors import UserError
from camelid.inference.pages import Pages
from camelid.inference.request import Request, SamplingSettings, Status
from camelid.inference.scheduler import Scheduler

NUM_SCHEDULES = 10_000
SETTINGS = SamplingSettings()


class Simulation:
    """One schedule: requests come, write, are given up, all by a seed; a page's content is kept beside the machine."""

    def __init__(self, seed: int):
        self.rng = rng = random.Random(seed)
        self.pages = Pages(num_pages=rng.randint(1, 16), page_size=rng.choice((1, 1, 2, 4)))
        max_sequences = rng.randint(1, 5)
        context = rng.randint(2, 60)
        self.scheduler = Scheduler(self.pages, context, max_sequences, max_sequences + rng.randint(0, 12))
        self.content: dict[int, int] = {}
        """The token that was last computed at each place of the cache."""
        self.alive: dict[int, Request] = {}
        self.num_requests = 0
        self.num_ended = 0
        self.alphabet = rng.choice((1, 2, 50))
        self.prefix = self.some_tokens(rng.randint(0, 12))

    def some_tokens(self, count: int) -> list[int]:
        return [self.rng.randrange(self.alphabet) for _ in range(count)]

    def arrive(self) -> None:
        prompt = self.prefix[: self.rng.randint(0, 12)] + self.some_tokens(self.rng.randint(0, 10))
        max_length = min(self.scheduler.context, len(prompt) + self.rng.randint(1, 25))
        request = Request(prompt, max_length, SETTINGS, self.num_requests)
        self.num_requests += 1
        try:
            self.scheduler.check(request)
        except UserError:
            can_fit = self.pages.num_pages * self.pages.page_size >= max_length - 1
            assert not (prompt and len(prompt) < self.scheduler.context and can_fit)
            self.num_ended += 1
        else:
            self.scheduler.add(request)
            self.alive[request.id] = request

    def leave(self, request: Request) -> None:
        self.scheduler.finish(request)
        del self.alive[request.id]
        self.num_ended += 1

    def step(self) -> None:
        for request in self.scheduler.running:
            if request.num_uncomputed == 1 and self.rng.random() < 0.5:
                request.draft = array("i", self.some_tokens(self.rng.randint(1, 5)))
        oldest = min(self.alive, default=None)
        plan = self.scheduler.schedule()
        assert bool(plan) == bool(self.alive)
        assert [request.id for request in plan] == sorted({request.id for request in plan})
        assert sum(request.num_scheduled for request in plan) <= self.scheduler.max_step_tokens
        if plan:
            assert plan[0].id == oldest, "the oldest request goes on in every step"
        written = [place for request in plan for place in self.write(request)]
        assert len(written) == len(set(written)), "two requests write to one place"
        for request in plan:
            self.read(request)
        for request in plan:
            self.advance(request)
        self.scheduler.check_integrity()

    def places(self, request: Request, start: int, end: int) -> list[int]:
        size = self.pages.page_size
        return [request.table.pages[position // size] * size + position % size for position in range(start, end)]

    def write(self, request: Request) -> list[int]:
        assert request.num_scheduled > 0
        assert not request.draft or request.num_uncomputed == 1
        end = request.num_computed + request.num_scheduled
        places = self.places(request, request.num_computed, end)
        tokens = [*request.tokens, *request.draft][request.num_computed : end]
        self.content.update(zip(places, tokens, strict=True))
        return places

    def read(self, request: Request) -> None:
        end = request.num_computed + request.num_scheduled
        found = [self.content[place] for place in self.places(request, 0, end)]
        assert found == [*request.tokens, *request.draft][:end], "a request reads what is not its own"

    def advance(self, request: Request) -> None:
        if not request.is_at_end:
            self.scheduler.advance(request, ())
            return
        num_right = self.rng.randint(0, len(request.draft))
        new = [*request.draft[:num_right], self.rng.randrange(self.alphabet)]
        assert len(request.tokens) + len(new) <= request.max_length
        self.scheduler.advance(request, new)
        if len(request.tokens) == request.max_length or self.rng.random() < 0.02:
            self.leave(request)

    def run(self) -> None:
        for _ in range(self.rng.randint(1, 8)):
            for _ in range(self.rng.randint(0, 3)):
                self.arrive()
            if self.alive and self.rng.random() < 0.2:
                self.leave(self.rng.choice(list(self.alive.values())))
            self.step()
        for _ in range(5000):
            if not self.alive:
                break
            self.step()
        assert not self.alive, "a request never ends"
        assert self.num_ended == self.num_requests
        assert self.pages.num_free == self.pages.num_pages, "a page was not given back"


def test_random_schedules_lose_nothing() -> None:
    num_preemptions = num_reused = 0
    for seed in range(NUM_SCHEDULES):
        simulation = Simulation(seed)
        try:
            simulation.run()
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error
        num_preemptions += simulation.scheduler.num_preemptions
        num_reused += simulation.scheduler.num_reused
    # The schedules are hard enough to mean something.
    assert num_preemptions > NUM_SCHEDULES / 10
    assert num_reused > NUM_SCHEDULES


def make_scheduler(num_pages: int, page_size: int, **sizes: int) -> Scheduler:
    return Scheduler(
        Pages(num_pages, page_size), **{"context": 100, "max_sequences": 4, "max_step_tokens": 10, **sizes}
    )


def add(scheduler: Scheduler, request_id: int, num_prompt: int, max_tokens: int = 20, first: int = 0) -> Request:
    prompt = range(first, first + num_prompt)
    request = Request(prompt, min(scheduler.context, num_prompt + max_tokens), SETTINGS, request_id)
    scheduler.check(request)
    scheduler.add(request)
    return request


def step(scheduler: Scheduler) -> dict[int, int]:
    """Does one step in which every token is 7; rows by request."""
    plan = scheduler.schedule()
    rows = {request.id: request.num_scheduled for request in plan}
    for request in plan:
        scheduler.advance(request, [7] if request.is_at_end else ())
    scheduler.check_integrity()
    return rows


def test_long_prompts_are_read_in_chunks_beside_those_that_write() -> None:
    scheduler = make_scheduler(50, 4)
    add(scheduler, 0, 3)
    assert step(scheduler) == {0: 3}
    add(scheduler, 1, 17, first=100)
    add(scheduler, 2, 2, first=200)
    # Chunks end with a page; what is left of the rows goes to the next request.
    assert step(scheduler) == {0: 1, 1: 8, 2: 1}
    assert step(scheduler) == {0: 1, 1: 8, 2: 1}
    assert step(scheduler) == {0: 1, 1: 1, 2: 1}


def test_the_youngest_makes_room_and_finds_its_pages_again() -> None:
    scheduler = make_scheduler(7, 2, max_step_tokens=20)
    old, young = add(scheduler, 0, 4, max_tokens=8), add(scheduler, 1, 3, max_tokens=8, first=50)
    steps = [step(scheduler)]
    while young.status is not Status.WAITING:
        steps.append(step(scheduler))
    assert (old.num_preemptions, young.num_preemptions) == (0, 1)
    assert steps[0] == {0: 4, 1: 3}
    num_known = len(young.tokens)
    while len(old.tokens) < old.max_length:
        assert step(scheduler) == {0: 1}
    scheduler.finish(old)
    # Some of its pages were overwritten, the first ones were not.
    rows = step(scheduler)[1]
    assert 0 < rows < num_known
    assert len(young.tokens) == num_known + 1


def test_equal_prompts_share_pages_and_equal_pages_become_one() -> None:
    scheduler = make_scheduler(50, 4, max_step_tokens=30)
    first, twin = add(scheduler, 0, 12), add(scheduler, 1, 12)
    assert step(scheduler) == {0: 12, 1: 12}  # neither could know of the other
    assert first.table.pages[:3] == twin.table.pages[:3]
    late = add(scheduler, 2, 12)
    assert step(scheduler) == {0: 1, 1: 1, 2: 4}  # the last token is computed, and so is its page
    assert late.num_reused == 8
    assert late.table.pages[:2] == first.table.pages[:2]


def test_tokens_are_compared_and_not_only_what_came_before() -> None:
    scheduler = make_scheduler(50, 2, max_step_tokens=30)
    for request_id, prompt in enumerate([[1, 2, 3, 4, 5], [9, 9, 3, 4, 5], [1, 2, 9, 4, 5]]):
        scheduler.add(Request(prompt, 9, SETTINGS, request_id))
        step(scheduler)
    reused = {request.id: request.num_reused for request in scheduler.running}
    assert reused == {0: 0, 1: 0, 2: 2}


def test_drafts_take_what_rows_and_pages_are_left() -> None:
    scheduler = make_scheduler(3, 2, max_step_tokens=6)
    request = add(scheduler, 0, 3, max_tokens=4)
    step(scheduler)
    request.draft = [5] * 9
    (planned,) = scheduler.schedule()
    assert list(planned.draft) == [5, 5]  # one of seven tokens is to come after them
    scheduler.advance(request, [5, 7])
    assert (len(request.tokens), request.num_computed) == (6, 5)
    scheduler.check_integrity()


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "message"),
    [
        (0, 5, "the prompt is empty"),
        (30, 5, "the prompt has 30 tokens and the model's context is 30; shorten it to 29 at most"),
        (3, 20, "may grow to 23 tokens, which takes 6 pages of 4 positions, and the cache has 5; ask for at most 21"),
    ],
)
def test_what_can_never_run_is_refused_with_the_numbers(num_prompt: int, max_tokens: int, message: str) -> None:
    scheduler = make_scheduler(5, 4, context=30)
    with pytest.raises(UserError, match=message):
        add(scheduler, 0, num_prompt, max_tokens)
    assert not scheduler.waiting


def test_sizes_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(UserError, match="max_step_tokens is 3 and max_sequences is 4"):
        make_scheduler(5, 4, max_step_tokens=3)
    with pytest.raises(UserError, match="cache pages is 0"):
        make_scheduler(0, 4)
