"""What the processes of the pool do: short trainings of a tiny model on one mesh or another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camelid.model.config import ModelConfig
from camelid.parallel.processes import Processes
from camelid.parallel.settings import MeshSettings
from camelid.parallel.spread import gather
from camelid.training.norms import measure_norms
from camelid.training.settings import TrainSettings
from camelid.training.trainer import Data, Trainer

NUM_STEPS = 20
VOCAB_SIZE = 61
BATCH_SEQUENCES = 8
SEQUENCE_LENGTH = 32


@dataclass(frozen=True)
class Result:
    """What a training came to."""

    losses: list[float]
    norms: list[float]
    held_out: float
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]


class Tokens:
    """This process's rows of batches that repeat a short text."""

    def __init__(self, rank: int, num_ranks: int):
        self._rows = slice(rank * BATCH_SEQUENCES // num_ranks, (rank + 1) * BATCH_SEQUENCES // num_ranks)

    def batch(self, step: int) -> Any:
        rng = np.random.default_rng(step)
        starts = rng.integers(0, VOCAB_SIZE, (BATCH_SEQUENCES, 1))
        return ((starts + 7 * np.arange(SEQUENCE_LENGTH + 1)) % VOCAB_SIZE)[self._rows]


def make_config(**changes: Any) -> ModelConfig:
    """Neither vocabulary nor width divide by 2, 4 or 8, and there are fewer key/value heads than query heads."""
    values = {"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_hidden_dim": 53}
    return ModelConfig(**{**values, "vocab_size": VOCAB_SIZE, **changes})


def make_settings(mesh: MeshSettings, **changes: Any) -> TrainSettings:
    """Float64, eagerly, with a clip that takes hold."""
    values: dict[str, Any] = {
        "steps": NUM_STEPS,
        "sequence_length": SEQUENCE_LENGTH,
        "batch_tokens": BATCH_SEQUENCES * SEQUENCE_LENGTH,
        "warmup_steps": 3,
        "learning_rate": 1e-2,
        "gradient_clip": 0.3,
        "precision": "float64",
        "compile": "no",
        "num_threads": 1,
        "device": "cpu",
        "mesh": mesh,
    }
    return TrainSettings.model_validate({**values, **changes})


def make_trainer(processes: Processes, config: ModelConfig, settings: TrainSettings) -> Trainer:
    loader: Any = Tokens(*settings.mesh.data_share(processes.place.rank))
    documents: Any = [(40, np.arange(20) % VOCAB_SIZE), (90, np.arange(75) % VOCAB_SIZE), (9, np.arange(2))]
    return Trainer(config, settings, Data(loader, {"notes": documents}, Path(), {}), 5, processes)


def train(
    processes: Processes, config: ModelConfig, settings: TrainSettings, num_steps: int = NUM_STEPS
) -> Result | None:
    """A training from the first step; its result in the first process."""
    trainer = make_trainer(processes, config, settings)
    losses, norms = [], []
    for step in range(num_steps):
        if step == num_steps // 2:
            trainer.measure_held_out()  # must not disturb what follows
        loss, norm = trainer.take_step()
        losses.append(loss.item())
        norms.append(norm.item())
    held_out = trainer.measure_held_out()["notes"].nats
    with torch.no_grad():
        weights = dict(gather(trainer.weights(), processes.is_first))
        moments = dict(gather(trainer.moments(), processes.is_first))
    return Result(losses, norms, held_out, weights, moments) if processes.is_first else None


def measure(
    processes: Processes, config: ModelConfig, settings: TrainSettings, num_steps: int
) -> tuple[list[list[dict[str, Any]]], list[float]]:
    """Norms of the layers at each of some steps, and the losses of those steps."""
    trainer = make_trainer(processes, config, settings)
    records, losses = [], []
    for _ in range(num_steps):
        with measure_norms(trainer, True) as norms:
            losses.append(trainer.take_step()[0].item())
        records.append(norms)
    return records, losses


def trace_step(
    processes: Processes, mesh: MeshSettings, num_layers: int, microbatch_sequences: int = 0
) -> list[tuple[str, float, float]]:
    """What a step does in this process, the second one: name, begin and end in microseconds, in order of beginning."""
    config = make_config(dim=256, ffn_hidden_dim=512, num_layers=num_layers)
    settings = make_settings(mesh, microbatch_sequences=microbatch_sequences, precision="float32")
    trainer = make_trainer(processes, config, settings)
    trainer.take_step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        trainer.take_step()
    events = [(event.name, event.time_range.start, event.time_range.end) for event in profiler.events()]
    return sorted(events, key=lambda event: event[1])
