"""The sampler against transformers' processors, numpy's Philox and the obvious slow way."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.generation import logits_process as theirs

from camelid.inference import sampler
from camelid.inference.request import SamplingSettings
from camelid.inference.sampler import InvalidLogitsError, Sampler, choose_likeliest, find_largest, measure_logprob

NUM_DRAWS = 4000


def make_logits(seed: int, vocab_size: int, spread: float = 3.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(vocab_size) * spread).astype(np.float32)


@pytest.fixture
def evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of random numbers, positions 0, 1, .. give numbers that are spread evenly."""
    monkeypatch.setattr(sampler, "uniform", lambda _seed, position: (position + 0.5) / NUM_DRAWS)


def measure_probabilities(settings: SamplingSettings, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    chooser = Sampler(settings, (), len(logits))
    tokens = [chooser.choose(logits, position) for position in range(NUM_DRAWS)]
    return np.bincount(tokens, minlength=len(logits)) / NUM_DRAWS


def warpers(settings: SamplingSettings) -> Iterator[theirs.LogitsProcessor]:
    yield theirs.TemperatureLogitsWarper(settings.temperature)
    if settings.top_k:
        yield theirs.TopKLogitsWarper(settings.top_k)
    if settings.top_p < 1:
        yield theirs.TopPLogitsWarper(settings.top_p)
    if settings.min_p:
        yield theirs.MinPLogitsWarper(settings.min_p)


@pytest.mark.usefixtures("evenly")
@pytest.mark.parametrize("vocab_size", [7, 300, 9000])
@pytest.mark.parametrize(
    "given",
    [
        {"top_p": 1.0},
        {"top_p": 0.9},
        {"top_p": 0.5, "temperature": 1.7},
        {"top_p": 1e-9},
        {"top_p": 1.0, "top_k": 1},
        {"top_p": 1.0, "top_k": 5},
        {"top_p": 1.0, "top_k": 100_000},
        {"top_p": 1.0, "min_p": 0.1},
        {"top_p": 0.8, "top_k": 6, "min_p": 0.05},
        {"top_p": 0.95, "min_p": 0.02, "temperature": 0.4},
    ],
)
def test_probabilities_are_those_of_transformers(given: dict[str, float], vocab_size: int) -> None:
    settings = SamplingSettings.model_validate({"temperature": 1.0, **given})
    logits = make_logits(vocab_size, vocab_size)
    scores = torch.from_numpy(logits)[None]
    for warper in warpers(settings):
        scores = warper(torch.zeros((1, 0), dtype=torch.long), scores)
    expected = scores.softmax(-1)[0].double().numpy()
    found = measure_probabilities(settings, logits)
    assert np.abs(found - expected).max() <= 1.01 / NUM_DRAWS
    assert found[expected == 0].sum() == 0


def test_settings_that_change_logits_are_those_of_transformers() -> None:
    settings = SamplingSettings(
        temperature=0,
        repetition_penalty=1.3,
        presence_penalty=0.4,
        frequency_penalty=0.25,
        logit_bias={3: 2.5, 9: -4.0},
    )
    prompt, answer = [3, 7, 7, 50], [9, 9, 20, 3]
    for seed in range(200):
        logits = make_logits(seed, 60, spread=1.0)
        chooser = Sampler(settings, prompt, 60)
        for token in answer:
            chooser.observe(token)
        biased = torch.from_numpy(logits.copy())
        for token, bias in settings.logit_bias.items():
            biased[token] += bias
        penalty = theirs.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)
        expected = penalty(torch.tensor([prompt + answer]), biased[None])[0]
        for token in set(answer):
            expected[token] -= settings.presence_penalty + settings.frequency_penalty * answer.count(token)
        before = logits.copy()
        assert chooser.choose(logits, 8) == int(expected.argmax())
        np.testing.assert_array_equal(logits, before)


def test_numbers_are_philox() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in (0, 1, 2**40 + 3, 2**64 - 1):
            for position in (1, 2, 77, 10**6):
                # numpy counts on before it draws.
                first = np.random.Philox(key=seed, counter=position - 1).random_raw()
                assert sampler.uniform(seed, position) == (int(first) >> 11) * 2.0**-53


def test_numbers_are_spread_and_seeds_and_positions_differ() -> None:
    numbers = [sampler.uniform(seed, position) for seed in range(50) for position in range(50)]
    assert len(set(numbers)) == 2500
    counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
    assert ((counts - 250) ** 2 / 250).sum() < 27.9  # chi-square of 9 degrees of freedom, one in a thousand


@given(
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), min_size=1, max_size=400),
    st.integers(1, 420),
    st.integers(0, 2**32),
)
def test_largest_are_found_in_order(values: list[float], count: int, seed: int) -> None:
    array = np.array(values, np.float32)
    if seed % 2:
        array = np.concatenate([array, make_logits(seed, 900)])
    expected = sorted(range(len(array)), key=lambda place: (-array[place], place))[:count]
    assert find_largest(array, count).tolist() == expected


def test_logprobs_are_those_of_torch() -> None:
    logits = make_logits(1, 5000)
    expected = torch.from_numpy(logits).double().log_softmax(-1)
    measured = measure_logprob(logits, 17, 5)
    assert measured.logprob == pytest.approx(float(expected[17]), abs=1e-5)
    top = expected.topk(5)
    assert [token for token, _ in measured.top] == top.indices.tolist()
    assert [logprob for _, logprob in measured.top] == pytest.approx(top.values.tolist(), abs=1e-5)
    assert measure_logprob(logits, 17, 0).top == ()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("given", [{"temperature": 0.0, "logit_bias": {1: 1.0}}, {}, {"top_k": 2}, {"min_p": 0.5}])
def test_logits_that_are_no_numbers_are_refused(poison: float, given: dict[str, float]) -> None:
    logits = make_logits(1, 500)
    logits[77] = poison
    with pytest.raises(InvalidLogitsError):
        Sampler(SamplingSettings.model_validate(given), (), 500).choose(logits, 3)
    with pytest.raises(InvalidLogitsError):
        measure_logprob(logits, 3, 2)
    assert choose_likeliest(np.stack([make_logits(1, 500), logits])) == [int(make_logits(1, 500).argmax()), -1]


def test_tokens_that_are_ruled_out_are_never_drawn() -> None:
    logits = np.full(6000, -np.inf, np.float32)
    logits[[5, 4200]] = 0
    chooser = Sampler(SamplingSettings(temperature=1.0, top_p=1.0), (), 6000)
    assert {chooser.choose(logits, position) for position in range(200)} == {5, 4200}
