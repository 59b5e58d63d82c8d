"""Meta's own way to run its files: a process a shard, heads and channels divided, neighbours turned as complex numbers.

This is the forward pass of Meta's published programs, written anew from what they compute: column-parallel matrices
give each shard its heads, row-parallel ones are summed over the shards, LLaMA 1 and 2 join the embedding's columns,
Llama 3 sums the rows that each shard has. It knows nothing of Camelid's row order, so that it checks the order and the
division at once.

Shapes: T positions, h heads of a shard, k key/value heads of a shard, E head size.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import SHAPES, write_huggingface
from torch import Tensor
from transformers import LlamaForCausalLM

from camelid.checkpoint import hf_safetensors, meta_pth
from camelid.checkpoint.load import load_transformer

Shard = dict[str, Tensor]


class MetaProgram:
    """The shards of a folder at work, in float32.

    Args:
        scale_factor: of the rotary wavelengths, which the file does not say.
        is_llama3: whether the program is Llama 3's, which divides the rows of the embedding, or an earlier one.
    """

    def __init__(self, folder: Path, scale_factor: float, is_llama3: bool):
        self.params: dict[str, Any] = json.loads((folder / "params.json").read_text())
        files = sorted(folder.glob("consolidated.*.pth"))
        self.shards: list[Shard] = [
            {name: weight.float() for name, weight in torch.load(file, weights_only=True).items()} for file in files
        ]
        self.num_heads = self.params["n_heads"]
        self.num_kv_heads = self.params.get("n_kv_heads", self.num_heads)
        self.head_dim = self.params["dim"] // self.num_heads
        self.scale_factor = scale_factor
        self.is_llama3 = is_llama3

    def __call__(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in range(self.params["n_layers"]):
            prefix = f"layers.{layer}."
            x = x + self.attend(self.norm(x, prefix + "attention_norm.weight"), prefix + "attention.")
            x = x + self.feed_forward(self.norm(x, prefix + "ffn_norm.weight"), prefix + "feed_forward.")
        x = self.norm(x, "norm.weight")
        return torch.cat([x @ shard["output.weight"].T for shard in self.shards], dim=-1)

    def embed(self, tokens: Tensor) -> Tensor:
        parts = [shard["tok_embeddings.weight"] for shard in self.shards]
        if not self.is_llama3:
            return torch.cat([part[tokens] for part in parts], dim=-1)
        num_rows = parts[0].shape[0]
        total = torch.zeros(len(tokens), self.params["dim"])
        for number, part in enumerate(parts):
            local = tokens - number * num_rows
            is_here = (local >= 0) & (local < num_rows)
            total[is_here] += part[local[is_here]]
        return total

    def norm(self, x: Tensor, name: str) -> Tensor:
        scale = (x.square().mean(-1, keepdim=True) + self.params["norm_eps"]).rsqrt()
        normalised: Tensor = x * scale * self.shards[0][name]
        return normalised

    def turns(self, length: int) -> Tensor:
        """[T, E / 2] complex numbers of modulus 1."""
        channels = torch.arange(0, self.head_dim, 2).float()
        speeds = 1.0 / self.params.get("rope_theta", 10000.0) ** (channels / self.head_dim)
        if self.params.get("use_scaled_rope"):
            speeds = torch.tensor([self.scale(speed.item()) for speed in speeds])
        angles = torch.outer(torch.arange(length).float(), speeds)
        return torch.polar(torch.ones_like(angles), angles)

    def scale(self, speed: float) -> float:
        wavelength = 2 * math.pi / speed
        if wavelength < 8192 / 4:
            return speed
        if wavelength > 8192:
            return speed / self.scale_factor
        smooth = (8192 / wavelength - 1) / 3
        return (1 - smooth) * speed / self.scale_factor + smooth * speed

    def attend(self, x: Tensor, prefix: str) -> Tensor:
        length = len(x)
        turns = self.turns(length).unsqueeze(1)
        mask = torch.full((length, length), -math.inf).triu(1)
        total = torch.zeros_like(x)
        for shard in self.shards:
            queries, keys, values = (
                (x @ shard[f"{prefix}{kind}.weight"].T).view(length, -1, self.head_dim) for kind in ("wq", "wk", "wv")
            )  # [T, h or k, E]
            assert queries.shape[1] * len(self.shards) == self.num_heads
            assert keys.shape[1] * len(self.shards) == self.num_kv_heads
            queries, keys = (
                torch.view_as_real(torch.view_as_complex(t.reshape(length, -1, self.head_dim // 2, 2)) * turns).flatten(
                    2
                )
                for t in (queries, keys)
            )
            group = self.num_heads // self.num_kv_heads
            keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
            scores = torch.einsum("thd,shd->hts", queries, keys) / math.sqrt(self.head_dim) + mask
            attended = torch.einsum("hts,shd->thd", scores.softmax(-1), values).flatten(1)
            total += attended @ shard[prefix + "wo.weight"].T
        return total

    def feed_forward(self, x: Tensor, prefix: str) -> Tensor:
        total = torch.zeros_like(x)
        for shard in self.shards:
            gate, up = x @ shard[prefix + "w1.weight"].T, x @ shard[prefix + "w3.weight"].T
            total += (torch.nn.functional.silu(gate) * up) @ shard[prefix + "w2.weight"].T
        return total


@pytest.mark.parametrize(
    ("name", "num_shards"),
    [("llama-1", 1), ("llama-1", 4), ("llama-2", 8), ("llama-3.1", 1), ("llama-3.1", 8), ("llama-3.2", 2),
     ("tinyllama", 2), ("smollm2", 1)],
)  # fmt: skip
@torch.no_grad()
def test_meta_program_computes_the_same(name: str, num_shards: int, tmp_path: Path) -> None:
    write_huggingface(name, tmp_path / "hf")
    model = hf_safetensors.read(tmp_path / "hf")
    meta_pth.write(model, tmp_path / "meta", num_shards)
    tokens = torch.randint(0, model.config.vocab_size, (80,), generator=torch.Generator().manual_seed(2))
    reference: Any = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    expected = reference(input_ids=tokens.unsqueeze(0)).logits[0]
    scale_factor = SHAPES[name]["rope_parameters"].get("factor", 1.0)
    program = MetaProgram(tmp_path / "meta", scale_factor, is_llama3=name.startswith("llama-3"))
    torch.testing.assert_close(program(tokens), expected, rtol=1e-5, atol=2e-5)


@torch.no_grad()
def test_files_of_meta_are_read_as_its_program_reads_them(tmp_path: Path) -> None:
    """Written here with torch.save in Meta's layout, without Camelid's writer."""
    generator = torch.Generator().manual_seed(4)
    dim, heads, kv_heads, hidden, vocab, num_shards = 64, 8, 4, 96, 128, 2

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    norms = {f"layers.0.{kind}_norm.weight": 1 + draw(dim) for kind in ("attention", "ffn")}
    norms["norm.weight"] = 1 + draw(dim)
    for number in range(num_shards):
        shard = {
            "tok_embeddings.weight": draw(vocab, dim // num_shards),
            "output.weight": draw(vocab // num_shards, dim),
            "layers.0.attention.wq.weight": draw(dim // num_shards, dim),
            "layers.0.attention.wk.weight": draw(kv_heads * 8 // num_shards, dim),
            "layers.0.attention.wv.weight": draw(kv_heads * 8 // num_shards, dim),
            "layers.0.attention.wo.weight": draw(dim, dim // num_shards),
            "layers.0.feed_forward.w1.weight": draw(hidden // num_shards, dim),
            "layers.0.feed_forward.w2.weight": draw(dim, hidden // num_shards),
            "layers.0.feed_forward.w3.weight": draw(hidden // num_shards, dim),
            "rope.freqs": draw(4),
            **norms,
        }
        torch.save(shard, tmp_path / f"consolidated.{number:02d}.pth")
    params = {"dim": dim, "n_layers": 1, "n_heads": heads, "n_kv_heads": kv_heads, "vocab_size": -1, "norm_eps": 1e-5}
    (tmp_path / "params.json").write_text(json.dumps(params))
    model = meta_pth.read(tmp_path)
    tokens = torch.randint(0, vocab, (50,), generator=generator)
    expected = MetaProgram(tmp_path, 1.0, is_llama3=False)(tokens)
    assert expected.std() > 0.5
    torch.testing.assert_close(load_transformer(model)(tokens.unsqueeze(0))[0], expected, rtol=1e-5, atol=1e-5)
