"""Output layer and cross-entropy in one piece, which never holds the logits of more than a few hundred positions.

Shapes: N positions, C positions of one chunk, D model width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from camelid.model.operations import widen

CHUNK_POSITIONS = 512


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, is_compiled: bool = False) -> Tensor:
    """Summed cross-entropy of `hidden @ weight.T` against `targets`, in nats.

    The gradients are computed chunk by chunk during the forward pass, while the chunk's logits are in the cache; the
    backward pass only scales them. Under autocast the matrix products run in its type, sums stay in float32,
    and in float64 where everything is.

    Args:
        hidden: [N, D]
        weight: [V, D]
        targets: [N] ids
        is_compiled: whether the elementwise part runs as generated code.

    Returns:
        Scalar float32, or float64 where `hidden` is that.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    if not torch.is_grad_enabled():
        return _loss_alone(hidden, weight.to(dtype), targets)
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, dtype, is_compiled)  # type: ignore[no-untyped-call]
    return loss


def softmax_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss (scalar, float32 at least) of one chunk and its gradient [C, V], in the type of `logits`."""
    gradient = widen(logits).log_softmax(-1)
    targets = targets.unsqueeze(-1)
    loss = -gradient.gather(-1, targets).sum()
    gradient.exp_()
    gradient.scatter_add_(-1, targets, torch.full_like(targets, -1, dtype=gradient.dtype))
    return loss, gradient.to(logits.dtype)


def _softmax_gradient_elementwise(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same for generated code, whose scatter would add atomically, in no fixed order: it compares instead."""
    wide = widen(logits)
    log_sum = wide.logsumexp(-1, keepdim=True)  # [C, 1]
    loss = (log_sum - wide.gather(-1, targets.unsqueeze(-1))).sum()
    is_target = torch.arange(logits.shape[-1], device=logits.device) == targets.unsqueeze(-1)
    weights = (wide - log_sum).exp()
    return loss, torch.where(is_target, weights - 1.0, weights).to(logits.dtype)


_softmax_gradient_compiled = torch.compile(_softmax_gradient_elementwise, dynamic=False)


def _zero(hidden: Tensor) -> Tensor:
    is_double = hidden.dtype is torch.float64
    return torch.zeros((), device=hidden.device, dtype=torch.float64 if is_double else torch.float32)


def _loss_alone(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    loss = _zero(hidden)
    for chunk, target, _ in _chunks(hidden, targets):
        logits = widen(chunk.to(head.dtype) @ head.T)
        loss += (logits.logsumexp(-1) - logits.gather(-1, target.unsqueeze(-1)).squeeze(-1)).sum()
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, is_compiled: bool
    ) -> Tensor:
        head = weight.to(dtype)
        loss = _zero(hidden)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight)
        # Buffers are used again for every chunk: fresh pages of this size cost as much as the product itself.
        logits = head.new_empty(min(CHUNK_POSITIONS, len(hidden)), len(head))
        product, wide = torch.empty_like(head), torch.empty_like(weight)
        differentiate = _softmax_gradient_compiled if is_compiled else softmax_gradient
        for chunk, target, position in _chunks(hidden, targets):
            inputs = chunk.to(dtype)
            chunk_loss, gradient = differentiate(torch.mm(inputs, head.T, out=logits[: len(chunk)]), target)
            loss += chunk_loss
            hidden_gradient[position : position + len(chunk)] = gradient @ head
            # Adding two types at once takes a slow path in torch; a copy and an addition do not.
            weight_gradient += wide.copy_(torch.mm(gradient.T, inputs, out=product))
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * outputs[0], weight_gradient * outputs[0], None, None, None


def _chunks(hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
    for position in range(0, len(hidden), CHUNK_POSITIONS):
        end = position + CHUNK_POSITIONS
        yield hidden[position:end], targets[position:end], position
