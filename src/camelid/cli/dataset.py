"""`camelid dataset`: documents become tokens, and steps are walked back to documents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from camelid.cli.options import OutOption, RebuildOption, RecipeArgument, SetOption, describe_run, run_stages
from camelid.errors import UserError

app = typer.Typer(help="Documents become tokens, in the order of training.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def build(recipe: RecipeArgument, out: OutOption = None, set_: SetOption = [], rebuild: RebuildOption = False) -> None:  # noqa: B006
    """Write the recipe's token shards, building first what they need."""
    run = run_stages(recipe, out, set_, [], "dataset", rebuild)
    typer.echo(run.path("dataset"))


@app.command()
def trace(
    recipe: RecipeArgument,
    step: Annotated[int | None, typer.Option("--step", min=0, help="Data step, from 0.")] = None,
    spike: Annotated[int | None, typer.Option("--spike", min=1, help="A spike of the training, from 1.")] = None,
    out: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per sample.")] = False,
) -> None:
    """Say which documents, files and addresses a training step reads, or which ones made the loss of a run leap."""
    import json

    from camelid.dataset.lineage import trace as trace_step
    from camelid.dataset.shards import open_dataset

    if (step is None) == (spike is None):
        raise UserError("say what to trace: --step with a data step, or --spike with the number of a spike, from 1")
    run = describe_run(recipe, out, set_, [])
    train = run.recipe.train
    dataset = open_dataset(run.path("dataset"))
    found = {} if spike is None else _find_spike(run.path("train"), spike)
    data_steps: list[int] = [step] if step is not None else found["skipped"]
    for data_step in data_steps:
        rows = trace_step(
            dataset,
            data_step,
            sequence_length=train.sequence_length,
            batch_size=train.batch_sequences,
            seed=run.recipe.seed,
        )
        if found:
            typer.echo(f"data step {data_step:,}", err=True)
            rows = _keep_blamed(rows, [part for part in found["documents"] if part["data_step"] == data_step])
        for row in rows:
            if as_json:
                typer.echo(json.dumps(row, ensure_ascii=False))
            else:
                _print_row(row)


def _find_spike(train_folder: Path, number: int) -> dict[str, Any]:
    """A spike of a training that is finished or under way."""
    from camelid.artifact import partial_path
    from camelid.training.stability import LEDGER_NAME, read_spikes

    folder = train_folder if train_folder.is_dir() else partial_path(train_folder)
    spikes = read_spikes(folder)
    if not spikes:
        raise UserError(f"{folder} has no {LEDGER_NAME}: the training met no spike; trace a step with --step")
    if number > len(spikes):
        raise UserError(f"{folder / LEDGER_NAME} has {len(spikes)} spikes; name one from 1 to {len(spikes)}")
    typer.echo(f"step {spikes[number - 1]['step']:,}: {spikes[number - 1]['reason']}", err=True)
    return spikes[number - 1]


def _keep_blamed(rows: Sequence[Any], blamed: Sequence[Any]) -> list[Any]:
    """The rows with nothing but the parts of documents that stood out, and how far these did."""
    nats = {(part["sample"], part["id"], part["first_token"]): part["nats_per_token"] for part in blamed}
    kept = []
    for row in rows:
        keys = [(row["sample"], part["id"], part["first_token"]) for part in row["documents"]]
        parts = zip(keys, row["documents"], strict=True)
        documents = [{**part, "nats_per_token": nats[key]} for key, part in parts if key in nats]
        if documents:
            kept.append({**row, "documents": documents})
    return kept


def _print_row(row: Any) -> None:
    typer.echo(f"sample {row['sample']}: {row['source']}, epoch {row['epoch']}")
    for document in row["documents"]:
        nats = f"  {document['nats_per_token']:.2f} nats each" if "nats_per_token" in document else ""
        typer.echo(f"  {document['num_tokens']:>6,} tokens{nats}  {document['path']}  {document['url']}")
