"""Context parallelism: the positions of a sequence are spread over processes, keys and values go round in a ring.

Each process holds piece r of the sequence and piece 2P - 1 - r, an early and a late one, so that causal attention gives
all of them the same work (Liu et al. 2023, "Ring Attention"; the pairing as in Dubey et al. 2024, "The Llama 3 Herd of
Models", section 3.3.2). While a process attends to one block of keys and values, the next one is under way.

Shapes: B batch, T positions of this process, L = T / 2, H query heads, K key/value heads, G = H / K, E head size.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from camelid.model.operations import widen


def own_positions(length: int, num_parts: int, index: int, device: torch.device) -> Tensor:
    """Positions [length / num_parts] that one process of the axis holds, in ascending order."""
    pieces = torch.arange(length, device=device).chunk(2 * num_parts)
    return torch.cat((pieces[index], pieces[2 * num_parts - 1 - index]))


class RingAttention:
    """Causal attention over the positions that all processes of a group hold together.

    Called as the model's own attention: queries [B, T, H, E], keys and values [B, T, K, E] give [B, T, H, E].
    """

    def __init__(self, group: dist.ProcessGroup):
        self._group = group

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, _layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        heads_first = [x.transpose(1, 2).contiguous() for x in (queries, keys, values)]
        attended: Tensor = _RingAttention.apply(*heads_first, self._group)  # type: ignore[no-untyped-call]
        return attended.transpose(1, 2)


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        attended = torch.zeros_like(queries, dtype=widen(queries[:0]).dtype)  # [B, H, T, E]
        log_sums = attended.new_full(attended.shape[:-1], -torch.inf)  # [B, H, T]
        group_size = queries.shape[1] // keys.shape[1]
        for source, block in _go_round(torch.stack((keys, values)), group):
            rows, columns, is_causal = _visible(source, group.rank(), queries.shape[2])
            k, v = (x.repeat_interleave(group_size, dim=1) for x in block[:, :, :, columns])
            out, sums = _attend(queries[:, :, rows].contiguous(), k.contiguous(), v.contiguous(), is_causal)
            _merge(attended[:, :, rows], log_sums[:, :, rows], out, sums)
        attended = attended.to(queries.dtype)
        ctx.save_for_backward(queries, keys, values, attended, log_sums)
        ctx.group = group
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, keys, values, attended, log_sums = ctx.saved_tensors
        group: dist.ProcessGroup = ctx.group
        group_size = queries.shape[1] // keys.shape[1]
        gradient = gradients[0].contiguous()
        query_gradient = torch.zeros_like(queries, dtype=log_sums.dtype)
        # The gradient of a block follows the block, one process behind, and is home after a whole round.
        block_gradient = torch.zeros((2, *keys.shape), dtype=log_sums.dtype, device=keys.device)
        under_way: _Passing | None = None
        for source, block in _go_round(torch.stack((keys, values)), group):
            rows, columns, is_causal = _visible(source, group.rank(), queries.shape[2])
            k, v = (x.repeat_interleave(group_size, dim=1) for x in block[:, :, :, columns])
            dout, q, out, sums = (x[:, :, rows].contiguous() for x in (gradient, queries, attended, log_sums))
            dq, dk, dv = _attend_backward(dout, q, k.contiguous(), v.contiguous(), out, sums, is_causal)
            query_gradient[:, :, rows] += dq
            if under_way is not None:
                block_gradient = under_way.wait()
            block_gradient[:, :, :, columns] += torch.stack((_sum_group(dk, group_size), _sum_group(dv, group_size)))
            under_way = _Passing(block_gradient, group)
        assert under_way is not None
        key_gradient, value_gradient = under_way.wait()
        dtype = queries.dtype
        return query_gradient.to(dtype), key_gradient.to(dtype), value_gradient.to(dtype), None


def _visible(source: int, own: int, length: int) -> tuple[slice, slice, bool]:
    """Which queries of process `own` see which keys of process `source`, and whether causally among them."""
    if source == own:
        return slice(None), slice(None), True
    half = length // 2
    # Of a lower process the early piece is before all that is here, of a higher one both are before the late piece.
    return (slice(None), slice(0, half), False) if source < own else (slice(half, None), slice(None), False)


class _Passing:
    """A tensor that goes to the next process of the ring while the one of the process before comes in."""

    def __init__(self, tensor: Tensor, group: dist.ProcessGroup):
        rank, size = group.rank(), group.size()
        self._sent, self._received = tensor.contiguous(), torch.empty_like(tensor)
        after, before = (dist.get_global_rank(group, (rank + step) % size) for step in (1, -1))
        self._requests = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, self._sent, after, group),
                dist.P2POp(dist.irecv, self._received, before, group),
            ]
        )

    def wait(self) -> Tensor:
        for request in self._requests:
            request.wait()
        return self._received


def _go_round(block: Tensor, group: dist.ProcessGroup) -> Iterator[tuple[int, Tensor]]:
    """Every process's block [2, B, K, T, E] and whose it is, the own one first; the next is under way already."""
    for step in range(group.size()):
        is_last = step == group.size() - 1
        passing = None if is_last else _Passing(block, group)
        yield (group.rank() - step) % group.size(), block
        if passing is not None:
            block = passing.wait()


def _merge(attended: Tensor, log_sums: Tensor, more: Tensor, more_sums: Tensor) -> None:
    """Adds in place what more keys contribute, each weighted by its share of the sum of exponentials."""
    total = torch.logaddexp(log_sums, more_sums)
    attended.mul_((log_sums - total).exp().unsqueeze(-1))
    attended.add_(more * (more_sums - total).exp().unsqueeze(-1))
    log_sums.copy_(total)


def _sum_group(gradient: Tensor, group_size: int) -> Tensor:
    """[B, K, T, E] from the gradients of keys that were repeated for every query head of a group."""
    batch_size, num_heads, *rest = gradient.shape
    return gradient.reshape(batch_size, num_heads // group_size, group_size, *rest).sum(2)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """Attention over one block and the logarithms of its sums of exponentials, [B, H, T]."""
    if queries.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values, 0.0, is_causal)  # type: ignore[no-any-return]
    found = torch.ops.aten._scaled_dot_product_flash_attention(queries, keys, values, 0.0, is_causal)
    return found[0], found[1]


def _attend_backward(
    gradient: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attended: Tensor,
    log_sums: Tensor,
    is_causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values of one block, from output and log-sums over all blocks."""
    tensors = (gradient, queries, keys, values, attended, log_sums)
    if queries.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(*tensors, 0.0, is_causal)  # type: ignore[no-any-return]
    # Without dropout the random state is not read.
    random_state = torch.zeros(2, dtype=torch.uint64, device=queries.device)
    lengths = (queries.shape[2], keys.shape[2])
    return torch.ops.aten._scaled_dot_product_flash_attention_backward(  # type: ignore[no-any-return]
        *tensors, None, None, *lengths, 0.0, is_causal, random_state, random_state[0]
    )
