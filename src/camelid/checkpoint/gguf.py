"""GGUF, the format of llama.cpp: one file, or several numbered parts, with configuration, tokenizer and weights.

Reading maps the weights and decodes only the header. GGUF keeps the rows of `wq` and `wk` in Meta's order; they are
permuted, and thereby copied, when one of these tensors is asked for.
"""

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from camelid.checkpoint.bounded import show
from camelid.checkpoint.expected import match_tensors
from camelid.checkpoint.gguf_config import FILE_TYPES, read_config
from camelid.checkpoint.gguf_header import GgufFile, TensorInfo, open_file, part_path, read_metadata
from camelid.checkpoint.names import from_gguf, gguf_name, pairs_to_halves, rotary_heads
from camelid.checkpoint.rope_factors import TENSOR_NAME as ROPE_FACTORS
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import decode
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.tokenizer.load import Tokenizer

__all__ = ["read", "read_metadata", "write"]


def read(path: Path) -> StoredModel:
    """Opens a model; of a model in parts, any of them may be named.

    Raises:
        UserError: a part is missing or no sound GGUF file, the model is not of the LLaMA architecture, or its tensors
            are not those of its configuration.
    """
    files = _open_parts(path)
    metadata = files[0].metadata
    found = _merge(files)
    embedding = found.get(gguf_name("tok_embeddings.weight"))
    if embedding is None:
        raise UserError(f"{path} holds no {gguf_name('tok_embeddings.weight')}; name a file with a whole model")
    factors = found.pop(ROPE_FACTORS, None)
    config = read_config(
        metadata,
        vocab_size=embedding[1].shape[0],
        is_head_tied=gguf_name("output.weight") not in found,
        rope_factors=decode(factors[0].view(factors[1]), factors[1].encoding, factors[1].shape) if factors else None,
        path=files[0].path,
    )
    tensors = [_store(file, name, info, config) for name, (file, info) in found.items()]
    return StoredModel(
        path=path,
        format="gguf",
        config=config,
        tensors=match_tensors(
            {tensor.name: tensor for tensor in tensors},
            config,
            {tensor.name: file.path for tensor, (file, _) in zip(tensors, found.values(), strict=True)},
            path,
        ),
        load_tokenizer=lambda: _load_tokenizer(metadata, path),
        metadata=_describe(metadata, tensors),
    )


def write(model: StoredModel, path: Path, encoding: str | None = None) -> None:
    """See `gguf_write.write`."""
    from camelid.checkpoint import gguf_write  # what only writing needs, a reader does not wait for

    gguf_write.write(model, path, encoding)


def _open_parts(path: Path) -> list[GgufFile]:
    files = [open_file(part_path(path, 1))]
    first = files[0].path
    count = files[0].metadata.get("split.count", 1)
    if not isinstance(count, int) or count < 2:
        return files
    if part_path(path, count) == first:
        raise UserError(f"{first} is one of {count:,} parts; name it as before, NAME-00001-of-{count:05d}.gguf")
    for number in range(2, count + 1):
        files.append(open_file(part_path(path, number)))
        if files[-1].metadata.get("split.no") != number - 1 or files[-1].metadata.get("split.count") != count:
            raise UserError(f"{files[-1].path} is not part {number} of {count}; get all parts again")
    num_tensors = sum(len(file.tensors) for file in files)
    announced = files[0].metadata.get("split.tensors.count", num_tensors)
    if announced != num_tensors:
        raise UserError(f"{first} and its other parts hold {num_tensors} tensors, not {announced}; get all parts again")
    return files


def _merge(files: list[GgufFile]) -> dict[str, tuple[GgufFile, TensorInfo]]:
    """All tensors of all parts, by the files' names."""
    found: dict[str, tuple[GgufFile, TensorInfo]] = {}
    for file in files:
        for name, info in file.tensors.items():
            if name in found:
                raise UserError(f"{file.path}: tensor {show(name)} is in another part too; get all parts again")
            found[name] = (file, info)
    return found


def _store(file: GgufFile, gguf: str, info: TensorInfo, config: ModelConfig) -> StoredTensor:
    name = from_gguf(gguf)
    if name is None:
        raise UserError(
            f"{file.path}: tensor {show(gguf)} has no place in a LLaMA model, and Camelid would compute something else "
            "without it; take another model"
        )
    data = file.view(info)
    num_heads = rotary_heads(name, config)
    if num_heads is None:
        return StoredTensor(name, info.shape, info.encoding, lambda: data)
    rows = data.reshape(info.shape[0], -1)
    return StoredTensor(name, info.shape, info.encoding, lambda: pairs_to_halves(rows, num_heads).reshape(-1))


def _load_tokenizer(metadata: Mapping[str, Any], path: Path) -> Tokenizer:
    from camelid.tokenizer.gguf_vocabulary import load_gguf_vocabulary

    try:
        return load_gguf_vocabulary(metadata)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _describe(metadata: Mapping[str, Any], tensors: list[StoredTensor]) -> dict[str, Any]:
    """The file's general keys without their prefix, and the name of its quantisation."""
    described = {key.removeprefix("general."): value for key, value in metadata.items() if key.startswith("general.")}
    names = {number: name for name, number in FILE_TYPES.items()}
    num_values: Counter[str] = Counter()
    for tensor in tensors:
        num_values[tensor.encoding.name] += prod(tensor.shape)
    file_type = described.get("file_type")
    known = names.get(file_type) if isinstance(file_type, int) else None
    return {**described, "quantization": known or f"mostly {num_values.most_common(1)[0][0]}"}
