"""The training loop: steps, measurements, samples and checkpoints, from the first batch to the published product."""

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from camelid import artifact
from camelid.artifact import Draft, Manifest
from camelid.checkpoint import native
from camelid.errors import StoppedError, UserError
from camelid.metrics import MetricsWriter, read_metrics
from camelid.model.config import ModelConfig
from camelid.model.llama import Transformer
from camelid.parallel.place import Place
from camelid.parallel.processes import Processes
from camelid.planning.shapes import count_parameters, training_flops_per_token
from camelid.progress import progress
from camelid.training.device import Execution, measure_peak_flops
from camelid.training.schedule import learning_rate
from camelid.training.settings import TrainSettings
from camelid.training.trainer import Data, Trainer

METRICS_NAME = "metrics.jsonl"
SAMPLES_NAME = "samples.jsonl"

_SHOWN_CHARACTERS = 100

Sample = Callable[[Transformer], list[dict[str, Any]]]
"""Called at intervals with the model; what it returns is written to samples.jsonl."""


def train(
    config: ModelConfig,
    settings: TrainSettings,
    data: Data,
    directory: Path,
    *,
    seed: int,
    inputs: Mapping[str, str],
    sample: Sample | None = None,
    processes: Processes | None = None,
) -> Manifest:
    """Trains a model and publishes `directory` with its last checkpoints, metrics and samples.

    Where several processes train together, each of them calls this; the first one writes.

    An interrupted run is taken up from its latest checkpoint and ends in the same bytes as an undisturbed one, on the
    same processor, number of threads and build of torch.

    Raises:
        UserError: the begun run has other settings or inputs, or the disk is too full for a checkpoint.
        StoppedError: SIGTERM or SIGINT; the state was saved first.
    """
    recorded = {**settings.identity(), "model": config.model_dump(mode="json")}
    logs = (METRICS_NAME, SAMPLES_NAME)
    processes = processes or Processes(Place(), None)
    with processes.publish(
        directory, kind="train", settings=recorded, inputs=inputs, seed=seed, logs=logs, is_resumable=True
    ) as draft:
        trainer = Trainer(config, settings, data, seed, processes)
        _take_up(trainer, draft.path, recorded, inputs)
        _run(trainer, draft, recorded, inputs, sample)
    return artifact.read_manifest(directory)


def _take_up(trainer: Trainer, train_folder: Path, recorded: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    checkpoints = native.list_checkpoints(train_folder)
    if not checkpoints:
        return
    manifest = artifact.verify(checkpoints[-1], native.KIND)
    difference = artifact.find_difference(manifest, recorded, inputs, trainer.seed)
    if difference:
        raise UserError(
            f"{train_folder} was begun otherwise: {difference}; give it the old settings, begin in another folder "
            "(--out), or replace it (--rebuild)"
        )
    trainer.restore(checkpoints[-1])
    say(f"going on from step {trainer.step:,}")
    for name, now in trainer.execution.describe().items():
        before = manifest.produced.get(name)
        if before != now:
            say(f"warning: {name} was {before} and is now {now}; the result will differ in the last bits")


def _run(
    trainer: Trainer, draft: Draft, recorded: Mapping[str, Any], inputs: Mapping[str, str], sample: Sample | None
) -> None:
    settings, execution = trainer.settings, trainer.execution
    peak = measure_peak_flops(execution.device, execution.compute_dtype)
    with (
        MetricsWriter(_written_by_first(trainer, METRICS_NAME, draft), keep_until_step=trainer.step) as metrics,
        MetricsWriter(_written_by_first(trainer, SAMPLES_NAME, draft), keep_until_step=trainer.step) as samples,
        _stop_signals() as stop_signals,
        progress("train", settings.steps * settings.batch_tokens, "tokens", trainer.num_tokens) as advance,
    ):
        if execution.is_compiled:
            say("train: generating code, the first step takes up to a minute")
        while trainer.step < settings.steps:
            _take_step(trainer, metrics, peak)
            advance(settings.batch_tokens)
            is_last = trainer.step == settings.steps
            if is_last or trainer.step % settings.held_out_interval == 0:
                _report_held_out(trainer, metrics)
            if sample is not None and (is_last or trainer.step % settings.sample_interval == 0):
                _report_samples(trainer, samples, sample)
            is_stopped = trainer.processes.any(bool(stop_signals))
            if is_last or is_stopped or trainer.step % settings.checkpoint_interval == 0:
                _save(trainer, draft.path, recorded, inputs)
            if is_stopped and not is_last:
                raise StoppedError(
                    stop_signals[0] if stop_signals else signal.SIGTERM,
                    f"stopped after step {trainer.step:,}; the state is saved, the same command goes on from there",
                )
    draft.environment.update(execution.describe(), peak_flops_per_second=peak, peak_bytes=_peak_bytes(execution))
    if trainer.processes.is_first:
        draft.facts.update(_summarise(trainer, draft.path / METRICS_NAME), **trainer.data.facts)


def _written_by_first(trainer: Trainer, name: str, draft: Draft) -> Path:
    return draft.path / name if trainer.processes.is_first else Path(os.devnull)


def _take_step(trainer: Trainer, metrics: MetricsWriter, peak: float) -> None:
    settings = trainer.settings
    rate = learning_rate(trainer.step, settings)
    start = time.perf_counter()
    loss, norm = trainer.take_step()
    values = {"loss": loss.item(), "learning_rate": rate, "grad_norm": norm.item()}
    seconds = time.perf_counter() - start
    speed = settings.batch_tokens / seconds
    flops = speed * training_flops_per_token(trainer.config, settings.sequence_length)
    metrics.write(
        "train",
        trainer.step,
        **values,
        num_tokens=trainer.num_tokens,
        tokens_per_second=speed,
        flops_per_second=flops,
        utilisation=flops / (peak * trainer.processes.place.num_processes),
        seconds=seconds,
    )


def _summarise(trainer: Trainer, metrics: Path) -> dict[str, Any]:
    """What the manifest says of a run; from the metrics, for a resumed run may have had no step left to take."""
    last = {record["kind"]: record["step"] for record in read_metrics(metrics)}
    held_out = [record for record in read_metrics(metrics, "held_out") if record["step"] == last["held_out"]]
    final = [record for record in read_metrics(metrics, "train") if record["step"] == last["train"]]
    return {
        "num_parameters": count_parameters(trainer.config),
        "flops_per_token": training_flops_per_token(trainer.config, trainer.settings.sequence_length),
        "num_tokens": trainer.num_tokens,
        "final_loss": final[-1]["loss"],
        "held_out": {
            record["source"]: {name: record[name] for name in ("nats_per_token", "bits_per_byte")}
            for record in held_out
        },
    }


def _report_held_out(trainer: Trainer, metrics: MetricsWriter) -> None:
    for source, loss in trainer.measure_held_out().items():
        metrics.write(
            "held_out",
            trainer.step,
            source=source,
            nats_per_token=loss.nats_per_token,
            bits_per_byte=loss.bits_per_byte,
        )
        say(f"train: step {trainer.step:,}, {loss.bits_per_byte:.3f} bits per byte of held-out {source}")


def _report_samples(trainer: Trainer, samples: MetricsWriter, sample: Sample) -> None:
    model = trainer.whole_model()
    if model is None:
        return
    # Text grows token by token, and generated code would be made again for each length.
    with torch.compiler.set_stance("force_eager"):
        records = sample(model)
    for record in records:
        samples.write("sample", trainer.step, **record)
        text = record["prompt"] + record["text"]
        say(f"train: step {trainer.step:,} writes {text[:_SHOWN_CHARACTERS]!r}")


def _save(trainer: Trainer, train_folder: Path, recorded: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    directory = native.checkpoint_path(train_folder, trainer.step)
    if trainer.processes.first_does(lambda: _has_space(trainer, train_folder) and not directory.exists()):
        trainer.save(directory, recorded, inputs)
    for old in _superseded_checkpoints(trainer, train_folder) if trainer.processes.is_first else ():
        shutil.rmtree(old)


def _superseded_checkpoints(trainer: Trainer, train_folder: Path) -> list[Path]:
    """All but the latest regular ones; a checkpoint that a stop signal caused goes with the next regular one."""
    settings = trainer.settings
    steps = [*range(settings.checkpoint_interval, trainer.step + 1, settings.checkpoint_interval), trainer.step]
    kept = {native.checkpoint_path(train_folder, step) for step in sorted(set(steps))[-settings.num_kept_checkpoints :]}
    return [path for path in native.list_checkpoints(train_folder) if path not in kept]


def _has_space(trainer: Trainer, train_folder: Path) -> bool:
    needed = sum(3 * tensor.numel() * tensor.element_size() for tensor in trainer.weights().values())
    free = shutil.disk_usage(train_folder).free
    if free < needed:
        raise UserError(
            f"{train_folder}: the next checkpoint needs {needed:,} bytes and the disk has {free:,} free; make room and "
            "run the same command again, it goes on from the latest checkpoint"
        )
    return True


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second SIGINT is let through."""
    received: list[int] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        say("stopping after this step; the state will be saved")

    previous = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _peak_bytes(execution: Execution) -> int:
    if execution.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def say(text: str) -> None:
    """A line about the run, on standard error."""
    sys.stderr.write(text + os.linesep)
