"""The only source of byte counts: what training and generation hold in memory."""

from dataclasses import dataclass

from camelid.model.config import ModelConfig
from camelid.planning.shapes import count_parameters

FLOAT32_BYTES = 4


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
    config: ModelConfig, *, microbatch_tokens: int, compute_bytes: int, loss_chunk_positions: int
) -> TrainingMemory:
    """Peak of a step on one device: float32 weights, gradients and AdamW moments, and what the backward pass needs.

    Args:
        microbatch_tokens: tokens that go through the model at once.
        compute_bytes: bytes of a value in matrix products, 2 for bfloat16 and 4 for float32.
        loss_chunk_positions: positions whose logits the loss holds at once.
    """
    num_parameters = count_parameters(config)
    head_weights = config.vocab_size * config.dim
    chunk = min(loss_chunk_positions, microbatch_tokens)
    return TrainingMemory(
        weights=FLOAT32_BYTES * num_parameters,
        gradients=FLOAT32_BYTES * num_parameters,
        optimizer=2 * FLOAT32_BYTES * num_parameters,
        activations=microbatch_tokens * _activation_bytes_per_token(config, compute_bytes),
        # The head in the compute type, its gradient twice in float32, and logits with their gradient for one chunk.
        loss=head_weights * (2 * compute_bytes + 2 * FLOAT32_BYTES) + 2 * compute_bytes * chunk * config.vocab_size,
    )


def _activation_bytes_per_token(config: ModelConfig, compute_bytes: int) -> int:
    """What autograd keeps of each token: residual stream in float32, inputs of matrix products in the compute type."""
    query_dim = config.num_heads * config.head_dim
    kv_dim = config.num_kv_heads * config.head_dim
    residual = 2 * config.dim * FLOAT32_BYTES  # the inputs of both norms
    normalised = 2 * config.dim * compute_bytes
    attention = (2 * query_dim + 2 * kv_dim) * compute_bytes  # queries, keys, values and the attended values
    feed_forward = 3 * config.ffn_hidden_dim * compute_bytes  # gate, up and their product
    per_layer = residual + normalised + attention + feed_forward
    return config.num_layers * per_layer + 3 * config.dim * FLOAT32_BYTES


def checkpoint_bytes(config: ModelConfig) -> int:
    """Size on disk of a training checkpoint: float32 weights and both moments."""
    return 3 * FLOAT32_BYTES * count_parameters(config)


def cache_bytes_per_token(config: ModelConfig, value_bytes: int) -> int:
    """Bytes of keys and values that generation keeps for one position."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * value_bytes
