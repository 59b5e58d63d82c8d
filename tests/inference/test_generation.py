"""Generation against recomputing everything, and the sampler against its own definition."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from camelid import Llama
from camelid.errors import UserError
from camelid.inference.sampler import Sampler, SamplingSettings


@pytest.fixture(scope="module")
def llama(tiny_run: Path) -> Llama:
    return Llama.load(tiny_run)


@torch.no_grad()
def test_greedy_with_a_cache_equals_recomputing_the_prefix(llama: Llama) -> None:
    prompt = llama.tokenizer.encode("The llama", bos=True)
    written = list(llama.stream_ids(prompt, SamplingSettings(max_tokens=12, temperature=0)))
    tokens = list(prompt)
    for token in written:
        assert int(llama.model(torch.tensor([tokens]))[0, -1].argmax()) == token
        tokens.append(token)
    assert len(written) > 3


def test_pieces_joined_are_the_whole_and_the_seed_decides(llama: Llama) -> None:
    sampling = {"max_tokens": 16, "temperature": 1.5, "top_p": 1.0}
    texts = {seed: llama.generate("grass ", **sampling, seed=seed) for seed in range(4)}
    assert "".join(llama.stream("grass ", **sampling, seed=2)) == texts[2]
    assert len(set(texts.values())) > 1


def test_writing_ends_with_the_context(llama: Llama) -> None:
    prompt = llama.tokenizer.encode("grass and hill", bos=True)
    settings = SamplingSettings(max_tokens=500, temperature=0)
    assert len(list(llama.stream_ids(prompt, settings))) <= llama.config.max_sequence_length - len(prompt)
    with pytest.raises(UserError, match="context is 32"):
        list(llama.stream_ids([5] * 32, settings))


def test_end_token_ends_the_text(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = llama.tokenizer.encode("The", bos=True)
    settings = SamplingSettings(max_tokens=10, temperature=0)
    first = next(llama.stream_ids(prompt, settings))
    monkeypatch.setattr(llama.tokenizer, "eos_id", first)
    assert list(llama.stream_ids(prompt, settings)) == []


_LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def _draw(**settings: float) -> Counter[int]:
    sampler = Sampler(SamplingSettings.model_validate({"top_p": 1.0, "temperature": 1.0, **settings}))
    return Counter(sampler.choose(_LOGITS) for _ in range(2000))


def test_sampling_follows_the_probabilities() -> None:
    counts = _draw()
    for token, share in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert counts[token] / 2000 == pytest.approx(share, abs=0.035)
    sharper = _draw(temperature=0.5)
    assert sharper[0] / 2000 == pytest.approx(0.25 / 0.365, abs=0.035)


def test_choice_is_narrowed() -> None:
    assert set(_draw(top_k=2)) == {0, 1}
    assert set(_draw(top_p=0.5)) == {0}
    assert set(_draw(top_p=0.51)) == {0, 1}
    assert set(_draw(temperature=0.0)) == {0}


def test_settings_without_effect_are_refused(llama: Llama) -> None:
    with pytest.raises(UserError, match="top_k has no effect"):
        llama.generate("x", temperature=0.0, top_k=5)
    with pytest.raises(UserError, match="temperature"):
        llama.generate("x", temprature=1.0)
