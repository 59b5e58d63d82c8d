"""Stored models with random weights."""

from pathlib import Path

import numpy as np
import pytest

from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import ENCODINGS, encode
from camelid.model.config import ModelConfig
from camelid.planning.shapes import parameter_shapes


def make_model(config: ModelConfig, encoding: str = "f32", seed: int = 7, spread: float = 0.1) -> StoredModel:
    """Normal weights of that standard deviation, gains of 1 in the mean square; matrices in `encoding`."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        values = (rng.standard_normal(shape) * (spread if len(shape) > 1 else 1)).astype(np.float32)
        chosen = ENCODINGS[encoding if len(shape) > 1 else "f32"]
        data = encode(values, chosen)
        tensors[name] = StoredTensor(name, shape, chosen, lambda data=data: data)  # type: ignore[misc]
    return StoredModel(Path("random"), "gguf", config, tensors, lambda: pytest.fail("it has no tokenizer"))
