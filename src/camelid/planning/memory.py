"""The only source of byte counts: what training and generation hold in memory."""

from dataclasses import dataclass
from typing import Literal

from camelid.model.config import ModelConfig
from camelid.planning.shapes import count_matrix_parameters, count_parameters

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
    num_microbatches: int = 1,
    recompute: Recompute = "selective",
    is_compiled: bool = True,
) -> TrainingMemory:
    """Peak of a step on one device: float32 weights and AdamW moments, and the most that comes beside them.

    Activations go while gradients come, so the most is there at one of four moments: in the loss, when the last layer
    is differentiated, when the first one is, or when the embedding is. What is told is what is there at that moment.

    Args:
        microbatch_tokens: tokens that go through the model at once.
        compute_bytes: bytes of a value in matrix products, 2 for bfloat16 and 4 for float32.
        loss_chunk_positions: positions whose logits the loss holds at once.
        num_microbatches: of a step; from the second one on the gradients of those before are there.
        recompute: as `kept_bytes_per_token`, as is `is_compiled`.
    """
    num_parameters = count_parameters(config)
    kept = microbatch_tokens * kept_bytes_per_token(config, compute_bytes, recompute, is_compiled)
    kept += kept_weight_bytes(config, compute_bytes, recompute)
    is_cached = not is_compiled and recompute in ("selective", "full")  # by autocast, until the forward pass is over
    cached = kept_weight_bytes(config, compute_bytes, "none") if is_cached else 0
    hidden_gradient = microbatch_tokens * config.dim * FLOAT32_BYTES
    head_gradient = config.vocab_size * config.dim * FLOAT32_BYTES
    loss = _loss_bytes(config, compute_bytes, microbatch_tokens, loss_chunk_positions, is_compiled)
    own = _layer_bytes_per_token(config, compute_bytes, recompute, is_compiled)
    working = _working_bytes_per_token(config, compute_bytes, recompute, is_compiled)
    gradients = FLOAT32_BYTES * num_parameters
    earlier = gradients if num_microbatches > 1 else 0
    has_embedding = config.is_head_tied or num_microbatches > 1  # a gradient of it, before its own turn comes
    moments = (
        (earlier, kept + cached, hidden_gradient + loss),
        (earlier, kept + microbatch_tokens * (working - own), hidden_gradient + head_gradient),
        (gradients - (0 if has_embedding else head_gradient), microbatch_tokens * working, 0),
        (gradients, hidden_gradient, head_gradient if has_embedding else 0),
    )
    gradients, activations, loss = max(moments, key=sum)
    return TrainingMemory(
        weights=FLOAT32_BYTES * num_parameters,
        gradients=gradients,
        optimizer=2 * FLOAT32_BYTES * num_parameters,
        activations=activations,
        loss=loss,
    )


def kept_bytes_per_token(config: ModelConfig, compute_bytes: int, recompute: Recompute, is_compiled: bool) -> int:
    """What is kept of each token between forward and backward pass, by all layers and the last norm.

    Args:
        recompute: the way of `parallel.recompute`.
        is_compiled: whether layers run as generated code, which keeps less of its own accord.
    """
    last_norm = 3 * config.dim * FLOAT32_BYTES  # its input, the same normalised, and its output
    return config.num_layers * _layer_bytes_per_token(config, compute_bytes, recompute, is_compiled) + last_norm


def kept_weight_bytes(config: ModelConfig, compute_bytes: int, recompute: Recompute) -> int:
    """What is kept between the passes however many the tokens: where nothing is computed again, the layers' matrices in
    the type of the products, if that is not their own."""
    if compute_bytes == FLOAT32_BYTES or recompute != "none":
        return 0
    return compute_bytes * (count_matrix_parameters(config) - config.vocab_size * config.dim)


def _layer_bytes_per_token(config: ModelConfig, compute_bytes: int, recompute: Recompute, is_compiled: bool) -> int:
    """One layer's share: residual stream in float32, everything else in the type of the matrix products."""
    residual = config.dim * FLOAT32_BYTES
    if recompute == "full":
        return residual
    query_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    # Queries, keys, values, attended values, and the log-sums of the scores.
    attention = (2 * query_dim + 2 * kv_dim) * compute_bytes + config.num_heads * FLOAT32_BYTES
    output, width = config.dim * compute_bytes, config.ffn_hidden_dim * compute_bytes
    if recompute == "none" and is_compiled:
        # The layer's input, the outputs of both norms and of attention's last matrix; gate, up and their product.
        return residual + 3 * output + attention + 3 * width
    if recompute == "none":
        # Both norms' inputs before and after they are normalised, and their outputs, which autocast converts for each
        # of the five matrices anew; gate, its silu, up and their product.
        num_outputs = 2 if compute_bytes == FLOAT32_BYTES else 5
        return 4 * residual + num_outputs * output + attention + 4 * width
    # The layer's input and the output of attention's last matrix; without generated code that of the layer's last too.
    num_outputs = 2 if recompute == "selective" and not is_compiled else 1
    return residual + attention + num_outputs * output + 2 * width


def _working_bytes_per_token(config: ModelConfig, compute_bytes: int, recompute: Recompute, is_compiled: bool) -> int:
    """What a layer holds while it is differentiated: all that it can keep, and the gradients of stream and width."""
    # As measured: of the three gradients of gate, up and product one is there at a time, by hand all of them, and there
    # without generated code SwiGLU's intermediate values in float32 too.
    num_widths = 1
    if recompute == "by_hand":
        num_widths = 3 if is_compiled or compute_bytes == FLOAT32_BYTES else 10
    gradients = config.dim * FLOAT32_BYTES + num_widths * config.ffn_hidden_dim * compute_bytes
    return _layer_bytes_per_token(config, compute_bytes, "none", is_compiled) + gradients


def _loss_bytes(
    config: ModelConfig, compute_bytes: int, num_positions: int, chunk_positions: int, is_compiled: bool
) -> int:
    """What the loss holds beside the gradient of the hidden states while it is computed."""
    # The head and a product's result in the compute type, the head's gradient and a product's result in float32.
    copy = compute_bytes if compute_bytes < FLOAT32_BYTES else 0
    of_head = config.vocab_size * config.dim * (copy + compute_bytes + 2 * FLOAT32_BYTES)
    # Logits, their gradient and that of the chunk before; without generated code their logarithms in float32 too.
    wide = 2 * FLOAT32_BYTES - compute_bytes if copy and not is_compiled else 0
    num_narrow = 3 if num_positions > chunk_positions else 2
    logits = min(num_positions, chunk_positions) * config.vocab_size
    return of_head + logits * (num_narrow * compute_bytes + wide)


def checkpoint_bytes(config: ModelConfig) -> int:
    """Size on disk of a training checkpoint: float32 weights and both moments."""
    return 3 * FLOAT32_BYTES * count_parameters(config)


def cache_bytes_per_token(config: ModelConfig, value_bytes: int) -> int:
    """Bytes of keys and values that generation keeps for one position."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * value_bytes
