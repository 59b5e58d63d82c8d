"""The promise of the native kernels: whole, streamed, batched, shared, preempted and guessed text is one text."""

import random
from functools import cache

import numpy as np
import pytest
from fake_model import EOS, VOCAB_SIZE
from random_schedules import CONTEXT, run_schedules
from small_models import make_model

from camelid.inference.request import SamplingSettings
from camelid.inference.runners.native import NativeRunner
from camelid.inference.sampler import Sampler
from camelid.inference.step import Step
from camelid.model.config import ModelConfig

CONFIG = ModelConfig(
    dim=64, num_layers=2, num_heads=4, num_kv_heads=2, ffn_hidden_dim=96, vocab_size=VOCAB_SIZE,
    max_sequence_length=CONTEXT,
)  # fmt: skip
SMALL = CONFIG.model_copy(update={"num_layers": 1, "is_head_tied": True})


@cache
def make_runner(config: ModelConfig, encoding: str, num_pages: int, page_size: int) -> NativeRunner:
    # What a runner's cache held before must not matter, so schedules may share one.
    return NativeRunner(make_model(config, encoding), num_pages, page_size, num_threads=1)


class NativeModel:
    """A random model, whose text soon goes round in circles, so that guesses are often right."""

    def __init__(self, encoding: str):
        self.encoding = encoding

    def make_runner(self, num_pages: int, page_size: int) -> NativeRunner:
        return make_runner(CONFIG, self.encoding, num_pages, page_size)

    def make_draft_runner(self, rng: random.Random) -> NativeRunner:
        config = CONFIG if rng.random() < 0.5 else SMALL
        return make_runner(config, self.encoding, rng.choice((10, 40)), 4)

    def write_alone(self, prompt: list[int], settings: SamplingSettings) -> tuple[list[int], str]:
        """The whole prompt, then token by token, in pages that nobody else uses."""
        runner = make_runner(CONFIG, self.encoding, 1, CONTEXT)
        sampler = Sampler(settings, prompt, VOCAB_SIZE)
        tokens, num_cached = list(prompt), 0
        for _ in range(min(settings.max_tokens, CONTEXT - len(prompt))):
            new = np.array(tokens[num_cached:], np.int32)
            num_new, start, last = (np.array([n], np.int32) for n in (len(new), num_cached, len(new) - 1))
            (logits,) = runner.run(Step(new, num_new, start, np.zeros((1, 1), np.int32), last))
            num_cached = len(tokens)
            token = sampler.choose(logits, num_cached)
            if token == EOS and not settings.ignore_eos:
                return tokens[len(prompt) :], "stop"
            sampler.observe(token)
            tokens.append(token)
        return tokens[len(prompt) :], "length"


@pytest.mark.parametrize("encoding", ["q4_0", "q8_0", "f32"])
def test_random_schedules_write_what_is_written_alone(encoding: str) -> None:
    run_schedules((seed, NativeModel(encoding)) for seed in range(100))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["q4_0", "q4_1", "q8_0", "bf16", "f32"])
def test_many_more_random_schedules(encoding: str) -> None:
    run_schedules((seed, NativeModel(encoding)) for seed in range(100, 1000))
