"""torchrun starts all processes again when one is killed; as many or fewer of them take the training up."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from camelid import artifact
from camelid.artifact import partial_path
from camelid.checkpoint.find import open_model
from camelid.checkpoint.load import decode_tensor
from camelid.checkpoint.native import list_checkpoints

_STEPS = 150
_INTERVALS = ("checkpoint_interval=10", "held_out_interval=1000", "sample_interval=1000")
_SETTINGS = (f"train.steps={_STEPS}", *(f"train.{interval}" for interval in _INTERVALS))
_SHARD = "train.mesh.shard=2"
_TENSOR = "train.mesh.tensor=2"


def _start(run: Path, num_processes: int, mesh: str) -> subprocess.Popen[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", "3", "--nproc-per-node"]
    words = [word for setting in (*_SETTINGS, mesh) for word in ("--set", setting)]
    command = [sys.executable, *torchrun, str(num_processes), "-m", "camelid", "train", str(run.parent / "tiny.toml")]
    return subprocess.Popen(
        [*command, "--out", str(run), *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _workers(agent: int) -> dict[int, int]:
    """Process numbers by rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                variables = (entry / "environ").read_text().split("\0") if parent == agent else []
            except (OSError, ValueError):
                continue
            found.update({int(v.removeprefix("RANK=")): int(entry.name) for v in variables if v.startswith("RANK=")})
    return found


def _wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    metrics = partial_path(run / "train") / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < step:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def _finish(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=170)
    assert process.returncode == 0, errors
    return errors


def _largest_difference(run: Path, other: Path) -> float:
    models = [open_model(list_checkpoints(folder / "train")[-1]) for folder in (run, other)]
    return max(
        (decode_tensor(tensor) - decode_tensor(models[1].tensors[name])).abs().max().item()
        for name, tensor in models[0].tensors.items()
    )


@pytest.fixture
def runs(tiny_run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two runs whose data are ready and whose training is not begun."""
    names = ("undisturbed", "disturbed")
    (tmp_path / "tiny.toml").write_bytes((tiny_run.parent / "tiny.toml").read_bytes())
    shutil.copytree(tiny_run.parent / "text", tmp_path / "text", copy_function=shutil.copy2)
    for name in names:
        for stage in ("corpus", "tokenizer", "dataset"):
            shutil.copytree(tiny_run / stage, tmp_path / name / stage, copy_function=shutil.copy2)
    return tmp_path / names[0], tmp_path / names[1]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [_SHARD, _TENSOR])
def test_killed_workers_are_started_again_and_go_on(runs: tuple[Path, Path], mesh: str) -> None:
    undisturbed, disturbed = runs
    _finish(_start(undisturbed, 2, mesh))
    process = _start(disturbed, 2, mesh)
    try:
        for rank, step in ((1, 25), (0, 90)):
            _wait_for_step(process, disturbed, step)
            os.kill(_workers(process.pid)[rank], signal.SIGKILL)
        errors = _finish(process)
    finally:
        process.kill()
    assert errors.count("going on from step") == 2
    ends = [artifact.verify(list_checkpoints(run / "train")[-1]).digest for run in runs]
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_fewer_processes_go_on(runs: tuple[Path, Path]) -> None:
    """A machine is gone for good: what two processes began, one ends. The sums differ in their last bits."""
    undisturbed, disturbed = runs
    _finish(_start(undisturbed, 2, _SHARD))
    process = _start(disturbed, 2, _SHARD)
    try:
        _wait_for_step(process, disturbed, 60)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert list_checkpoints(partial_path(disturbed / "train"))
    errors = _finish(_start(disturbed, 1, "train.mesh.shard=1"))
    assert "mesh was shard 2 and is now one process" in errors
    assert 0 < _largest_difference(disturbed, undisturbed) < 2e-3
