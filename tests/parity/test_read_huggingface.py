"""Folders that transformers wrote, read by us: the same logits; and folders that we wrote, read by transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import SHAPES, write_huggingface
from torch import Tensor
from transformers import LlamaForCausalLM

from camelid.checkpoint import hf_safetensors
from camelid.checkpoint.load import load_transformer


def load_reference(folder: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make_tokens(vocab_size: int) -> Tensor:
    return torch.randint(0, vocab_size, (2, 90), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    model = hf_safetensors.read(write_huggingface(name, tmp_path / "hf"))
    tokens = make_tokens(model.config.vocab_size)
    expected = load_reference(tmp_path / "hf")(input_ids=tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(load_transformer(model)(tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_transformers_reads_what_we_write(name: str, tmp_path: Path) -> None:
    model = hf_safetensors.read(write_huggingface(name, tmp_path / "hf"))
    hf_safetensors.write(model, tmp_path / "ours", max_shard_bytes=60_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    theirs, again = load_reference(tmp_path / "hf"), load_reference(tmp_path / "ours")
    tokens = make_tokens(model.config.vocab_size)
    assert torch.equal(again(input_ids=tokens).logits, theirs(input_ids=tokens).logits)
    ignored = {"_name_or_path", "use_cache"}
    assert {k: v for k, v in again.config.to_dict().items() if k not in ignored} == {
        k: v for k, v in theirs.config.to_dict().items() if k not in ignored
    }
