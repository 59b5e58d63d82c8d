"""A model as it lies on disk, whatever the format: configuration, tokenizer, and tensors that are read when asked for.

Every format's module offers `read(path) -> StoredModel` and, where it can be written, `write(model, path)`. Names are
Meta's, shapes are [out, in], and rows of `wq` and `wk` stand in Camelid's rotary order (channel i is paired with
channel i + E/2): a format that stores them otherwise permutes them when it reads and writes (`checkpoint.names`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camelid.encoding import Encoding
from camelid.model.config import ModelConfig
from camelid.tokenizer.load import Tokenizer


@dataclass(frozen=True)
class StoredTensor:
    """One tensor, not yet read."""

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    read: Callable[[], NDArray[np.uint8]]
    """Its bytes, flat and in row order: a read-only view of the mapped file where the format's layout allows it, else
    a copy that the caller owns; nothing is kept between calls."""


@dataclass(frozen=True)
class StoredModel:
    """A model whose tensors are still in their file."""

    path: Path
    format: str
    """native, huggingface, meta, gguf or llama2c."""
    config: ModelConfig
    tensors: Mapping[str, StoredTensor]
    """By name, in the order in which the file holds them; exactly those of `planning.shapes.parameter_shapes`."""
    load_tokenizer: Callable[[], Tokenizer]
    """Loads the tokenizer that came with the weights; raises UserError where there is none."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the file says of itself (name, author, licence, quantisation), for people to read."""
