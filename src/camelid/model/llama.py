"""The LLaMA transformer (paper section 2.2): pre-normalised, rotary positions, SwiGLU, no biases.

Shapes: B batch, T positions, D model width, H query heads, K key/value heads, E head size, F feed-forward width,
V vocabulary.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camelid.model.config import ModelConfig
from camelid.model.operations import (
    apply_rotary,
    causal_attention,
    rms_norm,
    rotary_frequencies,
    rotary_table,
    swiglu,
)

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries [B, T, H, E], keys [B, T, K, E], values [B, T, K, E]) -> [B, T, H, E]; a cache is one of these."""


class RMSNorm(nn.Module):
    """The norm of `operations.rms_norm` with its gain."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; `attend` brings the attention itself."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim = config.head_dim
        self.wq = nn.Linear(config.dim, config.num_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.num_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.num_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.num_heads * config.head_dim, config.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attend: Attend) -> Tensor:
        queries = apply_rotary(self._split(self.wq(x)), cos, sin)  # [B, T, H, E]
        keys = apply_rotary(self._split(self.wk(x)), cos, sin)  # [B, T, K, E]
        values = self._split(self.wv(x))  # [B, T, K, E]
        return self.wo(attend(layer, queries, keys, values).flatten(-2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim)


class FeedForward(nn.Module):
    """SwiGLU between two widths: w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_hidden_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_hidden_dim, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(swiglu(self.w1(x), self.w3(x)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Attention and feed-forward layer, each normalised before and added to the residual stream."""

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        self.index = index
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, self.index, attend)
        return x + self.feed_forward(self.ffn_norm(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Token ids in, logits out. Parameter names are those of Meta's checkpoints.

    The weights come uninitialised on the meta device or from torch's defaults; `model.initialize` or a checkpoint
    gives them their values.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.is_head_tied:
            self.output.weight = self.tok_embeddings.weight

    def hidden_states(
        self, tokens: Tensor, start: int = 0, attend: Attend | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """What the head sees.

        Args:
            tokens: [B, T] ids
            start: position of the first token.
            attend: attention over what it remembers of earlier calls; causal over `tokens` alone unless given.
            positions: [T] or [B, T] of tokens that do not follow one another; from `start` on unless given.

        Returns:
            [B, T, D], normalised
        """
        if positions is None:
            positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        cos, sin = rotary_table(rotary_frequencies(self.config, tokens.device), positions)
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin, attend or _attend_causally)
        return self.norm(x)  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, start: int = 0, attend: Attend | None = None) -> Tensor:
        """Logits [B, T, V] of the token that follows each position; arguments as in `hidden_states`."""
        return F.linear(self.hidden_states(tokens, start, attend), self.output.weight)

    def weights(self) -> dict[str, Tensor]:
        """The stored weights by name; a tied head is stored once, as the embedding."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies in what `weights` returned; every name must be there."""
        tied = {"output.weight": weights["tok_embeddings.weight"]} if self.config.is_head_tied else {}
        self.load_state_dict({**weights, **tied}, strict=True)


def _attend_causally(_layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return causal_attention(queries, keys, values)
