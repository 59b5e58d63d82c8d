"""Output layer and cross-entropy where each process of the tensor axis holds a part of the vocabulary.

As `training.loss.linear_cross_entropy`, a few hundred positions at a time, whose logits no process sees whole: of each
position three numbers are exchanged, the largest logit, the sum of exponentials and the target's logit.

Shapes: N positions, C positions of one chunk, P processes of the tensor axis, D model width, V vocabulary of this
process.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from camelid.model.operations import widen

CHUNK_POSITIONS = 512


def divided_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, first_id: int, group: dist.ProcessGroup
) -> Tensor:
    """Summed cross-entropy over the whole vocabulary, in nats, the same in every process of the group.

    The gradient of `hidden` is this process's part of a sum over the group.

    Args:
        hidden: [N, D], the same in every process
        weight: [V, D], this process's rows
        targets: [N] ids of the whole vocabulary
        first_id: the id that the first row of `weight` stands for.

    Returns:
        Scalar float32, or float64 where `hidden` is that.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    loss: Tensor = _DividedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets - first_id, dtype, group, torch.is_grad_enabled()
    )
    return loss


class _DividedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        group: dist.ProcessGroup,
        is_differentiated: bool,
    ) -> Tensor:
        head = weight.to(dtype)
        loss = hidden.new_zeros((), dtype=torch.promote_types(dtype, torch.float32))
        hidden_gradient = torch.empty_like(hidden) if is_differentiated else hidden
        weight_gradient = torch.zeros_like(weight) if is_differentiated else weight
        for start in range(0, len(hidden), CHUNK_POSITIONS):
            rows = slice(start, start + CHUNK_POSITIONS)
            inputs = hidden[rows].to(dtype)  # [C, D]
            logits = widen(inputs @ head.T)  # [C, V]
            own, is_foreign = _find_targets(targets[rows], len(head))  # [C, 1]
            largest = logits.amax(-1, keepdim=True)
            log_sums, target_logits = _combine(
                largest, logits.sub(largest).exp_().sum(-1, keepdim=True), logits.gather(-1, own), is_foreign, group
            )
            loss += (log_sums - target_logits).sum()
            if is_differentiated:
                weights = logits.sub_(log_sums).exp_()
                weights.scatter_add_(-1, own, is_foreign.to(weights.dtype) - 1.0)
                gradient = weights.to(dtype)
                hidden_gradient[rows] = gradient @ head
                weight_gradient += gradient.T @ inputs
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * outputs[0], weight_gradient * outputs[0], None, None, None, None


def _find_targets(targets: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """The row of each target, 0 where another process has it, and whether that is so; both [C, 1]."""
    is_foreign = (targets < 0) | (targets >= num_rows)
    return targets.masked_fill(is_foreign, 0).unsqueeze(-1), is_foreign.unsqueeze(-1)


def _combine(
    largest: Tensor, sums: Tensor, target_logits: Tensor, is_foreign: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor]:
    """Log-sums of exponentials and targets' logits over the whole vocabulary, from those of each part; all [C, 1]."""
    own = torch.cat((largest, sums, target_logits.masked_fill(is_foreign, 0.0)), dim=-1)  # [C, 3]
    parts = own.new_empty((group.size(), *own.shape))
    dist.all_gather(list(parts.unbind()), own, group=group)
    part_largest, part_sums, part_targets = parts.chunk(3, dim=-1)  # [P, C, 1]
    highest = part_largest.amax(0)
    log_sums = highest + (part_sums * (part_largest - highest).exp()).sum(0).log()
    return log_sums, part_targets.sum(0)
