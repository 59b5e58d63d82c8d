"""Names and rotary row order, against the published conversion and names of the other formats."""

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, get_tensor_name_map
from transformers import LlamaConfig, LlamaForCausalLM

from camelid.checkpoint.names import (
    from_gguf,
    from_huggingface,
    gguf_name,
    halves_to_pairs,
    huggingface_name,
    pairs_to_halves,
    rotary_heads,
)
from camelid.model.config import ModelConfig
from camelid.planning.shapes import parameter_shapes

_CONFIG = ModelConfig(dim=32, num_layers=12, num_heads=4, num_kv_heads=2, ffn_hidden_dim=48, vocab_size=64)


def test_names_are_transformers_own() -> None:
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=64,
    )
    with torch.device("meta"):
        theirs = {name: tuple(weight.shape) for name, weight in LlamaForCausalLM(config).state_dict().items()}
    assert {huggingface_name(name): shape for name, shape in parameter_shapes(_CONFIG).items()} == theirs


def test_names_are_those_of_the_gguf_package() -> None:
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, _CONFIG.num_layers)
    for name in parameter_shapes(_CONFIG):
        # The package knows Meta's names under the same roots.
        assert gguf_name(name) == names.get_name(name, try_suffixes=(".weight",)), name


def test_names_come_back() -> None:
    for name in parameter_shapes(_CONFIG):
        assert from_huggingface(huggingface_name(name)) == name
        assert from_gguf(gguf_name(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "rope_freqs.weight",
        "blk.01.attn_q.weight",
        "blk.x.attn_q.weight",
        "blk.0.attn_q.bias",
        "blk.0.output.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.-1.mlp.up_proj.weight",
        "layers.0.attention.wq.weight",
        "blk.9999999.attn_q.weight",
        "blk.\u0663.attn_q.weight",
        "blk.0.attn_q.weight\n",
    ],
)
def test_other_names_are_unknown(name: str) -> None:
    assert from_gguf(name) is None
    assert from_huggingface(name) is None


@pytest.mark.parametrize(("num_heads", "head_dim"), [(1, 2), (4, 8), (3, 48), (2, 64)])
def test_rows_move_as_the_published_conversion_moves_them(num_heads: int, head_dim: int) -> None:
    rows = torch.arange(num_heads * head_dim * 3, dtype=torch.uint8).view(-1, 3)
    # transformers' convert_llama_weights_to_hf.py, function `permute`, in its published form.
    expected = rows.view(num_heads, head_dim // 2, 2, 3).transpose(1, 2).reshape(-1, 3).numpy()
    moved = pairs_to_halves(rows.numpy(), num_heads)
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(halves_to_pairs(moved, num_heads), rows.numpy())


def test_row_order_is_what_it_says() -> None:
    rows = np.arange(8, dtype=np.uint8)[:, None]
    assert halves_to_pairs(rows, 1)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert halves_to_pairs(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_only_queries_and_keys_are_ordered() -> None:
    heads = {name: rotary_heads(name, _CONFIG) for name in parameter_shapes(_CONFIG)}
    assert {name: number for name, number in heads.items() if number is not None} == {
        f"layers.{layer}.attention.{kind}.weight": number
        for layer in range(12)
        for kind, number in (("wq", 4), ("wk", 2))
    }
