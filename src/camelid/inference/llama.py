"""A loaded model that writes text: what `from camelid import Llama` gives."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from camelid.checkpoint.stored import StoredModel
from camelid.errors import UserError
from camelid.inference.engine import Engine
from camelid.inference.request import Completion, SamplingSettings, check_event
from camelid.inference.speculative import Drafter, LookupDrafter, ModelDrafter
from camelid.inference.step import Runner
from camelid.model.config import ModelConfig
from camelid.settings import validate
from camelid.tokenizer.interface import Tokenizer

if TYPE_CHECKING:
    from camelid.model.llama import Transformer

RunnerName = Literal["auto", "native", "torch"]

PAGE_SIZE = 16
_DEFAULT_CACHE_BYTES = 1 << 30


class Llama:
    """A model and its tokenizer.

    llama = Llama.load("smollm2-135m-instruct")
    for piece in llama.stream("The llama is", max_tokens=64):
        print(piece, end="")

    Several threads may use one; what they ask for at the same time is computed together.
    """

    def __init__(self, engine: Engine, stored: StoredModel | None = None, model: "Transformer | None" = None):
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self._stored = stored
        self._model = model
        self._is_changing = stored is None

    @classmethod
    def load(
        cls,
        model: str | Path | StoredModel,
        device: str = "cpu",
        *,
        runner: RunnerName = "auto",
        num_threads: int = 0,
        context: int | None = None,
        cache_tokens: int | None = None,
        max_sequences: int = 16,
        max_step_tokens: int = 512,
        draft: str = "auto",
    ) -> "Llama":
        """Loads a model.

        Args:
            model: a checkpoint of any format, the folder of a run, a name, or a hub id (`checkpoint.find`); or one
                that is open.
            device: cpu, or cuda for torch's.
            runner: native for Camelid's kernels, torch for their twin, which runs on GPUs too; auto is native where
                that can be.
            num_threads: 0 for one a physical core.
            context: positions of a request at most, the model's own limit unless given.
            cache_tokens: positions of all requests that the cache holds; unless given, as many as `max_sequences` can
                fill, within 1 GiB, and at least one whole context.
            max_sequences: requests that run at once.
            max_step_tokens: rows of one step at most.
            draft: where guesses at the next tokens come from: lookup in the text, none, or the name of a smaller model
                of the same vocabulary; auto looks up where that leaves the text unchanged.

        Raises:
            UserError: there is no such model, its files are damaged, or it does not fit.
        """
        from camelid.checkpoint.find import open_model

        stored = model if isinstance(model, StoredModel) else open_model(model)
        positions = _choose_cache_tokens(stored.config, context, cache_tokens, max_sequences)
        sizes = {"max_sequences": max_sequences, "max_step_tokens": max_step_tokens}
        with ThreadPoolExecutor(1) as beside:  # weights are packed without Python's lock
            loading = beside.submit(stored.load_tokenizer)
            chosen = _make_runner(stored, positions, device, runner, num_threads)
            tokenizer = loading.result()
        drafter: Drafter | None = None
        if draft == "lookup" or (draft == "auto" and chosen.is_batch_invariant):
            drafter = LookupDrafter()
        elif draft not in ("auto", "none"):
            smaller = open_model(draft)
            _check_same_vocabulary(tokenizer, smaller)
            small_runner = _make_runner(smaller, positions, device, runner, num_threads)
            drafter = ModelDrafter(small_runner, stored.config.vocab_size, **sizes)
        return cls(Engine(chosen, tokenizer, context=context, drafter=drafter, **sizes), stored)

    @classmethod
    def from_model(cls, model: "Transformer", tokenizer: Tokenizer) -> "Llama":
        """Wraps a model that is in memory and may go on training between two calls."""
        from camelid.inference.runners.torch_runner import TorchRunner

        model.eval()
        num_pages = -(-model.config.max_sequence_length // PAGE_SIZE)
        return cls(Engine(TorchRunner(model, num_pages, PAGE_SIZE), tokenizer), model=model)

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.engine.runner.config

    @property
    def model(self) -> "Transformer":
        """The model on torch, float32 unless the runner has it in another type; read when first asked for."""
        if self._model is None:
            from camelid.checkpoint.load import load_transformer
            from camelid.inference.runners.torch_runner import TorchRunner

            runner = self.engine.runner
            assert self._stored is not None
            self._model = runner.model if isinstance(runner, TorchRunner) else load_transformer(self._stored)
        return self._model

    @overload
    def generate(self, prompt: str, **sampling: Any) -> str: ...

    @overload
    def generate(self, prompt: Sequence[str], **sampling: Any) -> list[str]: ...

    def generate(self, prompt: str | Sequence[str], **sampling: Any) -> str | list[str]:
        """The whole continuation of a prompt, or of each of several side by side; settings as in `stream`."""
        if isinstance(prompt, str):
            return self.complete([prompt], **sampling)[0].text
        return [completion.text for completion in self.complete(prompt, **sampling)]

    def complete(self, prompts: Sequence[str], **sampling: Any) -> list[Completion]:
        """As `generate`, with tokens, log-probabilities and the reason to end."""
        settings = validate(SamplingSettings, sampling, "sampling")
        self._begin()
        return self.engine.generate([self._encode(prompt) for prompt in prompts], settings)

    def stream(self, prompt: str, **sampling: Any) -> Iterator[str]:
        """Yields the continuation of `prompt` as it is written; pieces are whole characters.

        Args:
            sampling: fields of `SamplingSettings`.

        Raises:
            UserError: a setting is wrong, or the prompt fills the model's context.
        """
        settings = validate(SamplingSettings, sampling, "sampling")
        return self._stream_text(self._encode(prompt), settings)

    def check_chat(self) -> None:
        """Raises UserError where the model came without a chat template."""
        from camelid.tokenizer.chat import find_template

        find_template(self.tokenizer)

    def chat(self, messages: Sequence[Mapping[str, Any]], **sampling: Any) -> Iterator[str]:
        """Yields the answer to messages, written as the model's chat template says.

        Args:
            messages: each with a role (system, user or assistant) and a content.
            sampling: as in `stream`.

        Raises:
            UserError: as `stream`; or the model came without a chat template, or it refuses the messages.
        """
        from camelid.tokenizer.chat import render_chat

        settings = validate(SamplingSettings, sampling, "sampling")
        return self._stream_text(render_chat(self.tokenizer, messages), settings)

    def stream_ids(self, prompt: Sequence[int], settings: SamplingSettings) -> Iterator[int]:
        """Yields token ids up to an end token, which is left out, a stop text, `max_tokens`, or the context's end."""
        self._begin()
        for event in self.engine.stream(prompt, settings):
            check_event(event)
            yield from event.tokens

    def _stream_text(self, prompt: Sequence[int], settings: SamplingSettings) -> Iterator[str]:
        self._begin()
        for event in self.engine.stream(prompt, settings):
            check_event(event)
            if event.text:
                yield event.text

    def _encode(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt, bos=self.tokenizer.adds_bos)

    def _begin(self) -> None:
        if self._is_changing:
            self.engine.forget_prefixes()


def _make_runner(stored: StoredModel, positions: int, device: str, name: RunnerName, num_threads: int) -> Runner:
    """The runner of that name, or the best one that can run here."""
    if name not in get_args(RunnerName):
        raise UserError(f"there is no runner {name!r}; choose {', '.join(get_args(RunnerName))}")
    num_pages = -(-positions // PAGE_SIZE)
    if name == "auto":
        name = "torch" if device != "cpu" else _choose_cpu_runner()
    if name == "native":
        from camelid.inference.runners.native import NativeRunner

        if device != "cpu":
            raise UserError(f"the native runner computes on the CPU and not on {device}; use the torch runner there")
        return NativeRunner(stored, num_pages, PAGE_SIZE, num_threads or None)
    from camelid.inference.runners.torch_runner import TorchRunner

    return TorchRunner.load(stored, num_pages, PAGE_SIZE, device=device, num_threads=num_threads)


def _choose_cpu_runner() -> RunnerName:
    from camelid.inference.kernels.build import can_compile

    if can_compile():
        return "native"
    sys.stderr.write(
        "there is no C++ compiler, so torch computes, several times slower; install g++ or clang++, or: "
        "pip install ziglang\n"
    )
    return "torch"


def _choose_cache_tokens(config: ModelConfig, context: int | None, cache_tokens: int | None, max_sequences: int) -> int:
    longest = min(context or config.max_sequence_length, config.max_sequence_length)
    if cache_tokens is not None:
        return cache_tokens
    bytes_per_token = 4 * config.num_layers * config.num_kv_heads * config.head_dim  # two numbers of 16 bits
    return max(longest, min(max_sequences * longest, _DEFAULT_CACHE_BYTES // bytes_per_token))


def _check_same_vocabulary(tokenizer: Tokenizer, smaller: StoredModel) -> None:
    other = smaller.load_tokenizer()
    if tokenizer.encode(_PROBE) != other.encode(_PROBE) or tokenizer.special_tokens != other.special_tokens:
        raise UserError(
            f"{smaller.path} has another vocabulary than the model, so it cannot draft for it; name a smaller model of "
            "the same family, or draft by look-up"
        )


_PROBE = "The llama's wool, 1,234.5 kg of it — «größer» than 今日は?\n\tdef f(x):\n\t\treturn x ** 2  # 🦙"
