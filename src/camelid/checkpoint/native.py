"""Camelid's own checkpoint: a published folder of safetensors, configuration and tokenizer.

config.json            ModelConfig
model.safetensors      weights by Meta's names, float32
tokenizer.model        SentencePiece model
optimizer.safetensors  AdamW moments, `exp_avg.<name>` and `exp_avg_sq.<name>` (training checkpoints only)
progress.json          number of steps and tokens that went into it
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from camelid import artifact
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.planning.shapes import count_parameters, parameter_shapes
from camelid.settings import validate

KIND = "checkpoint"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
PROGRESS_NAME = "progress.json"
TOKENIZER_NAME = "tokenizer.model"

Tensors = Mapping[str, Tensor]


def save_checkpoint(
    directory: Path,
    *,
    config: ModelConfig,
    weights: Tensors,
    optimizer: Tensors,
    progress: Mapping[str, int],
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
    with artifact.publish(directory, kind=KIND, settings=settings, inputs=inputs, seed=seed) as draft:
        draft.environment.update(environment)
        draft.facts.update(progress, num_parameters=count_parameters(config))
        _write_json(draft.path / CONFIG_NAME, config.model_dump(mode="json"))
        _write_json(draft.path / PROGRESS_NAME, dict(progress))
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
    return sorted(path.parent for path in (train / "checkpoints").glob("step-*[0-9]/" + artifact.MANIFEST_NAME))


def checkpoint_path(train: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies in a training run."""
    return train / "checkpoints" / f"step-{step:08d}"


def read_config(directory: Path) -> ModelConfig:
    """Reads a checkpoint's model configuration."""
    path = directory / CONFIG_NAME
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is missing or damaged ({error}); restore it from a copy") from error
    return validate(ModelConfig, tree, str(path))


def load_weights(directory: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Reads a checkpoint's weights, mapped from the file.

    Raises:
        UserError: the file is damaged, or a tensor is missing, unknown or not of the shape that `config` gives it.
    """
    tensors = _load(directory / WEIGHTS_NAME)
    expected = parameter_shapes(config)
    for name in sorted({*tensors, *expected}):
        found = tuple(tensors[name].shape) if name in tensors else None
        wanted = expected.get(name)
        if found != wanted:
            raise UserError(
                f"{directory / WEIGHTS_NAME}: tensor {name} has shape {_say(found)}, but the model wants "
                f"{_say(wanted)}; use this model's own checkpoint, or the configuration that lies beside the weights"
            )
    return tensors


def load_optimizer(directory: Path) -> dict[str, Tensor]:
    """Reads the optimizer's moments."""
    return _load(directory / OPTIMIZER_NAME)


def read_progress(directory: Path) -> dict[str, int]:
    """Steps and tokens that went into a checkpoint."""
    progress: dict[str, int] = json.loads((directory / PROGRESS_NAME).read_text(encoding="utf-8"))
    return progress


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; restore the checkpoint or go on from an earlier one") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); restore it or go on from an earlier checkpoint") from error


def _say(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else " x ".join(map(str, shape))


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")
