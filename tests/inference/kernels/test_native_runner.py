"""The native runner against llama.py on the same stored weights, and its promises: same bits, memory, refusals."""

import dataclasses
import os
import random
import threading
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from parity_configs import CONFIGS
from small_models import Floats, Sequences, int32, make_model, run_whole
from torch import Tensor

from camelid.checkpoint.load import load_transformer
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import ENCODINGS
from camelid.errors import UserError
from camelid.inference.runners.native import NativeRunner, cache_bytes, rotary_frequencies
from camelid.inference.step import Step
from camelid.model import operations
from camelid.model.config import ModelConfig

LENGTH = 83
PLAIN = ("f32", "f16", "bf16")
QUANTISED = ("q8_0", "q4_0", "q4_1")


def make_tokens(config: ModelConfig, seed: int, length: int = LENGTH) -> list[int]:
    return [random.Random(seed * 1000 + i).randrange(config.vocab_size) for i in range(length)]


def attend_to_halves(_layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention over keys and values that were stored in half precision."""
    return operations.causal_attention(queries, keys.half().float(), values.half().float())


@torch.no_grad()
def reference_logits(model: StoredModel, tokens: list[int]) -> Floats:
    """Float32 arithmetic on the same decoded weights."""
    logits: Floats = load_transformer(model)(torch.tensor([tokens]), attend=attend_to_halves)[0].numpy()
    return logits


def kl_divergence(expected: Floats, logits: Floats) -> float:
    """Mean over tokens, in nats."""
    wanted, found = torch.from_numpy(expected).log_softmax(-1), torch.from_numpy(logits).log_softmax(-1)
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


@pytest.mark.parametrize("encoding", PLAIN)
@pytest.mark.parametrize("name", CONFIGS)
def test_plain_weights_give_the_logits_of_float32_arithmetic(name: str, encoding: str) -> None:
    model = make_model(CONFIGS[name], encoding)
    tokens = make_tokens(model.config, 1)
    expected = reference_logits(model, tokens)
    assert expected.std() > 0.5
    difference = run_whole(NativeRunner(model, 10, 16, 2), tokens) - expected
    # A last bit can make a key or value round to its other neighbour in half precision; that shows here and there.
    assert np.abs(difference).max() < 5e-4
    assert np.sqrt(np.square(difference).mean()) < 5e-5


@pytest.mark.parametrize("encoding", QUANTISED)
@pytest.mark.parametrize("name", CONFIGS)
def test_quantised_weights_give_logits_as_near_as_int8_activations_allow(name: str, encoding: str) -> None:
    model = make_model(CONFIGS[name], encoding)
    tokens = make_tokens(model.config, 2)
    expected = reference_logits(model, tokens)
    assert expected.std() > 0.5
    logits = run_whole(NativeRunner(model, 10, 16, 2), tokens)
    # A step of int8 is 1/254 of a group's largest value, some 1/100 of its deviation; errors of all layers add up.
    assert np.sqrt(np.square(logits - expected).mean()) < 0.03 * expected.std()
    assert kl_divergence(expected, logits) < 2e-3


@pytest.mark.parametrize("encoding", ["f32", "bf16", "q8_0", "q4_0", "q4_1"])
@pytest.mark.parametrize("name", ["grouped", "as_many_kv_heads", "head_size_48"])
def test_logits_are_the_same_bits_in_any_company_and_cut(name: str, encoding: str) -> None:
    model = make_model(CONFIGS[name], encoding)
    lengths = [LENGTH, 40, 1, 17, 150, 5, 290]
    texts = [make_tokens(model.config, index, length) for index, length in enumerate(lengths)]
    alone = [run_whole(NativeRunner(model, 20, 16, 1), text) for text in texts]
    rng = random.Random(4)
    for page_size, num_threads in [(16, 2), (1, 1), (4, 3), (24, 2), (256, 2)]:
        num_pages = len(texts) * -(-max(lengths) // page_size)
        sequences = Sequences(NativeRunner(model, num_pages, page_size, num_threads), len(texts), max(lengths))
        rows: list[list[Floats]] = [[] for _ in texts]
        waiting = dict(enumerate(texts))
        while waiting:
            chosen = rng.sample(sorted(waiting), rng.randint(1, len(waiting)))
            pieces = {index: waiting[index][: rng.choice([1, 1, 2, 7, 64, 200])] for index in chosen}
            for index, logits in sequences.run(pieces).items():
                rows[index].append(logits)
                waiting[index] = waiting[index][len(pieces[index]) :]
                if not waiting[index]:
                    del waiting[index]
        for index, expected in enumerate(alone):
            np.testing.assert_array_equal(np.concatenate(rows[index]), expected)


def test_a_long_context_is_the_same_bits_whatever_the_number_of_threads() -> None:
    model = make_model(CONFIGS["one_kv_head"], "q8_0")
    tokens = make_tokens(model.config, 3, 1500)
    first, second = (Sequences(NativeRunner(model, 24, 64, threads), 1, 1501) for threads in (1, 4))
    np.testing.assert_array_equal(first.run({0: tokens})[0], second.run({0: tokens})[0])
    # One token alone: its 1500 positions are shared out among the threads.
    np.testing.assert_array_equal(first.run({0: [7]})[0], second.run({0: [7]})[0])


def test_only_wanted_places_are_computed_and_they_may_be_none() -> None:
    model = make_model(CONFIGS["grouped"], "q4_0")
    tokens = make_tokens(model.config, 1, 20)
    whole = run_whole(NativeRunner(model, 2, 16, 2), tokens)
    runner = NativeRunner(model, 2, 16, 2)
    for places in ([3, 4, 19], [19], []):
        step = Step(int32(*tokens), int32(20), int32(0), np.array([[1, 0]], np.int32), int32(*places))
        np.testing.assert_array_equal(runner.run(step), whole[places])


def test_pages_of_another_sequence_are_read_and_never_touched() -> None:
    model = make_model(CONFIGS["grouped"], "q8_0")
    prefix, suffixes = make_tokens(model.config, 1, 32), [make_tokens(model.config, seed, 9) for seed in (2, 3)]
    runner = NativeRunner(model, 4, 16, 2)
    tables = np.array([[0, 1, 2], [0, 1, 3]], np.int32)
    runner.run(Step(int32(*prefix), int32(32), int32(0), tables[:1], int32()))
    both = Step(int32(*suffixes[0], *suffixes[1]), int32(9, 9), int32(32, 32), tables, np.arange(18, dtype=np.int32))
    logits = runner.run(both)
    for index, suffix in enumerate(suffixes):
        expected = run_whole(NativeRunner(model, 3, 16, 1), prefix + suffix)[32:]
        np.testing.assert_array_equal(logits[index * 9 :][:9], expected)


def test_what_a_cache_held_before_does_not_show() -> None:
    model = make_model(CONFIGS["grouped"], "q4_1")
    tokens = make_tokens(model.config, 1)
    runner = NativeRunner(model, 6, 16, 2)
    fresh = run_whole(runner, tokens)
    run_whole(runner, make_tokens(model.config, 9, 96))
    np.testing.assert_array_equal(run_whole(runner, tokens), fresh)


def test_other_encodings_become_int8_and_say_so() -> None:
    model = make_model(CONFIGS["tied"], "q8_0")
    name = "layers.1.feed_forward.w1.weight"
    values = np.random.default_rng(1).standard_normal(model.tensors[name].shape) / 10
    tokens = make_tokens(model.config, 1)
    for encoding, requantised in (("q5_0", {}), ("q5_1", {"q5_1": 1})):
        data = gguf.quantize(values.astype(np.float32), gguf.GGMLQuantizationType[encoding.upper()]).reshape(-1)
        tensor = StoredTensor(name, values.shape, ENCODINGS[encoding], data.copy)
        changed = dataclasses.replace(model, tensors={**model.tensors, name: tensor})
        runner = NativeRunner(changed, 10, 16, 2)
        assert dict(runner.requantised) == requantised
        expected = reference_logits(changed, tokens)
        assert kl_divergence(expected, run_whole(runner, tokens)) < 2e-3


def test_a_mixture_of_encodings_works() -> None:
    config = CONFIGS["grouped"]
    model = make_model(config, "q4_0")
    others = {encoding: make_model(config, encoding).tensors for encoding in ("f32", "q8_0", "q4_1", "f16")}
    mixed = {
        name: others[list(others)[index % 4]][name] if index % 3 else tensor
        for index, (name, tensor) in enumerate(model.tensors.items())
    }
    changed = dataclasses.replace(model, tensors=mixed)
    tokens = make_tokens(config, 1)
    assert kl_divergence(reference_logits(changed, tokens), run_whole(NativeRunner(changed, 10, 16, 2), tokens)) < 2e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_rotary_frequencies_equal_those_of_the_model(name: str) -> None:
    expected = operations.rotary_frequencies(CONFIGS[name]).numpy()
    np.testing.assert_allclose(rotary_frequencies(CONFIGS[name]), expected, rtol=3e-7)


def test_python_threads_may_share_a_runner() -> None:
    model = make_model(CONFIGS["grouped"], "q8_0")
    tokens = make_tokens(model.config, 1, 16)
    runner = NativeRunner(model, 4, 16, 2)
    expected = run_whole(runner, tokens)
    results: list[Floats] = []

    def work(page: int) -> None:
        step = Step(int32(*tokens), int32(16), int32(0), np.array([[page]], np.int32), np.arange(16, dtype=np.int32))
        results.extend(runner.run(step) for _ in range(20))

    threads = [threading.Thread(target=work, args=(page,)) for page in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    for logits in results:
        np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tokens": int32(1, 199)}, "vocabulary"),
        ({"tokens": int32(1, -1)}, "vocabulary"),
        ({"outputs": int32(2)}, "an output"),
        ({"num_new": int32(3)}, "more or fewer tokens"),
        ({"num_new": int32(2, 1)}, "1 page tables for 2 counts"),
        ({"num_new": int32(0)}, "without a new token"),
        ({"num_cached": int32(-1)}, "negative"),
        ({"num_cached": int32(15)}, "shorter than its sequence"),
        ({"page_tables": np.array([[2]], np.int32)}, "a page that"),
        ({"page_tables": np.array([[-1]], np.int32)}, "a page that"),
        ({"num_new": int32(), "num_cached": int32(), "page_tables": np.zeros((0, 1), np.int32)}, "no new token"),
    ],
)
def test_a_step_that_would_leave_memory_is_refused(change: dict[str, NDArray[np.int32]], complaint: str) -> None:
    runner = NativeRunner(make_model(CONFIGS["grouped"], "q8_0"), 2, 16, 1)
    step = Step(int32(1, 2), int32(2), int32(0), np.array([[0]], np.int32), int32(1))
    runner.run(step)
    with pytest.raises(ValueError, match=complaint):
        runner.run(dataclasses.replace(step, **change))


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    model = make_model(CONFIGS["grouped"], "q8_0")
    with pytest.raises(UserError, match=r"a cache of 1,600,000,000,000 positions \d+\.\d GiB .* GiB are free"):
        NativeRunner(model, 100_000_000_000, 16, 1)
    with pytest.raises(UserError, match="0 pages of 16"):
        NativeRunner(model, 0, 16, 1)
    wide = ModelConfig(dim=320, num_layers=1, num_heads=1, num_kv_heads=1, ffn_hidden_dim=32, vocab_size=10)
    with pytest.raises(UserError, match="heads of 320 channels are more than the kernels' 256"):
        NativeRunner(make_model(wide, "f32"), 1, 16, 1)


def test_a_closed_runner_gives_its_memory_back_and_says_so() -> None:
    model = make_model(CONFIGS["grouped"], "f32")
    num_pages = 200_000
    size = cache_bytes(model.config, num_pages, 16)
    assert size > 1 << 30
    runner = NativeRunner(model, num_pages, 16, 1)
    mapped = mapped_bytes()
    runner.close()
    assert mapped - mapped_bytes() > 0.9 * size
    with pytest.raises(ValueError, match="closed"):
        runner.run(Step(int32(1), int32(1), int32(0), np.array([[0]], np.int32), int32(0)))


def mapped_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
