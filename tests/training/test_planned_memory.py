"""The most that a step holds is what `planning/memory.py` says, and what is computed again is chosen where it pays."""

import gc
import json
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camelid.model.config import ModelConfig, ModelSettings
from camelid.planning.memory import Recompute, estimate_training_memory
from camelid.training.loss import CHUNK_POSITIONS
from camelid.training.settings import TrainSettings
from camelid.training.trainer import Data, Trainer

WAYS: tuple[Recompute, ...] = typing.get_args(Recompute)
WIDE_HEAD = ModelConfig(dim=64, num_layers=4, num_heads=4, num_kv_heads=4, ffn_hidden_dim=176, vocab_size=4000)
MANY_LAYERS = ModelConfig(dim=64, num_layers=12, num_heads=4, num_kv_heads=4, ffn_hidden_dim=176, vocab_size=100)
VOCAB_SIZE = 32_000
"""As the benchmarks have it."""
FEW_TOKENS = {"batch_tokens": 128}
MANY_TOKENS = {"batch_tokens": 2048}
FEW_AT_ONCE = {"batch_tokens": 2048, "microbatch_sequences": 2}


class _Tokens:
    def __init__(self, num_sequences: int):
        self._num_sequences = num_sequences

    def batch(self, step: int) -> Any:
        return np.random.default_rng(step).integers(0, 100, (self._num_sequences, 65))


def make_settings(**changes: Any) -> TrainSettings:
    values = {"steps": 10, "warmup_steps": 1, "sequence_length": 64, "batch_tokens": 128, "device": "cpu"}
    return TrainSettings.model_validate({**values, "num_threads": 1, **changes})


def measure_step(config: ModelConfig, settings: TrainSettings) -> int:
    """The most bytes that a step holds beside weights and moments, as the allocator tells the profiler."""
    loader: Any = _Tokens(settings.batch_sequences)
    trainer = Trainer(config, settings, Data(loader, {}, Path(), {}), seed=1)
    for _ in range(2):
        trainer.take_step()
    gc.collect()
    gc.disable()
    try:
        with torch.profiler.profile(profile_memory=True) as profiler:
            trainer.take_step()
    finally:
        gc.enable()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


def check_plan(config: ModelConfig, settings: TrainSettings) -> None:
    """Measured against planned, all that the device holds."""
    way = settings.recompute
    assert way != "auto"
    memory = estimate_training_memory(
        config,
        microbatch_tokens=settings.microbatch_size * settings.sequence_length,
        compute_bytes=2 if settings.precision == "bfloat16" else 4,
        loss_chunk_positions=CHUNK_POSITIONS,
        num_microbatches=settings.batch_sequences // settings.microbatch_size,
        recompute=way,
        is_compiled=settings.compile == "yes",
    )
    measured = measure_step(config, settings) + memory.weights + memory.optimizer
    # A whole layer is there at a time, of which autocast without generated code keeps a little less than is counted.
    is_rough = way == "full" and settings.precision == "bfloat16" and settings.compile == "no"
    assert memory.total == pytest.approx(measured, rel=0.07 if is_rough else 0.05)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("config", "batch"),
    [(WIDE_HEAD, FEW_TOKENS), (WIDE_HEAD, FEW_AT_ONCE), (MANY_LAYERS, MANY_TOKENS), (MANY_LAYERS, FEW_TOKENS)],
    ids=["in the loss", "in the loss of a later microbatch", "in the last layer", "in the first layer"],
)
def test_a_step_holds_the_planned_bytes(
    config: ModelConfig, batch: dict[str, int], precision: str, way: Recompute
) -> None:
    check_plan(config, make_settings(**batch, precision=precision, recompute=way, compile="no"))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", [FEW_TOKENS, MANY_TOKENS])
def test_a_step_of_generated_code_holds_the_planned_bytes(batch: dict[str, int], way: Recompute) -> None:
    check_plan(WIDE_HEAD, make_settings(**batch, precision="bfloat16", recompute=way, compile="yes"))


@pytest.mark.parametrize("run", ["2_threads", "2_threads_eager"])
def test_the_plan_is_what_steps_of_real_size_were_measured_to_hold(run: str) -> None:
    """By `benchmarks/train_step.py`: in `full` as generated code the fullest moment is the embedding's gradient."""
    name = f"train_step_110m_bfloat16_{run}.json"
    result = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / name).read_text())
    config = ModelSettings(preset=result["preset"]).resolve(VOCAB_SIZE)
    planned, measured = {}, {}
    for contender, figures in result["ways"].items():
        way, _, kind = contender.partition(", ")
        if way in WAYS:
            memory = estimate_training_memory(
                config,
                microbatch_tokens=result["batch_size"] * result["sequence_length"],
                compute_bytes=2,
                loss_chunk_positions=CHUNK_POSITIONS,
                recompute=way,
                is_compiled=kind == "compiled",
            )
            planned[contender] = memory.total - memory.weights - memory.optimizer
            measured[contender] = figures["step_bytes"]
    assert len(planned) >= 3
    assert planned == pytest.approx(measured, rel=0.005)


def test_the_cheap_is_computed_again_in_generated_code_of_one_piece() -> None:
    assert make_settings().choose_recompute(is_compiled=True) == "selective"
    assert make_settings().choose_recompute(is_compiled=False) == "none"
    assert make_settings(mesh={"context": 2}).choose_recompute(is_compiled=True) == "none"
    assert make_settings(recompute="full").choose_recompute(is_compiled=True) == "full"


@pytest.mark.slow
def test_generated_code_that_computes_again_starts_without_a_warning() -> None:
    script = """
import torch
from camelid.model.config import ModelConfig, ModelSettings
from camelid.model.llama import Transformer
from camelid.parallel.recompute import apply_recompute
model = Transformer(ModelConfig(dim=32, num_layers=1, num_heads=2, num_kv_heads=2, ffn_hidden_dim=48, vocab_size=60))
apply_recompute(model, "selective", is_compiled=True)
model.hidden_states(torch.zeros(1, 8, dtype=torch.long)).sum().backward()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert done.stderr == ""
