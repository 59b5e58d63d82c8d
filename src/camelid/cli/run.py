"""`camelid run`: the whole chain of a recipe."""

import typer

from camelid.cli.options import (
    CompareOption,
    DryRunOption,
    OutOption,
    RebuildOption,
    RecipeArgument,
    SetOption,
    run_stages,
)


def run(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    dry_run: DryRunOption = False,
    rebuild: RebuildOption = False,
    compare_tokenizer: CompareOption = [],  # noqa: B006
) -> None:
    """Run the whole chain of a recipe, from raw text to a report; finished stages are skipped."""
    if dry_run:
        from camelid.cli.dry_run import print_plan

        print_plan(recipe, out, set_)
        return
    done = run_stages(recipe, out, set_, compare_tokenizer, "report", rebuild)
    typer.echo(done.path("report") / "index.html")
