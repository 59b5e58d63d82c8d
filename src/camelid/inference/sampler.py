"""Choosing the next token from logits."""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from camelid.settings import Settings


class SamplingSettings(Settings):
    """How the next token is chosen, and when to stop."""

    max_tokens: int = Field(256, gt=0)
    """Most tokens to write."""
    temperature: float = Field(0.8, ge=0)
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = Field(0, ge=0)
    """Only the k likeliest tokens can be chosen; 0 is no limit."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Only the likeliest tokens that together reach this probability can be chosen."""
    seed: int = Field(0, ge=0)
    """Start of the random numbers; the same seed gives the same text."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.temperature == 0 and self.top_k > 1 and "top_k" in self.model_fields_set:
            raise ValueError("top_k has no effect at temperature 0; leave one of them out")
        return self


class Sampler:
    """One sequence's choices, reproducible by its seed."""

    def __init__(self, settings: SamplingSettings):
        self._settings = settings
        self._generator = torch.Generator().manual_seed(settings.seed)

    def choose(self, logits: Tensor) -> int:
        """The next token id from logits [V]."""
        settings = self._settings
        if settings.temperature == 0:
            return int(logits.argmax())
        probabilities = (logits.float().cpu() / settings.temperature).softmax(-1)
        ordered, ids = probabilities.sort(descending=True, stable=True)
        if settings.top_k:
            ordered, ids = ordered[: settings.top_k], ids[: settings.top_k]
        # A token stays while those before it have not reached top_p: the likeliest always does.
        is_kept = ordered.cumsum(-1) - ordered < settings.top_p
        choice = torch.multinomial(ordered * is_kept, 1, generator=self._generator)
        return int(ids[choice])
