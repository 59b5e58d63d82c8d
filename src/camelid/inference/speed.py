"""How fast a loaded model reads and writes, and how near that is to what its machine can do at best."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from camelid.errors import UserError
from camelid.inference.engine import Engine
from camelid.inference.request import SamplingSettings, check_event
from camelid.inference.runners.native import NativeRunner
from camelid.model.config import ModelConfig
from camelid.planning.shapes import count_matrix_parameters


@dataclass(frozen=True)
class Limits:
    """What the native runner's threads reach at best on this machine, with this model's weights."""

    read_bytes_per_second: float
    """Speed at which they merely read the packed weights."""
    products_per_second: float
    """Multiplications with their additions in the units that the weights need, nothing read from memory."""
    weight_bytes: int
    """What a forward pass reads of the weights."""
    cache_bytes: int
    """Memory of the keys and values."""


@dataclass(frozen=True)
class BatchSpeed:
    """Requests that came at once: medians over several rounds."""

    num_requests: int
    num_prompt_tokens: int
    """Of all requests together, computed in one step."""
    num_new_tokens: int
    """Of each request."""
    prompt_tokens_per_second: float
    seconds_to_first_token: float
    """From the arrival of the requests until each has its first token, tokenising apart."""
    decode_tokens_per_second: float
    """Of all requests together, after their first tokens."""
    share_of_products: float | None
    """Products of the prompt's pass with the weights, as a share of the limit; attention is left out."""
    share_of_reading: float | None
    """Weights read for the new tokens, as a share of the limit; of use with one request."""


def measure_limits(runner: NativeRunner, num_rounds: int = 5) -> Limits:
    """Measures the machine with the threads and the weights of a runner; the best of the rounds counts."""
    weight_bytes = runner.read_weights()
    reading = min(_time(runner.read_weights) for _ in range(num_rounds))
    products = max(runner.measure_products() for _ in range(num_rounds))
    return Limits(weight_bytes / reading, products, weight_bytes, runner.cache_bytes)


def measure_speeds(
    engine: Engine,
    batch_sizes: tuple[int, ...],
    *,
    num_prompt_tokens: int,
    num_new_tokens: int,
    num_rounds: int,
    limits: Limits | None = None,
) -> Iterator[BatchSpeed]:
    """Yields the speed of each batch size, after one round that does not count.

    Args:
        engine: one that takes `num_prompt_tokens` in one step, and does not draft.
        num_prompt_tokens: of all requests together; each has an equal part of them.

    Raises:
        UserError: a batch has more requests than prompt tokens, or its requests do not fit the context or the cache.
    """
    for batch_size in batch_sizes:
        if batch_size > num_prompt_tokens:
            raise UserError(
                f"{batch_size} requests cannot share {num_prompt_tokens} prompt tokens; give --prompt-tokens at least "
                "one for each"
            )
        length = num_prompt_tokens // batch_size
        rounds = [_run_round(engine, batch_size, length, num_new_tokens, seed) for seed in range(num_rounds + 1)][1:]
        first = statistics.median(first for first, _ in rounds)
        decode = statistics.median(rest for _, rest in rounds)
        num_steps = num_new_tokens - 1
        of_products = of_reading = None
        if limits is not None:
            num_products = _count_products(engine.runner.config, length, batch_size)
            of_products = num_products / first / limits.products_per_second
            of_reading = limits.weight_bytes * num_steps / decode / limits.read_bytes_per_second
        yield BatchSpeed(
            num_requests=batch_size,
            num_prompt_tokens=length * batch_size,
            num_new_tokens=num_new_tokens,
            prompt_tokens_per_second=length * batch_size / first,
            seconds_to_first_token=first,
            decode_tokens_per_second=num_steps * batch_size / decode,
            share_of_products=of_products,
            share_of_reading=of_reading,
        )


def peak_memory_bytes() -> int:
    """Most memory that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _run_round(engine: Engine, batch_size: int, length: int, num_new_tokens: int, seed: int) -> tuple[float, float]:
    """Seconds until every request has its first token, and from then on to the end."""
    rng = np.random.default_rng(seed)
    # Ids from the first half: control pieces are few, and what the tokens are does not matter.
    high = max(2, min(engine.runner.config.vocab_size, engine.tokenizer.vocab_size) // 2)
    settings = SamplingSettings(max_tokens=num_new_tokens, temperature=0.0, ignore_eos=True)
    prompts = rng.integers(1, high, (batch_size, length)).tolist()
    engine.forget_prefixes()
    num_written = dict.fromkeys(range(batch_size), 0)
    start = time.perf_counter()
    first = 0.0
    requests = {engine.add_request(prompt, settings): index for index, prompt in enumerate(prompts)}
    while engine.has_work:
        for event in engine.step():
            check_event(event)
            num_written[requests[event.request_id]] += len(event.tokens)
        if not first and all(num_written.values()):
            first = time.perf_counter()
    assert all(count == num_new_tokens for count in num_written.values())
    return first - start, time.perf_counter() - first


def _count_products(config: ModelConfig, length: int, batch_size: int) -> int:
    """Multiplications of weights in one pass over prompts; only the last token of each goes through the head."""
    head = config.vocab_size * config.dim
    return (count_matrix_parameters(config) - head) * length * batch_size + head * batch_size


def _time(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
