"""The layer differentiated by hand against autograd, on every configuration of the parity matrix."""

from itertools import pairwise

import pytest
import torch
from parity_configs import CONFIGS
from torch import Tensor

from camelid.model.config import ModelConfig
from camelid.model.llama import Layer
from camelid.model.operations import causal_attention, rotary_frequencies, rotary_table
from camelid.parallel.layer_backward import DifferentiableAttention, HandWritten
from camelid.training.attention import causal_attention_cpu, flash_attention_cpu

_LENGTH = 21
_ATTENTIONS = {"flash": flash_attention_cpu, "blocks": causal_attention_cpu}


def make_layer(config: ModelConfig, dtype: torch.dtype) -> tuple[Layer, Tensor, Tensor, Tensor, Tensor]:
    """A layer with gains that are not one, its input [2, T, D], cosines, sines, and a gradient of its output."""
    generator = torch.Generator().manual_seed(3)
    layer = Layer(config, 0).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            scale = 1.0 if parameter.dim() == 1 else parameter.shape[1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)
    x, gradient = (torch.randn(2, _LENGTH, config.dim, generator=generator, dtype=torch.float64) for _ in range(2))
    cos, sin = rotary_table(rotary_frequencies(config), torch.arange(_LENGTH))
    return layer, x.to(dtype).requires_grad_(), cos, sin, gradient.to(dtype)


def run_autograd(layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, gradient: Tensor) -> list[Tensor]:
    """Output and all gradients as the model's own code and autograd give them."""
    output = layer(x, cos, sin, lambda _, *qkv: causal_attention(*qkv))
    return [output, *torch.autograd.grad(output, [x, *layer.parameters()], gradient)]


def run_by_hand(
    attention: DifferentiableAttention, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, gradient: Tensor
) -> list[Tensor]:
    """The same by hand."""
    output = HandWritten(attention, is_compiled=False)(layer, x, cos, sin)
    return [output, *torch.autograd.grad(output, [x, *layer.parameters()], gradient)]


@pytest.mark.parametrize("attention", _ATTENTIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_autograd_in_float64(name: str, attention: str) -> None:
    made = make_layer(CONFIGS[name], torch.float64)
    for ours, theirs in zip(run_by_hand(_ATTENTIONS[attention], *made), run_autograd(*made), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("attention", _ATTENTIONS)
def test_equals_autograd_in_float32(attention: str) -> None:
    made = make_layer(CONFIGS["grouped"], torch.float32)
    for ours, theirs in zip(run_by_hand(_ATTENTIONS[attention], *made), run_autograd(*made), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_as_near_as_autograd_is() -> None:
    layer, *rest = make_layer(CONFIGS["grouped"], torch.float32)
    exact = run_autograd(layer, *rest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = run_by_hand(flash_attention_cpu, layer, *rest), run_autograd(layer, *rest)
    for hand, autograd, wanted in zip(ours, theirs, exact, strict=True):
        assert hand.dtype is torch.float32
        assert (hand - wanted).norm() <= 1.2 * (autograd - wanted).norm()


def test_stacked_layers_and_positions_of_each_row() -> None:
    config = CONFIGS["grouped"]
    layer, x, _, _, gradient = make_layer(config, torch.float64)
    positions = torch.stack([torch.arange(_LENGTH), torch.arange(_LENGTH) % 7])
    cos, sin = rotary_table(rotary_frequencies(config), positions)
    way = HandWritten(flash_attention_cpu, is_compiled=False)
    ours = way(layer, way(layer, x, cos, sin), cos, sin)
    theirs = x
    for _ in range(2):
        theirs = layer(theirs, cos, sin, lambda _, *qkv: causal_attention(*qkv))
    leaves = [x, *layer.parameters()]
    for found, expected in zip(
        torch.autograd.grad(ours, leaves, gradient), torch.autograd.grad(theirs, leaves, gradient), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_keeps_what_is_dear_and_nothing_else() -> None:
    config = CONFIGS["grouped"]
    layer, x, cos, sin, _ = make_layer(config, torch.float64)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        HandWritten(flash_attention_cpu, is_compiled=False)(layer, x, cos, sin)
    weights = {parameter.data_ptr() for parameter in layer.parameters()} | {cos.data_ptr(), sin.data_ptr()}
    widths = sorted(t.numel() // (2 * _LENGTH) for t in kept if t.data_ptr() not in weights)
    heads, kv_width = config.num_heads, config.num_kv_heads * config.head_dim
    wanted = [*[config.dim] * 4, kv_width, kv_width, config.ffn_hidden_dim, config.ffn_hidden_dim, heads]
    assert widths == sorted(wanted)
    assert all(a.data_ptr() != b.data_ptr() for a, b in pairwise(kept))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["as_many_kv_heads", "grouped"])
def test_generated_code_equals_autograd(name: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        layer, x, cos, sin, gradient = make_layer(CONFIGS[name], dtype)
        output = HandWritten(causal_attention_cpu, is_compiled=True)(layer, x, cos, sin)
        ours = [output, *torch.autograd.grad(output, [x, *layer.parameters()], gradient)]
        for found, expected in zip(ours, run_autograd(layer, x, cos, sin, gradient), strict=True):
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
