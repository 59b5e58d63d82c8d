"""Tiny models of the published shapes, written by transformers: what the readers of weights are tried on."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-1": {
        "hidden_size": 128,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "intermediate_size": 512,
        "vocab_size": 320,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_parameters": _PLAIN_ROPE,
        "dtype": torch.float16,
    },
    "llama-2": {
        "hidden_size": 128,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 352,
        "vocab_size": 320,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_parameters": _PLAIN_ROPE,
        "dtype": torch.bfloat16,
    },
    "llama-3.1": {
        "hidden_size": 256,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 896,
        "vocab_size": 512,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {**_LLAMA3_ROPE, "factor": 8.0},
        "dtype": torch.bfloat16,
    },
    "llama-3.2": {
        "hidden_size": 256,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 1024,
        "vocab_size": 512,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {**_LLAMA3_ROPE, "factor": 32.0},
        "tie_word_embeddings": True,
        "dtype": torch.bfloat16,
    },
    "tinyllama": {
        "hidden_size": 128,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "intermediate_size": 352,
        "vocab_size": 320,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_parameters": _PLAIN_ROPE,
        "dtype": torch.float32,
    },
    "smollm2": {
        "hidden_size": 144,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 384,
        "vocab_size": 320,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {**_PLAIN_ROPE, "rope_theta": 100000.0},
        "tie_word_embeddings": True,
        "dtype": torch.bfloat16,
    },
}
"""By the model whose traits they have: grouped heads, tied heads, stretched wavelengths, odd numbers of heads."""


def make_transformers_model(name: str) -> Any:
    """A LlamaForCausalLM of one of `SHAPES` with random weights, in the type that the model was published in."""
    shape = dict(SHAPES[name])
    dtype = shape.pop("dtype")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model: Any = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, **shape))
        with torch.no_grad():
            for parameter in model.parameters():
                # Larger than at the start of training, and gains that are not one: otherwise errors would hide.
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.to(dtype)


def write_huggingface(name: str, folder: Path, **options: Any) -> Path:
    """Saves such a model as transformers does; options go to save_pretrained."""
    make_transformers_model(name).save_pretrained(folder, **options)
    return folder
