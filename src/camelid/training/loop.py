"""The training loop: steps, measurements, samples and checkpoints, from the first batch to the published product."""

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
from camelid.parallel.watch import OTHER
from camelid.planning.shapes import count_parameters, training_flops_per_token
from camelid.progress import progress, say
from camelid.training.device import Execution, give_back_free_memory, measure_peak_flops
from camelid.training.norms import measure_norms
from camelid.training.rollback import Identity, roll_back, superseded_checkpoints, take_up
from camelid.training.schedule import learning_rate
from camelid.training.settings import TrainSettings
from camelid.training.stability import SpikeDetector, read_losses
from camelid.training.tensorboard import EVENTS_NAME, Curves, EventWriter
from camelid.training.trainer import Data, Trainer

METRICS_NAME = "metrics.jsonl"
SAMPLES_NAME = "samples.jsonl"

_SHOWN_CHARACTERS = 100
_STEPS_BETWEEN_TIDYING = 50
_NUMBERS = ("loss", "learning_rate", "grad_norm")

Sample = Callable[[Transformer], list[dict[str, Any]]]
"""Called at intervals with the model; what it returns is written to samples.jsonl."""

Benchmark = Callable[[Transformer, int], Mapping[str, float]]
"""Called with the model and the step wherever the held-out loss is measured; returns scores by name."""


@dataclass(frozen=True)
class _Run:
    """A training under way, and where it writes."""

    trainer: Trainer
    draft: Draft
    identity: Identity
    metrics: Curves
    samples: MetricsWriter
    peak_flops: float
    sample: Sample | None
    benchmark: Benchmark | None


def train(
    config: ModelConfig,
    settings: TrainSettings,
    data: Data,
    directory: Path,
    *,
    seed: int,
    inputs: Mapping[str, str],
    sample: Sample | None = None,
    benchmark: Benchmark | None = None,
    processes: Processes | None = None,
    make_trainer: Callable[..., Trainer] = Trainer,
) -> Manifest:
    """Trains a model and publishes `directory` with its last checkpoints, metrics and samples.

    An interrupted run is taken up from its latest checkpoint and ends in the same bytes as an undisturbed one, on the
    same processor, number of threads and build of torch. A spike is rolled back and the data that led to it are skipped
    (`stability`). Where several processes train together, each of them calls this; the first one writes.

    Raises:
        UserError: the begun run has other settings or inputs, the disk is too full for a checkpoint, or spikes come
            again and again.
        StoppedError: SIGTERM or SIGINT; the state was saved first.
    """
    recorded = {**settings.identity(), "model": config.model_dump(mode="json")}
    identity = Identity(recorded, inputs)
    logs = (METRICS_NAME, SAMPLES_NAME, EVENTS_NAME)
    processes = processes or Processes(Place(), None)
    with processes.publish(
        directory, kind="train", settings=recorded, inputs=inputs, seed=seed, logs=logs, is_resumable=True
    ) as draft:
        trainer = make_trainer(config, settings, data, seed, processes)
        # Before the state is taken up, whose random numbers it would move on.
        peak = measure_peak_flops(trainer.execution.device, trainer.execution.compute_dtype)
        torch.manual_seed(seed)  # torch's own start differs from run to run where processes form groups
        take_up(trainer, draft.path, identity)
        with ExitStack() as files:
            metrics, samples = _open_records(trainer, draft.path, files)
            _take_steps(_Run(trainer, draft, identity, metrics, samples, peak, sample, benchmark))
        execution = trainer.execution
        draft.environment.update(execution.describe(), peak_flops_per_second=peak, peak_bytes=_peak_bytes(execution))
        if processes.is_first:
            draft.facts.update(_summarise(trainer, draft.path / METRICS_NAME), **trainer.data.facts)
    return artifact.read_manifest(directory)


def _take_steps(run: _Run) -> None:
    trainer, settings = run.trainer, run.trainer.settings
    with (
        _stop_signals() as stop_signals,
        trainer.processes.watched(settings.timeout_seconds),
        progress("train", settings.steps * settings.batch_tokens, "tokens", trainer.num_tokens) as advance,
    ):
        if trainer.execution.is_compiled:
            say("train: generating code, the first step takes up to a minute")
        detector = _make_detector(run)
        while trainer.step < settings.steps:
            num_tokens = trainer.num_tokens
            measured = _take_step(run)
            reason = detector.judge(measured["loss"], measured["grad_norm"])
            is_spike = trainer.processes.any(bool(reason))
            if is_spike:
                _go_back(run, reason, measured)
                detector = _make_detector(run)
            else:
                _write_step(run, measured)
                _report(run)
            is_stopped = trainer.processes.any(bool(stop_signals))
            if not is_spike and (_is_due(trainer, settings.checkpoint_interval) or is_stopped):
                _save(run)
            if trainer.step % _STEPS_BETWEEN_TIDYING == 0:
                give_back_free_memory()
            advance(trainer.num_tokens - num_tokens)
            if is_stopped and trainer.step < settings.steps:
                trainer.finish_saving()
                raise StoppedError(
                    stop_signals[0] if stop_signals else signal.SIGTERM,
                    f"stopped after step {trainer.step:,}; the state is saved, the same command goes on from there",
                )


def _open_records(trainer: Trainer, train_folder: Path, files: ExitStack) -> tuple[Curves, MetricsWriter]:
    """What the first process writes while it trains, without what a killed one wrote after its last checkpoint."""
    is_first, step = trainer.processes.is_first, trainer.step
    metrics, samples = (
        files.enter_context(MetricsWriter(train_folder / name if is_first else Path(os.devnull), step))
        for name in (METRICS_NAME, SAMPLES_NAME)
    )
    is_wanted = is_first and trainer.settings.is_tensorboard_written
    events = files.enter_context(EventWriter(train_folder / EVENTS_NAME, step)) if is_wanted else None
    return Curves(metrics, events), samples


def _is_due(trainer: Trainer, interval: int) -> bool:
    return trainer.step == trainer.settings.steps or trainer.step % interval == 0


def _make_detector(run: _Run) -> SpikeDetector:
    settings = run.trainer.settings
    losses = read_losses(run.draft.path / METRICS_NAME, run.trainer.step, settings.spike_window)
    return SpikeDetector(settings, losses)


def _go_back(run: _Run, reason: str, measured: Mapping[str, float]) -> None:
    # Without the seconds, for the ledger of a run that was killed must be that of one that was not.
    numbers = {name: measured[name] for name in _NUMBERS}
    roll_back(run.trainer, run.draft.path, run.identity, reason, numbers)
    run.metrics.rewind(run.trainer.step)
    run.samples.rewind(run.trainer.step)


def _take_step(run: _Run) -> dict[str, float]:
    trainer = run.trainer
    interval = trainer.settings.norm_interval
    rate = learning_rate(trainer.step, trainer.settings)
    with measure_norms(trainer, interval > 0 and (trainer.step + 1) % interval == 0) as norms:
        start = time.perf_counter()
        loss, norm = trainer.take_step()
        measured = {"loss": loss.item(), "learning_rate": rate, "grad_norm": norm.item()}
        measured["seconds"] = time.perf_counter() - start
    trainer.processes.now(trainer.step, OTHER)
    for record in norms:
        run.metrics.write("norms", trainer.step, **record)
    return measured


def _write_step(run: _Run, measured: Mapping[str, float]) -> None:
    trainer = run.trainer
    seconds = measured["seconds"]
    speed = trainer.settings.batch_tokens / seconds
    flops = speed * training_flops_per_token(trainer.config, trainer.settings.sequence_length)
    run.metrics.write(
        "train",
        trainer.step,
        **{name: measured[name] for name in _NUMBERS},
        num_tokens=trainer.num_tokens,
        tokens_per_second=speed,
        flops_per_second=flops,
        utilisation=flops / (run.peak_flops * trainer.processes.place.num_processes),
        seconds=seconds,
    )


def _report(run: _Run) -> None:
    """What is measured at intervals."""
    settings = run.trainer.settings
    if _is_due(run.trainer, settings.held_out_interval):
        _report_held_out(run.trainer, run.metrics)
        if run.benchmark is not None and (model := run.trainer.whole_model()) is not None:
            with torch.compiler.set_stance("force_eager"):
                scores = run.benchmark(model, run.trainer.step)
            for name, score in scores.items():
                run.metrics.write("benchmark", run.trainer.step, name=name, score=score)
    if run.sample is not None and _is_due(run.trainer, settings.sample_interval):
        _report_samples(run.trainer, run.samples, run.sample)


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


def _report_held_out(trainer: Trainer, metrics: Curves) -> None:
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


def _save(run: _Run) -> None:
    trainer, train_folder = run.trainer, run.draft.path
    directory = native.checkpoint_path(train_folder, trainer.step)
    if trainer.processes.first_does(lambda: not directory.exists() and _has_space(trainer, train_folder)):
        trainer.save(directory, run.identity.settings, run.identity.inputs)
    if trainer.step == trainer.settings.steps:
        trainer.finish_saving()
    # A checkpoint that is still being written in the background does not replace one yet.
    if trainer.processes.is_first and (published := native.list_checkpoints(train_folder)):
        for old in superseded_checkpoints(train_folder, trainer.settings, native.step_of(published[-1])):
            shutil.rmtree(old)


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
