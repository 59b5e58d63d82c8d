"""Writes a model as a GGUF file that llama.cpp loads.

The header is the `gguf` package's work. Weights are decoded, encoded and appended a few rows at a time, so that memory
holds no more than the tensor that is being written.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from camelid import artifact
from camelid.checkpoint.gguf_config import ARCHITECTURE, FILE_TYPES, write_config
from camelid.checkpoint.gguf_header import DEFAULT_ALIGNMENT, ENCODING_TYPES, part_path, read_metadata
from camelid.checkpoint.names import gguf_name, halves_to_pairs, rotary_heads
from camelid.checkpoint.recode import recode_pieces
from camelid.checkpoint.rope_factors import TENSOR_NAME as ROPE_FACTORS
from camelid.checkpoint.rope_factors import rope_factors
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import ENCODINGS, WRITTEN_ENCODINGS, Encoding
from camelid.errors import UserError

_QUANTIZATION_VERSION = 2
_UNUSED_TOKEN = 5
_PAD_SCORE = -1000.0
# What a model may say of itself: the keys of ggml's docs/gguf.md that stay true whatever the weights are stored as.
_GENERAL = re.compile(
    "name|author|version|organization|finetune|basename|description|size_label|license(\\.(name|link))?|url|repo_url|doi"
    "|uuid|tags|languages|datasets|(source|base_model|dataset|sampling)\\..+"
)


def write(model: StoredModel, path: Path, encoding: str | None = None) -> None:
    """Writes a model with its tokenizer, whole or not at all.

    Args:
        encoding: of the matrices, one of WRITTEN_ENCODINGS; None keeps each as it is stored. Vectors are f32, as
            llama.cpp wants them.

    Raises:
        UserError: `path` exists or cannot be written, the model has no tokenizer, or a tensor does not divide into the
            encoding's blocks, is beyond its range, or holds a NaN or an infinity.
    """
    if encoding is not None and encoding not in WRITTEN_ENCODINGS:
        raise UserError(
            f"a GGUF file is written as {', '.join(WRITTEN_ENCODINGS)}, not {encoding}; choose one of these"
        )
    if path.exists():
        raise UserError(f"{path} exists already; name another file, or remove it first")
    targets = {name: _choose_encoding(model, tensor, encoding) for name, tensor in model.tensors.items()}
    metadata = {
        "general.architecture": ARCHITECTURE,
        "general.type": "model",
        "general.name": path.stem,
        **_describe_origin(model),
        **_describe_encodings(model, targets),
        **write_config(model.config),
        **_describe_tokenizer(model),
    }
    partial = artifact.partial_path(path)
    try:
        _write_header(partial, metadata, model, targets)
        with partial.open("ab") as file:
            _write_weights(file, model, targets)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{path} cannot be written: {reason}; name a file in another folder") from error
    finally:
        partial.unlink(missing_ok=True)


def _choose_encoding(model: StoredModel, tensor: StoredTensor, wanted: str | None) -> Encoding:
    if len(tensor.shape) == 1:
        return ENCODINGS["f32"]
    encoding = ENCODINGS[wanted] if wanted else tensor.encoding
    if tensor.shape[-1] % encoding.block_values:
        raise UserError(
            f"{model.path}: tensor {tensor.name} has rows of {tensor.shape[-1]} values, which do not divide into "
            f"{encoding.name}'s blocks of {encoding.block_values}; choose f16 or bf16"
        )
    return encoding


def _describe_origin(model: StoredModel) -> dict[str, Any]:
    return {
        f"general.{key}": value
        for key, value in model.metadata.items()
        if _GENERAL.fullmatch(key) and (isinstance(value, bool | int | float | str) or _is_texts(value))
    }


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _describe_encodings(model: StoredModel, targets: Mapping[str, Encoding]) -> dict[str, int]:
    num_values: Counter[str] = Counter()
    for name, tensor in model.tensors.items():
        num_values[targets[name].name] += prod(tensor.shape)
    main = num_values.most_common(1)[0][0]
    # The plainest of the mixtures of a k-quant, unless the file that the weights come from knows better.
    file_type = FILE_TYPES.get(main, FILE_TYPES.get(f"{main}_s", 0))
    is_kept = all(tensor.encoding == targets[name] for name, tensor in model.tensors.items())
    if is_kept and isinstance(stored := model.metadata.get("file_type"), int):
        file_type = stored
    described = {"general.file_type": file_type}
    if any(not encoding.is_plain for encoding in targets.values()):
        described["general.quantization_version"] = _QUANTIZATION_VERSION
    return described


def _describe_tokenizer(model: StoredModel) -> dict[str, Any]:
    if model.format == "gguf":
        stored = read_metadata(part_path(model.path, 1))
        metadata = {key: value for key, value in stored.items() if key.startswith("tokenizer.")}
    else:
        from camelid.tokenizer.export import to_gguf_metadata

        metadata = dict(to_gguf_metadata(model.load_tokenizer()))
    tokens = list(metadata.get("tokenizer.ggml.tokens", ()))
    num_missing = model.config.vocab_size - len(tokens)
    if not tokens or num_missing < 0:
        raise UserError(
            f"{model.path} has a tokenizer of {len(tokens):,} tokens for a model of {model.config.vocab_size:,}, which "
            "llama.cpp would refuse; put the right tokenizer beside the weights"
        )
    # Embeddings are often padded to a round number of rows, and llama.cpp wants a token for each.
    metadata["tokenizer.ggml.tokens"] = tokens + [f"[PAD{len(tokens) + number}]" for number in range(num_missing)]
    for key, filler in (("tokenizer.ggml.token_type", _UNUSED_TOKEN), ("tokenizer.ggml.scores", _PAD_SCORE)):
        if key in metadata:
            metadata[key] = [*np.asarray(metadata[key]).tolist(), *([filler] * num_missing)]
    return metadata


def _write_header(path: Path, metadata: Mapping[str, Any], model: StoredModel, targets: Mapping[str, Encoding]) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    # The type of the arrays, which the package asks for and has no use for where their number is given.
    any_type = np.dtype(np.float32)
    with contextlib.closing(GGUFWriter(None, metadata["general.architecture"])) as writer:
        for key, value in metadata.items():
            if key != "general.architecture":  # the package has put it first already
                _add_value(writer, key, value)
        for name, tensor in model.tensors.items():
            number = GGMLQuantizationType(ENCODING_TYPES[targets[name].name])
            num_bytes = targets[name].num_bytes(tensor.shape)
            writer.add_tensor_info(gguf_name(name), tensor.shape, any_type, num_bytes, number)
        if model.config.rope_scaling:
            num_factors = model.config.head_dim // 2
            writer.add_tensor_info(ROPE_FACTORS, (num_factors,), any_type, 4 * num_factors)
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()


def _add_value(writer: Any, key: str, value: Any) -> None:
    """Adds a value with the type that llama.cpp expects of its keys: uint32, float32, and int32 in arrays."""
    from gguf import GGUFValueType

    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        (writer.add_uint32 if 0 <= value < 1 << 32 else writer.add_int64)(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, np.ndarray) and value.size:
        kind = GGUFValueType["BOOL" if value.dtype == bool else value.dtype.name.upper()]
        writer.add_key_value(key, value.tolist(), GGUFValueType.ARRAY, sub_type=kind)
    else:
        writer.add_array(key, list(value))


def _write_weights(file: IO[bytes], model: StoredModel, targets: Mapping[str, Encoding]) -> None:
    _pad(file)
    for name, tensor in model.tensors.items():
        data = tensor.read()
        num_heads = rotary_heads(name, model.config)
        if num_heads is not None:
            data = halves_to_pairs(data.reshape(tensor.shape[0], -1), num_heads).reshape(-1)
        for piece in recode_pieces(data, tensor, targets[name], f"{model.path}: tensor {name}"):
            file.write(piece.data)
        _pad(file)
    if model.config.rope_scaling:
        factors = rope_factors(model.config.rope_scaling, model.config.rope_theta, model.config.head_dim)
        file.write(factors.astype("<f4").data)
        _pad(file)


def _pad(file: IO[bytes]) -> None:
    file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))
