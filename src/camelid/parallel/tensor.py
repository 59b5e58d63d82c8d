"""Tensor and sequence parallelism (Shoeybi et al. 2019, Korthikanti et al. 2022): a part of every matrix a process.

Between the matrices, in norms and residual stream, each process holds all channels of its part of the positions. Before
the first matrices of a block the positions are gathered, after the last ones the partial sums are added up and
scattered: the same bytes as one sum over all, and no process keeps what another keeps too.

Shapes: B batch, T positions, P processes of the tensor axis, D model width.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from camelid.model.llama import Transformer

PLAN = {
    "tok_embeddings": 0,
    "attention.wq": 0,
    "attention.wk": 0,
    "attention.wv": 0,
    "attention.wo": 1,
    "feed_forward.w1": 0,
    "feed_forward.w3": 0,
    "feed_forward.w2": 1,
    "output": 0,
}
"""The dimension along which a matrix is divided: 0 its rows, so its outputs; 1 its columns, so its inputs. Gains are
whole."""

BLOCKS = ("attention", "feed_forward")
"""Parts of a layer between whose first and last matrices the positions are whole and the channels divided."""


def divided_dim(name: str) -> int | None:
    """The dimension along which the weight of that name is divided, or None where every process holds it whole."""
    module = name.removesuffix(".weight")
    return next((dim for part, dim in PLAN.items() if module == part or module.endswith("." + part)), None)


def part_of(whole: Tensor, dim: int | None, num_parts: int, index: int) -> Tensor:
    """A view of one part; where the length does not divide, the last parts are shorter, as in torch.chunk."""
    if dim is None or num_parts == 1:
        return whole
    length = whole.shape[dim]
    step = -(-length // num_parts)
    start = min(index * step, length)
    return whole.narrow(dim, start, min(step, length - start))


def divide(model: Transformer, group: dist.ProcessGroup) -> None:
    """Cuts the weights down to this process's part and puts the communication around the blocks."""
    num_parts, index = group.size(), group.rank()
    tied = model.output.weight is model.tok_embeddings.weight
    for module_name, module in model.named_modules():
        dim = divided_dim(f"{module_name}.weight")
        if dim is not None:
            part = part_of(module.weight.detach(), dim, num_parts, index).clone()
            module.weight = nn.Parameter(part)
    if tied:
        model.output.weight = model.tok_embeddings.weight
    _divide_embedding(model, group)
    for layer in model.layers:
        for name in BLOCKS:
            block = getattr(layer, name)
            block.register_forward_pre_hook(lambda _module, args: (gather_positions(args[0], group), *args[1:]))
            block.register_forward_hook(lambda _module, _args, out: scatter_positions(out, group))


def overlap_in_generated_code(group: dist.ProcessGroup) -> None:
    """Lets generated code split a gathering or scattering and the matrix product beside it into pieces that overlap."""
    import torch._inductor.config
    from torch.distributed._symmetric_memory import enable_symm_mem_for_group

    torch._inductor.config._micro_pipeline_tp = True
    enable_symm_mem_for_group(group.group_name)


def _divide_embedding(model: Transformer, group: dist.ProcessGroup) -> None:
    embedding = model.tok_embeddings
    first = group.rank() * -(-model.config.vocab_size // group.size())

    def embed(tokens: Tensor) -> Tensor:
        own = tokens - first
        is_foreign = (own < 0) | (own >= len(embedding.weight))
        rows = nn.functional.embedding(own.masked_fill(is_foreign, 0), embedding.weight)
        return scatter_positions(rows.masked_fill(is_foreign.unsqueeze(-1), 0.0), group)

    embedding.forward = embed  # type: ignore[assignment, method-assign]


def gather_positions(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, T, D] from every process's [B, T / P, D]; its gradient, a partial sum in each of them, is scattered."""
    gathered: Tensor = _Gather.apply(x, group.size(), group.group_name)  # type: ignore[no-untyped-call]
    return gathered


def scatter_positions(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """This process's [B, T / P, D] of the sum of every process's [B, T, D]; its gradient is gathered."""
    scattered: Tensor = _Scatter.apply(x, group.size(), group.group_name)  # type: ignore[no-untyped-call]
    return scattered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, group_name: str) -> Tensor:
        ctx.group = size, group_name
        return _gather(x, size, group_name)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _scatter(gradients[0], *ctx.group), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, group_name: str) -> Tensor:
        ctx.group = size, group_name
        return _scatter(x, size, group_name)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _gather(gradients[0], *ctx.group), None, None


# The operations that generated code can hold, and in which it finds what to overlap with a matrix product.


def _gather(x: Tensor, size: int, group_name: str) -> Tensor:
    ops = torch.ops._c10d_functional
    parts = ops.wait_tensor(ops.all_gather_into_tensor(x.contiguous(), size, group_name))  # [P x B, T / P, D]
    return torch.cat(parts.chunk(size), dim=1)


def _scatter(x: Tensor, size: int, group_name: str) -> Tensor:
    ops = torch.ops._c10d_functional
    parts = torch.cat(x.chunk(size, dim=1))  # [P x B, T / P, D]
    scattered: Tensor = ops.wait_tensor(ops.reduce_scatter_tensor(parts, "sum", size, group_name))
    return scattered
