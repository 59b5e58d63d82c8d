"""When a loss is a spike, what is then skipped, and how far back a training goes: decisions alone, without a model.

A spike at a step can have three causes, and the rules below are made for them in this order.

1. Its batch is bad, and the weights before it are good. Skipping that one data step cures it. Any earlier checkpoint
   will do: the steps between are taken again as they were.
2. Something outside of the data went wrong, a fault of the hardware for example, and the state was bad some steps
   before the loss showed it. A checkpoint counts as good only when `calm_steps` steps without a spike were taken after
   it; one that was saved just before the spike may hold the damage.
3. An earlier batch drove the weights where the next one made them leap (Chowdhery et al. 2022, "PaLM", section 5.1:
   the same batches did no harm from another state). Then the spike comes again, at once or a few steps later, though
   its batch is skipped. Going further back alone would change nothing, for the same data lead to the same state again:
   so each time more data steps around the spike are skipped, 1, 2, 4, ... on either side, and the training goes
   back to a checkpoint that precedes all of them.

The first weights are always good, and always there.
"""

import math
import statistics
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from camelid.errors import UserError
from camelid.metrics import MetricsWriter, Record, read_metrics
from camelid.training.settings import TrainSettings

LEDGER_NAME = "spikes.jsonl"

# Of normally distributed numbers the standard deviation is this many times the median distance from their median.
_DEVIATIONS_IN_MAD = 1.4826
# A loss that hardly varies would make a spike of every trifle.
_LEAST_RISE_NATS = 0.1


def data_step(step: int, skipped: Collection[int]) -> int:
    """The data step that optimizer step `step` (from 0) reads, when those of `skipped` are passed over."""
    for passed_over in sorted(skipped):
        if passed_over > step:
            break
        step += 1
    return step


class SpikeDetector:
    """Compares each loss with the median of those before it, in units of their usual change from step to step.

    Changes from step to step hold the noise of the batches and hardly any of the fall of the loss. Nothing is a spike
    before `spike_window` steps were taken: an early loss has no usual value. Later the median lags behind a falling
    loss, which makes the detector less eager and never more. A loss or gradient norm that is not a finite number is a
    spike at any time.

    Args:
        losses: of the steps taken so far, oldest first.
    """

    def __init__(self, settings: TrainSettings, losses: Iterable[float] = ()):
        self._deviations = settings.spike_deviations
        self._losses = deque(losses, maxlen=settings.spike_window)

    def judge(self, loss: float, grad_norm: float) -> str:
        """Says in words what is wrong with a step; empty when nothing is, and then its loss counts from now on."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the norm of the gradient is {grad_norm}"
        if self._deviations and len(self._losses) == self._losses.maxlen:
            median = statistics.median(self._losses)
            spread = _typical(abs(after - before) for before, after in pairwise(self._losses)) / math.sqrt(2)
            limit = median + max(self._deviations * spread, _LEAST_RISE_NATS)
            if loss > limit:
                return f"the loss is {loss:.3f} nats, after {median:.3f} in the median of {len(self._losses)} steps"
        self._losses.append(loss)
        return ""


def limit_of(values: Collection[float], deviations: float, least_rise: float) -> float:
    """What is too far above the median of finite values, by their distances from it."""
    median = statistics.median(values)
    return median + max(deviations * _typical(abs(value - median) for value in values), least_rise)


def _typical(distances: Iterable[float]) -> float:
    """The standard deviation that goes with distances of normally distributed numbers."""
    return _DEVIATIONS_IN_MAD * statistics.median(distances)


@dataclass(frozen=True)
class Rollback:
    """What to do about a spike."""

    skipped: tuple[int, ...]
    """Data steps that are passed over from now on, in addition to earlier ones."""
    latest_step: int
    """The latest step whose checkpoint is good; an earlier one will do."""


def plan_rollback(
    settings: TrainSettings, spikes: Sequence[Record], already_skipped: Collection[int], step: int, reason: str
) -> Rollback:
    """Decides what is skipped and how far to go back; the rules stand at the top of this file.

    Args:
        spikes: records of the earlier ones, oldest first.
        step: the step that spiked, from 1.

    Raises:
        UserError: there were as many rollbacks as the settings allow.
    """
    if len(spikes) >= settings.max_rollbacks:
        raise UserError(
            f"step {step:,}: {reason}, and the training was rolled back {len(spikes)} times before; look at the "
            "documents with `camelid dataset trace --spike`, then lower train.learning_rate and begin again, or raise "
            "train.max_rollbacks and run the same command"
        )
    reach = _reach(spikes, step, settings.calm_steps)
    first = max(0, step - 1 - reach)
    skipped = tuple(data_step(index, already_skipped) for index in range(first, step + reach))
    return Rollback(skipped, max(0, min(first, step - 1 - settings.calm_steps)))


def _reach(spikes: Sequence[Record], step: int, calm_steps: int) -> int:
    """Data steps to skip on either side: none for a new spike, and twice as many each time one is not cured."""
    num_before = 0
    for spike in reversed(spikes):
        # The step of a spike that is cured is taken and followed by calm ones.
        if step > spike["step"] + calm_steps:
            break
        num_before += 1
        step = spike["step"]
    return 1 << (num_before - 1) if num_before else 0


def read_spikes(train_folder: Path) -> list[Record]:
    """The spikes of a training so far, oldest first.

    Raises:
        UserError: the ledger has a damaged line.
    """
    path = train_folder / LEDGER_NAME
    spikes = list(read_metrics(path, "spike")) if path.exists() else []
    for spike in spikes:
        is_whole = _is_list_of_steps(spike.get("skipped")) and type(spike.get("rolled_back_to")) is int
        if not is_whole or not isinstance(spike.get("documents"), list):
            raise UserError(f"{path}: the spike of step {spike['step']:,} does not say what was done; restore the file")
    return spikes


def _is_list_of_steps(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def write_spike(train_folder: Path, step: int, **record: Any) -> None:
    """Appends a spike to the ledger; it is on the disk when this returns."""
    with MetricsWriter(train_folder / LEDGER_NAME) as ledger:
        ledger.write("spike", step, **record)
        ledger.sync()


def all_skipped(spikes: Iterable[Record]) -> tuple[int, ...]:
    """Every data step that spikes led to the skipping of, in order."""
    return tuple(sorted({data_step for spike in spikes for data_step in spike["skipped"]}))


def is_abandoned(step: int, skipped: Collection[int], spikes: Iterable[Record]) -> bool:
    """Whether a checkpoint comes from a stretch that a later rollback took back.

    Args:
        step: of the checkpoint.
        skipped: what it knows of skipped data steps.
    """
    return any(spike["rolled_back_to"] < step and not set(spike["skipped"]) <= set(skipped) for spike in spikes)


def read_losses(metrics: Path, last_step: int, count: int) -> list[float]:
    """The losses of up to `count` steps until `last_step`, oldest first."""
    if not metrics.exists():
        return []
    losses = (record["loss"] for record in read_metrics(metrics, "train") if record["step"] <= last_step)
    return list(deque(losses, maxlen=count))
