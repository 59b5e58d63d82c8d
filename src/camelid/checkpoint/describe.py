"""What a stored model says of itself and what can be counted, as one tree for people, programs and the model card."""

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

from camelid import artifact
from camelid.checkpoint.stored import StoredModel
from camelid.errors import UserError
from camelid.planning.memory import cache_bytes_per_token
from camelid.planning.shapes import count_parameters

_HALF_BYTES = 2


def describe(model: StoredModel) -> dict[str, Any]:
    """Everything that can be said without reading a tensor."""
    config = model.config
    num_bytes = sum(tensor.encoding.num_bytes(tensor.shape) for tensor in model.tensors.values())
    num_parameters = count_parameters(config)
    values: Counter[str] = Counter()
    for tensor in model.tensors.values():
        values[tensor.encoding.name] += prod(tensor.shape)
    return {
        "path": str(model.path),
        "format": model.format,
        "architecture": {**config.model_dump(mode="json"), "head_dim": config.head_dim},
        "num_parameters": num_parameters,
        "num_tensors": len(model.tensors),
        "num_bytes": num_bytes,
        "bits_per_weight": 8 * num_bytes / num_parameters,
        "cache_bytes_per_token": cache_bytes_per_token(config, _HALF_BYTES),
        "encodings": {name: count / num_parameters for name, count in values.most_common()},
        "tokenizer": _describe_tokenizer(model),
        "metadata": {name: value for name, value in model.metadata.items() if _is_short(value)},
        "manifest": _read_manifest(model),
    }


def _describe_tokenizer(model: StoredModel) -> dict[str, Any]:
    try:
        tokenizer = model.load_tokenizer()
    except UserError as error:
        return {"missing": str(error)}
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "stop_ids": sorted(tokenizer.stop_ids),
        "adds_bos": tokenizer.adds_bos,
        "has_chat_template": tokenizer.chat_template is not None,
    }


def _read_manifest(model: StoredModel) -> Mapping[str, Any] | None:
    """How Camelid made it, where it did."""
    if not (model.path / artifact.MANIFEST_NAME).is_file():
        return None
    manifest = artifact.read_manifest(model.path)
    return {name: getattr(manifest, name) for name in ("kind", "digest", "seed", "settings", "inputs", "produced")}


def _is_short(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 1000)
