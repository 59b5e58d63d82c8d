"""Scores during training: a planted benchmark reaches metrics, TensorBoard and the report, and changes no weight."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camelid.artifact import Manifest, partial_path
from camelid.errors import StoppedError
from camelid.metrics import read_metrics
from camelid.model.config import ModelConfig
from camelid.model.llama import Transformer
from camelid.report.curves import describe_training
from camelid.report.run import read_run
from camelid.training.loop import Benchmark, train
from camelid.training.settings import TrainSettings
from camelid.training.tensorboard import EVENTS_NAME
from camelid.training.trainer import Data

_CONFIG = ModelConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_hidden_dim=48, vocab_size=60)
_NEXT = 7


class _Tokens:
    """Each token is the one before it and seven more."""

    def __init__(self, stops_at: int = -1):
        self._stops_at = stops_at

    def batch(self, step: int) -> Any:
        if step == self._stops_at:
            os.kill(os.getpid(), signal.SIGTERM)
        starts = np.random.default_rng(step).integers(0, 60, (8, 1))
        return (starts + _NEXT * np.arange(17)) % 60


def score_next_tokens(model: Transformer, step: int) -> Mapping[str, float]:
    """The share of tokens whose successor the model knows, and a name for the step."""
    tokens = torch.randint(0, 60, (1, 64))
    with torch.no_grad():
        likeliest = torch.stack([model(token[None, None])[0, 0].argmax() for token in tokens[0]])
    share = (likeliest == (tokens[0] + _NEXT) % 60).double().mean()
    return {"successors": share.item(), "step": float(step)}


def run(tiny_run: Path, directory: Path, benchmark: Benchmark | None, stops_at: int = -1) -> Manifest:
    settings = TrainSettings(
        steps=40,
        sequence_length=16,
        batch_tokens=128,
        warmup_steps=3,
        learning_rate=1e-2,
        precision="float32",
        compile="no",
        num_threads=1,
        device="cpu",
        held_out_interval=10,
        is_tensorboard_written=True,
    )
    loader: Any = _Tokens(stops_at)
    data = Data(loader, {"notes": [(40, np.arange(20) % 60)]}, tiny_run / "tokenizer" / "tokenizer.model", {})
    return train(_CONFIG, settings, data, directory / "train", seed=5, inputs={}, benchmark=benchmark)


def test_scores_are_curves_and_change_no_weight(tiny_run: Path, tmp_path: Path) -> None:
    plain = run(tiny_run, tmp_path / "plain", None)
    scored = tmp_path / "scored"
    with pytest.raises(StoppedError):
        run(tiny_run, scored, score_next_tokens, stops_at=24)
    assert partial_path(scored / "train").is_dir()
    assert run(tiny_run, scored, score_next_tokens).digest == plain.digest
    records = list(read_metrics(scored / "train" / "metrics.jsonl", "benchmark"))
    assert [(r["step"], r["score"]) for r in records if r["name"] == "step"] == [(s, s) for s in (10, 20, 30, 40)]
    successors = [r["score"] for r in records if r["name"] == "successors"]
    assert len(successors) == 4
    assert successors[-1] > 0.9
    events = (scored / "train" / EVENTS_NAME).read_bytes()
    assert events.count(b"benchmark/successors/score") == 4
    page = str(describe_training(read_run(scored)))
    assert "Benchmarks" in page
    assert "successors" in page
