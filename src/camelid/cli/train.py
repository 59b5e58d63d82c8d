"""`camelid train`: tokens become weights."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camelid.cli.options import DryRunOption, OutOption, RebuildOption, RecipeArgument, SetOption, describe_run
from camelid.errors import UserError

if TYPE_CHECKING:
    from camelid.parallel.place import Place
    from camelid.pipeline import Run

ProcessesOption = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Train with this many processes of this machine; train.mesh says how."),
]


def train(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    dry_run: DryRunOption = False,
    rebuild: RebuildOption = False,
    processes: ProcessesOption = None,
) -> None:
    """Train a recipe's model, building first what it needs. An interrupted run goes on where it stopped.

    With --processes N, or under torchrun, several processes train together.
    """
    from camelid.recipe import is_instruct_recipe

    if is_instruct_recipe(recipe):
        if dry_run or rebuild or processes is not None:
            raise UserError("a recipe with [instruct] takes none of --dry-run, --rebuild and --processes; leave it out")
        _train_on_chats(recipe, out, set_)
    elif dry_run:
        from camelid.cli.dry_run import print_plan

        print_plan(recipe, out, set_)
    elif processes is not None and processes > 1:
        _launch(recipe, out, set_, rebuild, processes)
    else:
        _train(recipe, out, set_, rebuild)


def _train_on_chats(recipe: str, out: Path | None, overrides: list[str]) -> None:
    from camelid.checkpoint.find import open_model
    from camelid.recipe import load_instruct_recipe
    from camelid.training.instruct import train_on_chats

    loaded, base = load_instruct_recipe(recipe, overrides)
    directory = out or Path("runs") / loaded.name
    name = loaded.instruct.model
    model = open_model(base / name if (base / name).exists() else name)
    train_on_chats(loaded.instruct, loaded.train, model, base, directory, seed=loaded.seed)
    typer.echo(directory / "train")


def _launch(recipe: str, out: Path | None, overrides: list[str], is_rebuilt: bool, num_processes: int) -> None:
    from camelid.parallel.launch import launch
    from camelid.parallel.place import find_place
    from camelid.parallel.settings import refuse_wrong_count

    if find_place().num_processes > 1:
        raise UserError("--processes starts processes of its own; leave it out where torchrun has started them")
    refuse_wrong_count(describe_run(recipe, out, overrides, []).recipe.train.mesh, num_processes)
    words = ["train", recipe, *(["--out", str(out)] if out else []), *(["--rebuild"] if is_rebuilt else [])]
    launch([*words, *(word for override in overrides for word in ("--set", override))], num_processes)


def _train(recipe: str, out: Path | None, overrides: list[str], is_rebuilt: bool) -> None:
    from camelid.parallel.place import find_place
    from camelid.pipeline import run_chain

    place = find_place()
    if place.num_processes == 1:
        run = describe_run(recipe, out, overrides, [])
        run_chain(run, "train", is_rebuilt)
    else:
        run = _train_as_one_of_many(place, recipe, out, overrides, is_rebuilt)
    if place.is_first:
        typer.echo(run.path("train"))


def _train_as_one_of_many(
    place: "Place", recipe: str, out: Path | None, overrides: list[str], is_rebuilt: bool
) -> "Run":
    from camelid.parallel.launch import one_of_many
    from camelid.parallel.place import RefusedByFirstError
    from camelid.pipeline import run_chain

    with one_of_many(place):
        try:
            run = describe_run(recipe, out, overrides, [])
        except UserError as error:
            if place.is_first:
                raise
            raise RefusedByFirstError(str(error)) from error
        from camelid.parallel.processes import join

        with join(place) as processes:
            run_chain(replace(run, processes=processes), "train", is_rebuilt)
    return run
