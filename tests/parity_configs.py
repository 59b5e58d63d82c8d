"""The configurations on which every forward pass must agree: see docs/numerics.md."""

from typing import Any

from camelid.model.config import ModelConfig, RopeScaling

_SHAPE: dict[str, Any] = {"dim": 96, "num_layers": 3, "num_heads": 6, "ffn_hidden_dim": 160, "vocab_size": 199}
_LLAMA3_ROPE = RopeScaling(
    factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_max_sequence_length=64
)
CONFIGS = {
    "as_many_kv_heads": ModelConfig(**_SHAPE, num_kv_heads=6),
    "grouped": ModelConfig(**_SHAPE, num_kv_heads=2),
    "one_kv_head": ModelConfig(**_SHAPE, num_kv_heads=1),
    "tied": ModelConfig(**_SHAPE, num_kv_heads=3, is_head_tied=True),
    "llama3_rope": ModelConfig(**_SHAPE, num_kv_heads=2, rope_theta=500000.0, rope_scaling=_LLAMA3_ROPE),
    "head_size_48": ModelConfig(**{**_SHAPE, "num_heads": 2}, num_kv_heads=2, norm_eps=1e-5),
}
