"""`camelid corpus`: raw text becomes documents."""

import typer

from camelid.cli.options import OutOption, RebuildOption, RecipeArgument, SetOption, run_stages

app = typer.Typer(help="Raw text becomes clean, deduplicated documents.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def build(recipe: RecipeArgument, out: OutOption = None, set_: SetOption = [], rebuild: RebuildOption = False) -> None:  # noqa: B006
    """Read, clean and deduplicate the recipe's sources."""
    run = run_stages(recipe, out, set_, [], "corpus", rebuild)
    typer.echo(run.path("corpus"))
