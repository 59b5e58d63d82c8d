"""Choosing the next token from logits.

Each choice uses one random number that depends on the request's seed and the token's position alone, so that it does
not matter what else is in the batch, how often the request was interrupted, or whether the token had been guessed.

Shapes: V vocabulary, C candidates.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from camelid.inference.request import SamplingSettings, TokenLogprob

Floats = NDArray[np.float32]

_WORD = 2**64 - 1
_BLOCK = 64
_LONG = 4096
_LIKELY = 1e-3


class InvalidLogitsError(Exception):
    """The model's output is not finite numbers."""


class Sampler:
    """One request's choices.

    Args:
        prompt: its token ids; the repetition penalty applies to them.
    """

    def __init__(self, settings: SamplingSettings, prompt: Iterable[int], vocab_size: int):
        self._settings = settings
        self._penalties = _Penalties(settings, prompt, vocab_size) if settings.has_penalties else None
        self._biased = np.fromiter(settings.logit_bias, np.int64)
        self._bias = np.fromiter(settings.logit_bias.values(), np.float32)

    def choose(self, logits: Floats, position: int) -> int:
        """The token that stands at `position`, from logits [V], which are left as they are.

        Raises:
            InvalidLogitsError: the greatest logit is not finite.
        """
        settings = self._settings
        if settings.changes_logits:
            logits = logits.copy()
            logits[self._biased] += self._bias
            if self._penalties is not None:
                self._penalties.apply(logits)
        if settings.temperature == 0:
            token = int(logits.argmax())
            _check_finite(logits[token])
            return token
        return _draw(settings, logits, uniform(settings.seed, position))

    def observe(self, token: int) -> None:
        """Books a token of the answer, for the penalties."""
        if self._penalties is not None:
            self._penalties.count(token)


def choose_likeliest(logits: Floats) -> list[int]:
    """The greedy choice of each row of [N, V]; -1 where a row's greatest logit is not finite."""
    tokens = logits.argmax(axis=1)
    is_valid = np.isfinite(logits[np.arange(len(tokens)), tokens])
    return np.where(is_valid, tokens, -1).tolist()  # type: ignore[no-any-return]


def measure_logprob(logits: Floats, token: int, num_top: int) -> TokenLogprob:
    """Log-probability of a token under logits [V], and those of the likeliest tokens.

    Raises:
        InvalidLogitsError: the greatest logit is not finite.
    """
    peak = logits.max()
    _check_finite(peak)
    log_total = float(peak) + math.log(float(np.exp(logits - peak).sum(dtype=np.float64)))
    top = find_largest(logits, num_top) if num_top else ()
    return TokenLogprob(
        token, float(logits[token]) - log_total, tuple((int(t), float(logits[t]) - log_total) for t in top)
    )


def find_largest(values: Floats, count: int) -> NDArray[np.int64]:
    """Places of the greatest values of [V], the greatest first, equal ones by place; without sorting them all."""
    num_columns = values.size // _BLOCK
    if count * 2 < num_columns:
        # At least `count` columns have a greatest value that is no less than this, so no less do `count` values.
        peaks = values[: num_columns * _BLOCK].reshape(_BLOCK, num_columns).max(axis=0)
        floor = np.partition(peaks, -count)[-count]
    elif count < values.size:
        floor = np.partition(values, -count)[-count]
    else:
        floor = values.min()
    candidates = np.flatnonzero(values >= floor)
    return candidates[np.argsort(-values[candidates], kind="stable")[:count]]


def uniform(seed: int, position: int) -> float:
    """A number from 0 up to but not 1 that is a function of its arguments: Philox 4x64-10 (Salmon et al. 2011)."""
    a, b, c, d = position, 0, 0, 0
    key, other_key = seed, 0
    for _ in range(10):
        left, right = a * 0xD2E7470EE14C6C93, c * 0xCA5A826395121157
        a, b, c, d = (right >> 64) ^ b ^ key, right & _WORD, (left >> 64) ^ d ^ other_key, left & _WORD
        key, other_key = (key + 0x9E3779B97F4A7C15) & _WORD, (other_key + 0xBB67AE8584CAA73B) & _WORD
    return float(a >> 11) * 2.0**-53


def _draw(settings: SamplingSettings, logits: Floats, number: float) -> int:
    """Narrows the choice and draws from what is left, without sorting the vocabulary."""
    peak = logits.max()
    _check_finite(peak)
    scale = np.float32(1 / settings.temperature)
    if 0 < settings.top_k < logits.size:
        tokens = find_largest(logits, settings.top_k)  # [C]
        weights = np.exp((logits[tokens] - peak) * scale)  # [C], of which the likeliest has 1
        mass = settings.top_p * weights.sum()
    else:
        weights = np.subtract(logits, peak)  # [V]
        weights *= scale
        np.exp(weights, out=weights)
        if settings.top_p == 1 and settings.min_p == 0:
            return _pick(weights, number)
        mass = settings.top_p * weights.sum()
        tokens = _find_candidates(weights, mass, settings)
        weights = weights[tokens]
    is_kept = weights >= settings.min_p
    if settings.top_p < 1:
        is_kept &= _find_nucleus(weights, mass)
    return int(tokens[is_kept][_pick(weights[is_kept], number)])


def _find_candidates(weights: Floats, mass: float, settings: SamplingSettings) -> NDArray[np.int64]:
    """Places in [V] among which are all that top_p and min_p leave, in order; few where the model is sure of itself."""
    if settings.top_p < 1:
        likely = np.flatnonzero(weights >= max(_LIKELY, settings.min_p))
        if weights[likely].sum() > mass:
            return likely
        # All below this weight together are less than what top_p leaves out.
        floor = (1 - settings.top_p) * mass / settings.top_p / weights.size
        return np.flatnonzero(weights >= max(floor, settings.min_p))
    return np.flatnonzero(weights >= settings.min_p)


def _find_nucleus(weights: Floats, mass: float) -> NDArray[np.bool_]:
    """Which of [C] stay: each while those before it, in falling order, have not reached `mass`; the greatest does."""
    ranked = np.sort(weights)[::-1]
    before = np.cumsum(ranked, dtype=np.float64) - ranked
    count = max(1, int(np.searchsorted(before, mass)))
    last = ranked[count - 1]
    is_kept: NDArray[np.bool_] = weights > last
    equal = np.flatnonzero(weights == last)
    is_kept[equal[: count - int(is_kept.sum())]] = True
    return is_kept


def _pick(weights: Floats, number: float) -> int:
    """The place that a number from 0 to 1 falls on when weights [C] are laid end to end."""
    start = 0
    target = None
    if weights.size > _LONG:
        sums = np.cumsum(np.add.reduceat(weights, np.arange(0, weights.size, _LONG), dtype=np.float64))
        target = number * sums[-1]
        block = min(int(np.searchsorted(sums, target, side="right")), sums.size - 1)
        start = block * _LONG
        target -= sums[block - 1] if block else 0
        weights = weights[start : start + _LONG]
    sums = np.cumsum(weights, dtype=np.float64)
    place = int(np.searchsorted(sums, number * sums[-1] if target is None else target, side="right"))
    # Rounding can carry the number past the end.
    return start + (place if place < weights.size else int(weights.argmax()))


class _Penalties:
    """How often each token stands in the answer, and which stand in the prompt."""

    def __init__(self, settings: SamplingSettings, prompt: Iterable[int], vocab_size: int):
        self._settings = settings
        seen = sorted(set(prompt)) if settings.repetition_penalty != 1 else []
        self._places = {token: place for place, token in enumerate(seen)}
        self._tokens = np.zeros(vocab_size, np.int64)
        self._tokens[: len(seen)] = seen
        self._counts = np.zeros(vocab_size, np.float32)

    def count(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        self._tokens[place] = token
        self._counts[place] += 1

    def apply(self, logits: Floats) -> None:
        settings = self._settings
        tokens, counts = self._tokens[: len(self._places)], self._counts[: len(self._places)]
        values = logits[tokens]
        if settings.repetition_penalty != 1:
            penalty = np.float32(settings.repetition_penalty)
            values = np.where(values > 0, values / penalty, values * penalty)
        values -= np.float32(settings.frequency_penalty) * counts
        values -= np.float32(settings.presence_penalty) * (counts > 0)
        logits[tokens] = values


def _check_finite(value: np.float32) -> None:
    if not math.isfinite(value):
        raise InvalidLogitsError
