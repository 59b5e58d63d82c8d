"""Spikes in real trainings: caught, rolled back, skipped, and told in the ledger, also when the process is killed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import BATCH, CONFIG, LENGTH, SEED, data_of, make_clean_dataset, overwrite_documents, settings_of

from camelid import artifact
from camelid.artifact import Manifest, partial_path
from camelid.checkpoint import native
from camelid.dataset.lineage import trace
from camelid.dataset.shards import Dataset
from camelid.errors import UserError
from camelid.metrics import read_metrics
from camelid.training import rollback
from camelid.training.loop import train
from camelid.training.stability import read_spikes
from camelid.training.trainer import Trainer

PLANTED = (17, 80)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_clean_dataset(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def planted(clean: Dataset) -> Dataset:
    return overwrite_documents(clean, clean.path.with_name("planted"), PLANTED)


def _train(dataset: Dataset, directory: Path, loader: Any = None, **changes: Any) -> Manifest:
    data = data_of(dataset)
    if loader is not None:
        data = type(data)(loader(data.loader), data.held_out, data.tokenizer, data.facts)
    inputs = {"dataset": dataset.manifest.digest}
    return train(CONFIG, settings_of(**changes), data, directory, seed=SEED, inputs=inputs)


@pytest.fixture(scope="module")
def finished(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finished") / "train"
    _train(planted, directory)
    return directory


def test_planted_documents_and_no_others_are_skipped(clean: Dataset, finished: Path, tmp_path: Path) -> None:
    spikes = read_spikes(finished)
    assert len(spikes) >= 4
    documents = [part for spike in spikes for part in spike["documents"]]
    assert {part["offset"] for part in documents} == set(PLANTED)
    assert {part["path"] for part in documents} == {"notes.txt"}
    skipped = native.read_progress(native.list_checkpoints(finished)[-1]).skipped
    assert skipped == tuple(sorted(step for spike in spikes for step in spike["skipped"]))
    losses = {record["step"]: record["loss"] for record in read_metrics(finished / "metrics.jsonl", "train")}
    assert list(losses) == list(range(1, 301))
    undisturbed = _train(clean, tmp_path / "clean")
    assert read_spikes(tmp_path / "clean") == []
    found = artifact.read_manifest(finished).facts["held_out"]["notes"]["nats_per_token"]
    assert found == pytest.approx(undisturbed.facts["held_out"]["notes"]["nats_per_token"], abs=0.02)


def test_ledger_and_lineage_agree(planted: Dataset, finished: Path) -> None:
    for spike in read_spikes(finished):
        assert spike["data_step"] in spike["skipped"]
        for part in spike["documents"]:
            rows = trace(planted, part["data_step"], sequence_length=LENGTH, batch_size=BATCH, seed=SEED)
            row = rows[part["sample"]]
            assert any(part.items() >= document.items() for document in row["documents"])
            assert part["source"] == row["source"]


class _Killed(BaseException):
    """Stands for a kill: nothing in the program catches it."""


class _Dying:
    """A loader that ends the process at some of its calls."""

    def __init__(self, loader: Any, calls: list[int]):
        self._loader = loader
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def batch(self, step: int) -> Any:
        self._calls[0] -= 1
        if self._calls[0] == 0:
            raise _Killed
        return self._loader.batch(step)


def test_killed_runs_with_spikes_end_in_the_same_bytes(
    planted: Dataset, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at = (83, 31, 120, 90, 17, 77)  # calls of the loader, counted anew in each process
    for calls in kill_at:
        with pytest.raises(_Killed):
            _train(planted, tmp_path / "train", lambda loader, calls=calls: _Dying(loader, [calls]))
    remove = rollback._remove_abandoned
    with monkeypatch.context() as patch:
        patch.setattr(
            rollback, "_remove_abandoned", _die_after_the_ledger_grew(partial_path(tmp_path / "train"), remove)
        )
        with pytest.raises(_Killed):
            _train(planted, tmp_path / "train")
    assert _train(planted, tmp_path / "train").digest == artifact.read_manifest(finished).digest


def _die_after_the_ledger_grew(train_folder: Path, remove: Callable[..., None]) -> Callable[..., None]:
    """Dies between writing a spike to the ledger and removing the checkpoints that it makes void."""
    before = len(read_spikes(train_folder))

    def remove_or_die(folder: Path, spikes: Any) -> None:
        if len(read_spikes(train_folder)) > before:
            raise _Killed
        remove(folder, spikes)

    return remove_or_die


def test_a_checkpoint_of_a_stretch_that_was_taken_back_is_not_used(planted: Dataset, tmp_path: Path) -> None:
    with pytest.raises(_Killed):
        _train(planted, tmp_path / "train", lambda loader: _Dying(loader, [100]))
    folder = partial_path(tmp_path / "train")
    spikes = read_spikes(folder)
    latest = native.list_checkpoints(folder)[-1]
    with (folder / "spikes.jsonl").open("a", encoding="utf-8") as ledger:
        ledger.write(json.dumps({**spikes[-1], "rolled_back_to": native.step_of(latest) - 20, "skipped": [500]}) + "\n")
    with pytest.raises(_Killed):
        _train(planted, tmp_path / "train", lambda loader: _Dying(loader, [2]))
    assert latest not in native.list_checkpoints(folder)


class _PoisonedTrainer(Trainer):
    """Its weights are lost at a step, once: a fault of the machine and not of the data."""

    step_of_fault = 61

    def take_step(self) -> Any:
        taken = super().take_step()
        if self.step == type(self).step_of_fault:
            type(self).step_of_fault = 0
            self.model.norm.weight.data.fill_(torch.nan)
        return taken


def test_a_fault_of_the_machine_is_undone(clean: Dataset, tmp_path: Path) -> None:
    inputs = {"dataset": clean.manifest.digest}
    manifest = train(
        CONFIG,
        settings_of(steps=80),
        data_of(clean),
        tmp_path / "train",
        seed=SEED,
        inputs=inputs,
        make_trainer=_PoisonedTrainer,
    )
    spike, *others = read_spikes(tmp_path / "train")
    assert (spike["step"], spike["reason"], spike["documents"], others) == (62, "the loss is nan", [], [])
    # Step 60 was saved a single step before the spike, which is not calm enough.
    assert spike["rolled_back_to"] == 40
    assert np.isfinite(manifest.facts["final_loss"])


def test_endless_spikes_end_in_a_sentence(tmp_path: Path, clean: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Trainer) -> Any:
        self.step += 1
        return torch.tensor(torch.nan), torch.tensor(1.0)

    monkeypatch.setattr(Trainer, "take_step", fail)
    with pytest.raises(UserError, match=r"step 1: the loss is nan, and the training was rolled back 3 times"):
        _train(clean, tmp_path / "train", max_rollbacks=3)
    # What changes no weight may change; the next spike is the fourth.
    with pytest.raises(UserError, match=r"rolled back 5 times"):
        _train(clean, tmp_path / "train", max_rollbacks=5)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "progress.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, clean: Dataset, name: str, damage: str) -> None:
    undisturbed = _train(clean, tmp_path / "a", steps=60)
    with pytest.raises(_Killed):
        _train(clean, tmp_path / "b", lambda loader: _Dying(loader, [50]), steps=60)
    latest = native.list_checkpoints(partial_path(tmp_path / "b"))[-1]
    data = bytearray((latest / name).read_bytes())
    data[len(data) // 2] ^= 4
    (latest / name).write_bytes(data if damage == "flip" else data[: len(data) // 2])
    assert _train(clean, tmp_path / "b", steps=60).digest == undisturbed.digest


def test_permanent_checkpoints_and_a_good_one_are_kept(clean: Dataset, tmp_path: Path) -> None:
    fixed = {"steps": 100, "checkpoint_interval": 5, "permanent_checkpoint_interval": 30, "calm_steps": 12}
    with pytest.raises(_Killed):
        _train(clean, tmp_path / "train", lambda loader: _Dying(loader, [89]), **fixed)
    kept = [native.step_of(path) for path in native.list_checkpoints(partial_path(tmp_path / "train"))]
    assert kept == [30, 60, 70, 75, 80, 85]
    _train(clean, tmp_path / "train", **fixed)
    kept = [native.step_of(path) for path in native.list_checkpoints(tmp_path / "train")]
    assert kept == [30, 60, 90, 95, 100]


def test_norms_of_layers_are_recorded(clean: Dataset, tmp_path: Path) -> None:
    undisturbed = _train(clean, tmp_path / "a", steps=12)
    measured = _train(clean, tmp_path / "b", steps=12, norm_interval=5)
    names = [path.name for path in native.list_checkpoints(tmp_path / "a")]
    for name in names:
        first, second = (artifact.read_manifest(tmp_path / run / "checkpoints" / name) for run in "ab")
        assert first.digest == second.digest
    assert measured.facts == undisturbed.facts
    records = list(read_metrics(tmp_path / "b" / "metrics.jsonl", "norms"))
    assert [record["step"] for record in records] == [5] * 5 + [10] * 5
    layers = ["tok_embeddings", "layers.0", "layers.1", "norm", "output"]
    assert [record["layer"] for record in records[:5]] == layers
    whole = next(r for r in read_metrics(tmp_path / "b" / "metrics.jsonl", "train") if r["step"] == 5)
    total = sum(record["grad_norm"] ** 2 for record in records[:5]) ** 0.5
    assert total == pytest.approx(whole["grad_norm"], rel=1e-5)
    assert all(record["activation_rms"] > 0 for record in records if record["layer"] != "output")
    norm = next(record for record in records if record["layer"] == "norm")
    assert norm["activation_rms"] == pytest.approx(1.0, rel=0.05)  # its gain has hardly left 1
