"""Are these the tensors that the configuration asks for? What every reader checks before it hands out a model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from camelid.checkpoint.stored import StoredTensor
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.planning.shapes import parameter_shapes

_COMPARED_BYTES = 1 << 24
_TENSORS_PER_LAYER = 9


def expect_shapes(config: ModelConfig, num_tensors: int, where: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the model has.

    Args:
        num_tensors: how many the files hold; absurdly many layers are refused before they are spelled out.

    Raises:
        UserError: the configuration has more layers than the tensors make.
    """
    # As many layers as there are tensors would make a table many times the size of a small hostile file.
    if config.num_layers * _TENSORS_PER_LAYER > num_tensors:
        raise UserError(
            f"{where}: the configuration speaks of {config.num_layers:,} layers, and the files hold {num_tensors:,} "
            "tensors; get the model again, with all of its files"
        )
    return parameter_shapes(config)


def match_tensors(
    tensors: Mapping[str, StoredTensor], config: ModelConfig, files: Mapping[str, Path], folder: Path
) -> dict[str, StoredTensor]:
    """The tensors by our names, if they are exactly those of the configuration.

    Args:
        tensors: by our names.
        files: the file that each lies in, for messages.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape; it names file, tensor and shapes.
    """
    expected = expect_shapes(config, len(tensors), folder)
    for name in tensors:
        if name not in expected:
            raise UserError(f"{files[name]}: tensor {name} has no place in the model that the configuration describes")
    for name, shape in expected.items():
        if name not in tensors:
            raise UserError(
                f"{folder}: tensor {name} ({say_shape(shape)}) is missing; get the model again, with all of its files"
            )
        if tensors[name].shape != shape:
            raise UserError(
                f"{files[name]}: tensor {name} has shape {say_shape(tensors[name].shape)}, but the configuration wants "
                f"{say_shape(shape)}; use the configuration that belongs to the weights"
            )
    return dict(tensors)


def say_shape(shape: tuple[int, ...]) -> str:
    """A shape for people: `32 x 64`."""
    return " x ".join(map(str, shape)) or "of one number"


def have_equal_bytes(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two tensors of one size hold the same bytes; stops at the first piece that differs."""
    a, b = first.read(), second.read()
    return all(
        np.array_equal(a[start : start + _COMPARED_BYTES], b[start : start + _COMPARED_BYTES])
        for start in range(0, a.size, _COMPARED_BYTES)
    )
