"""Camelid's own checkpoints: found, read, and refused when something is wrong with them."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from camelid import artifact
from camelid.checkpoint import native
from camelid.checkpoint.sharded import load_state
from camelid.errors import UserError
from camelid.planning.shapes import parameter_shapes

MOMENTS = ("exp_avg", "exp_avg_sq")


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


def _empty(checkpoint: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    weights = {name: torch.empty(shape) for name, shape in parameter_shapes(native.read_config(checkpoint)).items()}
    moments = {f"{moment}.{name}": torch.empty_like(w) for name, w in weights.items() for moment in MOMENTS}
    return weights, moments


def test_what_is_stored_is_what_comes_back(checkpoint: Path) -> None:
    weights, moments = _empty(checkpoint)
    load_state(checkpoint, weights, moments)
    for kind, tensors in ((native.WEIGHTS_NAME, weights), (native.OPTIMIZER_NAME, moments)):
        stored = load_file(checkpoint / kind)
        assert stored.keys() == tensors.keys()
        assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())
    assert native.read_progress(checkpoint) == native.Progress(step=8, num_tokens=1024)
    assert artifact.verify(checkpoint, native.KIND).facts["num_tokens"] == 1024


@pytest.mark.parametrize("name", [native.WEIGHTS_NAME, native.OPTIMIZER_NAME])
def test_damaged_tensors_are_refused(checkpoint: Path, name: str) -> None:
    tensors = _empty(checkpoint)
    path = checkpoint / name
    whole = path.read_bytes()
    for data in (b"", whole[:100], whole[:-1], b"\xff" * 8 + whole[8:]):
        path.write_bytes(data)
        with pytest.raises(UserError, match="is damaged"):
            load_state(checkpoint, *tensors)
    path.unlink()
    with pytest.raises(UserError, match="is damaged"):
        load_state(checkpoint, *tensors)


def test_missing_unknown_and_other_tensors_are_named(checkpoint: Path) -> None:
    path = checkpoint / native.WEIGHTS_NAME
    tensors = load_file(path)
    norm = tensors.pop("norm.weight")
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"weights norm\.weight has shape nothing, but the model wants 32"):
        load_state(checkpoint, *_empty(checkpoint))
    save_file({**tensors, "norm.weight": norm, "bias": norm.clone()}, path)
    with pytest.raises(UserError, match=r"weights bias has shape 32, but the model wants nothing"):
        load_state(checkpoint, *_empty(checkpoint))
    save_file({**tensors, "norm.weight": norm[:31].clone()}, path)
    with pytest.raises(UserError, match=r"weights norm\.weight has shape 31, but the model wants 32"):
        load_state(checkpoint, *_empty(checkpoint))


def test_missing_configuration_is_refused(checkpoint: Path) -> None:
    (checkpoint / native.CONFIG_NAME).write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        native.read_config(checkpoint)
