"""Trainings of several processes, killed or stopped at random moments, one process or all, end in the same bytes."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from camelid import artifact
from camelid.artifact import partial_path
from camelid.checkpoint import native
from camelid.checkpoint.find import open_model
from camelid.checkpoint.load import decode_tensor
from camelid.checkpoint.native import list_checkpoints

MESHES = {1: (), 2: ("train.mesh.shard=2",), 4: ("train.mesh.shard=2", "train.mesh.tensor=2")}


def _start(folder: Path, size: int, steps: int) -> subprocess.Popen[bytes]:
    settings = (*MESHES[size], f"train.steps={steps}", "train.checkpoint_interval=3", "train.held_out_interval=1000")
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "camelid", "train", str(folder.parent / "tiny.toml"), "--out", str(folder), *words]
    if size > 1:
        command += ["--processes", str(size)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload,no-any-return]


def _members(process: subprocess.Popen[bytes]) -> list[int]:
    """The process that was started, and those that it started, which have sessions of their own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if process.pid in (int(entry.name), int(fields[1])):
                found.append(int(entry.name))
    return sorted(found, key=lambda pid: (pid != process.pid, pid))


def _kill(process: subprocess.Popen[bytes], rng: random.Random) -> None:
    """SIGKILL to one of the processes, or to all; where it was one, the others must end by themselves."""
    members = _members(process)
    for pid in members if rng.random() < 0.5 or len(members) < 2 else [rng.choice(members[1:])]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    try:
        process.wait(90)
    finally:
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _stop(process: subprocess.Popen[bytes], _rng: random.Random) -> None:
    """SIGTERM to the process that was started, which passes it on."""
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(90) == 128 + signal.SIGTERM
    finally:
        process.kill()


def _wait_for_step(process: subprocess.Popen[bytes], metrics: Path, step: int) -> None:
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < step:
        assert process.poll() is None
        time.sleep(0.01)


def _prepare(tiny_run: Path, folder: Path, *runs: str) -> None:
    shutil.copy(tiny_run.parent / "tiny.toml", folder / "tiny.toml")
    shutil.copytree(tiny_run.parent / "text", folder / "text", copy_function=shutil.copy2)
    for name in runs:
        for stage in ("corpus", "tokenizer", "dataset"):
            shutil.copytree(tiny_run / stage, folder / name / stage, copy_function=shutil.copy2)


def _finish(folder: Path, size: int, steps: int) -> Path:
    """Trains to the end; the last checkpoint."""
    assert _start(folder, size, steps).wait() == 0
    return list_checkpoints(folder / "train")[-1]


def _survive(folder: Path, size: int, num_kills: int, steps: int, disturb: Callable[..., None] = _kill) -> Path:
    """Trains undisturbed, and again with disturbances; the last checkpoint, which is the same."""
    undisturbed = _finish(folder / "undisturbed", size, steps)
    rng = random.Random(size)
    saved = 0
    for step in sorted(rng.randrange(1, 3 * steps // 4) for _ in range(num_kills)):
        process = _start(folder / "killed", size, steps)
        step = max(step, saved + 1)  # a process that has hardly begun cannot stop in order
        _wait_for_step(process, partial_path(folder / "killed" / "train") / "metrics.jsonl", step)
        time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None
        disturb(process, rng)
        if disturb is _stop:
            saved = native.step_of(list_checkpoints(partial_path(folder / "killed" / "train"))[-1])
            assert saved >= step
    killed = _finish(folder / "killed", size, steps)
    assert artifact.verify(undisturbed).digest == artifact.verify(killed).digest
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_stopped_while_checkpoints_are_written(tiny_run: Path, tmp_path: Path, size: int) -> None:
    """Every third step is saved in the background, so that a write is under way when SIGTERM comes."""
    _prepare(tiny_run, tmp_path, "undisturbed", "killed")
    _survive(tmp_path, size, 3, 60, _stop)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "num_kills"), [(1, 16), (2, 17), (4, 17)])
def test_fifty_kills_over_meshes_of_one_two_and_four(tiny_run: Path, tmp_path: Path, size: int, num_kills: int) -> None:
    _prepare(tiny_run, tmp_path, "undisturbed", "killed", "alone")
    killed = open_model(_survive(tmp_path, size, num_kills, 100))
    alone = open_model(_finish(tmp_path / "alone", 1, 100))
    for name, tensor in alone.tensors.items():
        difference = (decode_tensor(tensor) - decode_tensor(killed.tensors[name])).abs().max().item()
        assert difference < 2e-3, name  # float32 over 100 steps at a high rate
