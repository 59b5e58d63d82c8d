"""A model of any format written in another, one tensor at a time."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camelid.checkpoint import hf_safetensors, meta_pth, native
from camelid.checkpoint.recode import recode_model
from camelid.checkpoint.safetensors_file import DTYPES
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import ENCODINGS
from camelid.errors import UserError
from camelid.progress import Advance, progress

FORMATS = ("native", "huggingface", "meta", "gguf")
"""What can be written; llama2c can only be read."""


def convert(
    model: StoredModel,
    path: Path,
    format_name: str,
    *,
    dtype: str | None = None,
    num_shards: int = 1,
    max_shard_bytes: int = hf_safetensors.MAX_SHARD_BYTES,
) -> None:
    """Writes a model, whole or not at all; memory holds a few tensors, and the values are kept to the last bit.

    Args:
        format_name: one of `FORMATS`.
        dtype: name of the encoding to convert to, or None to keep each tensor's own. In a folder all tensors have it,
            in a GGUF file the matrices.
        num_shards: model-parallel processes that Meta's format is divided for.
        max_shard_bytes: size of a file of weights in Hugging Face's format.

    Raises:
        UserError: the format cannot be written, cannot hold these tensors or knows no such option; a tensor cannot be
            read, or has a value beyond the range of `dtype`; `path` exists, or the disk is full.
    """
    _check_options(format_name, dtype, num_shards, max_shard_bytes)
    total = sum(tensor.encoding.num_bytes(tensor.shape) for tensor in model.tensors.values())
    with progress("Converting", total, "bytes") as advance:
        counted = _count_reads(model, advance)
        if format_name == "gguf":
            from camelid.checkpoint import gguf

            gguf.write(counted, path, dtype)
            return
        recoded = counted if dtype is None else recode_model(counted, ENCODINGS[dtype])
        if format_name == "native":
            native.write(recoded, path)
        elif format_name == "meta":
            meta_pth.write(recoded, path, num_shards)
        else:
            hf_safetensors.write(recoded, path, max_shard_bytes)


def _check_options(format_name: str, dtype: str | None, num_shards: int, max_shard_bytes: int) -> None:
    if format_name not in FORMATS:
        why = "can be read and not written" if format_name == "llama2c" else "is no format"
        raise UserError(f"{format_name} {why}; choose {', '.join(FORMATS)}")
    if dtype is not None and dtype not in DTYPES and format_name != "gguf":
        raise UserError(
            f"the {format_name} format does not hold {dtype}; choose {', '.join(DTYPES)}, or write a gguf file"
        )
    if num_shards != 1 and format_name != "meta":
        raise UserError(f"the {format_name} format has no model-parallel shards; leave their number out")
    if max_shard_bytes != hf_safetensors.MAX_SHARD_BYTES and format_name != "huggingface":
        raise UserError(f"the {format_name} format is not divided by size; leave the size of a file out")


def _count_reads(model: StoredModel, advance: Advance) -> StoredModel:
    """The model, which tells `advance` the bytes of each tensor that is read for the first time."""
    waiting = set(model.tensors)

    def count(tensor: StoredTensor) -> NDArray[np.uint8]:
        data = tensor.read()
        if tensor.name in waiting:
            waiting.remove(tensor.name)
            advance(data.nbytes)
        return data

    tensors = {name: replace(tensor, read=partial(count, tensor)) for name, tensor in model.tensors.items()}
    return replace(model, tensors=tensors)
