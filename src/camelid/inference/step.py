"""What passes between the engine and whatever computes: one forward pass over pieces of several sequences.

Shapes: N new tokens of all sequences, S sequences, P pages of the longest one, O wanted outputs, V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from camelid.model.config import ModelConfig


@dataclass(frozen=True)
class Step:
    """One forward pass. Keys and values of the new tokens are written to the cache, then attended to."""

    tokens: NDArray[np.int32]
    """[N] ids of the new tokens, one sequence after the other."""
    num_new: NDArray[np.int32]
    """[S] how many of `tokens` each sequence has, at least one."""
    num_cached: NDArray[np.int32]
    """[S] positions of each sequence that are in the cache already; its first new token stands at this position."""
    page_tables: NDArray[np.int32]
    """[S, P] pages of each sequence in the order of its positions, -1 after the last."""
    outputs: NDArray[np.int32]
    """[O] places in `tokens` whose logits are wanted, ascending."""


class Runner(Protocol):
    """A model on a device, with a cache of `num_pages` pages of `page_size` positions each."""

    config: ModelConfig
    page_size: int
    num_pages: int
    is_batch_invariant: bool
    """Whether a sequence's logits are the same bits whatever else is in the step and however its tokens are cut."""

    def run(self, step: Step) -> NDArray[np.float32]:
        """Logits [O, V] of the tokens that follow the wanted places."""
        ...
