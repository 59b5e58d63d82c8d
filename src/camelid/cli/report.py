"""`camelid report`: the page of a run, also of one that is under way."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or under way.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; <run>/report.html unless given.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run from the files in its folder."""
    from camelid.artifact import write_text_durably
    from camelid.report.page import render_page

    page = output or run / "report.html"
    write_text_durably(page, render_page(run))
    typer.echo(page)
