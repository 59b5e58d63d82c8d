"""Causal attention for training with its derivative written down: nothing stores scores or computes masked ones.

On short sequences SDPA's own backward pass for CPUs spends its time on small tiles: the one made of large matrix
products here is three to four times as fast at 256 positions, and no faster from about 1000 on (docs/experiments.md).
Every pair of passes keeps the same: queries, keys, values, output and log-sums.

Shapes: B batch, T positions, H query heads, K key/value heads, G = H / K heads of a group, E head size, R rows of a
block, S = positions up to the end of a block.
"""

import math

import torch
from torch import Tensor

from camelid.errors import UserError
from camelid.model.llama import Attend
from camelid.model.operations import widen
from camelid.parallel.layer_backward import DifferentiableAttention
from camelid.training.device import Execution

BLOCK_ROWS = 256
_LONGEST_SEQUENCE = 512


def choose_attention(execution: Execution, sequence_length: int) -> Attend | None:
    """Attention with the backward pass of blocks where it is the faster one; None for the model's own.

    Raises:
        UserError: layers are differentiated by hand, and attention for that takes no float32 on this device.
    """
    is_faster_in_blocks = execution.is_compiled and sequence_length <= _LONGEST_SEQUENCE
    if execution.device.type == "cpu" and is_faster_in_blocks:
        return causal_attention_cpu
    if execution.recompute != "by_hand":
        return None
    if execution.device.type == "cpu":
        return flash_attention_cpu
    if execution.compute_dtype is not torch.bfloat16:
        raise UserError(
            'train.recompute = "by_hand" takes bfloat16 on a GPU, where attention that returns its log-sums takes no '
            'float32; set train.precision to bfloat16, or train.recompute to "auto"'
        )
    return flash_attention_cuda


def attend_cpu(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """SDPA's forward pass for CPUs, as `parallel.layer_backward.AttentionForward`."""
    attended, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *_heads_first(queries, keys, values), 0.0, True
    )
    return attended.transpose(1, 2), log_sums


def differentiate_in_blocks(
    gradient: Tensor, queries: Tensor, keys: Tensor, values: Tensor, attended: Tensor, log_sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A backward pass that computes the weights again, a block of queries at a time, but not above the diagonal."""
    # Row sums of weights times their gradient, from the output alone (Dao et al. 2022, equation 4).
    row_sums = (widen(gradient) * widen(attended)).sum(-1, keepdim=True).transpose(1, 2)  # [B, H, T, 1]
    gradient, queries, keys, values = _heads_first(gradient, queries, keys, values)
    num_kv_heads, num_positions = keys.shape[1:3]
    group = queries.shape[1] // num_kv_heads
    scale = 1 / math.sqrt(queries.shape[-1])
    log_sums = log_sums.unsqueeze(-1)  # [B, H, T, 1]
    query_blocks = []
    key_gradient = torch.zeros_like(keys, dtype=row_sums.dtype)
    value_gradient = torch.zeros_like(values, dtype=row_sums.dtype)
    for start in range(0, num_positions, BLOCK_ROWS):
        end = min(start + BLOCK_ROWS, num_positions)
        k, v = keys[:, :, :end], values[:, :, :end]  # [B, K, S, E]
        # The query heads of a group become rows, whose gradients the products with k and v sum up.
        q, dout, sums, logs = (
            x[:, :, start:end].reshape(len(x), num_kv_heads, -1, x.shape[-1])  # [B, K, G x R, E or 1]
            for x in (queries, gradient, row_sums, log_sums)
        )
        positions = torch.arange(end, device=q.device)
        is_visible = (positions <= positions[start:].unsqueeze(-1)).repeat(group, 1)  # [G x R, S]
        scores = widen(q @ k.transpose(-1, -2)) * scale - logs
        weights = torch.where(is_visible, scores, -math.inf).exp()  # [B, K, G x R, S]
        weight_gradient = widen(dout @ v.transpose(-1, -2))
        score_gradient = (weights * (weight_gradient - sums) * scale).to(q.dtype)
        query_blocks.append((score_gradient @ k).reshape(len(k), -1, end - start, k.shape[-1]))
        key_gradient[:, :, :end] += score_gradient.transpose(-1, -2) @ q
        value_gradient[:, :, :end] += weights.to(q.dtype).transpose(-1, -2) @ dout
    query_gradient = torch.cat(query_blocks, 2)
    queries, keys, values = _heads_first(query_gradient, key_gradient.to(keys.dtype), value_gradient.to(values.dtype))
    return queries, keys, values


def differentiate_cpu(
    gradient: Tensor, queries: Tensor, keys: Tensor, values: Tensor, attended: Tensor, log_sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """SDPA's backward pass for CPUs."""
    queries, keys, values = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *_heads_first(gradient, queries, keys, values, attended), log_sums, 0.0, True
    )
    queries, keys, values = _heads_first(queries, keys, values)
    return queries, keys, values


def attend_cuda(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Flash attention on a GPU, bfloat16 alone."""
    attended, log_sums, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        *_heads_first(queries, keys, values), 0.0, True
    )
    return attended.transpose(1, 2), log_sums


def differentiate_cuda(
    gradient: Tensor, queries: Tensor, keys: Tensor, values: Tensor, attended: Tensor, log_sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Flash attention's backward pass on a GPU."""
    no_lengths = None
    # Without dropout the random state is not read.
    random_state = torch.zeros(2, dtype=torch.uint64, device=queries.device)
    unused = torch.zeros((), dtype=torch.uint64, device=queries.device)
    queries, keys, values = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        *_heads_first(gradient, queries, keys, values, attended),
        log_sums,
        *(no_lengths, no_lengths, queries.shape[1], keys.shape[1], 0.0, True, random_state, unused),
    )
    queries, keys, values = _heads_first(queries, keys, values)
    return queries, keys, values


def _heads_first(*tensors: Tensor) -> list[Tensor]:
    """[B, T, H, E] as [B, H, T, E], and back."""
    return [x.transpose(1, 2) for x in tensors]


causal_attention_cpu = DifferentiableAttention(attend_cpu, differentiate_in_blocks)
flash_attention_cpu = DifferentiableAttention(attend_cpu, differentiate_cpu)
flash_attention_cuda = DifferentiableAttention(attend_cuda, differentiate_cuda)
