"""The engine on a model that reads its cache back: whatever happens to a request, it writes what it writes alone."""

import random
from dataclasses import dataclass

import pytest
from fake_model import FakeRunner, write_alone
from random_schedules import CONTEXT, run_schedules

from camelid.inference.request import SamplingSettings


@dataclass
class FakeModel:
    """Repeats itself mostly after `period` tokens."""

    period: int

    def make_runner(self, num_pages: int, page_size: int) -> FakeRunner:
        return FakeRunner(num_pages, page_size, CONTEXT, self.period)

    def make_draft_runner(self, rng: random.Random) -> FakeRunner:
        period = self.period + rng.randint(0, 1)
        return FakeRunner(rng.randint(2, 40), 4, rng.randint(20, CONTEXT), period)

    def write_alone(self, prompt: list[int], settings: SamplingSettings) -> tuple[list[int], str]:
        return write_alone(prompt, settings, CONTEXT, self.period)


@pytest.mark.parametrize("block", range(6))
def test_random_schedules_write_what_is_written_alone(block: int) -> None:
    run_schedules((seed, FakeModel((0, 3, 7)[seed % 3])) for seed in range(block * 50, block * 50 + 50))


@pytest.mark.slow
def test_many_more_random_schedules() -> None:
    run_schedules((seed, FakeModel((0, 3, 7)[seed % 3])) for seed in range(300, 5000))
