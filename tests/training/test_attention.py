"""The backward pass for CPUs against SDPA's own."""

import pytest
import torch

from camelid.model.operations import causal_attention
from camelid.training.attention import causal_attention_cpu


@pytest.mark.parametrize("length", [1, 5, 256, 300, 600])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_values_and_gradients_equal_sdpa_s(length: int, num_kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(length)
    shapes = [(2, length, heads, 16) for heads in (4, num_kv_heads, num_kv_heads)]
    leaves = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    gradient = torch.randn(shapes[0], generator=generator)
    found, expected = causal_attention_cpu(0, *leaves), causal_attention(*leaves)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, gradient), torch.autograd.grad(expected, leaves, gradient), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
