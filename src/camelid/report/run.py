"""What lies in a run's folder, read once; whatever is not there yet is simply absent."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from camelid.artifact import Manifest, partial_path, read_manifest
from camelid.errors import UserError
from camelid.metrics import Record, read_metrics

STAGES = ("corpus", "tokenizer", "dataset", "train", "evaluation")


@dataclass(frozen=True)
class Run:
    """The finished products of a run, and the numbers of its training as far as it has come."""

    name: str
    manifests: dict[str, Manifest]
    """By stage, in the order of the chain; finished stages only."""
    begun: tuple[str, ...]
    """Stages that were begun and are not finished."""
    train_settings: dict[str, Any]
    """Settings of the training, from its manifest or from its latest checkpoint."""
    steps: list[Record]
    """One record per optimizer step."""
    held_out: list[Record]
    """One record per held-out measurement and source."""
    samples: list[Record]
    benchmarks: list[Record]
    """One record per benchmark and time that it was taken."""
    spikes: list[Record]
    """Leaps of the loss that were rolled back."""
    tokenizer_quality: list[Record]
    results: dict[str, Any]
    """Results of the evaluation."""

    @cached_property
    def sources(self) -> list[str]:
        """Names of the sources, in one order for the whole page; colours go by it."""
        names = [*self.facts("corpus").get("sources", {}), *(row["source"] for row in self.mixture)]
        names += [*self.results.get("sources", {}), *(record["source"] for record in self.held_out)]
        return list(dict.fromkeys(names))

    @property
    def mixture(self) -> list[Record]:
        """Share, tokens and epochs of each source in the training."""
        rows: list[Record] = self.facts("train").get("mixture", [])
        return rows

    @property
    def missing(self) -> list[str]:
        """Stages that are not finished."""
        return [stage for stage in STAGES if stage not in self.manifests]

    def facts(self, stage: str) -> dict[str, Any]:
        """Facts of a finished stage, empty where there is none."""
        return self.manifests[stage].facts if stage in self.manifests else {}

    def measured(self, name: str) -> Any:
        """A number that the training states as a fact or, where it depends on the machine, as its circumstances."""
        manifest = self.manifests.get("train")
        return None if manifest is None else manifest.facts.get(name, manifest.produced.get(name))

    @property
    def is_idle(self) -> bool:
        """Whether the training is finished and nothing that follows it is being made."""
        return "train" in self.manifests and not self.begun

    @property
    def training_seconds(self) -> float:
        """Time spent in optimizer steps, over all processes that the training took."""
        return math.fsum(record["seconds"] for record in self.steps)


def read_run(folder: Path) -> Run:
    """Reads the folder of a run, finished or under way.

    Raises:
        UserError: the folder is missing or holds nothing of a run, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; name one that `camelid run` made")
    begun = tuple(stage for stage in STAGES if partial_path(folder / stage).is_dir())
    manifests = {stage: read_manifest(folder / stage, stage) for stage in STAGES if (folder / stage).is_dir()}
    if not manifests and not begun:
        raise UserError(f"{folder} holds nothing of a run ({', '.join(STAGES)}); name a folder that `camelid run` made")
    train = folder / "train" if "train" in manifests else partial_path(folder / "train")
    metrics = _read_records(train / "metrics.jsonl")
    return Run(
        name=folder.resolve().name,
        manifests=manifests,
        begun=tuple(stage for stage in begun if stage not in manifests),
        train_settings=manifests["train"].settings if "train" in manifests else _checkpoint_settings(train),
        steps=[record for record in metrics if record["kind"] == "train"],
        held_out=[record for record in metrics if record["kind"] == "held_out"],
        samples=_read_records(train / "samples.jsonl"),
        benchmarks=[record for record in metrics if record["kind"] == "benchmark"],
        spikes=_read_records(train / "spikes.jsonl"),
        tokenizer_quality=_read_json(folder / "tokenizer" / "quality.json", []),
        results=_read_json(folder / "evaluation" / "results.json", {}),
    )


def _checkpoint_settings(train: Path) -> dict[str, Any]:
    for checkpoint in sorted(train.glob("checkpoints/step-*/"), reverse=True):
        try:
            return read_manifest(checkpoint).settings
        except UserError:
            # The training that is under way may be writing or removing this one.
            continue
    return {}


def _read_records(path: Path) -> list[Record]:
    try:
        return list(read_metrics(path))
    except FileNotFoundError:
        return []


def _read_json(path: Path, absent: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return absent
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it or build {path.parent} again") from error
