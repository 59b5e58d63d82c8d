"""Quantising a matrix column by column, each rounding error made good by the columns that follow (GPTQ).

Frantar et al. 2022: what counts is the error of the matrix's output on real inputs, and a later column can cancel part
of an earlier one's. Columns are taken in order, block by block; a block's scales are searched when its turn comes.

Shapes: O outputs, I inputs, 32 columns of a block.
"""

import torch
from torch import Tensor

from camelid.quantization.blocks import Blocks, round_to, search

BLOCK = 32
_DAMPING = 0.01


def quantise(matrix: Tensor, factor: Tensor | None, encoding: str) -> Blocks:
    """Blocks of a matrix, row by row.

    Args:
        matrix: [O, I]
        factor: [I, I] of `factorise`, or None where the inputs are not known: then large values count more
            (`weigh_by_size`) and no error is passed on.
        encoding: q8_0, q4_0 or q4_1.

    Returns:
        Blocks [O * I / 32, 32] in row order.
    """
    if factor is None:
        return search(matrix.reshape(-1, BLOCK), weigh_by_size(matrix).reshape(-1, BLOCK), encoding)
    importance = 1 / factor.diagonal().square()  # [I]
    rest = matrix.clone()
    columns: list[Blocks] = []
    for start in range(0, matrix.shape[1], BLOCK):
        end = start + BLOCK
        block = rest[:, start:end]  # [O, 32], a view
        found = search(block.contiguous(), importance[start:end].unsqueeze(0), encoding)
        levels = torch.empty_like(found.levels)
        errors = torch.empty_like(found.levels)
        for column in range(BLOCK):
            place = start + column
            value = block[:, column : column + 1]
            levels[:, column : column + 1] = round_to(value, found, encoding)
            quantised = Blocks(levels[:, column : column + 1], found.scales, found.minima).decode()
            error = (value - quantised) / factor[place, place]
            block[:, column:] -= error * factor[place, place:end]
            errors[:, column : column + 1] = error
        rest[:, end:] -= errors @ factor[start:end, end:]
        columns.append(Blocks(levels, found.scales, found.minima))
    return _by_rows(columns)


def weigh_by_size(matrix: Tensor) -> Tensor:
    """How much an error at each place [O, I] counts where nothing is known of the inputs.

    Where all places count the same, the scales that leave the least error cut off the largest values, which costs a
    text more than it saves; where squares count, the small ones are lost. In between lies the weight that ggml searches
    scales of larger blocks with: the value's size and the root of its row's mean square together.
    """
    return matrix.abs() + matrix.square().mean(-1, keepdim=True).sqrt()


def factorise(moments: Tensor) -> Tensor:
    """Upper Cholesky factor [I, I] of the inverse of the damped moments.

    Args:
        moments: [I, I] mean outer products of a matrix's inputs.
    """
    damped = moments.double()
    # An input that never occurs would make the matrix singular, whatever the damping of the others.
    mean = damped.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    damped = damped + torch.eye(len(damped), dtype=damped.dtype) * _DAMPING * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def _by_rows(columns: list[Blocks]) -> Blocks:
    """Blocks of whole rows from those of one column of blocks after the other."""

    def interleave(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts, dim=1).flatten(0, 1)

    minima = [blocks.minima for blocks in columns if blocks.minima is not None]
    return Blocks(
        interleave([blocks.levels for blocks in columns]),
        interleave([blocks.scales for blocks in columns]),
        interleave(minima) if minima else None,
    )
