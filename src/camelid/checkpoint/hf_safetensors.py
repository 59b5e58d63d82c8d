"""Hugging Face's folder: config.json, safetensors in one file or in several with an index, tokenizer files."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from camelid.checkpoint.bounded import MAX_TABLE_BYTES, Fields, map_file, read_json, show
from camelid.checkpoint.expected import have_equal_bytes, match_tensors
from camelid.checkpoint.folder import publish_model
from camelid.checkpoint.hf_config import (
    describe_huggingface,
    from_huggingface_config,
    is_huggingface,
    to_huggingface_config,
)
from camelid.checkpoint.names import from_huggingface, huggingface_name
from camelid.checkpoint.safetensors_file import read_safetensors, write_safetensors
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.planning.shapes import count_parameters
from camelid.tokenizer.load import load_tokenizer

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
"""Size at which weights are divided into several files, transformers' own."""

_PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
# Tables of rotary angles, which old conversions stored although they follow from the configuration.
_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
_LICENCE = re.compile(r"^license:[ \t]*([\w.-]+)[ \t]*$", re.MULTILINE)
_FRONT_MATTER_BYTES = 1 << 16


def is_model(folder: Path) -> bool:
    """Whether a folder is of this format, be it damaged or of another architecture."""
    try:
        return is_huggingface(read_json(folder / CONFIG_NAME))
    except UserError:
        return False


def read(path: Path) -> StoredModel:
    """Opens a folder, weights unread except to compare a tied head that is stored twice.

    Raises:
        UserError: the model is not of the LLaMA architecture, or its files are damaged, missing or of other shapes than
            the configuration's.
    """
    tree = read_json(path / CONFIG_NAME)
    config = from_huggingface_config(tree, str(path / CONFIG_NAME))
    tensors: dict[str, StoredTensor] = {}
    files: dict[str, Path] = {}
    for file, their_name, tensor in _read_shards(path):
        if _DERIVED.fullmatch(their_name):
            continue
        name = from_huggingface(their_name)
        if name is None:
            raise UserError(f"{file}: tensor {show(their_name)} is none of a LLaMA model; Camelid cannot run this one")
        tensors[name], files[name] = replace(tensor, name=name), file
    if config.is_head_tied and "output.weight" in tensors:
        _check_tie(tensors, files)
        del tensors["output.weight"]
    return StoredModel(
        path=path,
        format="huggingface",
        config=config,
        tensors=match_tensors(tensors, config, files, path),
        load_tokenizer=lambda: load_tokenizer(path),
        metadata={**describe_huggingface(tree), **_read_licence(path)},
    )


def _read_shards(folder: Path) -> Iterator[tuple[Path, str, StoredTensor]]:
    """File, name and content of every tensor, by Hugging Face's names."""
    if not (folder / INDEX_NAME).is_file():
        if not (folder / WEIGHTS_NAME).is_file():
            _explain_missing_weights(folder)
        tensors, _ = read_safetensors(folder / WEIGHTS_NAME)
        yield from ((folder / WEIGHTS_NAME, name, tensor) for name, tensor in tensors.items())
        return
    names_by_file = _read_index(folder)
    for file, names in names_by_file.items():
        tensors, _ = read_safetensors(folder / file)
        if differing := names.symmetric_difference(tensors):
            name = min(differing)
            what = "is not in it" if name in names else f"is in it and not in {INDEX_NAME}"
            raise UserError(f"{folder / file}: tensor {show(name)} {what}; get both files again, from one save")
        yield from ((folder / file, name, tensor) for name, tensor in tensors.items())


def _read_index(folder: Path) -> dict[str, set[str]]:
    """The tensors that each shard should hold."""
    path = folder / INDEX_NAME
    weight_map = Fields(read_json(path, MAX_TABLE_BYTES), str(path)).table("weight_map").tree
    names_by_file: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        if not (isinstance(file, str) and re.fullmatch(r"[\w.-]+\.safetensors", file)):
            raise UserError(f"{path}: tensor {show(name)} is said to lie in {show(file)}, which is no safetensors file")
        names_by_file.setdefault(file, set()).add(name)
    for file in names_by_file:
        if not (folder / file).is_file():
            raise UserError(
                f"{folder / file} is missing, though {INDEX_NAME} names it; get it, or the whole model again"
            )
    for extra in sorted(found.name for found in folder.glob("*.safetensors")):
        if extra not in names_by_file and (extra == WEIGHTS_NAME or _SHARD.fullmatch(extra)):
            raise UserError(f"{folder / extra} is not named in {INDEX_NAME}; remove whichever of the two is a leftover")
    return names_by_file


def _explain_missing_weights(folder: Path) -> None:
    if any((folder / name).is_file() for name in _PICKLED_WEIGHTS):
        raise UserError(
            f"{folder} holds its weights as pickles (pytorch_model.bin), which can run code and are not read; get the "
            "revision with safetensors, or write one where you trust it: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
        )
    if any(_SHARD.fullmatch(found.name) for found in folder.glob("*.safetensors")):
        raise UserError(f"{folder / INDEX_NAME} is missing, and the weights are in several files; get it again")
    raise UserError(f"{folder / WEIGHTS_NAME} is missing; get the model again, with all of its files")


def _check_tie(tensors: Mapping[str, StoredTensor], files: Mapping[str, Path]) -> None:
    """Refuses a head that says otherwise than the embedding it is tied to."""
    head, embedding = tensors["output.weight"], tensors.get("tok_embeddings.weight")
    if embedding is None:
        return
    is_same = head.shape == embedding.shape and head.encoding == embedding.encoding
    if not (is_same and have_equal_bytes(head, embedding)):
        raise UserError(
            f"{files['output.weight']}: lm_head.weight differs from model.embed_tokens.weight, though {CONFIG_NAME} "
            "says that they are one (tie_word_embeddings); set it to false if the head is its own"
        )


def _read_licence(folder: Path) -> dict[str, str]:
    """The licence that the model card's front matter names."""
    card = folder / "README.md"
    if not card.is_file():
        return {}
    front, separator, _ = map_file(card)[:_FRONT_MATTER_BYTES].tobytes().decode(errors="replace").partition("\n---")
    licence = _LICENCE.search(front) if separator and front.startswith("---") else None
    return {"license": licence[1]} if licence else {}


def write(model: StoredModel, path: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Publishes a model as a folder for transformers, vLLM and their like, tensor by tensor.

    Raises:
        UserError: as `folder.publish_model`.
    """
    tensors = [replace(tensor, name=huggingface_name(name)) for name, tensor in model.tensors.items()]
    settings = {"max_shard_bytes": max_shard_bytes}
    with publish_model(model, path, "huggingface", settings, is_json_wanted=True) as folder:
        config = to_huggingface_config(model.config, _main_encoding(tensors), _find_token_ids(model))
        _write_json(folder / CONFIG_NAME, config)
        shards = list(_divide(tensors, max_shard_bytes))
        if len(shards) == 1:
            write_safetensors(folder / WEIGHTS_NAME, tensors, {"format": "pt"})
            return
        files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        for file, shard in zip(files, shards, strict=True):
            write_safetensors(folder / file, shard, {"format": "pt"})
        _write_json(folder / INDEX_NAME, _index(dict(zip(files, shards, strict=True)), model.config))


def _main_encoding(tensors: Sequence[StoredTensor]) -> str:
    """The encoding of most values."""
    values: Counter[str] = Counter()
    for tensor in tensors:
        values[tensor.encoding.name] += prod(tensor.shape)
    return values.most_common(1)[0][0]


def _find_token_ids(model: StoredModel) -> dict[str, Any]:
    known = {name: model.metadata[name] for name in ("bos_token_id", "eos_token_id") if name in model.metadata}
    if known:
        return known
    try:
        tokenizer = model.load_tokenizer()
    except UserError:
        return {}
    return {"bos_token_id": tokenizer.bos_id if tokenizer.has_bos else None, "eos_token_id": tokenizer.eos_id}


def _divide(tensors: Sequence[StoredTensor], max_bytes: int) -> Iterator[list[StoredTensor]]:
    """Tensors in files that are no larger than asked for, unless one tensor is."""
    shard: list[StoredTensor] = []
    size = 0
    for tensor in tensors:
        num_bytes = tensor.encoding.num_bytes(tensor.shape)
        if shard and size + num_bytes > max_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += num_bytes
    yield shard


def _index(shards: Mapping[str, Sequence[StoredTensor]], config: ModelConfig) -> dict[str, Any]:
    tensors = [tensor for shard in shards.values() for tensor in shard]
    return {
        "metadata": {
            "total_parameters": count_parameters(config),
            "total_size": sum(tensor.encoding.num_bytes(tensor.shape) for tensor in tensors),
        },
        "weight_map": {tensor.name: file for file, shard in shards.items() for tensor in shard},
    }


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n", encoding="utf-8")
