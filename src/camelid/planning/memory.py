"""The only source of byte counts: what training and generation hold in memory."""

from dataclasses import dataclass
from typing import Literal

from camelid.model.config import ModelConfig
from camelid.planning.shapes import count_parameters

FLOAT32_BYTES = 4

Recompute = Literal["none", "selective", "full", "by_hand"]
"""What a layer's backward pass computes again: nothing, what is cheap (in two ways), or everything."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that one device holds at the peak of a training step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss


def estimate_training_memory(
    config: ModelConfig,
    *,
    microbatch_tokens: int,
    compute_bytes: int,
    loss_chunk_positions: int,
    recompute: Recompute = "none",
    is_compiled: bool = True,
) -> TrainingMemory:
    """Peak of a step on one device: float32 weights, gradients and AdamW moments, and what the backward pass needs.

    Args:
        microbatch_tokens: tokens that go through the model at once.
        compute_bytes: bytes of a value in matrix products, 2 for bfloat16 and 4 for float32.
        loss_chunk_positions: positions whose logits the loss holds at once.
        recompute: as `kept_bytes_per_token`, as is `is_compiled`.
    """
    num_parameters = count_parameters(config)
    head_weights = config.vocab_size * config.dim
    chunk = min(loss_chunk_positions, microbatch_tokens)
    kept = kept_bytes_per_token(config, compute_bytes, recompute, is_compiled)
    # A layer of which only the input was kept is there as a whole while it is differentiated.
    again = _layer_bytes_per_token(config, compute_bytes, "none", is_compiled) if recompute == "full" else 0
    return TrainingMemory(
        weights=FLOAT32_BYTES * num_parameters,
        gradients=FLOAT32_BYTES * num_parameters,
        optimizer=2 * FLOAT32_BYTES * num_parameters,
        activations=microbatch_tokens * (kept + again),
        # The head in the compute type, its gradient twice in float32, and logits with their gradient for one chunk.
        loss=head_weights * (2 * compute_bytes + 2 * FLOAT32_BYTES) + 2 * compute_bytes * chunk * config.vocab_size,
    )


def kept_bytes_per_token(
    config: ModelConfig,
    compute_bytes: int,
    recompute: Recompute,
    is_compiled: bool,
    tensor_parts: int = 1,
) -> int:
    """What is kept of each token between forward and backward pass, by all layers and the last norm.

    Args:
        recompute: the way of `parallel.recompute`.
        is_compiled: whether layers run as generated code, which keeps less of its own accord.
        tensor_parts: processes of the tensor axis, which hold a part of all positions, heads and widths each.
    """
    layers = config.num_layers * _layer_bytes_per_token(config, compute_bytes, recompute, is_compiled, tensor_parts)
    last_norm = 3 * config.dim * FLOAT32_BYTES // tensor_parts  # its input, the same normalised, and its output
    return layers + last_norm


def _layer_bytes_per_token(
    config: ModelConfig, compute_bytes: int, recompute: Recompute, is_compiled: bool, tensor_parts: int = 1
) -> int:
    """One layer's share: residual stream in float32, everything else in the type of the matrix products."""
    residual = config.dim * FLOAT32_BYTES
    if recompute == "full":
        return residual // tensor_parts
    query_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    # Queries, keys, values, attended values, and the log-sums of the scores.
    attention = (2 * query_dim + 2 * kv_dim) * compute_bytes + config.num_heads * FLOAT32_BYTES
    output, width = config.dim * compute_bytes, config.ffn_hidden_dim * compute_bytes
    if recompute == "none":
        # Inputs of both norms and of what follows them, which the tensor axis gathers; gate, up and their product.
        # Without generated code what is normalised stays before its gain too, and the gate after its silu.
        norms = 2 * residual if is_compiled else 4 * residual
        return (norms + attention + (3 if is_compiled else 4) * width) // tensor_parts + 2 * output
    # The layer's input and the output of attention's last matrix; without generated code that of the layer's last too.
    num_outputs = 2 if recompute == "selective" and not is_compiled else 1
    return (residual + attention + num_outputs * output + 2 * width) // tensor_parts


def checkpoint_bytes(config: ModelConfig) -> int:
    """Size on disk of a training checkpoint: float32 weights and both moments."""
    return 3 * FLOAT32_BYTES * count_parameters(config)


def cache_bytes_per_token(config: ModelConfig, value_bytes: int) -> int:
    """Bytes of keys and values that generation keeps for one position."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * value_bytes
