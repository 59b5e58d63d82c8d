"""Drafts: what they save where text repeats itself, what they cost where it does not, and that both are bounded."""

import argparse
import gzip
import inspect
import random
import statistics
import tarfile
from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_model import VOCAB_SIZE, FakeRunner, FakeTokenizer, write_alone

from camelid.errors import UserError
from camelid.inference.engine import Engine
from camelid.inference.request import Request, SamplingSettings
from camelid.inference.speculative import FREE_ROWS, FREE_SHARE, LookupDrafter, ModelDrafter
from camelid.tokenizer.load import load_tokenizer

GREEDY = SamplingSettings(temperature=0, max_tokens=60, ignore_eos=True)
Text = tuple[list[int], list[int]]
"""A prompt, and how it goes on."""


class Cost:
    """What it takes to write given texts with look-up."""

    def __init__(self, texts: Sequence[Text]):
        self.num_tokens = self.num_steps = self.num_rows = 0
        self.is_within_bound = True
        for prompt, answer in texts:
            self._write(prompt, answer)

    def _write(self, prompt: list[int], answer: list[int]) -> None:
        request = Request(prompt, len(prompt) + len(answer) + 1, GREEDY)
        request.tokens.append(answer[0])
        drafter = LookupDrafter()
        num_saved = num_lost = 0
        while request.num_written < len(answer):
            request.draft = array("i")
            drafter.propose([request])
            rest = answer[request.num_written :]
            draft = list(request.draft)[: len(rest) - 1]
            num_right = next((n for n, token in enumerate(draft) if token != rest[n]), len(draft))
            request.tokens.extend(rest[: num_right + 1])
            self.num_tokens += num_right + 1
            self.num_steps += 1
            self.num_rows += 1 + len(draft)
            if draft:
                drafter.observe(request, len(draft), num_right)
                num_saved += num_right
                num_lost += len(draft) - num_right
                allowed = FREE_ROWS + FREE_SHARE * request.num_written + num_saved
                self.is_within_bound &= num_lost <= allowed

    @property
    def tokens_per_step(self) -> float:
        return self.num_tokens / self.num_steps

    @property
    def extra_rows(self) -> float:
        return self.num_rows / self.num_tokens - 1


def cut(ids: list[int], count: int, num_prompt: int, num_answer: int, rng: random.Random) -> list[Text]:
    starts = [rng.randrange(len(ids) - num_prompt - num_answer) for _ in range(count)]
    return [(ids[s : s + num_prompt], ids[s + num_prompt : s + num_prompt + num_answer]) for s in starts]


def edit(ids: list[int], rng: random.Random) -> list[int]:
    """A copy with a change about every 40 tokens."""
    edited: list[int] = []
    place = 0
    while place < len(ids):
        if rng.random() < 1 / 40:
            edited += [rng.randrange(3, 30_000) for _ in range(rng.randrange(1, 5))]
            place += rng.randrange(4)
        else:
            edited.append(ids[place])
            place += 1
    return edited


def test_prose_costs_little_and_edits_gain_much(shared_data: Path) -> None:
    rng = random.Random(1)
    tokenizer = load_tokenizer(shared_data / "models" / "llama-tokenizer" / "tokenizer.model")
    with gzip.open(shared_data / "text" / "wikitext-2-raw" / "wiki.test.raw.gz", "rt", encoding="utf-8") as file:
        encyclopedia = tokenizer.encode(file.read(300_000))
    with tarfile.open(shared_data / "text" / "english_novels.tar.gz") as archive:
        member = next(member for member in archive if member.isfile())
        novel = tokenizer.encode(archive.extractfile(member).read()[50_000:250_000].decode())  # type: ignore[union-attr]
    modules = [tokenizer.encode(inspect.getsource(module)) for module in (argparse, random, statistics)]
    for going_on in (encyclopedia, novel, *modules):
        cost = Cost(cut(going_on, 30, 300, 300, rng))
        assert cost.extra_rows <= 0.05
        assert cost.tokens_per_step >= 1
        assert cost.is_within_bound
    edits = Cost([(prompt, edit(prompt, rng)) for prompt, _ in cut(modules[1], 20, 400, 1, rng)])
    assert edits.tokens_per_step >= 3.5
    assert edits.is_within_bound


def test_noise_costs_nothing_and_false_friends_only_the_allowance() -> None:
    rng = random.Random(2)
    noise = [rng.randrange(30_000) for _ in range(2000)]
    assert Cost([(noise[:1000], noise[1000:])]).extra_rows == 0
    # The same four tokens again and again, and each time something else after them: the worst case.
    fooling = [token for _ in range(400) for token in (1, 2, 3, 4, rng.randrange(10, 30_000))]
    fooled = Cost([(fooling[:500], fooling[500:])])
    assert fooled.extra_rows <= 0.3
    assert fooled.is_within_bound
    # Agreement for twenty tokens, then a surprise: long drafts are trusted and lost.
    passage = [rng.randrange(30_000) for _ in range(400)]
    cuts = [rng.randrange(380) for _ in range(60)]
    cheating = [token for start in cuts for token in (*passage[start : start + 20], rng.randrange(30_000))]
    assert Cost([(passage, cheating)]).is_within_bound
    honest = [token for token in fooling if token > 4]
    assert Cost([(honest[:100], honest[100:])]).extra_rows == 0


def test_a_loop_is_guessed_to_the_full_length() -> None:
    cost = Cost([([5, 6, 7, 8, 9] * 4, [5, 6, 7, 8, 9] * 40)])
    assert cost.tokens_per_step > 6
    assert cost.extra_rows < 0.02


def test_lookup_leaves_batches_alone_that_fill_a_step() -> None:
    requests = [Request([1, 2, 3] * 9, 100, GREEDY, number) for number in range(8)]
    LookupDrafter(max_rows=8).propose(requests)
    assert not any(request.draft for request in requests)
    drafter = LookupDrafter(max_rows=10)
    for _ in range(9):
        drafter.propose(requests)
        for request in requests:
            request.tokens.extend([1, 2, 3])
            request.draft = ()
    drafter.propose(requests)
    assert 0 < sum(len(request.draft) for request in requests) <= 2


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_same_model_is_always_right(temperature: float) -> None:
    settings = GREEDY.model_copy(update={"temperature": temperature})
    drafter = ModelDrafter(FakeRunner(200, 4), VOCAB_SIZE, max_rows=12, max_step_tokens=16)
    engine = Engine(FakeRunner(200, 4), FakeTokenizer(), drafter=drafter)
    prompts = [[0, *range(4, 4 + length)] for length in (1, 9, 30)]
    for prompt, completion in zip(prompts, engine.generate(prompts, settings), strict=True):
        assert completion.tokens == write_alone(prompt, settings)[0]
    counts = engine.statistics
    assert counts.num_drafted == counts.num_accepted > 80
    assert counts.accept_rate == 1


class Watched(ModelDrafter):
    """Looks at each draft: it must be what the smaller model writes alone after the request's tokens."""

    num_checked = 0
    period = 3

    def propose(self, requests: Sequence[Request]) -> None:
        super().propose(requests)
        for request in requests:
            settings = GREEDY.model_copy(update={"max_tokens": max(1, len(request.draft))})
            if request.draft:
                assert list(request.draft) == write_alone(list(request.tokens), settings, period=self.period)[0]
                self.num_checked += 1


@pytest.mark.parametrize(("num_pages", "max_rows"), [(200, 12), (24, 12), (200, 6)])
def test_a_model_that_is_sometimes_right_guesses_from_the_right_tokens(num_pages: int, max_rows: int) -> None:
    # With few rows, nothing is guessed for a while whenever all places are taken.
    drafter = Watched(FakeRunner(num_pages, 4, period=3), VOCAB_SIZE, max_rows=max_rows, max_step_tokens=20)
    engine = Engine(FakeRunner(60, 4, period=4), FakeTokenizer(), max_sequences=5, drafter=drafter)
    rng = random.Random(3)
    prompts = [[rng.randrange(4, VOCAB_SIZE) for _ in range(rng.randint(1, 30))] for _ in range(12)]
    for prompt, completion in zip(prompts, engine.generate(prompts, GREEDY), strict=True):
        assert completion.tokens == write_alone(prompt, GREEDY, period=4)[0]
    assert drafter.num_checked > 20
    drafter.check_integrity()
    assert drafter.num_pages_held == 0


def test_what_follows_a_wrong_guess_is_computed_anew() -> None:
    drafter = Watched(FakeRunner(200, 4, period=3), VOCAB_SIZE)
    request = Request([0, *range(10, 17)], 60, GREEDY)
    drafter.propose([request])
    first, second, _ = request.draft
    # Nothing was guessed for some tokens, of which the second is as it was guessed and the first is not.
    request.tokens.extend([first + 1 if first < VOCAB_SIZE - 1 else 4, second, 7])
    drafter.propose([request])
    assert drafter.num_checked == 2


def test_a_model_that_is_never_right_is_asked_seldom() -> None:
    drafter = ModelDrafter(FakeRunner(200, 4, context=4000, period=1), VOCAB_SIZE)
    runner = FakeRunner(200, 4, context=4000)
    engine = Engine(runner, FakeTokenizer(), drafter=drafter)
    (completion,) = engine.generate([[0, 9, 9]], GREEDY.model_copy(update={"max_tokens": 500}))
    assert len(completion.tokens) == 500
    assert runner.num_rows < 500 * 1.15


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="the draft model has 60 token ids and the model 32,000"):
        ModelDrafter(FakeRunner(2, 4), 32_000)
