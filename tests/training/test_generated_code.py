"""Libraries that were being written when a training was killed are made again, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils._filelock import FileLock

from camelid.training.device import has_compiler
from camelid.training.generated_code import remove_unfinished_libraries


@pytest.mark.skipif(sys.platform != "linux", reason="knows the libraries of Linux")
def test_halves_are_removed_unless_somebody_writes_them(tmp_path: Path) -> None:
    import torch

    if not has_compiler(torch.device("cpu")):
        pytest.skip("makes a library")
    folder = tmp_path / "ab"
    folder.mkdir()
    source = tmp_path / "source.cpp"
    source.write_text('extern "C" int one() { return 1; }\n', encoding="utf-8")
    whole = folder / "whole.main.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", whole, source], check=True)
    data = whole.read_bytes()
    halves = {name: folder / f"{name}.main.so" for name in ("empty", "short", "half", "zeros", "locked")}
    contents = {"empty": b"", "short": data[:40], "half": data[:-1], "zeros": bytes(len(data)), "locked": b""}
    for name, path in halves.items():
        path.write_bytes(contents[name])
    (tmp_path / "locks").mkdir()
    with FileLock(str(tmp_path / "locks" / "locked.lock")):
        remove_unfinished_libraries(tmp_path)
        assert sorted(path.name for path in folder.iterdir()) == ["locked.main.so", "whole.main.so"]
    remove_unfinished_libraries(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["whole.main.so"]


@pytest.mark.slow
def test_a_training_makes_anew_what_a_kill_left_half_written(tmp_path: Path) -> None:
    script = """
import numpy as np
from pathlib import Path
from camelid.model.config import ModelConfig
from camelid.training.settings import TrainSettings
from camelid.training.trainer import Data, Trainer
class Tokens:
    def batch(self, step):
        return np.ones((1, 9), dtype=np.int64)
config = ModelConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=2, ffn_hidden_dim=16, vocab_size=20)
settings = TrainSettings(steps=9, warmup_steps=1, sequence_length=8, batch_tokens=8, compile="yes", device="cpu")
print(Trainer(config, settings, Data(Tokens(), {}, Path(), {}), seed=1).take_step()[0].item())
"""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    losses = []
    for _ in range(2):
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, env=environment)
        losses.append(done.stdout)
        libraries = list(tmp_path.glob("*/*.so"))
        assert libraries
        for library in libraries:
            library.write_bytes(b"")
    assert losses[0] == losses[1]
