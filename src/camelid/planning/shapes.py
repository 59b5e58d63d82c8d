"""The only source of parameter shapes, parameter counts and floating-point operations."""

from math import prod

from camelid.model.config import ModelConfig


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every stored weight; a tied head is stored once, as the embedding."""
    query_dim = config.num_heads * config.head_dim
    kv_dim = config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (config.vocab_size, config.dim)}
    for layer in range(config.num_layers):
        shapes |= {
            f"layers.{layer}.attention_norm.weight": (config.dim,),
            f"layers.{layer}.attention.wq.weight": (query_dim, config.dim),
            f"layers.{layer}.attention.wk.weight": (kv_dim, config.dim),
            f"layers.{layer}.attention.wv.weight": (kv_dim, config.dim),
            f"layers.{layer}.attention.wo.weight": (config.dim, query_dim),
            f"layers.{layer}.ffn_norm.weight": (config.dim,),
            f"layers.{layer}.feed_forward.w1.weight": (config.ffn_hidden_dim, config.dim),
            f"layers.{layer}.feed_forward.w2.weight": (config.dim, config.ffn_hidden_dim),
            f"layers.{layer}.feed_forward.w3.weight": (config.ffn_hidden_dim, config.dim),
        }
    shapes["norm.weight"] = (config.dim,)
    if not config.is_head_tied:
        shapes["output.weight"] = (config.vocab_size, config.dim)
    return shapes


def count_parameters(config: ModelConfig) -> int:
    """Number of weights, embeddings included; a tied head counts once."""
    return sum(prod(shape) for shape in parameter_shapes(config).values())


def count_matrix_parameters(config: ModelConfig) -> int:
    """Number of weights that every token is multiplied with: all matrices and the head, not the embedding table."""
    matrices = sum(prod(shape) for shape in parameter_shapes(config).values() if len(shape) == 2)
    return matrices if config.is_head_tied else matrices - config.vocab_size * config.dim


def forward_flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Operations of one forward pass divided by its tokens, a multiply-add counting as two.

    Matrix products in full; attention only over the positions that the causal mask leaves, (sequence_length + 1) / 2
    on average. Norms, rotary positions and softmax are left out (Hoffmann et al. 2022, appendix F, counts them too).
    """
    visible = (sequence_length + 1) / 2
    attention = 2 * 2 * visible * config.num_heads * config.head_dim * config.num_layers
    return 2 * count_matrix_parameters(config) + attention


def training_flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Operations of one forward and backward pass divided by its tokens; the backward pass costs twice the forward."""
    return 3 * forward_flops_per_token(config, sequence_length)
