"""Camelid's own checkpoint: a published folder of safetensors, configuration and tokenizer.

config.json            ModelConfig
model.safetensors      weights by Meta's names: float32 from training, the source's types from a conversion
tokenizer.model        SentencePiece model, or what else came with the weights
optimizer.safetensors  AdamW moments, `exp_avg.<name>` and `exp_avg_sq.<name>` (training checkpoints only)
progress.json          steps and tokens that went into it, and what data were skipped (training checkpoints only)

Training saves and loads torch tensors; `read` and `write` are without torch, which is imported where it is needed.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from camelid import artifact
from camelid.checkpoint import folder
from camelid.checkpoint.bounded import read_json
from camelid.checkpoint.expected import expect_shapes, match_tensors, say_shape
from camelid.checkpoint.safetensors_file import read_safetensors, write_safetensors
from camelid.checkpoint.stored import StoredModel
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.planning.shapes import count_parameters
from camelid.settings import Settings, validate
from camelid.tokenizer.load import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

KIND = folder.KIND
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
PROGRESS_NAME = "progress.json"
TOKENIZER_NAME = "tokenizer.model"


class Progress(Settings):
    """How far a training has come."""

    step: int = Field(ge=0)
    """Optimizer steps taken."""
    num_tokens: int = Field(ge=0)
    """Tokens trained on."""
    skipped: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Data steps that are passed over."""


def save_checkpoint(
    directory: Path,
    *,
    config: ModelConfig,
    weights: "Mapping[str, Tensor]",
    optimizer: "Mapping[str, Tensor]",
    progress: Progress,
    tokenizer: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    seed: int,
    environment: Mapping[str, Any],
) -> None:
    """Publishes a checkpoint; equal states give equal bytes.

    Raises:
        UserError: `directory` exists, or the disk is full.
    """
    from safetensors.torch import save_file

    with artifact.publish(directory, kind=KIND, settings=settings, inputs=inputs, seed=seed) as draft:
        draft.environment.update(environment)
        draft.facts.update(step=progress.step, num_tokens=progress.num_tokens, num_parameters=count_parameters(config))
        _write_json(draft.path / CONFIG_NAME, config.model_dump(mode="json"))
        _write_json(draft.path / PROGRESS_NAME, progress.model_dump(mode="json"))
        shutil.copyfile(tokenizer, draft.path / TOKENIZER_NAME)
        save_file(dict(weights), draft.path / WEIGHTS_NAME)
        save_file(dict(optimizer), draft.path / OPTIMIZER_NAME)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the latest below a `train` or a run folder.

    Raises:
        UserError: there is none.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such model; name a checkpoint, or the folder of a run that trained one")
    if (path / CONFIG_NAME).is_file():
        return path
    for candidate in (path, path / "train", artifact.partial_path(path / "train")):
        found = list_checkpoints(candidate)
        if found:
            return found[-1]
    raise UserError(f"{path} holds no checkpoint; name a folder with {CONFIG_NAME} or one that a run wrote")


def list_checkpoints(train: Path) -> list[Path]:
    """Finished checkpoints of a training run, oldest first."""
    found = (path.parent for path in (train / "checkpoints").glob(f"step-*/{artifact.MANIFEST_NAME}"))
    return sorted((path for path in found if path.name.removeprefix("step-").isdecimal()), key=step_of)


def checkpoint_path(train: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies in a training run."""
    return train / "checkpoints" / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint of a training run, by its name."""
    return int(checkpoint.name.removeprefix("step-"))


def read(path: Path) -> StoredModel:
    """Opens a checkpoint's weights; nothing of a training's state is looked at.

    Raises:
        UserError: the files are damaged, or are not those of the configuration.
    """
    config = read_config(path)
    weights = path / WEIGHTS_NAME
    tensors, _ = read_safetensors(weights)
    return StoredModel(
        path=path,
        format="native",
        config=config,
        tensors=match_tensors(tensors, config, dict.fromkeys(tensors, weights), path),
        load_tokenizer=lambda: load_tokenizer(path),
    )


def write(model: StoredModel, path: Path) -> None:
    """Publishes a model as a checkpoint, tensor by tensor, each in the type that it is stored in.

    Raises:
        UserError: as `folder.publish_model`.
    """
    with folder.publish_model(model, path, "native", {}) as draft:
        _write_json(draft / CONFIG_NAME, model.config.model_dump(mode="json"))
        write_safetensors(draft / WEIGHTS_NAME, list(model.tensors.values()), {})


def read_config(directory: Path) -> ModelConfig:
    """Reads a checkpoint's model configuration."""
    path = directory / CONFIG_NAME
    return validate(ModelConfig, read_json(path), str(path))


def load_weights(directory: Path, config: ModelConfig) -> "dict[str, Tensor]":
    """Reads a checkpoint's weights, mapped from the file.

    Raises:
        UserError: the file is damaged, or a tensor is missing, unknown or not of the shape that `config` gives it.
    """
    path = directory / WEIGHTS_NAME
    tensors = _load(path)
    expected = expect_shapes(config, len(tensors), path)
    for name in sorted({*tensors, *expected}):
        found = tuple(tensors[name].shape) if name in tensors else None
        wanted = expected.get(name)
        if found != wanted:
            raise UserError(
                f"{path}: tensor {name} has shape {_say(found)}, but the model wants {_say(wanted)}; use this model's "
                "own checkpoint, or the configuration that lies beside the weights"
            )
    return tensors


def load_optimizer(directory: Path) -> "dict[str, Tensor]":
    """Reads the optimizer's moments."""
    return _load(directory / OPTIMIZER_NAME)


def read_progress(directory: Path) -> Progress:
    """How far the training of a checkpoint had come.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = directory / PROGRESS_NAME
    return validate(Progress, read_json(path), str(path))


def _load(path: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; restore the checkpoint or go on from an earlier one") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); restore it or go on from an earlier checkpoint") from error


def _say(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else say_shape(shape)


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")
