"""Searched scales against ggml's rounding and against trying everything; and the bytes against the decoder."""

import numpy as np
import pytest
import torch
from torch import Tensor

from camelid.encoding import ENCODINGS, decode, encode
from camelid.quantization.blocks import pack, search
from camelid.quantization.feedback import BLOCK, factorise, quantise, weigh_by_size

FORMATS = ("q8_0", "q4_0", "q4_1")


def random_blocks(num_blocks: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(num_blocks, BLOCK, generator=generator)
    return values * torch.rand(num_blocks, 1, generator=generator) + 0.1 * torch.randn(
        num_blocks, 1, generator=generator
    )


def weighted_error(found: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    return (weights * (found - values).square()).sum(-1)


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_decode_to_the_values(name: str) -> None:
    values = random_blocks(300)
    blocks = search(values, torch.ones(1, BLOCK), name)
    data = pack(blocks, name)
    assert data.shape == (300, ENCODINGS[name].block_bytes)
    decoded = decode(data.reshape(-1), ENCODINGS[name], (300, BLOCK))
    np.testing.assert_array_equal(decoded, blocks.decode().numpy())


@pytest.mark.parametrize("name", FORMATS)
def test_error_is_below_that_of_rounding(name: str) -> None:
    values = random_blocks(2000)
    found = search(values, torch.ones(1, BLOCK), name).decode()
    rounded = decode(encode(values.numpy(), ENCODINGS[name]), ENCODINGS[name], tuple(values.shape))
    error, reference = (float((x - values).square().sum()) for x in (found, torch.from_numpy(rounded)))
    assert error < {"q8_0": 0.97, "q4_0": 0.95, "q4_1": 0.9}[name] * reference


def test_search_is_near_the_best_of_a_fine_grid() -> None:
    values = random_blocks(40)
    weights = torch.rand(40, BLOCK, generator=torch.Generator().manual_seed(2))
    found = weighted_error(search(values, weights, "q4_0").decode(), values, weights)
    largest = values.abs().amax(-1, keepdim=True)
    grid = torch.cat((torch.linspace(-0.22, -0.08, 600), torch.linspace(0.08, 0.22, 600)))
    errors = []
    for step in grid:
        scales = (largest * step).half().float()
        errors.append(weighted_error((values / scales).round().clamp(-8, 7) * scales, values, weights))
    best = torch.stack(errors).amin(0)
    assert float((found / best).mean()) < 1.02


def test_what_counts_more_is_nearer() -> None:
    values = random_blocks(500)
    weights = torch.ones(1, BLOCK)
    even = (search(values, weights, "q4_0").decode() - values).square()
    weights[0, 5] = 50
    uneven = (search(values, weights, "q4_0").decode() - values).square()
    assert float(uneven[:, 5].mean()) < 0.5 * float(even[:, 5].mean())


@pytest.mark.parametrize("name", ["q4_0", "q4_1"])
def test_without_inputs_large_values_are_kept_better(name: str) -> None:
    values = random_blocks(2000).reshape(200, -1)
    is_large = values.abs() > 2 * values.square().mean(-1, keepdim=True).sqrt()
    by_size = (quantise(values, None, name).decode().view_as(values) - values).square()
    even = (search(values.reshape(-1, BLOCK), torch.ones(1, BLOCK), name).decode().view_as(values) - values).square()
    assert float(by_size[is_large].mean()) < 0.92 * float(even[is_large].mean())
    assert float(by_size.mean()) < 1.05 * float(even.mean())
    torch.testing.assert_close(weigh_by_size(torch.tensor([[7.0, -1.0]])), torch.tensor([[12.0, 6.0]]))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-9, 60000.0])
def test_constant_blocks(name: str, value: float) -> None:
    values = torch.full((3, BLOCK), value)
    found = search(values, torch.ones(1, BLOCK), name).decode()
    assert found.isfinite().all()
    torch.testing.assert_close(found, values, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("name", ["q4_0", "q4_1"])
def test_passing_errors_on_makes_the_outputs_better(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(96, 96, generator=generator) / 10
    inputs = torch.randn(4000, 96, generator=generator) @ (torch.eye(96) + mixing)  # correlated, as real ones are
    matrix = torch.randn(64, 96, generator=generator)

    def output_error(factor: Tensor | None) -> float:
        decoded = quantise(matrix, factor, name).decode().view_as(matrix)
        return float((inputs @ (decoded - matrix).T).square().mean())

    assert output_error(factorise(inputs.T @ inputs / len(inputs))) < 0.85 * output_error(None)


def test_inputs_that_never_occur_do_no_harm() -> None:
    moments = torch.eye(64)
    moments[7] = 0
    decoded = quantise(
        torch.randn(8, 64, generator=torch.Generator().manual_seed(4)), factorise(moments), "q4_0"
    ).decode()
    assert decoded.isfinite().all()
