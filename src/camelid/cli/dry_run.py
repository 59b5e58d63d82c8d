"""What a recipe would do: sizes, memory, time and disk, before anything is done."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from camelid.cli.options import describe_run
from camelid.planning.memory import checkpoint_bytes, estimate_training_memory
from camelid.planning.shapes import count_parameters, training_flops_per_token
from camelid.progress import format_count, format_duration
from camelid.recipe import Recipe

# Share of the matrix-product peak that training reaches on the machines it was measured on; docs/experiments.md.
_EXPECTED_UTILISATION = 0.45


def print_plan(recipe_name: str, out: Path | None, overrides: list[str]) -> None:
    """Prints the plan of a recipe on standard output."""
    from camelid.pipeline import STAGES, is_finished

    run = describe_run(recipe_name, out, overrides, [])
    recipe = run.recipe
    console = Console(width=110)
    console.print(f"{recipe.name}: products go to {run.directory}")
    stages = Table("stage", "state", box=None)
    for stage in STAGES:
        stages.add_row(stage.name, "finished" if is_finished(run, stage.name) else "to do")
    console.print(stages)
    console.print(_size_table(recipe))


def _size_table(recipe: Recipe) -> Table:
    from camelid.training.device import choose_execution, measure_peak_flops
    from camelid.training.loss import CHUNK_POSITIONS

    config, train = recipe.model_config_for_training(), recipe.train
    execution = choose_execution(train)
    memory = estimate_training_memory(
        config,
        microbatch_tokens=train.microbatch_size * train.sequence_length,
        compute_bytes=execution.compute_dtype.itemsize,
        loss_chunk_positions=CHUNK_POSITIONS,
    )
    num_tokens = train.steps * train.batch_tokens
    flops = training_flops_per_token(config, train.sequence_length) * num_tokens
    peak = measure_peak_flops(execution.device, execution.compute_dtype)
    dtype = str(execution.compute_dtype).removeprefix("torch.")
    rows = {
        "parameters": f"{count_parameters(config):,}",
        "training tokens": f"{num_tokens:,} in {train.steps:,} steps of {train.batch_tokens:,}",
        "operations": f"{flops:.3g} ({flops / num_tokens:.3g} a token)",
        "memory": f"{format_count(memory.total, 'bytes')}: weights {format_count(memory.weights, 'bytes')}, gradients "
        f"{format_count(memory.gradients, 'bytes')}, optimizer {format_count(memory.optimizer, 'bytes')}, activations "
        f"{format_count(memory.activations, 'bytes')}, loss {format_count(memory.loss, 'bytes')}",
        "disk": f"{format_count(checkpoint_bytes(config) * train.num_kept_checkpoints, 'bytes')} for "
        f"{train.num_kept_checkpoints} checkpoints",
        "machine": f"{execution.device.type}, {execution.num_threads} threads, {dtype}, measured peak "
        f"{format_count(peak, 'FLOP')}/s",
        "training time": f"about {format_duration(flops / (peak * _EXPECTED_UTILISATION))} at "
        f"{_EXPECTED_UTILISATION:.0%} of the peak",
    }
    table = Table("what", "how much", box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    return table
