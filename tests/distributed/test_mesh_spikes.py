"""A spike on a mesh is found by all processes, written down by one, and cured as it is in one process."""

from pathlib import Path
from typing import Any

import pytest
from planted import BATCH, CONFIG, LENGTH, SEED, data_of, make_clean_dataset, overwrite_documents, settings_of
from process_pool import ProcessPool

from camelid.artifact import read_manifest
from camelid.checkpoint.native import list_checkpoints, read_progress
from camelid.dataset.loader import Loader
from camelid.dataset.shards import open_dataset
from camelid.metrics import read_metrics
from camelid.parallel.processes import Processes
from camelid.training.loop import train
from camelid.training.stability import read_spikes
from camelid.training.trainer import Data

MESH = {"shard": 2}


def run(processes: Processes, dataset: Path, directory: Path) -> None:
    """A training on one process or two."""
    opened = open_dataset(dataset)
    size = processes.place.num_processes
    whole = data_of(opened)
    loader = Loader(opened, LENGTH, BATCH, SEED, rank=processes.place.rank, world_size=size)
    data = Data(loader, whole.held_out, whole.tokenizer, whole.facts)
    settings = settings_of(steps=100, is_tensorboard_written=True, **({"mesh": MESH} if size > 1 else {}))
    inputs = {"dataset": opened.manifest.digest}
    train(CONFIG, settings, data, directory, seed=SEED, inputs=inputs, processes=processes)


def test_a_mesh_meets_the_spikes_of_one_process(pool: ProcessPool, tmp_path: Path) -> None:
    planted = overwrite_documents(make_clean_dataset(tmp_path), tmp_path / "planted", (17, 80)).path
    for size in (1, 2):
        pool.run(size, run, dataset=planted, directory=tmp_path / str(size))
    alone, mesh = (read_spikes(tmp_path / name) for name in "12")
    assert len(alone) >= 2

    def what_was_done(spike: dict[str, Any]) -> tuple[Any, ...]:
        parts = [(part["data_step"], part["sample"], part["id"]) for part in spike["documents"]]
        return (*(spike[name] for name in ("step", "data_step", "skipped", "rolled_back_to")), parts)

    assert [what_was_done(spike) for spike in mesh] == [what_was_done(spike) for spike in alone]
    losses = [{r["step"]: r["loss"] for r in read_metrics(tmp_path / n / "metrics.jsonl", "train")} for n in "12"]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    skipped = [read_progress(list_checkpoints(tmp_path / name)[-1]).skipped for name in "12"]
    assert skipped[0] == skipped[1]
    assert "tensorboard/events.out.tfevents.camelid" in read_manifest(tmp_path / "2").logs
