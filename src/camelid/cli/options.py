"""Arguments that several commands share, and the run that they describe."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camelid.errors import UserError

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
ModelOption = Annotated[str, typer.Option("--model", "-m", help="A model: a file or folder, a name, or a hub id.")]
RunnerOption = Annotated[
    str, typer.Option(help="What computes: native (kernels for this processor), torch, or auto for the best of them.")
]
ThreadsOption = Annotated[int, typer.Option(min=0, help="Processor threads; 0 for one a physical core.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, or cuda for torch's.")]
DraftOption = Annotated[
    str,
    typer.Option(help="Where guesses at the next tokens come from: lookup, none, or a smaller model; auto decides."),
]


def describe_run(recipe: str, out: Path | None, overrides: list[str], compare: list[Path]) -> "Run":
    """Reads the recipe and says where its products go."""
    from camelid.pipeline import Run
    from camelid.recipe import load_recipe

    loaded, base = load_recipe(recipe, overrides)
    for path in compare:
        if not path.exists():
            raise UserError(f"--compare-tokenizer: {path} does not exist; name a tokenizer.model or a folder with one")
    run = Run(loaded, out or Path("runs") / loaded.name, base, name_tokenizers(compare))
    if compare and run.path("tokenizer").exists():
        raise UserError(
            f"{run.path('tokenizer')} is finished and is not changed any more; compare with camelid tokenizer "
            f"compare {run.directory} {compare[0]}"
        )
    return run


def name_tokenizers(paths: Iterable[Path]) -> dict[str, Path]:
    """Tokenizers by short names, a tokenizer.model by its folder's; by their paths where two names are the same."""
    paths = list(paths)
    short = [path.resolve().parent.name if path.name.startswith("tokenizer.") else path.name for path in paths]
    is_told_apart = len(set(short)) == len(set(paths))
    return {name if is_told_apart else str(path): path for name, path in zip(short, paths, strict=True)}


def run_stages(
    recipe: str, out: Path | None, overrides: list[str], compare: list[Path], last_stage: str, is_rebuilt: bool
) -> "Run":
    """Runs the chain of a recipe up to one stage."""
    from camelid.pipeline import run_chain

    run = describe_run(recipe, out, overrides, compare)
    run_chain(run, last_stage, is_rebuilt)
    return run
