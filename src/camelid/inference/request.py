"""What is asked of the engine, how far it has come, and what comes out.

Plain Python: the scheduler's view of a sequence is here, without tensors.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from camelid.errors import UserError
from camelid.inference.pages import PageTable
from camelid.settings import Settings

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_BIAS = 100.0

FinishReason = Literal["stop", "length", "abort", "error"]
"""An end token or a stop string; max_tokens or the context is used up; the caller left; the model gave no numbers."""


class SamplingSettings(Settings):
    """How the next token is chosen, and when to stop."""

    max_tokens: int = Field(256, gt=0)
    """Most tokens to write."""
    temperature: float = Field(0.8, ge=0)
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = Field(0, ge=0)
    """Only the k likeliest tokens can be chosen; 0 is no limit."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Only the likeliest tokens that together reach this probability can be chosen, of those that top_k leaves."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Only tokens that are at least this share as likely as the likeliest can be chosen; 0 is no limit."""
    seed: int = Field(0, ge=0, lt=2**64)
    """Start of the random numbers; the same seed gives the same text."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Divides positive logits, and multiplies negative ones, of tokens that stand in the prompt or the answer."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Subtracted from the logit of each token that stands in the answer."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """Subtracted from the logit of a token once for each time that it stands in the answer."""
    logit_bias: dict[int, float] = Field(default_factory=dict)
    """Added to the logits of single token ids, from -100 to 100."""
    stop: tuple[str, ...] = Field((), max_length=MAX_STOPS)
    """Texts that end the answer; they are not part of it."""
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """How many of the likeliest tokens to report beside each chosen one with their log-probabilities, or no report."""
    ignore_eos: bool = False
    """Whether to go on after an end token, as measurements of speed do."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, stop: Any) -> Any:
        return (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else stop

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        for text in stop:
            if not 0 < len(text) <= MAX_STOP_CHARACTERS:
                raise ValueError(f"a stop text has {len(text):,} characters; give 1 to {MAX_STOP_CHARACTERS}")
        return stop

    @field_validator("logit_bias")
    @classmethod
    def _check_bias(cls, logit_bias: dict[int, float]) -> dict[int, float]:
        for token, bias in logit_bias.items():
            if token < 0 or abs(bias) > MAX_BIAS:
                raise ValueError(f"the bias of token {token} is {bias:g}; ids start at 0, biases go from -100 to 100")
        return logit_bias

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.temperature == 0 and self.top_k > 1 and "top_k" in self.model_fields_set:
            raise ValueError("top_k has no effect at temperature 0; leave one of them out")
        if self.temperature == 0 and self.min_p > 0:
            raise ValueError("min_p has no effect at temperature 0; leave one of them out")
        return self

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the likeliest token by the model's own logits is taken."""
        return self.temperature == 0 and not self.changes_logits

    @property
    def has_penalties(self) -> bool:
        """Whether logits depend on the tokens that were written."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def changes_logits(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        return self.has_penalties or bool(self.logit_bias)


class Status(Enum):
    """Where a request stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Request:
    """A sequence of tokens that grows.

    Args:
        prompt: at least one token id.
        max_length: positions at most, prompt and answer together.
    """

    __slots__ = (
        "draft",
        "id",
        "max_length",
        "num_computed",
        "num_preemptions",
        "num_prompt",
        "num_reused",
        "num_scheduled",
        "settings",
        "status",
        "table",
        "tokens",
    )

    def __init__(self, prompt: Sequence[int], max_length: int, settings: SamplingSettings, request_id: int = 0):
        self.id = request_id
        """Later requests have greater ones."""
        self.settings = settings
        self.tokens = array("i", prompt)
        self.num_prompt = len(self.tokens)
        self.max_length = max_length
        self.table = PageTable()
        self.num_computed = 0
        """Positions, from the first, whose keys and values are in the cache."""
        self.num_scheduled = 0
        """Rows of the step under way, the draft's included."""
        self.draft: Sequence[int] = ()
        """Tokens that may come after the last one, to be verified in the step under way."""
        self.status = Status.WAITING
        self.num_preemptions = 0
        self.num_reused = 0
        """Positions of the prompt that were in the cache when it came, for others had computed them."""

    @property
    def num_uncomputed(self) -> int:
        """Known tokens whose keys and values are not in the cache; one while it writes."""
        return len(self.tokens) - self.num_computed

    @property
    def num_written(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.num_prompt

    @property
    def is_at_end(self) -> bool:
        """Whether the step under way computes the last known token, after which a new one can be chosen."""
        return self.num_scheduled - len(self.draft) == self.num_uncomputed


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithms of probabilities as the model gives them, before temperature and penalties."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens with theirs, the likeliest first."""


@dataclass(slots=True)
class Event:
    """What one step did for one request."""

    request_id: int
    text: str = ""
    """Whole characters that are certain to be part of the answer; often empty."""
    tokens: Sequence[int] = ()
    """New tokens, an end token not among them; text may follow in a later event."""
    logprobs: Sequence[TokenLogprob] = ()
    finish_reason: FinishReason | None = None
    """Why this is the last event of the request."""


@dataclass
class Completion:
    """A whole answer."""

    num_prompt_tokens: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, event: Event) -> None:
        """Appends what a step did.

        Raises:
            UserError: the model's output was not numbers.
        """
        self.text += event.text
        self.tokens += event.tokens
        self.logprobs += event.logprobs
        self.finish_reason = event.finish_reason
        check_event(event)


def check_event(event: Event) -> None:
    """Raises UserError where the model's output was not numbers."""
    if event.finish_reason == "error":
        raise UserError(
            "the model's logits are not finite numbers; its weights are damaged or its training diverged: verify the "
            "checkpoint, or use an earlier one"
        )
