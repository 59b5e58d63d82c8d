"""The transformer layer as one function with a backward pass written by hand (paper section 2.4).

The forward pass keeps the layer's input and what is dear to compute: the outputs of the linear layers and of attention,
queries and keys already turned. The backward pass computes norms, SwiGLU and sums again. With a process group the layer
is tensor and sequence parallel (Korthikanti et al. 2022): the residual stream and what is kept of it are sharded over
the positions, heads and feed-forward width over the group; while values travel, something is computed.

Shapes: B batch, T positions, P processes of the group, S = T / P positions of this one, D model width, H query heads,
K key/value heads, E head size, F feed-forward width; H, K and F are those of this process. N = B x T.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from camelid.model.llama import Layer
from camelid.model.operations import apply_rotary, rms_norm, swiglu, widen
from camelid.parallel.sequence import Arriving, gather_positions, scatter_positions

AttentionForward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(queries [B, T, H, E], keys and values [B, T, K, E]) -> attended values [B, T, H, E], log-sums of the scores."""

AttentionBackward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(gradient, queries, keys, values, attended values, log-sums) -> gradients of queries, keys and values."""


@dataclass(frozen=True)
class DifferentiableAttention:
    """Attention and its derivative, which stores no scores; calling it is a `model.llama.Attend`."""

    forward: AttentionForward
    backward: AttentionBackward

    def __call__(self, _layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        attended: Tensor = _Attention.apply(queries, keys, values, self)  # type: ignore[no-untyped-call]
        return attended


@dataclass(frozen=True)
class HandWritten:
    """How a layer is computed by hand."""

    attention: DifferentiableAttention
    is_compiled: bool
    """Whether the pieces between the communications run as generated code."""
    group: ProcessGroup | None = None
    """Processes that share the layer's heads and width, and the positions of its input and output; none for one."""

    def __call__(self, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The layer's output for its input, both [B, S, D].

        With a group, the gradients of the gains are those of this process's positions; who sums up the gradients of
        the other gains sums up these.

        Args:
            layer: its weights are those of this process.
            cos, sin: [T, E / 2] or [B, T, E / 2], of all positions.
        """
        attention, feed_forward = layer.attention, layer.feed_forward
        weights = (
            *(layer.attention_norm.weight, attention.wq.weight, attention.wk.weight, attention.wv.weight),
            *(attention.wo.weight, layer.ffn_norm.weight, feed_forward.w1.weight, feed_forward.w2.weight),
            feed_forward.w3.weight,
        )
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else attention.wq.weight.dtype
        numbers = _Numbers(attention.head_dim, layer.attention_norm.eps, dtype)
        output: Tensor = _HandWrittenLayer.apply(self, numbers, cos, sin, x, *weights)  # type: ignore[no-untyped-call]
        return output

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls one piece of the layer, as generated code where that is wanted."""
        return (_generate(function) if self.is_compiled else function)(*arguments)


@dataclass(frozen=True)
class _Numbers:
    head_dim: int
    eps: float
    dtype: torch.dtype
    """Type of the matrix products."""


@lru_cache(maxsize=64)
def _generate(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, way: DifferentiableAttention) -> Tensor:
        attended, log_sums = way.forward(queries, keys, values)
        ctx.save_for_backward(queries, keys, values, attended, log_sums)
        ctx.way = way
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.way.backward(gradients[0], *ctx.saved_tensors), None


class _HandWrittenLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, way: HandWritten, numbers: _Numbers, cos: Tensor, sin: Tensor, x: Tensor, *weights: Tensor
    ) -> Tensor:
        attention_gain, wq, wk, wv, wo, ffn_gain, w1, w2, w3 = weights
        run, group = way.run, way.group
        attention_input = gather_positions(run(_normalise, x, attention_gain, numbers), group).wait()  # [B, T, D]
        queries, keys, values = run(_project, attention_input, wq, wk, wv, cos, sin, numbers)
        attended, log_sums = run(way.attention.forward, queries, keys, values)
        attention_output = scatter_positions(_multiply(attended.flatten(-2), wo), group).wait()  # [B, S, D]
        ffn_input = gather_positions(run(_add_and_normalise, x, attention_output, ffn_gain, numbers), group).wait()
        gate, up, hidden = run(_widen_and_gate, ffn_input, w1, w3)  # [B, T, F] each
        output = scatter_positions(_multiply(hidden, w2), group).wait()
        kept = (x, queries, keys, values, attended, log_sums, attention_output, gate, up)
        ctx.save_for_backward(cos, sin, *weights, *kept)
        ctx.way, ctx.numbers = way, numbers
        return run(_add, x, attention_output, output)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        cos, sin, attention_gain, wq, wk, wv, wo, ffn_gain, w1, w2, w3 = saved[:11]
        x, queries, keys, values, attended, log_sums, attention_output, gate, up = saved[11:]
        way, numbers = ctx.way, ctx.numbers
        ffn = (x, attention_output, ffn_gain, gate, up, w1, w2, w3)
        # The input of attention travels while the feed-forward layer's weights are differentiated.
        attention_input = gather_positions(way.run(_normalise, x, attention_gain, numbers), way.group)
        middle, ffn_gain_gradient, *ffn_gradients = _differentiate_feed_forward(way, numbers, gradients[0], *ffn)
        attention = (attention_input, queries, keys, values, attended, log_sums, wq, wk, wv, wo, cos, sin)
        leaving, *attention_gradients = _differentiate_attention(way, numbers, middle, *attention)
        first, attention_gain_gradient = way.run(
            _differentiate_norm, middle, leaving.wait(), x, attention_gain, numbers
        )
        of_attention = (attention_gain_gradient, *attention_gradients)
        return None, None, None, None, first, *of_attention, ffn_gain_gradient, *ffn_gradients


def _differentiate_feed_forward(
    way: HandWritten,
    numbers: _Numbers,
    gradient: Tensor,
    x: Tensor,
    attention_output: Tensor,
    gain: Tensor,
    gate: Tensor,
    up: Tensor,
    w1: Tensor,
    w2: Tensor,
    w3: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the residual stream before the feed-forward layer [B, S, D], of the gain and the three matrices."""
    run, group = way.run, way.group
    arriving = gather_positions(gradient.to(numbers.dtype), group)
    ffn_input = gather_positions(run(_add_and_normalise, x, attention_output, gain, numbers), group)
    outer = arriving.wait()  # [B, T, D]
    hidden, gate_gradient, up_gradient = run(_differentiate_swiglu, _multiply_back(outer, w2), gate, up)
    partial = _multiply_back(gate_gradient, w1, _multiply_back(up_gradient, w3))
    leaving = scatter_positions(partial, group)
    w2_gradient = _differentiate_weight(outer, hidden, w2)
    inner = ffn_input.wait()
    w1_gradient, w3_gradient = (
        _differentiate_weight(part, inner, weight) for part, weight in ((gate_gradient, w1), (up_gradient, w3))
    )
    middle, gain_gradient = run(
        _differentiate_add_and_norm, gradient, leaving.wait(), x, attention_output, gain, numbers
    )
    return middle, gain_gradient, w1_gradient, w2_gradient, w3_gradient


def _differentiate_attention(
    way: HandWritten,
    numbers: _Numbers,
    gradient: Tensor,
    attention_input: Arriving,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attended: Tensor,
    log_sums: Tensor,
    wq: Tensor,
    wk: Tensor,
    wv: Tensor,
    wo: Tensor,
    cos: Tensor,
    sin: Tensor,
) -> tuple[Arriving, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the normalised input [B, S, D], which is still under way, and of the four matrices."""
    outer = gather_positions(gradient.to(numbers.dtype), way.group).wait()  # [B, T, D]
    attended_gradient = _multiply_back(outer, wo).view_as(attended)
    turned = way.run(way.attention.backward, attended_gradient, queries, keys, values, attended, log_sums)
    parts = way.run(_turn_back, *turned, cos, sin)  # [B, T, (H or K) x E] each
    matrices = (wq, wk, wv)
    partial = None
    for part, weight in zip(parts, matrices, strict=True):
        partial = _multiply_back(part, weight, partial)
    assert partial is not None
    leaving = scatter_positions(partial, way.group)
    wo_gradient = _differentiate_weight(outer, attended.flatten(-2), wo)
    inner = attention_input.wait()
    wq_gradient, wk_gradient, wv_gradient = (
        _differentiate_weight(part, inner, weight) for part, weight in zip(parts, matrices, strict=True)
    )
    return leaving, wq_gradient, wk_gradient, wv_gradient, wo_gradient


def _multiply(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.to(x.dtype))


def _multiply_back(gradient: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
    """Gradient of a linear layer's input, added in place to `onto` where that is given."""
    if onto is None:
        return gradient @ weight.to(gradient.dtype)
    onto.flatten(0, 1).addmm_(gradient.flatten(0, 1), weight.to(gradient.dtype))
    return onto


def _differentiate_weight(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a linear layer's weight."""
    return (gradient.flatten(0, 1).T @ x.flatten(0, 1)).to(weight.dtype)


def _normalise(x: Tensor, gain: Tensor, numbers: _Numbers) -> Tensor:
    return rms_norm(x, gain, numbers.eps).to(numbers.dtype)


def _add_and_normalise(x: Tensor, attention_output: Tensor, gain: Tensor, numbers: _Numbers) -> Tensor:
    return _normalise(x + attention_output, gain, numbers)


def _add(x: Tensor, attention_output: Tensor, ffn_output: Tensor) -> Tensor:
    return x + attention_output + ffn_output


def _project(
    x: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, cos: Tensor, sin: Tensor, numbers: _Numbers
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys, turned by their positions, and values."""
    queries, keys, values = (_multiply(x, w).view(*x.shape[:2], -1, numbers.head_dim) for w in (wq, wk, wv))
    return apply_rotary(queries, cos, sin), apply_rotary(keys, cos, sin), values


def _turn_back(
    queries: Tensor, keys: Tensor, values: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients before the rotary positions, a turn by the opposite angle, with the heads side by side."""
    turned = (apply_rotary(queries, cos, -sin), apply_rotary(keys, cos, -sin), values)
    return turned[0].flatten(-2), turned[1].flatten(-2), turned[2].flatten(-2)


def _widen_and_gate(x: Tensor, w1: Tensor, w3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gate, up = _multiply(x, w1), _multiply(x, w3)
    return gate, up, swiglu(gate, up)


def _differentiate_swiglu(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SwiGLU again, and the gradients of its two inputs."""
    wide, wide_gate, wide_up = widen(gradient), widen(gate), widen(up)
    share = wide_gate.sigmoid()
    silu = wide_gate * share
    gate_gradient = wide * wide_up * (share + silu * (1 - share))
    return swiglu(gate, up), gate_gradient.to(gate.dtype), (wide * silu).to(up.dtype)


def _differentiate_norm(
    residual: Tensor, gradient: Tensor, x: Tensor, gain: Tensor, numbers: _Numbers
) -> tuple[Tensor, Tensor]:
    """Gradients of x, the residual stream's own among them, and of the gain."""
    wide, wide_gradient = widen(x), widen(gradient)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + numbers.eps)  # [B, S, 1]
    normalised = wide * scale
    gain_gradient = (wide_gradient * normalised).flatten(0, -2).sum(0)
    inner = wide_gradient * gain.to(wide.dtype)
    through = scale * (inner - normalised * (inner * normalised).mean(-1, keepdim=True))
    return residual + through.to(residual.dtype), gain_gradient.to(gain.dtype)


def _differentiate_add_and_norm(
    residual: Tensor, gradient: Tensor, x: Tensor, attention_output: Tensor, gain: Tensor, numbers: _Numbers
) -> tuple[Tensor, Tensor]:
    return _differentiate_norm(residual, gradient, x + attention_output, gain, numbers)
