"""What a recipe would do: sizes, memory, time and disk, before anything is done."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from camelid.cli.options import describe_run
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.planning.memory import checkpoint_bytes, estimate_training_memory
from camelid.planning.shapes import count_parameters, training_flops_per_token
from camelid.progress import format_count, format_duration
from camelid.recipe import Recipe
from camelid.report.sentences import join_names
from camelid.training.settings import TrainSettings

if TYPE_CHECKING:
    from camelid.training.device import Execution

# Share of the matrix-product peak that training reaches on the machines it was measured on; docs/experiments.md.
_EXPECTED_UTILISATION = 0.45
_WIDTH = 110


def print_plan(recipe_name: str, out: Path | None, overrides: list[str]) -> None:
    """Prints the plan of a recipe on standard output."""
    from camelid.pipeline import STAGES, is_finished

    run = describe_run(recipe_name, out, overrides, [])
    recipe = run.recipe
    console = Console(width=_WIDTH, highlight=False, markup=False)
    finished = [stage.name for stage in STAGES if is_finished(run, stage.name)]
    run_rows = {"products": str(run.directory), "finished": join_names(finished or ["nothing yet"])}
    table = Table(recipe.name, "what a run takes", box=None)
    for name, value in {**run_rows, **_describe_sources(recipe, run.base), **_describe_training(recipe)}.items():
        table.add_row(name, value)
    console.print(table)


def _describe_sources(recipe: Recipe, base: Path) -> dict[str, str]:
    """Files and bytes of each source as they lie there, or where they are missing."""
    from camelid.corpus.sources import list_files, source_root

    rows = {}
    for source in recipe.corpus.sources:
        root = source_root(source, base)
        try:
            sizes = [(root / name).stat().st_size for name in list_files(source, base)]
        except UserError:
            rows[f"text of {source.name}"] = f"missing: {root}"
        else:
            number = "1 file" if len(sizes) == 1 else f"{len(sizes):,} files"
            rows[f"text of {source.name}"] = f"{format_count(sum(sizes), 'bytes')} in {number}"
    return rows


def _describe_training(recipe: Recipe) -> dict[str, str]:
    from camelid.training.device import choose_execution, measure_peak_flops

    config, train = recipe.model_config_for_training(), recipe.train
    execution = choose_execution(train)
    num_tokens = train.steps * train.batch_tokens
    flops = training_flops_per_token(config, train.sequence_length) * num_tokens
    peak = measure_peak_flops(execution.device, execution.compute_dtype)
    num_processes = train.mesh.num_processes
    everywhere = f" of {num_processes:,} machines like this one" if num_processes > 1 else ""
    return {
        "parameters": f"{count_parameters(config):,}",
        "training tokens": f"{num_tokens:,} in {train.steps:,} steps of {train.batch_tokens:,}",
        "operations": f"{flops:.3g} ({flops / num_tokens:.3g} a token)",
        **(_describe_mesh(config, train) if num_processes > 1 else _describe_memory(config, train, execution)),
        "disk": f"{format_count(checkpoint_bytes(config) * train.num_kept_checkpoints, 'bytes')} for "
        f"{train.num_kept_checkpoints} checkpoints",
        "this machine": f"{execution.device.type}, {execution.num_threads} threads, {execution.precision}, "
        f"measured peak {format_count(peak, 'FLOP')}/s",
        "training time": f"about {format_duration(flops / (peak * num_processes * _EXPECTED_UTILISATION))} at "
        f"{_EXPECTED_UTILISATION:.0%} of the peak{everywhere}",
    }


def _describe_memory(config: ModelConfig, train: TrainSettings, execution: "Execution") -> dict[str, str]:
    """What one process alone holds."""
    from camelid.training.loss import CHUNK_POSITIONS

    memory = estimate_training_memory(
        config,
        microbatch_tokens=train.microbatch_size * train.sequence_length,
        compute_bytes=execution.compute_dtype.itemsize,
        loss_chunk_positions=CHUNK_POSITIONS,
        num_microbatches=train.sequences_per_process // train.microbatch_size,
        recompute=execution.recompute,
        is_compiled=execution.is_compiled,
    )
    return {
        "memory": f"{format_count(memory.total, 'bytes')} for the numbers of a training step",
        "": _list_bytes(dataclasses.asdict(memory)),
    }


def _describe_mesh(config: ModelConfig, train: TrainSettings) -> dict[str, str]:
    """What each of many processes holds and sends, found by taking a step without values."""
    from camelid.training.rehearsal import rehearse

    rehearsal = rehearse(config, train)
    held = {name: size for name, size in dataclasses.asdict(rehearsal).items() if name != "sent"}
    return {
        "mesh": f"{train.mesh.num_processes:,} processes, {train.mesh.describe()}",
        "memory": f"{format_count(rehearsal.held, 'bytes')} a process for the numbers of a training step",
        "": _list_bytes(held),
        "sent": f"{format_count(sum(rehearsal.sent.values()), 'bytes')} a process in a step",
        " ": _list_bytes({name.replace("_", " "): size for name, size in rehearsal.sent.items()}),
    }


def _list_bytes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{part} {format_count(size, 'bytes')}" for part, size in sizes.items())
