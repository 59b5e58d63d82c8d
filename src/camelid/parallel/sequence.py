"""The communications of sequence parallelism, which begin now and are waited for where their result is needed.

Shapes: B batch, T positions, P processes of the group, S = T / P positions of one, D width.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup, Work


@dataclass(frozen=True)
class Arriving:
    """A tensor that is under way, or is there already."""

    tensor: Tensor
    work: Work | None = None
    num_blocks: int = 1
    """How many blocks of positions lie one after the other along the batch's dimension."""

    def wait(self) -> Tensor:
        """The tensor, once it is there."""
        if self.work is not None:
            self.work.wait()
        return self.tensor if self.num_blocks == 1 else torch.cat(self.tensor.chunk(self.num_blocks), dim=1)


def gather_positions(x: Tensor, group: ProcessGroup | None) -> Arriving:
    """All positions [B, T, D] from each process's own [B, S, D]; without a group, what came in."""
    if group is None:
        return Arriving(x)
    blocks = x.new_empty(group.size() * len(x), *x.shape[1:])  # [P x B, S, D]
    work = dist.all_gather_into_tensor(blocks, x.contiguous(), group=group, async_op=True)
    return Arriving(blocks, work, group.size())


def scatter_positions(x: Tensor, group: ProcessGroup | None) -> Arriving:
    """The sum over the processes of their [B, T, D], of which each gets its own [B, S, D]."""
    if group is None:
        return Arriving(x)
    blocks = torch.cat(x.chunk(group.size(), dim=1))  # [P x B, S, D]
    own = torch.empty_like(blocks[: len(x)])
    work = dist.reduce_scatter_tensor(own, blocks, group=group, async_op=True)
    return Arriving(own, work)
