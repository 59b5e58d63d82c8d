"""Generation against recomputing everything."""

from pathlib import Path

import pytest
import torch

from camelid import Llama
from camelid.errors import UserError
from camelid.inference.request import SamplingSettings


@pytest.fixture(scope="module")
def llama(tiny_run: Path) -> Llama:
    return Llama.load(tiny_run, runner="torch")


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
    monkeypatch.setattr(llama.tokenizer, "stop_ids", frozenset((first,)))
    assert list(llama.stream_ids(prompt, settings)) == []


def test_settings_without_effect_are_refused(llama: Llama) -> None:
    with pytest.raises(UserError, match="top_k has no effect"):
        llama.generate("x", temperature=0.0, top_k=5)
    with pytest.raises(UserError, match="temperature"):
        llama.generate("x", temprature=1.0)
