"""`camelid dataset`: documents become tokens, and steps are walked back to documents."""

from typing import Annotated

import typer

from camelid.cli.options import OutOption, RebuildOption, RecipeArgument, SetOption, describe_run, run_stages

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
    step: Annotated[int, typer.Option("--step", min=0, help="Data step, from 0.")],
    out: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per sample.")] = False,
) -> None:
    """Say which documents, files and addresses a training step reads."""
    import json

    from camelid.dataset.lineage import trace as trace_step
    from camelid.dataset.shards import open_dataset

    run = describe_run(recipe, out, set_, [])
    train = run.recipe.train
    dataset = open_dataset(run.path("dataset"))
    rows = trace_step(
        dataset,
        step,
        sequence_length=train.sequence_length,
        batch_size=train.batch_sequences,
        seed=run.recipe.seed,
    )
    for row in rows:
        if as_json:
            typer.echo(json.dumps(row, ensure_ascii=False))
            continue
        typer.echo(f"sample {row['sample']}: {row['source']}, epoch {row['epoch']}")
        for document in row["documents"]:
            typer.echo(f"  {document['num_tokens']:>6,} tokens  {document['path']}  {document['url']}")
