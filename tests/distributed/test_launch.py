"""`camelid train --processes N` and torchrun: the same result, one voice, and an orderly end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched import begin_run, children_of, started, wait_for_steps, words

from camelid import artifact
from camelid.artifact import partial_path
from camelid.checkpoint.native import list_checkpoints

_MESH = ("--set", "train.mesh.shard=2")


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return begin_run(tiny_run, tmp_path)


def test_two_processes_train_what_one_does(run: Path, tiny_run: Path) -> None:
    done = subprocess.run(words(run, *_MESH, "--processes", "2"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run / 'train'}\n"
    assert done.stderr.count("train: building") == 1
    assert "Warning" not in done.stderr
    together, alone = artifact.verify(run / "train"), artifact.read_manifest(tiny_run / "train")
    assert together.produced["mesh"] == "shard 2"
    assert together.facts["final_loss"] == pytest.approx(alone.facts["final_loss"], rel=1e-5)
    nats = [manifest.facts["held_out"]["notes"]["nats_per_token"] for manifest in (together, alone)]
    assert nats[0] == pytest.approx(nats[1], rel=1e-5)
    assert [path.name for path in list_checkpoints(run / "train")] == [
        path.name for path in list_checkpoints(tiny_run / "train")
    ]
    again = subprocess.run(words(run, *_MESH, "--processes", "2"), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "train: finished already" in again.stderr


def test_a_refusal_is_told_once(run: Path) -> None:
    shard = next((run / "dataset" / "train").glob("*.bin"))
    shard.write_bytes(shard.read_bytes()[:-2])
    done = subprocess.run(words(run, *_MESH, "--processes", "2"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert [line.startswith("camelid: ") for line in done.stderr.splitlines()].count(True) == 1
    assert shard.name in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_stopped_in_order_and_resumed_by_one_process(run: Path) -> None:
    longer = ("--set", "train.steps=300")
    with started(words(run, *_MESH, *longer, "--processes", "2")) as process:
        wait_for_steps(run, 3)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "the state is saved" in errors.splitlines()[-1]
    step = int(list_checkpoints(partial_path(run / "train"))[-1].name.removeprefix("step-"))
    assert 0 < step < 300
    again = ("--set", f"train.steps={300}", "--set", "train.mesh.shard=1")
    with started(words(run, *again)) as process:
        wait_for_steps(run, step + 2)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert f"going on from step {step}" in errors
    assert "mesh was shard 2 and is now one process" in errors


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others(run: Path, rank: int) -> None:
    with started(words(run, *_MESH, "--set", "train.steps=3000", "--processes", "2")) as process:
        wait_for_steps(run, 3)
        children = children_of(process.pid)
        os.kill(children[rank], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert f"process {rank} of 2 was ended by SIGKILL" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_the_processes_end_with_the_one_that_started_them(run: Path) -> None:
    with started(words(run, *_MESH, "--set", "train.steps=3000", "--processes", "2")) as process:
        wait_for_steps(run, 3)
        children = children_of(process.pid)
        assert len(children) == 2
        process.kill()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
def test_under_torchrun(run: Path, tiny_run: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "camelid"]
    done = subprocess.run([*torchrun, *words(run, *_MESH)[3:]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run / 'train'}\n"
    together, alone = artifact.verify(run / "train"), artifact.read_manifest(tiny_run / "train")
    assert together.facts["final_loss"] == pytest.approx(alone.facts["final_loss"], rel=1e-5)
    samples = [json.loads(line) for line in (run / "train" / "samples.jsonl").read_text().splitlines()]
    assert [record["step"] for record in samples] == [4, 8]
