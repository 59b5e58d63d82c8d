"""Batches of training samples; the state of a loader is one integer, the step."""

import numpy as np
from numpy.typing import NDArray

from camelid.dataset.mixture import resolve_shares
from camelid.dataset.order import Located, Order, SourceOrder, rows_of_rank
from camelid.dataset.shards import Dataset
from camelid.errors import UserError


class Loader:
    """Reads the batch of any step, in any order of steps.

    Sample i of a source is the tokens from i x sequence_length, one more than sequence_length of them, of its stream
    of documents; the last tokens of a source, too few for a sample, are never read. Samples follow the order of
    `order.Order`, sources the dataset's mixture.

    Args:
        batch_size: samples of a step, over all processes.
        rank: which of `world_size` processes this is; each reads consecutive rows of the same batch.

    Raises:
        UserError: a source holds too few tokens for one sample.
    """

    def __init__(
        self,
        dataset: Dataset,
        sequence_length: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.dataset = dataset
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.rows = rows_of_rank(batch_size, rank, world_size)
        num_tokens = dataset.num_tokens()
        shares = resolve_shares(dataset.mixture, num_tokens)
        for source in shares:
            if num_tokens[source] <= sequence_length:
                raise UserError(
                    f"the sequence length {sequence_length:,} is more than the data holds: source {source!r} has "
                    f"{num_tokens[source]:,} training tokens and a sample takes {sequence_length + 1:,}; lower "
                    "train.sequence_length or add text"
                )
        self.order = Order(
            {s: SourceOrder(share, (num_tokens[s] - 1) // sequence_length) for s, share in shares.items()}, seed
        )
        self._streams = [dataset.stream("train", source) for source in self.order.sources]

    def locate(self, step: int) -> Located:
        """Where the samples of this process's rows lie."""
        return self.order.locate(step, self.batch_size, self.rows)

    def batch(self, step: int) -> NDArray[np.int64]:
        """Token ids of one step, [rows, sequence_length + 1]: inputs but for the last, targets but for the first."""
        located = self.locate(step)
        batch = np.empty((len(self.rows), self.sequence_length + 1), dtype=np.int64)
        for row, source, sample in zip(batch, located.source.tolist(), located.sample.tolist(), strict=True):
            start = sample * self.sequence_length
            row[:] = self._streams[source].read(start, start + self.sequence_length + 1)
        return batch
