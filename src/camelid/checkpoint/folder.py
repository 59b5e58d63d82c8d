"""What the formats that are folders share: publication, lineage, and the files that travel with the weights."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from camelid import artifact
from camelid.checkpoint.stored import StoredModel
from camelid.errors import UserError
from camelid.planning.shapes import count_parameters

KIND = "checkpoint"
TOKENIZER_NAMES = ("tokenizer.model", "tokenizer.json")
COMPANIONS = (
    *TOKENIZER_NAMES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "USE_POLICY.md",
)
"""Files that belong to a model whatever the format of its weights: they are copied as they are."""


@contextlib.contextmanager
def publish_model(
    model: StoredModel, path: Path, format_name: str, settings: Mapping[str, Any], *, is_json_wanted: bool = False
) -> Iterator[Path]:
    """Makes the folder `path` out of a model: tokenizer and licence here, weights and configuration by the caller.

    Args:
        is_json_wanted: as in `add_companions`.

    Yields:
        The folder to write into.

    Raises:
        UserError: a tensor is in quantised blocks, which only GGUF files hold; or as `artifact.publish`.
    """
    for tensor in model.tensors.values():
        if not tensor.encoding.is_plain:
            raise UserError(
                f"{model.path}: tensor {tensor.name} is stored as {tensor.encoding.name}, which the {format_name} "
                "format cannot hold; name a type to convert it to: --dtype f16, bf16 or f32"
            )
    described = {"format": format_name, "source_name": model.path.name, "source_format": model.format, **settings}
    with artifact.publish(path, kind=KIND, settings=described, inputs=_find_inputs(model)) as draft:
        # What a format cannot say, Camelid finds here.
        draft.facts.update(config=model.config.model_dump(mode="json"), num_parameters=count_parameters(model.config))
        add_companions(model, draft.path, is_json_wanted)
        yield draft.path


def _find_inputs(model: StoredModel) -> dict[str, str]:
    try:
        return {"model": artifact.read_manifest(model.path, KIND).digest}
    except UserError:  # most models were not made by Camelid
        return {}


def add_companions(model: StoredModel, folder: Path, is_json_wanted: bool) -> None:
    """Puts tokenizer, chat template, generation settings and licence beside the weights.

    Files are copied as they are. A tokenizer that has no file of its own, or not the wanted one, is written anew.

    Args:
        is_json_wanted: whether the readers of the format want a tokenizer.json beside what else there is.

    Raises:
        UserError: the tokenizer cannot be written as a file.
    """
    source = find_tokenizer_folder(model.path) if model.format == "meta" else model.path
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    is_copied = any((folder / name).is_file() for name in TOKENIZER_NAMES)
    if is_copied and (not is_json_wanted or (folder / "tokenizer.json").is_file()):
        return
    try:
        tokenizer = model.load_tokenizer()
    except UserError:
        return  # there is none, or one that others can read
    from camelid.tokenizer.export import write_huggingface

    try:
        write_huggingface(tokenizer, folder)
    except UserError:
        if not is_copied:
            raise


def find_tokenizer_folder(path: Path) -> Path:
    """A model's folder, or the one above, where LLaMA 1 and 2 keep one tokenizer and licence for all sizes."""
    is_here = any((path / name).is_file() for name in TOKENIZER_NAMES)
    return path if is_here or not (path.parent / "tokenizer.model").is_file() else path.parent
