"""Output layer and cross-entropy in one piece, which never holds the logits of more than a few hundred positions.

Shapes: N positions, C positions of one chunk, D model width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_POSITIONS = 512


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, is_compiled: bool = False) -> Tensor:
    """Summed cross-entropy of `hidden @ weight.T` against `targets`, in nats.

    The gradients are computed chunk by chunk during the forward pass, while the chunk's logits are in the cache; the
    backward pass only scales them. Under autocast the matrix products run in its type, sums stay in float32.

    Args:
        hidden: [N, D]
        weight: [V, D]
        targets: [N] ids
        is_compiled: whether the elementwise part runs as generated code.

    Returns:
        Scalar float32.
    """
    dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, dtype, is_compiled)
    return loss


def softmax_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss (scalar, float32) of one chunk and its gradient [C, V], in the type of `logits`."""
    wide = logits.float()
    log_sum = wide.logsumexp(-1, keepdim=True)  # [C, 1]
    loss = (log_sum - wide.gather(-1, targets.unsqueeze(-1))).sum()
    # A comparison instead of a scatter: generated code for a scatter adds atomically, in no fixed order.
    is_target = torch.arange(logits.shape[-1], device=logits.device) == targets.unsqueeze(-1)
    gradient = torch.where(is_target, (wide - log_sum).exp() - 1.0, (wide - log_sum).exp())
    return loss, gradient.to(logits.dtype)


_softmax_gradient_compiled = torch.compile(softmax_gradient, dynamic=False)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype | None, is_compiled: bool
    ) -> Tensor:
        dtype = dtype or hidden.dtype
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        head = weight.to(dtype)
        loss = torch.zeros((), device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if needs_gradient else None
        weight_gradient = torch.zeros_like(weight) if needs_gradient else None
        step = _softmax_gradient_compiled if is_compiled else softmax_gradient
        # Buffers are used again for every chunk: fresh pages of this size cost as much as the product itself.
        logits = head.new_empty(min(CHUNK_POSITIONS, len(hidden)), len(head))
        product, wide = torch.empty_like(head), torch.empty_like(weight)
        for chunk, target, position in _chunks(hidden, targets):
            inputs = chunk.to(dtype)
            chunk_loss, gradient = step(torch.mm(inputs, head.T, out=logits[: len(chunk)]), target)
            loss += chunk_loss
            if hidden_gradient is not None and weight_gradient is not None:
                hidden_gradient[position : position + len(chunk)] = gradient @ head
                # Adding two types at once takes a slow path in torch; a copy and an addition do not.
                weight_gradient += wide.copy_(torch.mm(gradient.T, inputs, out=product))
        if needs_gradient:
            ctx.save_for_backward(hidden_gradient, weight_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * outputs[0], weight_gradient * outputs[0], None, None, None


def _chunks(hidden: Tensor, targets: Tensor) -> Any:
    for position in range(0, len(hidden), CHUNK_POSITIONS):
        end = position + CHUNK_POSITIONS
        yield hidden[position:end], targets[position:end], position
