"""What a caller of the engine sees: texts, stops, log-probabilities, refusals, and that nothing is left behind."""

import gc
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from fake_model import EOS, VOCAB_SIZE, FakeRunner, FakeTokenizer, compute_logits, decode_alone, write_alone
from numpy.typing import NDArray

from camelid.errors import UserError
from camelid.inference.engine import Engine
from camelid.inference.pages import Pages
from camelid.inference.request import SamplingSettings
from camelid.inference.speculative import ModelDrafter
from camelid.inference.step import Step

TOKENIZER = FakeTokenizer()
GREEDY = SamplingSettings(temperature=0, max_tokens=20, ignore_eos=True)
PROMPTS = [[0, 10 + number, 20, 30] for number in range(6)]


def make_engine(num_pages: int = 100, context: int | None = None, max_sequences: int = 16) -> Engine:
    return Engine(FakeRunner(num_pages, 4), TOKENIZER, context=context, max_sequences=max_sequences)


def change(**values: object) -> SamplingSettings:
    return SamplingSettings.model_validate({**GREEDY.model_dump(exclude_unset=True), **values})


def test_streamed_whole_and_batched_are_one_text() -> None:
    engine = make_engine(max_sequences=4)
    batched = engine.generate(PROMPTS, GREEDY)
    for prompt, completion in zip(PROMPTS, batched, strict=True):
        (whole,) = engine.generate([prompt], GREEDY)
        events = list(engine.stream(prompt, GREEDY))
        tokens, reason = write_alone(prompt, GREEDY)
        assert (completion.tokens, completion.finish_reason) == (tokens, reason)
        assert (whole.tokens, whole.text) == (tokens, decode_alone(tokens))
        assert [token for event in events for token in event.tokens] == tokens
        assert "".join(event.text for event in events) == completion.text == decode_alone(tokens)
    assert engine.statistics.max_batch == 4
    assert engine.statistics.num_finished == {"length": 18}


def test_iterators_may_be_mixed() -> None:
    engine = make_engine()
    streams = [engine.stream(prompt, GREEDY) for prompt in PROMPTS]
    tokens: list[list[int]] = [[] for _ in PROMPTS]
    for turn in range(60):
        for number, stream in enumerate(streams):
            if turn % (number + 1) == 0:
                tokens[number] += [token for event in [next(stream, None)] if event for token in event.tokens]
    assert tokens[:2] == [write_alone(prompt, GREEDY)[0] for prompt in PROMPTS[:2]]
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    engine.check_integrity()
    assert engine.statistics.num_pages_held == 0


def test_end_token_ends_without_a_trace() -> None:
    engine = make_engine()
    settings = SamplingSettings(temperature=1.5, top_p=1.0, max_tokens=60)
    ended = 0
    for seed in range(40):
        seeded = settings.model_copy(update={"seed": seed})
        (completion,) = engine.generate([PROMPTS[0]], seeded)
        assert (completion.tokens, completion.finish_reason) == write_alone(PROMPTS[0], seeded)
        assert EOS not in completion.tokens
        ended += completion.finish_reason == "stop"
    assert 3 < ended < 40


def test_stop_texts_end_the_answer_before_them() -> None:
    engine = make_engine()
    tokens, _ = write_alone(PROMPTS[0], GREEDY)
    text = decode_alone(tokens)
    stop = text[7:10]
    (completion,) = engine.generate([PROMPTS[0]], change(stop=["zzz", stop]))
    assert completion.text == text[: text.index(stop)]
    assert completion.finish_reason == "stop"
    assert completion.tokens == tokens[: len(completion.tokens)]
    pieces = [event.text for event in engine.stream(PROMPTS[0], change(stop=[stop]))]
    assert "".join(pieces) == completion.text
    # What looked like the beginning of a stop text is shown when it turns out to be none.
    (whole,) = engine.generate([PROMPTS[0]], change(stop=[text[-2:] + "zzz"]))
    assert (whole.text, whole.finish_reason) == (text, "length")


class ScriptedRunner(FakeRunner):
    """Writes given tokens, whatever the prompt."""

    def __init__(self, script: list[int], num_prompt: int):
        super().__init__(100, 4)
        self.script = script
        self.num_prompt = num_prompt

    def run(self, step: Step) -> NDArray[np.float32]:
        logits = super().run(step)
        for row, output in enumerate(step.outputs):
            place = int(step.num_cached[0] + output) + 1 - self.num_prompt
            logits[row, self.script[min(place, len(self.script) - 1)]] += 100
        return logits


def test_characters_are_whole_and_an_unfinished_one_is_marked() -> None:
    first, second = 2, 3  # the two bytes of an é
    engine = Engine(ScriptedRunner([first, second, 40, first], 4), TOKENIZER)
    events = list(engine.stream(PROMPTS[0], change(max_tokens=4)))
    letter = chr(97 + 40 % 5)
    assert [event.text for event in events] == ["", "é", letter, "\N{REPLACEMENT CHARACTER}"]
    # The mark is text like any other.
    events = list(engine.stream(PROMPTS[0], change(max_tokens=4, stop=[letter + "\N{REPLACEMENT CHARACTER}"])))
    assert "".join(event.text for event in events) == "é"
    assert events[-1].finish_reason == "stop"


def test_logprobs_are_the_models_own() -> None:
    engine = make_engine()
    settings = change(logprobs=3, logit_bias={7: 100.0}, max_tokens=5)
    for completion in engine.generate(PROMPTS[:3], settings):
        assert completion.tokens == [7] * 5
        assert len(completion.logprobs) == 5
    tokens = list(PROMPTS[2])
    for found in completion.logprobs:
        logits = compute_logits(np.array(tokens), 0).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum())
        assert found.token == 7
        assert found.logprob == pytest.approx(expected[7], abs=1e-5)
        assert [token for token, _ in found.top] == np.argsort(-expected)[:3].tolist()
        tokens.append(7)


def test_answers_end_with_the_context() -> None:
    engine = make_engine(context=10)
    (completion,) = engine.generate([PROMPTS[0]], change(max_tokens=500))
    assert len(completion.tokens) == 10 - len(PROMPTS[0])
    assert completion.finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "values", "message"),
    [
        ([], {}, "the prompt is empty"),
        ([5] * 96, {}, "the prompt has 96 tokens and the model's context is 96"),
        ([5, VOCAB_SIZE], {}, "token id 60 is not in the model's vocabulary of 60"),
        ([5, -1], {}, "token id -1 is not"),
        ([5], {"logit_bias": {99: 1.0}}, "token id 99 is not"),
        (
            [5] * 4,
            {"max_tokens": 60},
            "may grow to 64 tokens, which takes 16 pages of 4 positions, and the cache has 10",
        ),
    ],
)
def test_impossible_requests_are_refused(prompt: list[int], values: dict[str, object], message: str) -> None:
    engine = make_engine(num_pages=10)
    with pytest.raises(UserError, match=message):
        engine.add_request(prompt, change(**values))
    with pytest.raises(UserError, match=message):
        # What was taken in before is let go again.
        engine.generate([PROMPTS[0], prompt], change(**values))
    engine.check_integrity()
    assert not engine.has_work


def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(UserError, match="a context of 97 tokens was asked for and the model's is 96"):
        make_engine(context=97)


def test_a_dropped_iterator_frees_its_pages() -> None:
    engine = make_engine()

    def take_two(stream: Iterator[object]) -> None:
        next(stream)
        next(stream)

    take_two(engine.stream(PROMPTS[0], GREEDY))
    assert engine.statistics.num_pages_held == 0
    assert engine.statistics.num_finished == {"abort": 1}
    # In a cycle, the collector closes it, maybe in the middle of a step.
    stream = engine.stream(PROMPTS[1], GREEDY)
    next(stream)
    cycle: list[object] = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()
    assert engine.statistics.num_pages_held == 0
    engine.check_integrity()
    # One that was never begun has nothing.
    engine.stream(PROMPTS[2], GREEDY)
    assert not engine.has_work


class CollectingRunner(FakeRunner):
    """Collects garbage in the middle of a step."""

    def run(self, step: Step) -> NDArray[np.float32]:
        gc.collect(0)
        return super().run(step)


def test_an_iterator_may_vanish_in_the_middle_of_a_step() -> None:
    engine = Engine(CollectingRunner(100, 4), TOKENIZER)
    for number in range(5):
        stream = engine.stream(PROMPTS[number], GREEDY)
        next(stream)
        cycle: list[object] = [stream]
        cycle.append(cycle)
        del stream, cycle
        (completion,) = engine.generate([PROMPTS[5]], GREEDY)
        assert completion.tokens == write_alone(PROMPTS[5], GREEDY)[0]
        engine.check_integrity()
    assert engine.statistics.num_pages_held == 0
    assert engine.statistics.num_finished == {"abort": 5, "length": 5}


def test_aborts_are_told_and_others_go_on() -> None:
    engine = make_engine()
    kept, dropped = engine.add_request(PROMPTS[0], GREEDY), engine.add_request(PROMPTS[1], GREEDY)
    engine.step()
    engine.abort(dropped)
    engine.abort(dropped)
    engine.abort(12345)
    events = []
    while engine.has_work:
        events += engine.step()
    assert [(event.tokens, event.finish_reason) for event in events if event.request_id == dropped] == [((), "abort")]
    tokens = [token for event in events if event.request_id == kept for token in event.tokens]
    assert tokens == write_alone(PROMPTS[0], GREEDY)[0][1:]
    assert engine.step() == []


class BrokenRunner(FakeRunner):
    """Fails in one step, and gives no numbers after one token."""

    def __init__(self, failing_step: int, poisoned: int):
        super().__init__(100, 4)
        self.failing_step = failing_step
        self.poisoned = poisoned

    def run(self, step: Step) -> NDArray[np.float32]:
        logits = super().run(step)
        if self.num_steps == self.failing_step:
            raise RuntimeError("the device was lost")
        logits[step.tokens[step.outputs] == self.poisoned] = np.nan
        return logits


def test_a_step_that_fails_can_be_done_again() -> None:
    engine = Engine(BrokenRunner(failing_step=4, poisoned=-1), TOKENIZER)
    request_id = engine.add_request(PROMPTS[0], GREEDY)
    events = [event for _ in range(3) for event in engine.step()]
    with pytest.raises(RuntimeError, match="device was lost"):
        engine.step()
    engine.check_integrity()
    while engine.has_work:
        events += engine.step()
    assert {event.request_id for event in events} == {request_id}
    assert [token for event in events for token in event.tokens] == write_alone(PROMPTS[0], GREEDY)[0]


def test_an_interruption_in_the_books_costs_what_runs_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = ModelDrafter(FakeRunner(100, 4), VOCAB_SIZE)
    engine = Engine(FakeRunner(100, 4), TOKENIZER, drafter=drafter)
    other = engine.add_request(PROMPTS[1], GREEDY)
    stream = engine.stream(PROMPTS[0], GREEDY)
    next(stream)
    publish = Pages.publish

    def interrupt(pages: Pages, page: int, before: int, tokens: bytes) -> int:
        pages.share(before, b"")
        pages.take()
        raise KeyboardInterrupt

    monkeypatch.setattr(Pages, "publish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    monkeypatch.setattr(Pages, "publish", publish)
    assert [(event.request_id, event.finish_reason) for event in engine.step()][-1] == (other, "abort")
    engine.check_integrity()
    drafter.check_integrity()
    assert engine.statistics.num_pages_held == drafter.num_pages_held == 0
    (completion,) = engine.generate([PROMPTS[0]], GREEDY)
    assert completion.tokens == write_alone(PROMPTS[0], GREEDY)[0]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_that_gives_no_numbers_fails_its_request_alone(temperature: float) -> None:
    settings = change(temperature=temperature)
    poisoned = write_alone(PROMPTS[0], settings)[0][4]
    engine = Engine(BrokenRunner(-1, poisoned), TOKENIZER)
    bad, good = engine.add_request(PROMPTS[0], settings), engine.add_request(PROMPTS[1], settings)
    events = []
    while engine.has_work:
        events += engine.step()
    reasons = {event.request_id: event.finish_reason for event in events}
    expected, _ = write_alone(PROMPTS[1], settings)
    assert reasons == {bad: "error", good: "error" if poisoned in expected[:-1] else "length"}
    assert [t for event in events if event.request_id == bad for t in event.tokens][-1] == poisoned
    engine.check_integrity()
    with pytest.raises(UserError, match="not finite numbers"):
        engine.generate([PROMPTS[0]], settings)


def test_a_prompt_that_was_read_before_is_not_read_again() -> None:
    engine = make_engine()
    prompt = [0, *range(4, 45)]
    first, again = (engine.generate([prompt], GREEDY)[0] for _ in range(2))
    assert first.tokens == again.tokens
    assert engine.statistics.num_reused == 40
    engine.forget_prefixes()
    engine.generate([prompt], GREEDY)
    assert engine.statistics.num_reused == 40


class SlowRunner(FakeRunner):
    """Takes its time, in which other threads run."""

    def run(self, step: Step) -> NDArray[np.float32]:
        time.sleep(0.002)
        return super().run(step)


def test_nobody_waits_for_another_to_end() -> None:
    engine = Engine(SlowRunner(200, 4), TOKENIZER)
    ends: list[str] = []

    def ask(name: str, max_tokens: int) -> None:
        for _ in engine.stream(PROMPTS[0], change(max_tokens=max_tokens)):
            pass
        ends.append(name)

    threads = [threading.Thread(target=ask, args=("long", 90)) for _ in range(3)]
    threads += [threading.Thread(target=ask, args=("short", 3)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert ends == ["short"] * 3 + ["long"] * 3


def test_threads_share_one_engine() -> None:
    engine = make_engine(max_sequences=4)
    results: dict[int, list[int]] = {}

    def work(number: int) -> None:
        for turn in range(5):
            (completion,) = engine.generate([[0, number + 4, turn + 4]], GREEDY)
            results[number * 5 + turn] = completion.tokens

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(results) == 40
    for key, tokens in results.items():
        assert tokens == write_alone([0, key // 5 + 4, key % 5 + 4], GREEDY)[0]
    engine.check_integrity()
    assert engine.statistics.num_pages_held == 0
