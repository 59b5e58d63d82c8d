"""Runs that are killed with SIGKILL at random moments end in the same bytes as undisturbed ones."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import write_tiny_recipe

from camelid import artifact
from camelid.checkpoint.native import list_checkpoints


def _start(recipe: Path, out: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    words = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-m", "camelid", "run", str(recipe), "--out", str(out), *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _digests(run: Path) -> dict[str, str]:
    products = [run / "corpus", run / "tokenizer", run / "dataset", list_checkpoints(run / "train")[-1]]
    return {path.name: artifact.verify(path).digest for path in products}


def _survive(folder: Path, num_kills: int, overrides: list[str]) -> None:
    recipe = write_tiny_recipe(folder)
    start = time.monotonic()
    assert _start(recipe, folder / "undisturbed", overrides).wait() == 0
    seconds = time.monotonic() - start
    rng = random.Random(11)
    for _ in range(num_kills):
        process = _start(recipe, folder / "killed", overrides)
        try:
            process.wait(rng.uniform(0.1, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert _start(recipe, folder / "killed", overrides).wait() == 0
    assert _digests(folder / "killed") == _digests(folder / "undisturbed")


def test_two_kills(tmp_path: Path) -> None:
    _survive(tmp_path, 2, ["train.steps=40"])


@pytest.mark.slow
def test_ten_kills_with_generated_code(tmp_path: Path) -> None:
    overrides = ["train.steps=300", "train.compile=auto", "train.precision=auto", "train.checkpoint_interval=20"]
    _survive(tmp_path, 10, [*overrides, "train.num_threads=2"])
