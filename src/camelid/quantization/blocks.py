"""Scales of a block that make the weighted error small, for the formats of GGUF files.

ggml takes a block's scale from its largest value. Here many scales are tried, each is then fitted to the whole numbers
that it leads to by weighted least squares, and the best stays.

Shapes: N blocks of 32 values.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_RANGES = {"q8_0": (-127, 127), "q4_0": (-8, 7), "q4_1": (0, 15)}
"""Lowest and highest level of each format."""

_SHIFTS = tuple(step / 8 for step in range(-7, 8))
"""By how many levels the end of a range is moved when scales are tried."""

_NUM_REFITS = 2
# A piece and what is made of it on the way stay in a processor's cache.
_BLOCKS_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class Blocks:
    """Quantised blocks: value = scale * level + minimum."""

    levels: Tensor
    """[N, 32] whole numbers as float32."""
    scales: Tensor
    """[N, 1] float32 values that half precision holds exactly."""
    minima: Tensor | None = None
    """[N, 1], of formats with a minimum."""

    def decode(self) -> Tensor:
        """[N, 32] float32."""
        values = self.levels * self.scales
        return values if self.minima is None else values + self.minima


def search(values: Tensor, weights: Tensor, encoding: str) -> Blocks:
    """The best blocks that were found.

    Args:
        values: [N, 32] float32
        weights: [N, 32] or [1, 32], not negative: how much a squared error at each place counts.
        encoding: q8_0, q4_0 or q4_1.
    """
    weights = weights.expand_as(values)
    found = [
        _search_piece(piece, weight + torch.finfo(torch.float32).tiny, encoding)
        for piece, weight in zip(*(torch.split(x, _BLOCKS_AT_ONCE) for x in (values, weights)), strict=True)
    ]
    minima = [blocks.minima for blocks in found if blocks.minima is not None]
    return Blocks(
        torch.cat([blocks.levels for blocks in found]),
        torch.cat([blocks.scales for blocks in found]),
        torch.cat(minima) if minima else None,
    )


def _search_piece(values: Tensor, weights: Tensor, encoding: str) -> Blocks:
    if encoding == "q4_1":
        return _search_with_minimum(values, weights)
    return _search_symmetric(values, weights, *_RANGES[encoding])


def round_to(values: Tensor, blocks: Blocks, encoding: str) -> Tensor:
    """Levels of `values` [N, C], any columns of the blocks [N, 32], in their scales and minima."""
    lowest, highest = _RANGES[encoding]
    shifted = values if blocks.minima is None else values - blocks.minima
    return (shifted * _inverse(blocks.scales)).round().clamp(lowest, highest)


def pack(blocks: Blocks, encoding: str) -> NDArray[np.uint8]:
    """The bytes of the blocks as GGUF files hold them, [N, block bytes]."""
    parts = [_halves(blocks.scales)]
    if blocks.minima is not None:
        parts.append(_halves(blocks.minima))
    if encoding == "q8_0":
        parts.append(blocks.levels.to(torch.int8).numpy().view(np.uint8))
    else:
        nibbles = (blocks.levels + (8 if encoding == "q4_0" else 0)).to(torch.uint8).numpy()
        parts.append(nibbles[:, :16] | nibbles[:, 16:] << 4)
    return np.concatenate(parts, axis=-1)


def _search_symmetric(values: Tensor, weights: Tensor, lowest: int, highest: int) -> Blocks:
    # The value of largest magnitude takes the longer side of the range, or the shorter one.
    largest = values.gather(-1, values.abs().argmax(-1, keepdim=True))
    best_score = values.new_full((len(values), 1), -1.0)
    best_scales = torch.zeros_like(best_score)
    for side in {lowest, highest} if lowest != -highest else {lowest}:
        for shift in _SHIFTS:
            scales = largest / (side + shift)
            product, square = _fit(values, weights, scales, lowest, highest)
            # What the fitted scale takes away from the error.
            score = torch.where(square > 0, product.square() / square, 0.0)
            best_scales = torch.where(score > best_score, scales, best_scales)
            best_score = torch.maximum(score, best_score)
    scales = best_scales
    for _ in range(_NUM_REFITS):
        product, square = _fit(values, weights, scales, lowest, highest)
        scales = _quotient(product, square)
    scales = _to_half(scales)
    return Blocks((values * _inverse(scales)).round().clamp(lowest, highest), scales)


def _fit(values: Tensor, weights: Tensor, scales: Tensor, lowest: int, highest: int) -> tuple[Tensor, Tensor]:
    """The two sums [N, 1] whose quotient is the best scale for the levels that these scales lead to."""
    levels = (values * _inverse(scales)).round_().clamp_(lowest, highest)
    weighted = weights * levels
    return (weighted * values).sum(-1, keepdim=True), (weighted * levels).sum(-1, keepdim=True)


def _search_with_minimum(values: Tensor, weights: Tensor) -> Blocks:
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    total = weights.sum(-1, keepdim=True)
    mean = (weights * values).sum(-1, keepdim=True) / total
    centred = weights * (values - mean)
    best_score = values.new_full((len(values), 1), -1.0)
    best_scales, best_minima = torch.zeros_like(best_score), low
    for shift in _SHIFTS:
        scales, minima = (high - low) / (15 + shift), low - (high - low) * shift / 30
        score, scales, minima = _regress(values, weights, centred, mean, total, scales, minima)
        is_better = score > best_score
        best_scales, best_minima = (
            torch.where(is_better, scales, best_scales),
            torch.where(is_better, minima, best_minima),
        )
        best_score = torch.maximum(score, best_score)
    scales, minima = best_scales, best_minima
    for _ in range(_NUM_REFITS):
        _, scales, minima = _regress(values, weights, centred, mean, total, scales, minima)
    scales, minima = _to_half(scales), _to_half(minima)
    return Blocks(((values - minima) * _inverse(scales)).round().clamp(0, 15), scales, minima)


def _regress(
    values: Tensor, weights: Tensor, centred: Tensor, mean: Tensor, total: Tensor, scales: Tensor, minima: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted regression of the values on their levels in given scales and minima.

    Returns:
        What the regression takes away from the error, its scales and its minima, [N, 1] each.
    """
    levels = ((values - minima) * _inverse(scales)).round_().clamp_(0, 15)
    weighted = weights * levels
    centre = weighted.sum(-1, keepdim=True) / total
    covariance = (centred * levels).sum(-1, keepdim=True)
    variance = (weighted * levels).sum(-1, keepdim=True) - total * centre.square()
    fitted = _quotient(covariance, variance)
    return covariance * fitted, fitted, mean - fitted * centre


def _inverse(scales: Tensor) -> Tensor:
    return torch.where(scales == 0, 0.0, 1 / scales)


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where the denominator is not positive."""
    return torch.where(denominator > 0, numerator / denominator, 0.0)


def _to_half(values: Tensor) -> Tensor:
    return values.half().float()


def _halves(scales: Tensor) -> NDArray[np.uint8]:
    return scales.numpy().astype("<f2").view(np.uint8)
