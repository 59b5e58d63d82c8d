"""Camelid's own checkpoint: a published folder of safetensors, configuration and tokenizer.

config.json            ModelConfig
model.safetensors      weights by Meta's names: float32 from training, the source's types from a conversion
                       (a mesh writes pieces of them instead: see `shards`)
tokenizer.model        SentencePiece model, or what else came with the weights
optimizer.safetensors  AdamW moments, `exp_avg.<name>` and `exp_avg_sq.<name>` (training checkpoints only)
progress.json          steps and tokens that went into it, and what data were skipped (training checkpoints only)

Training saves and loads torch tensors; `read` and `write` are without torch, which is imported where it is needed.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from camelid import artifact
from camelid.artifact import Draft
from camelid.checkpoint import folder, shards
from camelid.checkpoint.bounded import read_json
from camelid.checkpoint.expected import match_tensors
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
_DESCRIBING_TOKENIZER = frozenset(folder.COMPANIONS) - frozenset(folder.TOKENIZER_NAMES)
"""What may lie beside a tokenizer and say how a chat is written."""


class Progress(Settings):
    """How far a training has come."""

    step: int = Field(ge=0)
    """Optimizer steps taken."""
    num_tokens: int = Field(ge=0)
    """Tokens trained on."""
    skipped: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Data steps that are passed over."""


@dataclass(frozen=True)
class About:
    """What a checkpoint of a training says besides its tensors."""

    config: ModelConfig
    progress: Progress
    tokenizer: Path
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    seed: int
    environment: Mapping[str, Any]


def save_checkpoint(
    directory: Path, about: About, weights: "Mapping[str, Tensor]", optimizer: "Mapping[str, Tensor]"
) -> None:
    """Publishes a checkpoint; equal states give equal bytes.

    Raises:
        UserError: `directory` exists, or the disk is full.
    """
    from safetensors.torch import save_file

    with publish_checkpoint(directory, about) as draft:
        save_file(dict(weights), draft.path / WEIGHTS_NAME)
        save_file(dict(optimizer), draft.path / OPTIMIZER_NAME)


@contextlib.contextmanager
def publish_checkpoint(directory: Path, about: About) -> Iterator[Draft]:
    """Publishes a checkpoint with all but its tensors, which the `with` block writes into the draft.

    Raises:
        UserError: as `save_checkpoint`.
    """
    with artifact.publish(directory, kind=KIND, settings=about.settings, inputs=about.inputs, seed=about.seed) as draft:
        draft.environment.update(about.environment)
        draft.facts.update(
            step=about.progress.step,
            num_tokens=about.progress.num_tokens,
            num_parameters=count_parameters(about.config),
        )
        _write_json(draft.path / CONFIG_NAME, about.config.model_dump(mode="json"))
        _write_json(draft.path / PROGRESS_NAME, about.progress.model_dump(mode="json"))
        shutil.copyfile(about.tokenizer, draft.path / TOKENIZER_NAME)
        for beside in about.tokenizer.parent.iterdir():
            if beside.name in _DESCRIBING_TOKENIZER:
                shutil.copyfile(beside, draft.path / beside.name)
        yield draft


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
    if shards.is_sharded(path):
        file, tensors = path / shards.INDEX_NAME, shards.read_weights(path)
    else:
        file = path / WEIGHTS_NAME
        tensors, _ = read_safetensors(file)
    return StoredModel(
        path=path,
        format="native",
        config=config,
        tensors=match_tensors(tensors, config, dict.fromkeys(tensors, file), path),
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


def read_progress(directory: Path) -> Progress:
    """How far the training of a checkpoint had come.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = directory / PROGRESS_NAME
    return validate(Progress, read_json(path), str(path))


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")
