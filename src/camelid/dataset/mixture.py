"""The mixture: how much of the training comes from each source, and how often each is read (paper Table 1)."""

import difflib
from collections.abc import Collection, Mapping
from typing import TypedDict

from camelid.dataset.shards import Dataset
from camelid.errors import UserError

# Beyond about four readings, repeated text teaches markedly less than new text (arXiv 2305.16264).
_HARMLESS_EPOCHS = 4


class MixtureRow(TypedDict):
    """One source's part in the training: a row of the paper's Table 1."""

    source: str
    share: float
    tokens: float
    """Tokens that the training draws from the source."""
    unique_tokens: int
    """Tokens that the source holds."""
    epochs: float
    warning: str
    """What to mind about this source, empty where there is nothing."""


def check_mixture(mixture: Mapping[str, float], sources: Collection[str]) -> None:
    """Holds the names in the settings against those of the corpus.

    Raises:
        UserError: the mixture names a source that is not there, or leaves one out.
    """
    if not mixture:
        return
    for name in mixture:
        if name not in sources:
            nearest = difflib.get_close_matches(name, sources, n=1, cutoff=0.5)
            advice = f"did you mean {nearest[0]!r}?" if nearest else f"the corpus has {', '.join(sorted(sources))}"
            raise UserError(f"dataset.mixture names {name!r}, which has no training documents; {advice}")
    for name in sources:
        if name not in mixture:
            raise UserError(f"dataset.mixture does not name the source {name!r}; give it a share, 0 to leave it out")


def resolve_shares(mixture: Mapping[str, float], num_tokens: Mapping[str, int]) -> dict[str, float]:
    """Shares that sum to 1, by source, sources without a share left out.

    Args:
        mixture: shares on any scale, or nothing for shares in proportion to tokens.
        num_tokens: tokens of every source.
    """
    weights: Mapping[str, float] = mixture or num_tokens
    total = sum(weights.values())
    return {source: weights[source] / total for source in sorted(weights) if weights[source]}


def tabulate_mixture(
    shares: Mapping[str, float], num_tokens: Mapping[str, int], training_tokens: int
) -> list[MixtureRow]:
    """The paper's Table 1 for a training of `training_tokens`, largest share first."""
    return [
        MixtureRow(
            source=source,
            share=share,
            tokens=share * training_tokens,
            unique_tokens=num_tokens[source],
            epochs=(epochs := share * training_tokens / num_tokens[source]),
            warning=_warn(source, epochs),
        )
        for source, share in sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    ]


def plan_mixture(dataset: Dataset, training_tokens: int) -> list[MixtureRow]:
    """The mixture that a training of so many tokens reads from a dataset."""
    num_tokens = dataset.num_tokens()
    return tabulate_mixture(resolve_shares(dataset.mixture, num_tokens), num_tokens, training_tokens)


def _warn(source: str, epochs: float) -> str:
    if epochs <= _HARMLESS_EPOCHS:
        return ""
    return (
        f"{source} is read {epochs:.1f} times; beyond {_HARMLESS_EPOCHS} readings repeated text teaches little: "
        "give it a smaller share, add text, or train on fewer tokens"
    )
