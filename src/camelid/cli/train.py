"""`camelid train`: tokens become weights."""

import typer

from camelid.cli.options import DryRunOption, OutOption, RebuildOption, RecipeArgument, SetOption, run_stages


def train(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    dry_run: DryRunOption = False,
    rebuild: RebuildOption = False,
) -> None:
    """Train a recipe's model, building first what it needs. An interrupted run goes on where it stopped."""
    if dry_run:
        from camelid.cli.dry_run import print_plan

        print_plan(recipe, out, set_)
        return
    run = run_stages(recipe, out, set_, [], "train", rebuild)
    typer.echo(run.path("train"))
