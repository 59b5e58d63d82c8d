"""Clients that come, leave in the middle, vanish and fail, from several threads: nothing is left behind."""

import gc
import random
import threading
import tracemalloc

import numpy as np
import pytest
from fake_model import VOCAB_SIZE, FakeRunner, FakeTokenizer, write_alone
from numpy.typing import NDArray

from camelid.inference.engine import Engine
from camelid.inference.request import SamplingSettings
from camelid.inference.speculative import ModelDrafter
from camelid.inference.step import Step

NUM_CLIENTS = 6


class FailingRunner(FakeRunner):
    """Raises in one of a hundred steps."""

    def run(self, step: Step) -> NDArray[np.float32]:
        logits = super().run(step)
        if self.num_steps % 100 == 99:
            raise RuntimeError("the device was busy")
        return logits


class Client(threading.Thread):
    """Asks again and again, and seldom stays to the end."""

    def __init__(self, engine: Engine, number: int, num_requests: int):
        super().__init__()
        self.engine = engine
        self.rng = random.Random(number)
        self.num_requests = num_requests
        self.errors: list[BaseException] = []

    def run(self) -> None:
        try:
            for _ in range(self.num_requests):
                self.ask()
        except BaseException as error:
            self.errors.append(error)

    def ask(self) -> None:
        rng = self.rng
        prompt = [0, *([9, 8, 7] * 10)[: rng.randint(0, 30)], *(rng.randrange(4, VOCAB_SIZE) for _ in range(5))]
        settings = SamplingSettings(temperature=rng.choice((0.0, 0.9)), max_tokens=rng.randint(1, 20), seed=3)
        how = rng.choice(("stays", "closes", "drops", "never begins", "cycle"))
        stream = self.engine.stream(prompt, settings)
        if how == "never begins":
            return
        tokens: list[int] = []
        wanted = settings.max_tokens if how == "stays" else rng.randint(1, 5)
        try:
            for event in stream:
                tokens += event.tokens
                if len(tokens) >= wanted and how != "stays":
                    break
        except RuntimeError as error:
            # The step failed; this client's stream is over, and the others' go on.
            assert "busy" in str(error)  # noqa: PT017
            return
        if how == "closes":
            stream.close()  # type: ignore[attr-defined]
        if how == "cycle":
            cycle: list[object] = [stream]
            cycle.append(cycle)
        expected, _ = write_alone(prompt, settings, period=3)
        assert tokens == expected[: len(tokens)]
        assert how != "stays" or tokens == expected


def load(engine: Engine, num_requests: int) -> None:
    clients = [Client(engine, number, num_requests // NUM_CLIENTS) for number in range(NUM_CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(timeout=3600)
        assert not client.is_alive()
    assert [error for client in clients for error in client.errors] == []


def check_nothing_is_left(num_requests: int) -> None:
    drafter = ModelDrafter(FakeRunner(60, 4, period=3), VOCAB_SIZE, max_step_tokens=40, max_sequences=4)
    engine = Engine(
        FailingRunner(70, 4, period=3), FakeTokenizer(), max_sequences=4, max_step_tokens=40, drafter=drafter
    )
    tracemalloc.start()
    sizes = []
    for _ in range(3):  # the first time, pages and buffers reach their size
        load(engine, num_requests)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    engine.abort(-1)
    assert not engine.has_work
    assert engine.statistics.num_pages_held == 0
    assert drafter.num_pages_held == 0
    engine.check_integrity()
    drafter.check_integrity()
    counts = engine.statistics
    assert counts.num_finished["abort"] > num_requests / 4
    assert counts.num_preemptions + counts.num_reused > 0
    assert sizes[2] - sizes[1] < 20_000, sizes


def test_nothing_is_left_behind() -> None:
    check_nothing_is_left(90)


@pytest.mark.slow
def test_nothing_is_left_behind_in_the_long_run() -> None:
    check_nothing_is_left(1_200)
