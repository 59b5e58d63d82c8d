"""`camelid tokenizer`: documents become a vocabulary."""

import typer

from camelid.cli.options import CompareOption, OutOption, RebuildOption, RecipeArgument, SetOption, run_stages

app = typer.Typer(help="Documents become a vocabulary.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def train(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    rebuild: RebuildOption = False,
    compare_tokenizer: CompareOption = [],  # noqa: B006
) -> None:
    """Train the recipe's tokenizer and print its quality table."""
    run = run_stages(recipe, out, set_, compare_tokenizer, "tokenizer", rebuild)
    typer.echo(run.path("tokenizer"))
