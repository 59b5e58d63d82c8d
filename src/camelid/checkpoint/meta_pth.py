"""Meta's folder: consolidated.NN.pth, one file for each model-parallel process, params.json and tokenizer.model.

Each file holds a part of every matrix: a range of rows of those whose output is divided (wq, wk, wv, w1, w3, output), a
range of columns of those whose input is (wo, w2). LLaMA 1 and 2 divide the columns of the embedding, Llama 3 its rows.
Norms are in all files. Rows of wq and wk stand in pairs.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camelid import artifact
from camelid.checkpoint.bounded import Fields, read_json, show
from camelid.checkpoint.expected import have_equal_bytes, match_tensors, say_shape
from camelid.checkpoint.folder import KIND, find_tokenizer_folder, publish_model
from camelid.checkpoint.meta_params import LLAMA3_THETA, from_meta_params, to_meta_params
from camelid.checkpoint.names import order_as_halves, order_as_pairs
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.checkpoint.torch_file import TorchFileWriter, read_torch_file
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.tokenizer.load import load_tokenizer

PARAMS_NAME = "params.json"
MAX_SHARDS = 99

_SHARD = re.compile(r"consolidated\.(\d{2})\.pth")
_EMBEDDING, _HEAD, _FFN = "tok_embeddings.weight", "output.weight", "layers.0.feed_forward.w1.weight"
_ROWS, _COLUMNS = 0, 1
_AXES = {
    "wq": _ROWS,
    "wk": _ROWS,
    "wv": _ROWS,
    "wo": _COLUMNS,
    "w1": _ROWS,
    "w2": _COLUMNS,
    "w3": _ROWS,
    "output": _ROWS,
}
# A table of rotary angles, which LLaMA 1 stored although it follows from the configuration.
_DERIVED = "rope.freqs"

Bytes = NDArray[np.uint8]
Shard = dict[str, StoredTensor]


def read(path: Path) -> StoredModel:
    """Opens a folder; weights are unread except for a look at whether the head equals the embedding.

    Raises:
        UserError: a shard is missing or damaged, or the shards do not make up the model of params.json.
    """
    tree = read_json(path / PARAMS_NAME)
    params = Fields(tree["model"] if isinstance(tree.get("model"), dict) else tree, str(path / PARAMS_NAME))
    shards = _open_shards(path)
    tensors = _join_shards(shards, params.whole("dim"))
    for name in (_EMBEDDING, _FFN):
        if name not in tensors or len(tensors[name].shape) != 2:
            raise UserError(f"{path}: matrix {name} is missing; get the model again, with all of its files")
    config = from_meta_params(
        params,
        vocab_size=tensors[_EMBEDDING].shape[0],
        ffn_hidden_dim=tensors[_FFN].shape[0],
        is_head_tied=_is_head_tied(tensors, list(shards.values())),
    )
    if config.is_head_tied:
        tensors.pop(_HEAD, None)
    matched = match_tensors(tensors, config, dict.fromkeys(tensors, path), path)
    return StoredModel(
        path=path,
        format="meta",
        config=config.model_copy(update=_read_own_context(path)),
        tensors={name: order_as_halves(tensor, config) for name, tensor in matched.items()},
        load_tokenizer=lambda: load_tokenizer(find_tokenizer_folder(path)),
    )


def _open_shards(path: Path) -> dict[Path, Shard]:
    shards = {file: read_torch_file(file) for file in _find_shards(path)}
    names = next(iter(shards.values())).keys() - {_DERIVED}
    for file, shard in shards.items():
        shard.pop(_DERIVED, None)
        if differing := shard.keys() ^ names:
            raise UserError(f"{file}: tensor {show(min(differing))} is not in every shard; get all files of one model")
    return shards


def _find_shards(path: Path) -> list[Path]:
    numbers = sorted(int(match[1]) for file in path.iterdir() if (match := _SHARD.fullmatch(file.name)))
    if not numbers:
        raise UserError(
            f"{path} holds no {_shard_name(0)}; name the folder in which the weights lie beside {PARAMS_NAME}"
        )
    for number, found in enumerate(numbers):
        if number != found:
            raise UserError(
                f"{path / _shard_name(number)} is missing, though {_shard_name(numbers[-1])} is there; get it"
            )
    return [path / _shard_name(number) for number in numbers]


def _shard_name(number: int) -> str:
    return f"consolidated.{number:02d}.pth"


def _join_shards(shards: Mapping[Path, Shard], dim: int) -> dict[str, StoredTensor]:
    """The whole tensors that the files hold parts of, by name."""
    files = list(shards)
    first = shards[files[0]]
    if len(files) == 1:
        return dict(first)
    return {name: _join(name, [shard[name] for shard in shards.values()], files, dim) for name in first}


def _join(name: str, parts: Sequence[StoredTensor], files: Sequence[Path], dim: int) -> StoredTensor:
    first = parts[0]
    for part, file in zip(parts, files, strict=True):
        if (part.shape, part.encoding) != (first.shape, first.encoding):
            raise UserError(
                f"{file}: tensor {show(name)} is {say_shape(part.shape)} of {part.encoding.name}, and "
                f"{say_shape(first.shape)} of {first.encoding.name} in {files[0].name}; get all files of one model"
            )
    if len(first.shape) != 2:
        return replace(first, read=lambda: _read_copies(name, parts, files))
    num_rows, num_columns = first.shape
    # LLaMA 1 and 2 divide the embedding along its columns, Llama 3 along its rows.
    is_in_columns = num_columns * len(parts) == dim if name == _EMBEDDING else _axis_by_name(name) == _COLUMNS
    if is_in_columns:
        return replace(
            first,
            shape=(num_rows, num_columns * len(parts)),
            read=lambda: np.concatenate([part.read().reshape(num_rows, -1) for part in parts], axis=1).reshape(-1),
        )
    return replace(
        first,
        shape=(num_rows * len(parts), num_columns),
        read=lambda: np.concatenate([part.read() for part in parts]),
    )


def _axis_by_name(name: str) -> int | None:
    return _AXES.get(name.removesuffix(".weight").rpartition(".")[-1])


def _read_copies(name: str, parts: Sequence[StoredTensor], files: Sequence[Path]) -> Bytes:
    """A tensor that every shard holds whole, and alike."""
    for part, file in zip(parts, files, strict=True):
        if not have_equal_bytes(part, parts[0]):
            raise UserError(f"{file}: tensor {name} differs from {files[0].name}'s; get all files of one model")
    return parts[0].read()


def _is_head_tied(tensors: Shard, shards: Sequence[Shard]) -> bool:
    """Whether the head is absent or the embedding over again: the format has no other way to say it."""
    head, embedding = tensors.get(_HEAD), tensors[_EMBEDDING]
    if head is None:
        return True
    if (head.shape, head.encoding) != (embedding.shape, embedding.encoding):
        return False
    # The first rows of the parts, which begin with the first row of the whole: no need to join what differs there.
    starts = [
        np.concatenate([shard[name].read()[: shard[name].encoding.row_bytes(shard[name].shape[1])] for shard in shards])
        for name in (_HEAD, _EMBEDDING)
    ]
    length = min(start.size for start in starts)
    return np.array_equal(starts[0][:length], starts[1][:length]) and have_equal_bytes(head, embedding)


def _read_own_context(path: Path) -> dict[str, int]:
    """The context length that Camelid noted in its manifest; params.json has no place for it."""
    try:
        config = artifact.read_manifest(path, KIND).facts.get("config")
    except UserError:
        return {}
    length = config.get("max_sequence_length") if isinstance(config, dict) else None
    return {"max_sequence_length": length} if type(length) is int and length > 0 else {}


def write(model: StoredModel, path: Path, num_shards: int = 1) -> None:
    """Publishes a model as Meta does, divided for a number of processes; memory holds two tensors.

    Raises:
        UserError: a size does not divide by the number of shards, or params.json cannot say what the model is; or as
            `folder.publish_model`.
    """
    config = model.config
    _refuse_uneven(config, num_shards, model.path)
    params = to_meta_params(config, str(model.path))
    tensors = dict(model.tensors)
    if config.is_head_tied:
        tensors[_HEAD] = replace(tensors[_EMBEDDING], name=_HEAD)  # Meta's program loads both
    with publish_model(model, path, "meta", {"num_shards": num_shards}) as folder, ExitStack() as stack:
        (folder / PARAMS_NAME).write_text(json.dumps(params) + "\n", encoding="utf-8")
        parts = [
            replace(tensor, shape=_part_shape(tensor, _axis_of(tensor, config), num_shards))
            for tensor in tensors.values()
        ]
        writers = [
            stack.enter_context(TorchFileWriter(folder / _shard_name(number), parts)) for number in range(num_shards)
        ]
        for tensor in tensors.values():
            data = order_as_pairs(tensor, config).read()
            for writer, part in zip(writers, _divide(tensor, data, _axis_of(tensor, config), num_shards), strict=True):
                writer.add(part)


def _refuse_uneven(config: ModelConfig, num_shards: int, where: Path) -> None:
    sizes = {
        "query heads": config.num_heads,
        "key/value heads": config.num_kv_heads,
        "feed-forward channels": config.ffn_hidden_dim,
        "tokens of the vocabulary": config.vocab_size,
    }
    if not 1 <= num_shards <= MAX_SHARDS:
        raise UserError(f"{num_shards} shards cannot be written; choose 1 to {MAX_SHARDS}")
    for what, size in sizes.items():
        if size % num_shards:
            raise UserError(f"{where}: its {size:,} {what} do not divide by {num_shards} shards; choose another number")


def _axis_of(tensor: StoredTensor, config: ModelConfig) -> int | None:
    """The axis along which the shards divide a tensor, or None where each holds it whole."""
    if tensor.name == _EMBEDDING:
        return _ROWS if config.rope_theta == LLAMA3_THETA else _COLUMNS
    return _axis_by_name(tensor.name)


def _part_shape(tensor: StoredTensor, axis: int | None, num_shards: int) -> tuple[int, ...]:
    return tuple(size // num_shards if index == axis else size for index, size in enumerate(tensor.shape))


def _divide(tensor: StoredTensor, data: Bytes, axis: int | None, num_shards: int) -> Iterator[Bytes]:
    """The bytes of each shard's part."""
    if axis is None:
        yield from [data] * num_shards
    elif axis == _ROWS:
        yield from np.split(data, num_shards)
    else:
        for part in np.split(data.reshape(tensor.shape[0], -1), num_shards, axis=1):
            yield part.reshape(-1)
