"""Camelid's own checkpoints: found, read, and refused when something is wrong with them."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from camelid import artifact
from camelid.checkpoint import native
from camelid.errors import UserError
from camelid.model.llama import Transformer
from camelid.planning.shapes import parameter_shapes


@pytest.fixture
def checkpoint(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(native.find_checkpoint(tiny_run), tmp_path / "checkpoint"))


def test_latest_checkpoint_is_found_from_every_folder(tiny_run: Path) -> None:
    latest = tiny_run / "train" / "checkpoints" / "step-00000008"
    for path in (tiny_run, tiny_run / "train", latest):
        assert native.find_checkpoint(path) == latest
    with pytest.raises(UserError, match="holds no checkpoint"):
        native.find_checkpoint(tiny_run / "corpus")


def test_retention_keeps_the_latest(tiny_run: Path) -> None:
    names = [path.name for path in native.list_checkpoints(tiny_run / "train")]
    assert names == ["step-00000006", "step-00000008"]


def test_what_is_stored_is_what_the_model_holds(checkpoint: Path) -> None:
    config = native.read_config(checkpoint)
    weights = native.load_weights(checkpoint, config)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == parameter_shapes(config)
    model = Transformer(config)
    model.set_weights(weights)
    for name, weight in model.weights().items():
        assert torch.equal(weight, weights[name])
    assert native.read_progress(checkpoint) == native.Progress(step=8, num_tokens=1024)
    assert artifact.verify(checkpoint, native.KIND).facts["num_tokens"] == 1024


@pytest.mark.parametrize("name", [native.WEIGHTS_NAME, native.OPTIMIZER_NAME])
def test_damaged_tensors_are_refused(checkpoint: Path, name: str) -> None:
    config = native.read_config(checkpoint)
    read = native.load_optimizer if name == native.OPTIMIZER_NAME else lambda path: native.load_weights(path, config)
    path = checkpoint / name
    whole = path.read_bytes()
    for data in (b"", whole[:100], whole[:-1], b"\xff" * 8 + whole[8:]):
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged"):
            read(checkpoint)


def test_missing_and_unknown_tensors_are_named(checkpoint: Path) -> None:
    path = checkpoint / native.WEIGHTS_NAME
    tensors = load_file(path)
    del tensors["norm.weight"]
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"norm\.weight has shape nothing, but the model wants 32"):
        native.load_weights(checkpoint, native.read_config(checkpoint))


def test_missing_configuration_is_refused(checkpoint: Path) -> None:
    (checkpoint / native.CONFIG_NAME).write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        native.read_config(checkpoint)
