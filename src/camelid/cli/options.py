"""Arguments that several commands share, and the run that they describe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from camelid.pipeline import Run

RecipeArgument = Annotated[str, typer.Argument(help="A recipe: a .toml file, or the name of one of Camelid's own.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder of the run; runs/<name> unless given.")]
SetOption = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, a.b=c.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what it takes, and stop.")]
RebuildOption = Annotated[
    bool, typer.Option("--rebuild", help="Replace products that were made otherwise; the old ones are kept.")
]
CompareOption = Annotated[
    list[Path], typer.Option("--compare-tokenizer", help="Another tokenizer.model to measure beside the trained one.")
]


def describe_run(recipe: str, out: Path | None, overrides: list[str], compare: list[Path]) -> "Run":
    """Reads the recipe and says where its products go."""
    from camelid.pipeline import Run
    from camelid.recipe import load_recipe

    loaded, base = load_recipe(recipe, overrides)
    compared = {path.parent.name if path.is_file() else path.name: path for path in compare}
    return Run(loaded, out or Path("runs") / loaded.name, base, compared)


def run_stages(
    recipe: str, out: Path | None, overrides: list[str], compare: list[Path], last_stage: str, is_rebuilt: bool
) -> "Run":
    """Runs the chain up to one stage; a stop signal ends the process as the signal would."""
    from camelid.pipeline import run_chain

    run = describe_run(recipe, out, overrides, compare)
    run_chain(run, last_stage, is_rebuilt)
    return run
