"""What a recipe would do: sizes, memory, time and disk, before anything is done."""

import dataclasses
from pathlib import Path

from rich.console import Console
from rich.table import Table

from camelid.cli.options import describe_run
from camelid.errors import UserError
from camelid.planning.memory import checkpoint_bytes, estimate_training_memory
from camelid.planning.shapes import count_parameters, training_flops_per_token
from camelid.progress import format_count, format_duration
from camelid.recipe import Recipe
from camelid.report.sentences import join_names

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
    from camelid.training.loss import CHUNK_POSITIONS

    config, train = recipe.model_config_for_training(), recipe.train
    execution = choose_execution(train)
    memory = estimate_training_memory(
        config,
        microbatch_tokens=train.microbatch_size * train.sequence_length,
        compute_bytes=execution.compute_dtype.itemsize,
        loss_chunk_positions=CHUNK_POSITIONS,
        recompute=train.recompute,
        is_compiled=execution.is_compiled,
    )
    num_tokens = train.steps * train.batch_tokens
    flops = training_flops_per_token(config, train.sequence_length) * num_tokens
    peak = measure_peak_flops(execution.device, execution.compute_dtype)
    dtype = str(execution.compute_dtype).removeprefix("torch.")
    return {
        "parameters": f"{count_parameters(config):,}",
        "training tokens": f"{num_tokens:,} in {train.steps:,} steps of {train.batch_tokens:,}",
        "operations": f"{flops:.3g} ({flops / num_tokens:.3g} a token)",
        "memory": f"{format_count(memory.total, 'bytes')} for the numbers of a training step",
        "": ", ".join(f"{part} {format_count(size, 'bytes')}" for part, size in dataclasses.asdict(memory).items()),
        "disk": f"{format_count(checkpoint_bytes(config) * train.num_kept_checkpoints, 'bytes')} for "
        f"{train.num_kept_checkpoints} checkpoints",
        "this machine": f"{execution.device.type}, {execution.num_threads} threads, {dtype}, measured peak "
        f"{format_count(peak, 'FLOP')}/s",
        "training time": f"about {format_duration(flops / (peak * _EXPECTED_UTILISATION))} at "
        f"{_EXPECTED_UTILISATION:.0%} of the peak",
    }
