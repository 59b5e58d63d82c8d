"""A tensor's values in another encoding, a few rows at a time."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import Encoding, check_finite, decode, encode
from camelid.errors import UserError

_PIECE_VALUES = 1 << 20

Bytes = NDArray[np.uint8]


def recode_model(model: StoredModel, target: Encoding) -> StoredModel:
    """The model with every tensor in one plain encoding, converted when it is read; memory holds the result alone.

    Reading raises UserError where a value is no finite number, or beyond the range of `target`.
    """

    def recode(tensor: StoredTensor) -> StoredTensor:
        def read() -> Bytes:
            recoded = np.empty(target.num_bytes(tensor.shape), np.uint8)
            place = 0
            for piece in recode_pieces(tensor.read(), tensor, target, f"{model.path}: tensor {tensor.name}"):
                recoded[place : place + piece.size] = piece
                place += piece.size
            return recoded

        return tensor if tensor.encoding == target else replace(tensor, encoding=target, read=read)

    return replace(model, tensors={name: recode(tensor) for name, tensor in model.tensors.items()})


def recode_pieces(data: Bytes, tensor: StoredTensor, target: Encoding, where: str) -> Iterator[Bytes]:
    """Yields a tensor's bytes in another encoding, whole rows at a time; as they are where it is the same.

    Args:
        data: the tensor's bytes.
        where: file and tensor, for messages.

    Raises:
        UserError: a value or scale is no finite number, or beyond the range of `target`.
    """
    check_finite(data, tensor.encoding, where)
    if target == tensor.encoding:
        yield data
        return
    row = tensor.shape[-1] if tensor.shape else 1
    rows = data.reshape(-1, tensor.encoding.row_bytes(row))
    num_rows = max(1, _PIECE_VALUES // row)
    for start in range(0, len(rows), num_rows):
        piece = rows[start : start + num_rows]
        recoded = encode(decode(piece.reshape(-1), tensor.encoding, (len(piece), row)), target)
        try:
            check_finite(recoded, target, where)
        except UserError as error:
            raise UserError(f"{where} has values beyond the range of {target.name}; choose bf16 or f32") from error
        yield recoded
