"""Going back: to the latest sound checkpoint when a run is taken up, to the latest good one after a spike."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from camelid import artifact
from camelid.artifact import Manifest
from camelid.checkpoint import native
from camelid.errors import UserError
from camelid.metrics import Record
from camelid.progress import say
from camelid.training import stability
from camelid.training.settings import TrainSettings
from camelid.training.suspects import find_suspects
from camelid.training.trainer import Trainer

OPERATIONAL = frozenset(
    {
        "max_rollbacks",
        "num_kept_checkpoints",
        "permanent_checkpoint_interval",
        "norm_interval",
        "is_tensorboard_written",
        "is_data_verified",
    }
)
"""Settings that change no weight, so that a run that was begun can go on with others."""

_SHOWN_DOCUMENTS = 3


@dataclass(frozen=True)
class Identity:
    """What a run is made from; checkpoints that were made from anything else are refused."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]


def take_up(trainer: Trainer, train_folder: Path, identity: Identity) -> None:
    """Restores the latest sound checkpoint of a run that was begun, and what its ledger says is skipped.

    Raises:
        UserError: the run was begun with other settings or inputs, or it has checkpoints and none of them is sound.
    """
    spikes = trainer.processes.first_does(lambda: stability.read_spikes(train_folder))
    before = _restore_latest(trainer, train_folder, identity, spikes, trainer.settings.steps)
    _skip_all(trainer, spikes)
    if before is None:
        return
    say(f"going on from step {trainer.step:,}")
    for name, now in trainer.execution.describe().items():
        if before.get(name) != now:
            say(f"warning: {name} was {before.get(name)} and is now {now}; the result will differ in the last bits")


def roll_back(
    trainer: Trainer, train_folder: Path, identity: Identity, reason: str, measured: Mapping[str, float]
) -> None:
    """Restores the latest good checkpoint after a spike in the trainer's last step, and skips the data that led to it.

    The ledger is written before anything is removed: a process that is killed in between finds the spike there when the
    run is taken up, and skips the same data.

    Args:
        measured: numbers of the step.

    Raises:
        UserError: as `plan_rollback`.
    """
    trainer.finish_saving()
    first_does = trainer.processes.first_does
    spikes = first_does(lambda: stability.read_spikes(train_folder))
    step, data_step = trainer.step, stability.data_step(trainer.step - 1, trainer.skipped)
    plan = stability.plan_rollback(trainer.settings, spikes, trainer.skipped, step, reason)
    say(f"train: step {step:,}: {reason}; going back")
    _restore_latest(trainer, train_folder, identity, spikes, plan.latest_step)
    _skip_all(trainer, spikes)
    model = trainer.whole_model()

    def write_down() -> list[Record]:
        assert model is not None
        documents = find_suspects(trainer, model, plan.skipped)
        stability.write_spike(
            train_folder,
            step,
            data_step=data_step,
            reason=reason,
            **measured,
            rolled_back_to=trainer.step,
            skipped=list(plan.skipped),
            documents=documents,
        )
        spikes = stability.read_spikes(train_folder)
        _remove_abandoned(train_folder, spikes)
        for document in documents[:_SHOWN_DOCUMENTS]:
            say(f"train: {document['nats_per_token']:.2f} nats a token in {document['path']!r} ({document['url']!r})")
        return spikes

    _skip_all(trainer, first_does(write_down))
    skipped = ", ".join(f"{number:,}" for number in plan.skipped)
    say(f"train: going on from step {trainer.step:,} without data step {skipped}; {stability.LEDGER_NAME} says more")


def _skip_all(trainer: Trainer, spikes: Sequence[Record]) -> None:
    trainer.skipped = tuple(sorted({*trainer.skipped, *stability.all_skipped(spikes)}))


def _restore_latest(
    trainer: Trainer, train_folder: Path, identity: Identity, spikes: Sequence[Record], latest_step: int
) -> dict[str, Any] | None:
    """Puts back the latest sound checkpoint that is no later than a step, or the first weights where there is none.

    Returns:
        How the checkpoint was produced.
    """

    def choose() -> list[Any] | None:
        _remove_abandoned(train_folder, spikes)
        chosen = _choose_sound(train_folder, latest_step)
        if chosen is None:
            return None
        path, manifest = chosen
        _refuse_other_identity(manifest, train_folder, identity, trainer.seed)
        return [native.step_of(path), manifest.produced]

    chosen = trainer.processes.first_does(choose)
    if chosen is not None:
        step, produced = chosen
        trainer.restore(native.checkpoint_path(train_folder, step))
        return dict(produced)
    if trainer.step:
        trainer.restart()
    return None


def _choose_sound(train_folder: Path, latest_step: int) -> tuple[Path, Manifest] | None:
    """The latest checkpoint up to a step, but for damaged ones, which are removed where there is an earlier one.

    Raises:
        UserError: all that there are are damaged.
    """
    damaged: list[tuple[Path, UserError]] = []
    for path in reversed(native.list_checkpoints(train_folder)):
        if native.step_of(path) > latest_step:
            continue
        try:
            manifest = artifact.verify(path, native.KIND)
        except UserError as error:
            damaged.append((path, error))
            continue
        for broken, why in damaged:
            say(f"warning: {why}; going on from {path.name} instead")
            shutil.rmtree(broken)
        return path, manifest
    if damaged:
        raise damaged[0][1]
    return None


def _refuse_other_identity(manifest: Manifest, train_folder: Path, identity: Identity, seed: int) -> None:
    old, new = (
        {name: value for name, value in settings.items() if name not in OPERATIONAL}
        for settings in (manifest.settings, identity.settings)
    )
    difference = artifact.find_difference(replace(manifest, settings=old), new, identity.inputs, seed)
    if difference:
        raise UserError(
            f"{train_folder} was begun otherwise: {difference}; give it the old settings, begin in another folder "
            "(--out), or replace it (--rebuild)"
        )


def _remove_abandoned(train_folder: Path, spikes: Sequence[Record]) -> None:
    for path in native.list_checkpoints(train_folder):
        if stability.is_abandoned(native.step_of(path), _skipped(path), spikes):
            shutil.rmtree(path)


def _skipped(checkpoint: Path) -> tuple[int, ...]:
    try:
        return native.read_progress(checkpoint).skipped
    except UserError:
        return ()  # a damaged checkpoint is met again where it would be used


def superseded_checkpoints(train_folder: Path, settings: TrainSettings, last_step: int) -> list[Path]:
    """What need not be kept: all but the latest regular checkpoints, the permanent ones, and the latest good one with
    those that come to be good after it.

    A checkpoint that a stop signal caused goes with the next regular one.
    """
    interval, permanent = settings.checkpoint_interval, settings.permanent_checkpoint_interval
    steps = sorted({*range(interval, last_step + 1, interval), last_step})
    kept = set(steps[-settings.num_kept_checkpoints :])
    kept.update(range(permanent, last_step + 1, permanent) if permanent else ())
    if last_step < settings.steps:
        latest_good = max((step for step in steps if step + settings.calm_steps <= last_step), default=0)
        kept.update(step for step in steps if step >= latest_good)
    return [path for path in native.list_checkpoints(train_folder) if native.step_of(path) not in kept]
