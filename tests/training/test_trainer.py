"""The training loop against a plain torch loop, and against itself when it is interrupted."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from camelid import artifact
from camelid.checkpoint import native
from camelid.errors import StoppedError, UserError
from camelid.model.config import ModelConfig
from camelid.model.initialize import initialize
from camelid.model.llama import Transformer
from camelid.training.loop import train
from camelid.training.schedule import learning_rate
from camelid.training.settings import TrainSettings
from camelid.training.trainer import Data, Trainer
from camelid.training.validate import Tokens

_CONFIG = ModelConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_hidden_dim=48, vocab_size=60)


class _Tokens:
    """Batches of a short text that repeats, so that there is something to learn."""

    def batch(self, step: int) -> Any:
        rng = np.random.default_rng(step)
        return (rng.integers(0, 60, (8, 1)) + 7 * np.arange(17)) % 60


def _settings(**changes: Any) -> TrainSettings:
    values = {"steps": 12, "sequence_length": 16, "batch_tokens": 128, "warmup_steps": 3, "learning_rate": 1e-2}
    fixed = {"precision": "float32", "compile": "no", "num_threads": 1, "device": "cpu", "checkpoint_interval": 4}
    intervals = {"held_out_interval": 6, "sample_interval": 6}
    return TrainSettings.model_validate({**values, **fixed, **intervals, **changes})


def _data(tiny_run: Path) -> Data:
    held_out: list[tuple[int, Tokens]] = [(40, np.arange(20) % 60), (90, np.arange(45) % 60)]
    loader: Any = _Tokens()
    return Data(loader, {"notes": held_out}, tiny_run / "tokenizer" / "tokenizer.model", {})


def _trainer(tiny_run: Path, **changes: Any) -> Trainer:
    return Trainer(_CONFIG, _settings(**changes), _data(tiny_run), seed=5)


def _train(tiny_run: Path, directory: Path, **changes: Any) -> artifact.Manifest:
    return train(_CONFIG, _settings(**changes), _data(tiny_run), directory, seed=5, inputs={"dataset": "x"})


def test_steps_equal_a_plain_torch_loop(tiny_run: Path) -> None:
    trainer = _trainer(tiny_run, gradient_clip=0.5)
    model = Transformer(_CONFIG)
    initialize(model, 5)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(6):
        tokens = torch.from_numpy(_Tokens().batch(step))
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, trainer.settings)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(trainer.take_step()[0].item())
        assert losses[-1] == pytest.approx(loss.item(), rel=1e-5)
    assert losses[-1] < losses[0]
    for name, weight in trainer.model.weights().items():
        torch.testing.assert_close(weight, model.weights()[name], rtol=1e-4, atol=2e-6, msg=name)


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny_run: Path) -> None:
    whole, parts = _trainer(tiny_run), _trainer(tiny_run, microbatch_sequences=2)
    for _ in range(3):
        assert parts.take_step()[0].item() == pytest.approx(whole.take_step()[0].item(), rel=1e-5)
    for name, weight in whole.model.weights().items():
        torch.testing.assert_close(weight, parts.model.weights()[name], rtol=1e-3, atol=1e-5, msg=name)


class _SignalledTokens(_Tokens):
    def batch(self, step: int) -> Any:
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step)


def test_stopped_and_resumed_ends_in_the_same_bytes(tiny_run: Path, tmp_path: Path) -> None:
    undisturbed = _train(tiny_run, tmp_path / "a")
    data = _data(tiny_run)
    loader: Any = _SignalledTokens()
    stopping = Data(loader, data.held_out, data.tokenizer, {})
    with pytest.raises(StoppedError, match="after step 7"):
        train(_CONFIG, _settings(), stopping, tmp_path / "b", seed=5, inputs={"dataset": "x"})
    begun = artifact.partial_path(tmp_path / "b")
    assert native.list_checkpoints(begun)[-1].name == "step-00000007"
    resumed = _train(tiny_run, tmp_path / "b")
    assert resumed.digest == undisturbed.digest
    assert resumed.facts == undisturbed.facts
    lines = (tmp_path / "b" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records if record["kind"] == "train"] == list(range(1, 13))
    assert [path.name for path in native.list_checkpoints(tmp_path / "b")] == ["step-00000008", "step-00000012"]


def test_killed_after_the_last_checkpoint(tiny_run: Path, tmp_path: Path) -> None:
    finished = _train(tiny_run, tmp_path / "a")
    (tmp_path / "a").rename(artifact.partial_path(tmp_path / "a"))
    (artifact.partial_path(tmp_path / "a") / artifact.MANIFEST_NAME).unlink()
    again = _train(tiny_run, tmp_path / "a")
    assert again.facts == finished.facts
    assert again.digest == finished.digest


def test_begun_run_with_other_settings_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    _train(tiny_run, tmp_path / "a")
    (tmp_path / "a").rename(artifact.partial_path(tmp_path / "a"))
    with pytest.raises(UserError, match=r"begun otherwise: learning_rate was 0.01 and is now 0.02"):
        _train(tiny_run, tmp_path / "a", learning_rate=0.02)
