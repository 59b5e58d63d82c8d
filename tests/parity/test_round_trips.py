"""Meta, Hugging Face and native: whatever the way round, every tensor comes back with the same bytes."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoints import SHAPES, make_transformers_model, write_huggingface

from camelid.checkpoint import hf_safetensors, meta_pth, native
from camelid.checkpoint.convert import convert
from camelid.checkpoint.stored import StoredModel
from camelid.errors import UserError

WAYS = (("huggingface", "meta", "native", "huggingface"), ("huggingface", "native", "meta", "huggingface"))
READERS = {"native": native.read, "huggingface": hf_safetensors.read, "meta": meta_pth.read}


def assert_same(found: StoredModel, expected: StoredModel) -> None:
    assert found.config == expected.config
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert (found.tensors[name].shape, found.tensors[name].encoding) == (tensor.shape, tensor.encoding)
        np.testing.assert_array_equal(found.tensors[name].read(), tensor.read(), err_msg=name)


def can_be_divided(name: str, num_shards: int) -> bool:
    keys = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    return all(SHAPES[name][key] % num_shards == 0 for key in keys)


@pytest.mark.parametrize("num_shards", [1, 2, 4, 8])
@pytest.mark.parametrize("name", SHAPES)
def test_every_way_round(name: str, num_shards: int, tmp_path: Path) -> None:
    start = hf_safetensors.read(write_huggingface(name, tmp_path / "start", max_shard_size="100KB"))
    if not can_be_divided(name, num_shards):
        with pytest.raises(UserError, match=rf"its \d+ [a-z /]+ do not divide by {num_shards} shards"):
            convert(start, tmp_path / "meta", "meta", num_shards=num_shards)
        return
    for way in WAYS:
        model = start
        for format_name in way[1:]:
            path = tmp_path / "-".join(way) / format_name
            convert(model, path, format_name, num_shards=num_shards if format_name == "meta" else 1)
            model = READERS[format_name](path)
            assert model.format == format_name
        assert_same(model, start)


def test_all_steps_are_tried() -> None:
    steps = {step for way in WAYS for step in pairwise(way)}
    assert steps >= {(a, b) for a in READERS for b in READERS if a != b}
    divided = {shards for shards in (1, 2, 4, 8) for name in SHAPES if can_be_divided(name, shards)}
    assert divided == {1, 2, 4, 8}


def test_the_way_ends_where_it_began(tmp_path: Path) -> None:
    """Against transformers' weights themselves, not through our reader."""
    expected = make_transformers_model("llama-3.1").state_dict()
    model = hf_safetensors.read(write_huggingface("llama-3.1", tmp_path / "hf"))
    convert(model, tmp_path / "meta", "meta", num_shards=4)
    convert(meta_pth.read(tmp_path / "meta"), tmp_path / "native", "native")
    convert(native.read(tmp_path / "native"), tmp_path / "back", "huggingface", max_shard_bytes=200_000)
    found = type(make_transformers_model("llama-3.1")).from_pretrained(tmp_path / "back").state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize(("num_shards", "other"), [(2, 8), (8, 1), (4, 2)])
def test_shards_are_divided_anew(num_shards: int, other: int, tmp_path: Path) -> None:
    start = hf_safetensors.read(write_huggingface("llama-2", tmp_path / "hf"))
    convert(start, tmp_path / "first", "meta", num_shards=num_shards)
    convert(meta_pth.read(tmp_path / "first"), tmp_path / "second", "meta", num_shards=other)
    assert len(list((tmp_path / "second").glob("*.pth"))) == other
    assert_same(meta_pth.read(tmp_path / "second"), start)
