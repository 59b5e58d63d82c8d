"""Checkpoints that several processes write: read on any mesh, by every reader, and refused when they are damaged."""

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mesh_runs import Result, make_config, make_settings, make_trainer
from process_pool import ProcessPool

from camelid import artifact
from camelid.checkpoint import native, shards
from camelid.checkpoint.find import open_model
from camelid.checkpoint.load import decode_tensor
from camelid.checkpoint.verify import check
from camelid.errors import UserError
from camelid.parallel.processes import Processes
from camelid.parallel.settings import MeshSettings
from camelid.parallel.spread import gather

MESHES = {
    1: MeshSettings(),
    2: MeshSettings(shard=2),
    4: MeshSettings(shard=2, tensor=2),
}


def _make(processes: Processes, tokenizer: Path, precision: str = "float32") -> Any:
    trainer = make_trainer(
        processes, make_config(), make_settings(MESHES[processes.place.num_processes], precision=precision)
    )
    object.__setattr__(trainer.data, "tokenizer", tokenizer)
    return trainer


def write(processes: Processes, folder: Path, tokenizer: Path) -> None:
    """Saves after steps 3 and 4 while the training goes on."""
    trainer = _make(processes, tokenizer)
    for step in range(1, 6):
        trainer.take_step()
        if step in (3, 4):
            trainer.save(folder / f"step-{step}", {"a": 1}, {"b": "c"})
    trainer.finish_saving()


def read(processes: Processes, checkpoint: Path, num_steps: int) -> Result | None:
    """Takes up a checkpoint and goes on."""
    trainer = _make(processes, checkpoint)
    if checkpoint.is_dir():
        trainer.restore(checkpoint)
    losses = [trainer.take_step()[0].item() for _ in range(num_steps)]
    with torch.no_grad():
        weights = dict(gather(trainer.weights(), processes.is_first))
        moments = dict(gather(trainer.moments(), processes.is_first))
    return Result(losses, [], 0.0, weights, moments) if processes.is_first else None


def fail(processes: Processes, folder: Path, tokenizer: Path) -> str:
    """The disk is full for the second process alone."""
    with pytest.MonkeyPatch.context() as patch:
        if processes.place.rank == 1:
            patch.setattr("camelid.checkpoint.sharded.save_file", _find_no_space)
        return _save_and_refuse(processes, folder, tokenizer)


def _find_no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _save_and_refuse(processes: Processes, folder: Path, tokenizer: Path) -> str:
    try:
        trainer = _make(processes, tokenizer)
        trainer.take_step()
        trainer.save(folder / "step-1", {}, {})
        trainer.finish_saving()
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def tokenizer(tiny_run: Path) -> Path:
    return tiny_run / "tokenizer" / "tokenizer.model"


@pytest.fixture(scope="module")
def written(pool: ProcessPool, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {size: tmp_path_factory.mktemp(f"mesh{size}") for size in MESHES}
    for size, folder in folders.items():
        pool.run(size, write, folder=folder, tokenizer=tokenizer)
    return folders


@pytest.mark.parametrize("of", MESHES)
@pytest.mark.parametrize("on", MESHES)
def test_any_mesh_goes_on_from_any_other(pool: ProcessPool, written: dict[int, Path], of: int, on: int) -> None:
    (expected, *_) = pool.run(of, read, checkpoint=Path("none"), num_steps=5)
    (found, *_) = pool.run(on, read, checkpoint=written[of] / "step-3", num_steps=2)
    assert found.losses == pytest.approx(expected.losses[3:], rel=1e-5)
    for kind in ("weights", "moments"):
        for name, tensor in getattr(expected, kind).items():
            if of == on:
                assert torch.equal(getattr(found, kind)[name], tensor), name
            else:
                torch.testing.assert_close(getattr(found, kind)[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("size", [2, 4])
def test_every_reader_reads_pieces(pool: ProcessPool, written: dict[int, Path], size: int) -> None:
    (alone, *_) = pool.run(size, read, checkpoint=written[size] / "step-4", num_steps=0)
    model = open_model(written[size] / "step-4")
    assert check(model) == len(alone.weights)
    for name, tensor in alone.weights.items():
        assert torch.equal(decode_tensor(model.tensors[name]), tensor), name
    native.write(model, written[size] / "whole")
    again = open_model(written[size] / "whole")
    assert all(np.array_equal(again.tensors[name].read(), model.tensors[name].read()) for name in alone.weights)
    index = shards.read_index(written[size] / "step-4")
    assert index.num_processes == size
    assert native.read_progress(written[size] / "step-4").step == 4


def test_equal_states_give_equal_bytes(
    pool: ProcessPool, written: dict[int, Path], tokenizer: Path, tmp_path: Path
) -> None:
    pool.run(4, write, folder=tmp_path, tokenizer=tokenizer)
    for name in ("step-3", "step-4"):
        assert artifact.verify(tmp_path / name).digest == artifact.verify(written[4] / name).digest


@pytest.mark.parametrize(
    "name", ["weights-00001.safetensors", "optimizer-00000.safetensors", "random-00001.safetensors"]
)
def test_a_flipped_bit_is_found(written: dict[int, Path], tmp_path: Path, name: str) -> None:
    checkpoint = Path(shutil.copytree(written[2] / "step-3", tmp_path / "copy"))
    data = bytearray((checkpoint / name).read_bytes())
    data[-5] ^= 1
    (checkpoint / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} has SHA-256"):
        check(open_model(checkpoint))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"offset":[0,0]', '"offset":[1,0]', "leaves its tensor|do not fill"),
        ("weights-00001", "../../00001", "String should match|weights"),
        ('"num_processes"', '"processes"', "processes"),
        ('"shape":[61,32]', '"shape":[60,32]', "leaves its tensor|do not fill"),
    ],
)
def test_an_index_that_makes_no_tensors_is_refused(
    written: dict[int, Path], tmp_path: Path, old: str, new: str, message: str
) -> None:
    checkpoint = Path(shutil.copytree(written[2] / "step-3", tmp_path / "copy"))
    path = checkpoint / shards.INDEX_NAME
    text = "".join(path.read_text("utf-8").split())
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        open_model(checkpoint)


def test_damaged_pieces_are_refused_in_a_sentence(written: dict[int, Path], tmp_path: Path) -> None:
    from camelid.checkpoint.sharded import load_state

    for name in ("weights-00001.safetensors", "optimizer-00000.safetensors"):
        checkpoint = Path(shutil.copytree(written[2] / "step-3", tmp_path / name))
        data = (checkpoint / name).read_bytes()
        index = shards.read_index(checkpoint)
        tensors = [
            {key: torch.empty(pieces.shape) for key, pieces in kind.items()}
            for kind in (index.weights, index.optimizer)
        ]
        load_state(checkpoint, *tensors)
        for damaged in (b"", data[:50], data[:-1], None):
            if damaged is None:
                (checkpoint / name).unlink()
            else:
                (checkpoint / name).write_bytes(damaged)
            with pytest.raises(UserError, match="is damaged"):
                load_state(checkpoint, *tensors)
    tensors[0].pop("norm.weight")
    with pytest.raises(UserError, match=r"weights norm\.weight has shape 32, but the model wants nothing"):
        load_state(written[2] / "step-3", *tensors)


def test_a_full_disk_of_one_process_is_told_to_all(pool: ProcessPool, tokenizer: Path, tmp_path: Path) -> None:
    sentences = pool.run(2, fail, folder=tmp_path, tokenizer=tokenizer)
    assert all("could not be written: no space left on device" in sentence for sentence in sentences), sentences
    assert not (tmp_path / "step-1").exists()
    assert not (tmp_path / "step-1.partial").exists()
