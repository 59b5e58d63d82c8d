"""One safetensors file: read without copying a byte, written one tensor at a time.

Layout: u64 length of the header, header (JSON: name -> dtype, shape, data_offsets), data. The tensors fill the data
from its first byte to its last, in any order.
"""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from camelid.checkpoint.bounded import MAX_TABLE_BYTES, map_file, parse_json, show
from camelid.checkpoint.stored import StoredTensor
from camelid.encoding import ENCODINGS
from camelid.errors import UserError

DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
"""safetensors' name of each encoding that it can hold."""

_ENCODINGS = {dtype: ENCODINGS[name] for name, dtype in DTYPES.items()}
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_MAX_DIMENSIONS = 8


def read_safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """The tensors of a file, by the file's names and in its order of data, and what it says of itself.

    Raises:
        UserError: the file is damaged, or a tensor is of a type other than F32, F16 and BF16.
    """
    data = map_file(path)
    header, start = _read_header(data, path)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict):
        raise UserError(f"{path} is damaged ({_METADATA} is no table); get it again")
    data = data[start:]
    end = 0
    tensors = {}
    for name, (begin, tensor_end) in sorted(_find_places(header, path).items(), key=lambda item: item[1]):
        if begin != end:
            what = (
                "shares bytes with another tensor" if begin < end else f"leaves {begin - end:,} bytes before it unused"
            )
            raise UserError(f"{path} is damaged (tensor {show(name)} {what}); get it again")
        end = tensor_end
        tensors[name] = _make_tensor(name, header[name], data[begin:end], path)
    if end != data.size:
        raise UserError(f"{path} is damaged (its tensors take {end:,} bytes, and it holds {data.size:,}); get it again")
    return tensors, metadata


def _read_header(data: NDArray[np.uint8], path: Path) -> tuple[dict[str, Any], int]:
    """The header and the place where the data start."""
    length = int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
    start = _LENGTH_BYTES + length
    if data.size < _LENGTH_BYTES or start > data.size:
        raise UserError(f"{path} is damaged (it ends within its header); get it again")
    if length > MAX_TABLE_BYTES:
        raise UserError(f"{path} has a header of {length:,} bytes, and {MAX_TABLE_BYTES:,} are allowed; get it again")
    return parse_json(data[_LENGTH_BYTES:start].tobytes(), f"{path}, header"), start


def _find_places(header: dict[str, Any], path: Path) -> dict[str, tuple[int, int]]:
    """Where the data of each tensor lie."""
    places = {}
    for name, entry in header.items():
        shape, offsets = (entry.get("shape"), entry.get("data_offsets")) if isinstance(entry, dict) else (None, None)
        if not (_is_list_of_sizes(shape) and _is_list_of_sizes(offsets) and len(offsets) == 2):
            raise UserError(f"{path} is damaged (tensor {show(name)} has no shape or no place); get it again")
        places[name] = (offsets[0], offsets[1])
    return places


def _is_list_of_sizes(value: Any) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= _MAX_DIMENSIONS
        and all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 63 for item in value)
    )


def _make_tensor(name: str, entry: dict[str, Any], data: NDArray[np.uint8], path: Path) -> StoredTensor:
    dtype, shape = entry.get("dtype"), tuple(entry["shape"])
    encoding = _ENCODINGS.get(dtype) if isinstance(dtype, str) else None
    if encoding is None:
        raise UserError(
            f"{path}: tensor {show(name)} is of type {show(dtype)}, and Camelid reads {', '.join(_ENCODINGS)}; get "
            "the model in one of these"
        )
    num_bytes = prod(shape) * encoding.block_bytes
    if data.size != num_bytes:
        raise UserError(
            f"{path} is damaged (tensor {show(name)} needs {num_bytes:,} bytes, and has {data.size:,}); get it again"
        )
    return StoredTensor(name, shape, encoding, lambda: data)


def write_safetensors(path: Path, tensors: Sequence[StoredTensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors of plain encodings; memory holds one of them.

    Types of more bytes come first, so that every tensor stands at a multiple of its type's size.
    """
    tensors = sorted(tensors, key=lambda tensor: -tensor.encoding.block_bytes)
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    begin = 0
    for tensor in tensors:
        end = begin + tensor.encoding.num_bytes(tensor.shape)
        header[tensor.name] = {
            "dtype": DTYPES[tensor.encoding.name],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for tensor in tensors:
            data = tensor.read()
            assert data.nbytes == tensor.encoding.num_bytes(tensor.shape), tensor.name
            file.write(np.ascontiguousarray(data).data)
