"""Named shapes: the paper's four (Table 2) and small ones for experiments on one machine."""

import difflib
from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "llama-7b": {"dim": 4096, "num_layers": 32, "num_heads": 32},
    "llama-13b": {"dim": 5120, "num_layers": 40, "num_heads": 40},
    "llama-33b": {"dim": 6656, "num_layers": 60, "num_heads": 52},
    "llama-65b": {"dim": 8192, "num_layers": 80, "num_heads": 64},
    # Widths of the small shapes are multiples of 32 that keep the depth-to-width ratio of their larger kin.
    "1m": {"dim": 128, "num_layers": 4, "num_heads": 4, "ffn_hidden_dim": 352},
    "3m": {"dim": 192, "num_layers": 6, "num_heads": 6, "ffn_hidden_dim": 512},
    "15m": {"dim": 288, "num_layers": 6, "num_heads": 6, "ffn_hidden_dim": 768, "is_head_tied": True},
    "42m": {"dim": 512, "num_layers": 8, "num_heads": 8, "ffn_hidden_dim": 1376},
    "110m": {"dim": 768, "num_layers": 12, "num_heads": 12, "ffn_hidden_dim": 2048, "is_head_tied": True},
    "1b": {"dim": 2048, "num_layers": 22, "num_heads": 32, "num_kv_heads": 4, "ffn_hidden_dim": 5632},
}


def nearest_preset(name: str) -> str:
    """The preset whose name is most like `name`."""
    return max(PRESETS, key=lambda preset: difflib.SequenceMatcher(None, name, preset).ratio())
