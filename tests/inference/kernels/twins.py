"""What the kernels of linear layers compute, in plain torch.

Shapes: N tokens, R rows (outputs), K columns (inputs), G groups of 32 columns.
"""

import torch
from torch import Tensor

GROUP = 32


def quantise_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers -127 .. 127 [N, G, 32] and a scale for each group [N, G]."""
    groups = x.view(len(x), -1, GROUP)
    largest = groups.abs().amax(-1)
    inverse = torch.where(largest > 0, 127.0 / largest, 0.0)
    return (groups * inverse[..., None]).round().int(), largest / 127.0


def split_blocks(data: Tensor, encoding: str, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integers [R, G, 32], scales and minima [R, G] of stored rows: a weight is integer * scale + minimum."""
    blocks = data.view(num_rows, -1, {"q8_0": 34, "q4_0": 18, "q4_1": 20}[encoding])
    scales = blocks[..., :2].contiguous().view(torch.float16)[..., 0].float()
    if encoding == "q8_0":
        return blocks[..., 2:].contiguous().view(torch.int8).int(), scales, torch.zeros_like(scales)
    nibbles = blocks[..., 2 if encoding == "q4_0" else 4 :].int()
    integers = torch.cat((nibbles & 15, nibbles >> 4), -1)
    if encoding == "q4_0":
        return integers - 8, scales, torch.zeros_like(scales)
    return integers, scales, blocks[..., 2:4].contiguous().view(torch.float16)[..., 0].float()


def quantised_linear(x: Tensor, data: Tensor, encoding: str, num_rows: int) -> Tensor:
    """Results [N, R]: products of integers exactly, their scaled sums in float64."""
    values, x_scales = quantise_activations(x)
    weights, scales, minima = split_blocks(data, encoding, num_rows)
    dots = torch.einsum("ngk,rgk->nrg", values.double(), weights.double())
    sums = values.double().sum(-1)[:, None]
    scaled = dots * scales.double() + sums * minima.double()
    return (scaled * x_scales.double()[:, None]).sum(-1)
