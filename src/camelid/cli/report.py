"""`camelid report`: the page of a run, also of one that is under way, and the card of a model."""

from pathlib import Path
from typing import Annotated

import typer

from camelid.errors import UserError


def report(
    run: Annotated[str, typer.Argument(help="Folder of a run; with --model-card, any model.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; <run>/report.html unless given.")
    ] = None,
    model_card: Annotated[
        bool, typer.Option("--model-card", help="Write a model card in Markdown instead, to standard output unless -o.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write the page again and again while the run goes on, until Ctrl-C.")
    ] = False,
    interval: Annotated[int, typer.Option(min=1, help="Seconds between two pages of --watch.")] = 10,
) -> None:
    """Write a page about a run, or the card of a model. The page is one HTML file, made from the files of the run."""
    from camelid.artifact import write_text_durably

    if model_card:
        if watch:
            raise UserError("a model card does not change while it is watched; leave --watch or --model-card out")
        card = _write_model_card(run)
        if output is None:
            typer.echo(card, nl=False)
            return
        write_text_durably(output, card)
        typer.echo(output)
        return
    from camelid.report.page import render_page
    from camelid.report.watch import watch_run

    folder = Path(run)
    target = output or folder / "report.html"
    page = render_page(folder)
    if not target.parent.is_dir():
        raise UserError(f"{target.parent}: there is no such folder; make it, or name another file with --output")
    if not watch:
        write_text_durably(target, page)
    typer.echo(target)
    if watch:
        watch_run(folder, target, interval)


def _write_model_card(model: str) -> str:
    from camelid.checkpoint.describe import describe
    from camelid.checkpoint.find import open_model
    from camelid.report.model_card import find_run, render_model_card

    stored = open_model(model)
    return render_model_card(describe(stored), find_run(stored.path))
