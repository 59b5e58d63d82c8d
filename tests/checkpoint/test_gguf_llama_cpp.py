"""Files that Camelid wrote, in llama.cpp: it loads them, computes what Camelid computes, and would write the same."""

from dataclasses import replace
from pathlib import Path

import llama_cpp_oracle
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf_files import smollm2_path
from numpy.typing import NDArray

from camelid.checkpoint import gguf
from camelid.checkpoint.gguf_config import FILE_TYPES
from camelid.checkpoint.load import load_transformer
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import ENCODINGS
from camelid.model.config import ModelConfig, RopeScaling
from camelid.planning.shapes import parameter_shapes
from camelid.tokenizer.load import load_tokenizer

pytestmark = pytest.mark.slow

Floats = NDArray[np.float64]

CONFIG = ModelConfig(
    dim=128, num_layers=2, num_heads=4, num_kv_heads=4, ffn_hidden_dim=160, vocab_size=32000, norm_eps=1e-5
)
CONFIGS = {
    "llama 1": CONFIG,
    "grouped heads": CONFIG.model_copy(update={"num_kv_heads": 2, "norm_eps": 1e-6}),
    "tied head": CONFIG.model_copy(update={"is_head_tied": True, "num_kv_heads": 1}),
    "llama 3": CONFIG.model_copy(
        update={
            "rope_theta": 500000.0,
            "rope_scaling": RopeScaling(factor=8.0, original_max_sequence_length=64),
            "num_kv_heads": 2,
        }
    ),
    "heads of 48": CONFIG.model_copy(update={"dim": 192}),
}
TEXTS = ("The llama is", "Once upon a time there was", "In the year 1492,")


def random_model(config: ModelConfig, tokenizer: Path) -> StoredModel:
    rng = np.random.default_rng(1)
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        values = (
            rng.normal(size=shape) * 2 / np.sqrt(shape[-1]) if len(shape) == 2 else 1 + 0.1 * rng.normal(size=shape)
        )
        data = values.astype(np.float32).reshape(-1).view(np.uint8)
        tensors[name] = StoredTensor(name, shape, ENCODINGS["f32"], lambda data=data: data)  # type: ignore[misc]
    return StoredModel(tokenizer, "native", config, tensors, lambda: load_tokenizer(tokenizer))


@torch.inference_mode()
def logits_of(path: Path, tokens: NDArray[np.int64]) -> Floats:
    """Camelid's own logits [T, V] in float32."""
    return np.asarray(load_transformer(gguf.read(path))(torch.tensor(tokens)[None])[0].double())


def log_softmax(logits: NDArray[np.floating]) -> Floats:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True)))


def divergence(ours: Floats, theirs: NDArray[np.float32]) -> float:
    """Nats per token."""
    a, b = log_softmax(ours), log_softmax(theirs)
    return float((np.exp(a) * (a - b)).sum(axis=-1).mean())


@pytest.mark.parametrize("name", CONFIGS)
def test_random_models_of_every_kind_compute_the_same(tmp_path: Path, shared_data: Path, name: str) -> None:
    model = random_model(CONFIGS[name], shared_data / "models" / "llama-tokenizer")
    path = tmp_path / "model.gguf"
    gguf.write(model, path, "f32")
    assert gguf.read(path).config == CONFIGS[name]
    # Long enough that stretched wavelengths matter.
    prompt = np.random.default_rng(2).integers(3, 32000, size=200).tolist()
    ((tokens, theirs),) = llama_cpp_oracle.evaluate(path, [prompt], 40, tmp_path)
    ours = logits_of(path, tokens)
    assert ours[199:-1].argmax(axis=-1).tolist() == tokens[200:].tolist()
    assert divergence(ours, theirs) < 1e-8
    if name == "llama 3":
        # Without the factors the same weights compute something else.
        gguf.write(replace(model, config=CONFIGS["grouped heads"]), tmp_path / "other.gguf", "f32")
        assert divergence(logits_of(tmp_path / "other.gguf", tokens), theirs) > 1e-3


@pytest.mark.parametrize(
    ("encoding", "max_divergence"), [("f32", 1e-8), ("f16", 1e-4), (None, 0.02), ("q8_0", 0.01), ("q4_0", 0.02)]
)
def test_smollm2_says_the_same_in_every_encoding(tmp_path: Path, encoding: str | None, max_divergence: float) -> None:
    model = gguf.read(smollm2_path())
    tokenizer = model.load_tokenizer()
    path = tmp_path / "model.gguf"
    gguf.write(model, path, encoding)
    prompts = [tokenizer.encode(text) for text in TEXTS]
    for prompt, (tokens, theirs) in zip(prompts, llama_cpp_oracle.evaluate(path, prompts, 40, tmp_path), strict=True):
        ours = logits_of(path, tokens)
        # llama.cpp rounds activations to 8 bits before it multiplies them with quantised weights: texts may part there.
        assert divergence(ours, theirs) < max_divergence
        if encoding in ("f32", "f16"):
            assert ours[len(prompt) - 1 : -1].argmax(axis=-1).tolist() == tokens[len(prompt) :].tolist()


def test_the_file_as_it_is_says_the_same_when_it_was_written_again(tmp_path: Path) -> None:
    model = gguf.read(smollm2_path())
    gguf.write(model, tmp_path / "again.gguf")
    prompts = [model.load_tokenizer().encode(text) for text in TEXTS]
    texts = [
        [tokens.tolist() for tokens, _ in llama_cpp_oracle.evaluate(path, prompts, 40, tmp_path)]
        for path in (smollm2_path(), tmp_path / "again.gguf")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("encoding", ["f16", "bf16", "q8_0", "q4_0", "q4_1"])
def test_llama_cpp_quantises_to_the_same_bytes(tmp_path: Path, encoding: str) -> None:
    model = gguf.read(smollm2_path())
    gguf.write(model, tmp_path / "f32.gguf", "f32")
    gguf.write(model, tmp_path / "ours.gguf", encoding)
    llama_cpp_oracle.run_child("quantise", tmp_path / "f32.gguf", tmp_path / "theirs.gguf", str(FILE_TYPES[encoding]))
    ours, theirs = (
        {tensor.name: tensor for tensor in GGUFReader(tmp_path / f"{who}.gguf").tensors} for who in ("ours", "theirs")
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].tensor_type == tensor.tensor_type
        assert np.array_equal(ours[name].data.view(np.uint8), tensor.data.view(np.uint8)), name
