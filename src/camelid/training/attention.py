"""Causal attention for training on a CPU: SDPA's forward pass, and a backward pass made of large matrix products.

On short sequences SDPA's own backward pass spends its time on small tiles: this one is three to four times as fast at
256 positions, and no faster from about 1000 on (docs/experiments.md). It stores the same as SDPA, queries, keys,
values, output and log-sums, computes the weights again a block of queries at a time, and leaves out the blocks above
the diagonal.

Shapes: B batch, T positions, H query heads, K key/value heads, G = H / K heads of a group, E head size, R rows of a
block, S = positions up to the end of a block.
"""

import math
from typing import Any

import torch
from torch import Tensor

from camelid.model.llama import Attend
from camelid.training.device import Execution

BLOCK_ROWS = 256
_LONGEST_SEQUENCE = 512


def choose_attention(execution: Execution, sequence_length: int) -> Attend | None:
    """This attention where it is the faster one, which takes generated code; None for the model's own."""
    is_faster = execution.device.type == "cpu" and execution.is_compiled and sequence_length <= _LONGEST_SEQUENCE
    return causal_attention_cpu if is_faster else None


def causal_attention_cpu(_layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As `model.operations.causal_attention`: [B, T, H, E] from queries [B, T, H, E] and keys, values [B, T, K, E]."""
    group = queries.shape[2] // keys.shape[2]
    if group > 1:
        keys, values = keys.repeat_interleave(group, dim=2), values.repeat_interleave(group, dim=2)
    heads_first = [x.transpose(1, 2) for x in (queries, keys, values)]
    attended: Tensor = _CausalAttention.apply(*heads_first)  # type: ignore[no-untyped-call]
    return attended.transpose(1, 2)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        attended, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, keys, values, 0.0, True
        )
        ctx.save_for_backward(queries, keys, values, attended, log_sums)
        return attended  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values, attended, log_sums = ctx.saved_tensors
        gradient = gradients[0]
        scale = 1 / math.sqrt(queries.shape[-1])
        # Row sums of weights times their gradient, from the output alone (Dao et al. 2022, equation 4).
        row_sums = (gradient.float() * attended.float()).sum(-1, keepdim=True)  # [B, H, T, 1]
        log_sums = log_sums.unsqueeze(-1)  # [B, H, T, 1]
        num_positions = queries.shape[2]
        query_blocks = []
        key_gradient = torch.zeros_like(keys, dtype=torch.float32)
        value_gradient = torch.zeros_like(values, dtype=torch.float32)
        for start in range(0, num_positions, BLOCK_ROWS):
            end = min(start + BLOCK_ROWS, num_positions)
            rows = slice(start, end)
            k, v = keys[:, :, :end], values[:, :, :end]  # [B, H, S, E]
            q, dout = queries[:, :, rows], gradient[:, :, rows]  # [B, H, R, E]
            positions = torch.arange(end, device=q.device)
            is_visible = positions <= positions[start:].unsqueeze(-1)  # [R, S]
            scores = (q @ k.transpose(-1, -2)).float() * scale - log_sums[:, :, rows]
            weights = torch.where(is_visible, scores, -math.inf).exp()  # [B, H, R, S]
            weight_gradient = (dout @ v.transpose(-1, -2)).float()
            score_gradient = (weights * (weight_gradient - row_sums[:, :, rows]) * scale).to(q.dtype)
            query_blocks.append(score_gradient @ k)
            key_gradient[:, :, :end] += score_gradient.transpose(-1, -2) @ q
            value_gradient[:, :, :end] += weights.to(q.dtype).transpose(-1, -2) @ dout
        return torch.cat(query_blocks, 2), key_gradient.to(keys.dtype), value_gradient.to(values.dtype)
