"""The mathematics of the LLaMA architecture (paper section 2.2), each piece once.

Shapes: B batch, T positions, S cached positions, D model width, H query heads, K key/value heads, E head size,
F feed-forward width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from camelid.model.config import ModelConfig, RopeScaling


def widen(x: Tensor) -> Tensor:
    """The same values in float32, or in float64 where they are that already."""
    return x if x.dtype is torch.float64 else x.float()


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """RMSNorm (Zhang and Sennrich 2019): x scaled to unit mean square, computed in float32 at least, times a gain.

    Args:
        x: [..., D]
        gain: [D]
    """
    wide = widen(x)
    normalised = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normalised.to(x.dtype) * gain.to(x.dtype)


def rotary_frequencies(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """Turning speed of each pair of channels, in radians per position.

    Returns:
        [E / 2] float32
    """
    exponents = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    return frequencies if config.rope_scaling is None else _scale_frequencies(frequencies, config.rope_scaling)


def _scale_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    # Llama 3.1: long wavelengths are stretched, short ones kept, those between are blended.
    turns = scaling.original_max_sequence_length * frequencies / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)


def rotary_table(frequencies: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every angle.

    Args:
        frequencies: [E / 2]
        positions: [T] or [B, T]

    Returns:
        Two tensors [..., T, E / 2] of float32.
    """
    angles = positions.float().unsqueeze(-1) * frequencies
    return angles.cos(), angles.sin()


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): turns channel pairs by an angle that grows with the position.

    Channel i is paired with channel i + E/2; Meta's files pair neighbours, and their rows are permuted when they are
    read. The two layouts give the same model; this one has no strided access.

    Args:
        x: [B, T, H, E]
        cos, sin: [T, E / 2] or [B, T, E / 2]
    """
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    first, second = widen(x).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """SwiGLU (Shazeer 2020): silu(gate) * up, elementwise."""
    return F.silu(gate) * up


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Each position attends to itself and those before it; no score is stored and none masked is computed.

    Args:
        queries: [B, T, H, E]
        keys, values: [B, T, K, E]

    Returns:
        [B, T, H, E]
    """
    is_grouped = queries.shape[2] != keys.shape[2]
    attended = F.scaled_dot_product_attention(
        queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), is_causal=True, enable_gqa=is_grouped
    )
    return attended.transpose(1, 2)


def cached_attention(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Attention of T new positions over S cached ones, themselves among them.

    Args:
        queries: [B, T, H, E]
        keys, values: [B, S, K, E]
        visible: [B, 1, T, S] whether a new position sees a cached one.

    Returns:
        [B, T, H, E]
    """
    batch_size, num_queries, num_heads, head_dim = queries.shape
    num_kv_heads = keys.shape[2]
    group_size = num_heads // num_kv_heads
    # The query heads of a group become rows: SDPA is slow on a CPU with one query and grouped heads.
    rows = queries.view(batch_size, num_queries, num_kv_heads, group_size, head_dim)
    rows = rows.permute(0, 2, 3, 1, 4).flatten(2, 3)  # [B, K, H / K x T, E]
    attended = F.scaled_dot_product_attention(
        rows, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=visible.repeat(1, 1, group_size, 1)
    )
    shape = (batch_size, num_kv_heads, group_size, num_queries, head_dim)
    return attended.view(shape).permute(0, 3, 1, 2, 4).flatten(2, 3)
