"""Keys and values of the positions that were already read.

Shapes: B sequences, T new positions, S all positions so far, H query heads, K key/value heads, E head size.
"""

import torch
from torch import Tensor

from camelid.model.config import ModelConfig
from camelid.model.operations import cached_attention


class KeyValueCache:
    """Room for `max_positions` positions of `batch_size` sequences; pass `attend` to the model.

    The caller moves `length` on after each forward pass, for all layers write at the same place.
    """

    def __init__(
        self, config: ModelConfig, batch_size: int, max_positions: int, device: torch.device, dtype: torch.dtype
    ):
        shape = (config.num_layers, batch_size, max_positions, config.num_kv_heads, config.head_dim)
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Stores keys and values [B, T, K, E] of new positions and attends to all: [B, T, H, E]."""
        end = self.length + keys.shape[1]
        self._keys[layer, :, self.length : end] = keys
        self._values[layer, :, self.length : end] = values
        return cached_attention(
            queries, self._keys[layer, :, :end].to(queries.dtype), self._values[layer, :, :end].to(queries.dtype)
        )
