"""What each format calls a tensor, and how its rotary rows stand. The only place where either is known.

Camelid's names are Meta's. Camelid and Hugging Face pair channel i of a head with channel i + E/2; Meta, llama2.c and
GGUF pair neighbours, so that rows of `wq` and `wk` move when weights change sides.

Shapes: R rows, H heads, E head size.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from camelid.checkpoint.stored import StoredTensor
from camelid.model.config import ModelConfig

Rows = NDArray[np.uint8]

# Ours, Hugging Face's, GGUF's.
_OUTSIDE_LAYERS = (
    ("tok_embeddings.weight", "model.embed_tokens.weight", "token_embd.weight"),
    ("norm.weight", "model.norm.weight", "output_norm.weight"),
    ("output.weight", "lm_head.weight", "output.weight"),
)
_INSIDE_LAYERS = (
    ("attention_norm.weight", "input_layernorm.weight", "attn_norm.weight"),
    ("attention.wq.weight", "self_attn.q_proj.weight", "attn_q.weight"),
    ("attention.wk.weight", "self_attn.k_proj.weight", "attn_k.weight"),
    ("attention.wv.weight", "self_attn.v_proj.weight", "attn_v.weight"),
    ("attention.wo.weight", "self_attn.o_proj.weight", "attn_output.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight", "ffn_norm.weight"),
    ("feed_forward.w1.weight", "mlp.gate_proj.weight", "ffn_gate.weight"),
    ("feed_forward.w2.weight", "mlp.down_proj.weight", "ffn_down.weight"),
    ("feed_forward.w3.weight", "mlp.up_proj.weight", "ffn_up.weight"),
)
_OURS, _HUGGINGFACE, _GGUF = range(3)
_LAYERS = ("layers.", "model.layers.", "blk.")

_OUTSIDE = [{row[side]: row for row in _OUTSIDE_LAYERS} for side in range(3)]
_INSIDE = [{row[side]: row for row in _INSIDE_LAYERS} for side in range(3)]
_LAYER_NAMES = [re.compile(re.escape(prefix) + r"(0|[1-9][0-9]{0,5})\.(.+)") for prefix in _LAYERS]


def huggingface_name(name: str) -> str:
    """The name in a Hugging Face folder of one of our names."""
    return _translate_own(name, _HUGGINGFACE)


def from_huggingface(name: str) -> str | None:
    """Our name of a tensor in a Hugging Face folder, or None where a LLaMA model has no such tensor."""
    return _translate(name, _HUGGINGFACE, _OURS)


def gguf_name(name: str) -> str:
    """The name in a GGUF file of one of our names."""
    return _translate_own(name, _GGUF)


def from_gguf(name: str) -> str | None:
    """Our name of a tensor in a GGUF file, or None where a LLaMA model has no such tensor."""
    return _translate(name, _GGUF, _OURS)


def _translate_own(name: str, side: int) -> str:
    translated = _translate(name, _OURS, side)
    assert translated is not None, name
    return translated


def _translate(name: str, side: int, other_side: int) -> str | None:
    if row := _OUTSIDE[side].get(name):
        return row[other_side]
    if (match := _LAYER_NAMES[side].fullmatch(name)) and (row := _INSIDE[side].get(match[2])):
        return f"{_LAYERS[other_side]}{match[1]}.{row[other_side]}"
    return None


def rotary_heads(name: str, config: ModelConfig) -> int | None:
    """Number of heads whose rows the rotary layout orders in this tensor, or None where it orders none."""
    if name.endswith("attention.wq.weight"):
        return config.num_heads
    return config.num_kv_heads if name.endswith("attention.wk.weight") else None


def pairs_to_halves(rows: Rows, num_heads: int) -> Rows:
    """Moves rows from Meta's order (0, E/2, 1, E/2 + 1, ... of Camelid's) into Camelid's.

    Whole rows move, so that any encoding's bytes may.

    Args:
        rows: [R, bytes of a row], R = num_heads * E.

    Returns:
        A copy of the same shape.
    """
    num_rows, num_bytes = rows.shape
    return rows.reshape(num_heads, -1, 2, num_bytes).swapaxes(1, 2).reshape(num_rows, num_bytes)


def halves_to_pairs(rows: Rows, num_heads: int) -> Rows:
    """Moves rows from Camelid's order into Meta's: the inverse of `pairs_to_halves`."""
    num_rows, num_bytes = rows.shape
    return rows.reshape(num_heads, 2, -1, num_bytes).swapaxes(1, 2).reshape(num_rows, num_bytes)


def order_as_halves(tensor: StoredTensor, config: ModelConfig) -> StoredTensor:
    """A tensor whose rows stand in Meta's order, as one in Camelid's: those of `wq` and `wk` are moved when read."""
    return _reorder(tensor, config, pairs_to_halves)


def order_as_pairs(tensor: StoredTensor, config: ModelConfig) -> StoredTensor:
    """A tensor of Camelid's, as one whose rows stand in Meta's order."""
    return _reorder(tensor, config, halves_to_pairs)


def _reorder(tensor: StoredTensor, config: ModelConfig, move: Callable[[Rows, int], Rows]) -> StoredTensor:
    num_heads = rotary_heads(tensor.name, config)
    if num_heads is None:
        return tensor
    num_rows = tensor.shape[0]
    return replace(tensor, read=lambda: move(tensor.read().reshape(num_rows, -1), num_heads).reshape(-1))
