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


def _survive(
    tiny_run: Path, folder: Path, size: int, num_kills: int, steps: int, disturb: Callable[..., None] = _kill
) -> Path:
    shutil.copy(tiny_run.parent / "tiny.toml", folder / "tiny.toml")
    shutil.copytree(tiny_run.parent / "text", folder / "text", copy_function=shutil.copy2)
    for name in ("undisturbed", "killed"):
        for stage in ("corpus", "tokenizer", "dataset"):
            shutil.copytree(tiny_run / stage, folder / name / stage, copy_function=shutil.copy2)
    assert _start(folder / "undisturbed", size, steps).wait() == 0
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
    assert _start(folder / "killed", size, steps).wait() == 0
    latest = [list_checkpoints(folder / name / "train")[-1] for name in ("undisturbed", "killed")]
    assert artifact.verify(latest[0]).digest == artifact.verify(latest[1]).digest
    return latest[1]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_stopped_while_checkpoints_are_written(tiny_run: Path, tmp_path: Path, size: int) -> None:
    """Every third step is saved in the background, so that a write is under way when SIGTERM comes."""
    _survive(tiny_run, tmp_path, size, 3, 60, _stop)


@pytest.mark.slow
def test_two_kills_of_two_processes(tiny_run: Path, tmp_path: Path) -> None:
    _survive(tiny_run, tmp_path, 2, 2, 40)


@pytest.mark.slow
def test_fifty_kills_over_meshes_of_one_two_and_four(tiny_run: Path, tmp_path: Path) -> None:
    ends = []
    for size, num_kills in ((1, 16), (2, 17), (4, 17)):
        (tmp_path / str(size)).mkdir()
        ends.append(open_model(_survive(tiny_run, tmp_path / str(size), size, num_kills, 100)))
    for other in ends[1:]:
        for name, tensor in ends[0].tensors.items():
            difference = (decode_tensor(tensor) - decode_tensor(other.tensors[name])).abs().max().item()
            assert difference < 2e-3, name  # float32 over 100 steps at a high rate
