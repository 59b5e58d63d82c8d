"""The index of a checkpoint whose tensors lie in pieces, as the processes of a mesh held them. No torch here.

shards.json                the index: for each tensor its type, shape and pieces
weights-00000.safetensors  pieces of weights that process 0 wrote, each named `<tensor>@<offset>,<offset>`
optimizer-00000.safetensors  pieces of AdamW's moments
random-00000.safetensors   the state of process 0's random numbers
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from camelid.checkpoint.bounded import read_json
from camelid.checkpoint.expected import say_shape
from camelid.checkpoint.safetensors_file import read_safetensors
from camelid.checkpoint.stored import StoredTensor
from camelid.errors import UserError
from camelid.settings import Settings, validate

INDEX_NAME = "shards.json"

_Size = Annotated[int, Field(ge=0, lt=1 << 40)]
_Sizes = Annotated[tuple[_Size, ...], Field(max_length=8)]


class Piece(Settings):
    """A box of a tensor that one process wrote."""

    file: str = Field(pattern=r"^(weights|optimizer)-\d{5}\.safetensors$")
    """The file that holds it."""
    offset: _Sizes
    """Where the box begins in the tensor."""
    shape: _Sizes
    """Its extent."""

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as an index into the tensor."""
        return tuple(slice(begin, begin + size) for begin, size in zip(self.offset, self.shape, strict=True))


class Pieces(Settings):
    """A tensor and where its pieces lie."""

    dtype: str
    """As safetensors calls it."""
    shape: _Sizes
    """Of the whole tensor."""
    pieces: tuple[Piece, ...]
    """Boxes that fill it and do not overlap."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for piece in self.pieces:
            if not len(piece.offset) == len(piece.shape) == len(self.shape):
                raise ValueError("a piece has another number of dimensions than its tensor")
            if any(
                begin + size > whole for begin, size, whole in zip(piece.offset, piece.shape, self.shape, strict=True)
            ):
                raise ValueError("a piece leaves its tensor")
        if sum(prod(piece.shape) for piece in self.pieces) != prod(self.shape) or any(
            _overlap(first, second) for first, second in combinations(self._solid(), 2)
        ):
            raise ValueError("the pieces of a tensor do not fill it, or overlap")
        return self

    def _solid(self) -> list[Piece]:
        return [piece for piece in self.pieces if prod(piece.shape)]


class Index(Settings):
    """All tensors of a checkpoint that lie in pieces."""

    num_processes: int = Field(ge=1)
    """How many wrote it."""
    weights: dict[str, Pieces]
    """By name."""
    optimizer: dict[str, Pieces]
    """AdamW's moments, as `exp_avg.<name>` and `exp_avg_sq.<name>`."""


def is_sharded(checkpoint: Path) -> bool:
    """Whether the tensors of a checkpoint lie in pieces."""
    return (checkpoint / INDEX_NAME).is_file()


def read_index(checkpoint: Path) -> Index:
    """Reads the index of a checkpoint.

    Raises:
        UserError: it is damaged, or its pieces do not make whole tensors.
    """
    path = checkpoint / INDEX_NAME
    return validate(Index, read_json(path), str(path))


def piece_key(name: str, offset: tuple[int, ...]) -> str:
    """The name of a piece in its file."""
    return f"{name}@{','.join(map(str, offset))}"


def read_weights(checkpoint: Path) -> dict[str, StoredTensor]:
    """The weights of a checkpoint, whole; each is put together when it is read.

    Raises:
        UserError: index or files are damaged, or do not fit together.
    """
    index = read_index(checkpoint)
    names = {piece.file for pieces in index.weights.values() for piece in pieces.pieces}
    files = {name: read_safetensors(checkpoint / name)[0] for name in sorted(names)}
    return {name: _assemble(name, pieces, files, checkpoint) for name, pieces in index.weights.items()}


def _assemble(
    name: str, pieces: Pieces, files: Mapping[str, Mapping[str, StoredTensor]], checkpoint: Path
) -> StoredTensor:
    parts = list(_find_parts(name, pieces, files, checkpoint))
    encoding = parts[0][1].encoding if parts else None
    if encoding is None or any(part.encoding is not encoding for _, part in parts):
        raise UserError(f"{checkpoint / INDEX_NAME}: tensor {name} has no pieces of one type; get the checkpoint again")
    itemsize = encoding.block_bytes

    def read() -> NDArray[np.uint8]:
        whole = np.empty((*pieces.shape, itemsize), dtype=np.uint8)
        for piece, part in parts:
            whole[piece.slices] = part.read().reshape(*piece.shape, itemsize)
        return whole.reshape(-1)

    return StoredTensor(name, pieces.shape, encoding, read)


def _find_parts(
    name: str, pieces: Pieces, files: Mapping[str, Mapping[str, StoredTensor]], checkpoint: Path
) -> Iterator[tuple[Piece, StoredTensor]]:
    for piece in pieces.pieces:
        part = files[piece.file].get(piece_key(name, piece.offset))
        if part is None or part.shape != piece.shape:
            raise UserError(
                f"{checkpoint / piece.file} does not hold the piece of {name} from {list(piece.offset)} of shape "
                f"{say_shape(piece.shape)} that {INDEX_NAME} says; get the checkpoint again"
            )
        yield piece, part


def _overlap(first: Piece, second: Piece) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(first.slices, second.slices, strict=True))
