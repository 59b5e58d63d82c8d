"""The real stories15M: greedy text equals that of a float32 numpy program that reads the file on its own.

Shapes: T positions, H heads, E head size.
"""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from numpy.typing import NDArray

from camelid.checkpoint import hf_safetensors, llama2c
from camelid.checkpoint.convert import convert
from camelid.checkpoint.load import load_transformer

BEGINNING = "Once upon a time, there was a little girl named Lily. She loved to play outside in the sunshine."
NUM_TOKENS = 120

Array = NDArray[np.float32]


class Stories:
    """llama2.c's program in numpy: neighbouring channels are turned, one position at a time, keys and values kept."""

    def __init__(self, path: Path):
        data = gzip.decompress(path.read_bytes())
        self.dim, self.hidden, self.num_layers, self.num_heads, _, vocab, length = struct.unpack("<7i", data[:28])
        self.values = np.frombuffer(data, "<f4", offset=28)
        self.place = 0
        self.head_dim = self.dim // self.num_heads
        layers, dim, hidden = self.num_layers, self.dim, self.hidden
        self.embedding = self.take(vocab, dim)
        self.norm_1 = self.take(layers, dim)
        self.wq, self.wk, self.wv, self.wo = (self.take(layers, dim, dim) for _ in range(4))
        self.norm_2 = self.take(layers, dim)
        self.w1 = self.take(layers, hidden, dim)
        self.w2 = self.take(layers, dim, hidden)
        self.w3 = self.take(layers, hidden, dim)
        self.norm_3 = self.take(dim)
        assert self.place + length * self.head_dim == self.values.size
        self.keys: list[list[Array]] = [[] for _ in range(layers)]
        self.kept_values: list[list[Array]] = [[] for _ in range(layers)]

    def take(self, *shape: int) -> Array:
        size = int(np.prod(shape))
        taken = self.values[self.place : self.place + size].reshape(shape)
        self.place += size
        return taken

    def norm(self, x: Array, gain: Array) -> Array:
        normalised: Array = gain * x / np.sqrt(np.mean(x * x) + np.float32(1e-5))
        return normalised

    def turn(self, x: Array, position: int) -> Array:
        pairs = x.reshape(self.num_heads, self.head_dim // 2, 2)
        speeds = 10000.0 ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        cos, sin = np.cos(position * speeds).astype(np.float32), np.sin(position * speeds).astype(np.float32)
        turned = np.empty_like(pairs)
        turned[..., 0] = pairs[..., 0] * cos - pairs[..., 1] * sin
        turned[..., 1] = pairs[..., 0] * sin + pairs[..., 1] * cos
        return turned.reshape(self.num_heads, self.head_dim)

    def step(self, token: int, position: int) -> Array:
        x = self.embedding[token]
        for layer in range(self.num_layers):
            h = self.norm(x, self.norm_1[layer])
            query = self.turn(self.wq[layer] @ h, position)
            self.keys[layer].append(self.turn(self.wk[layer] @ h, position))
            self.kept_values[layer].append((self.wv[layer] @ h).reshape(self.num_heads, self.head_dim))
            keys, values = np.stack(self.keys[layer]), np.stack(self.kept_values[layer])  # [T, H, E]
            scores = np.einsum("he,the->ht", query, keys) / np.float32(np.sqrt(self.head_dim))
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            x = x + self.wo[layer] @ np.einsum("ht,the->he", weights, values).reshape(-1)
            h = self.norm(x, self.norm_2[layer])
            gate = self.w1[layer] @ h
            x = x + self.w2[layer] @ (gate / (1 + np.exp(-gate)) * (self.w3[layer] @ h))
        logits: Array = self.embedding @ self.norm(x, self.norm_3)
        return logits

    def write(self, num_tokens: int) -> list[int]:
        tokens = [1]
        for position in range(num_tokens):
            tokens.append(int(self.step(tokens[-1], position).argmax()))
        return tokens


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> Path:
    return shared_data / "models" / "stories15M" / "stories15M.bin.gz"


def test_greedy_text_equals_numpy(stories: Path, shared_data: Path) -> None:
    expected = Stories(stories).write(NUM_TOKENS)
    tokenizer = sentencepiece.SentencePieceProcessor(
        str(shared_data / "models" / "llama-tokenizer" / "tokenizer.model")
    )
    assert tokenizer.decode(expected).startswith(BEGINNING)
    model = llama2c.read(stories)
    assert model.config.max_sequence_length == 256
    # The likeliest token after every beginning of the text is its next one: greedy decoding writes this text.
    with torch.inference_mode():
        logits = load_transformer(model)(torch.tensor([expected[:-1]]))
    assert logits[0].argmax(-1).tolist() == expected[1:]


def test_it_stays_the_same_model_in_another_format(stories: Path, tmp_path: Path) -> None:
    model = llama2c.read(stories)
    convert(model, tmp_path / "hf", "huggingface")
    again = hf_safetensors.read(tmp_path / "hf")
    assert again.config == model.config
    for name, tensor in model.tensors.items():
        np.testing.assert_array_equal(again.tensors[name].read(), tensor.read())
    assert model.load_tokenizer().decode([9038, 2501, 263, 931]) == "Once upon a time"
