"""Writes a GGUF file with the shape of TinyLlama 1.1B and random weights: python benchmarks/random_llama.py q4_0 FILE

Speed does not depend on what the weights are. Blocks are drawn directly, without quantising anything; scales keep the
activations of a forward pass in their usual range. The vocabulary is made up.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from camelid.encoding import ENCODINGS
from camelid.model.config import ModelSettings
from camelid.planning.shapes import parameter_shapes

VOCAB_SIZE = 32000
TYPES = {"q4_0": gguf.GGMLQuantizationType.Q4_0, "q8_0": gguf.GGMLQuantizationType.Q8_0}
_NAMES = {
    "tok_embeddings": "token_embd",
    "attention_norm": "attn_norm",
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "layers.": "blk.",
}


def gguf_name(name: str) -> str:
    """A tensor's name in GGUF."""
    if name == "norm.weight":
        return "output_norm.weight"
    for ours, theirs in _NAMES.items():
        name = name.replace(ours, theirs)
    return name


def draw_blocks(encoding: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Rows of random blocks whose products keep the size of their input."""
    block_bytes = ENCODINGS[encoding].block_bytes
    blocks = rng.integers(0, 256, (shape[0], shape[1] // 32, block_bytes), np.uint8)
    deviation = 4.6 if encoding == "q4_0" else 74.0
    blocks[..., :2] = np.array([shape[1] ** -0.5 / deviation], np.float16).view(np.uint8)
    return blocks.reshape(shape[0], -1)


def write(path: Path, encoding: str) -> None:
    """Writes the file whole or not at all."""
    config = ModelSettings(preset="1b", max_sequence_length=4096).resolve(VOCAB_SIZE)
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_context_length(config.max_sequence_length)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.ffn_hidden_dim)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(VOCAB_SIZE)
    _add_vocabulary(writer)
    rng = np.random.default_rng(1)
    for name, shape in parameter_shapes(config).items():
        if len(shape) == 1:
            writer.add_tensor(gguf_name(name), np.ones(shape, np.float32))
        else:
            writer.add_tensor(gguf_name(name), draw_blocks(encoding, shape, rng), raw_dtype=TYPES[encoding])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    special, byte, normal = gguf.TokenType.CONTROL, gguf.TokenType.BYTE, gguf.TokenType.NORMAL
    tokens = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", special), ("</s>", special)]
    tokens += [(f"<0x{i:02X}>", byte) for i in range(256)]
    tokens += [(f"piece{i}", normal) for i in range(VOCAB_SIZE - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_scores([-float(i) for i in range(VOCAB_SIZE)])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("encoding", choices=sorted(TYPES))
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    write(arguments.file, arguments.encoding)


if __name__ == "__main__":
    main()
