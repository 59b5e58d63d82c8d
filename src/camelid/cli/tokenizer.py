"""`camelid tokenizer`: documents become a vocabulary, and vocabularies are compared."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from camelid.cli.options import (
    CompareOption,
    OutOption,
    RebuildOption,
    RecipeArgument,
    SetOption,
    name_tokenizers,
    run_stages,
)

app = typer.Typer(help="Documents become a vocabulary.", no_args_is_help=True)


@app.command()
def train(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    rebuild: RebuildOption = False,
    compare_tokenizer: CompareOption = [],  # noqa: B006
) -> None:
    """Train the recipe's tokenizer and print how well it fits the held-out text."""
    import json

    from camelid.tokenizer.build import QUALITY_NAME

    run = run_stages(recipe, out, set_, compare_tokenizer, "tokenizer", rebuild)
    _print_quality(json.loads((run.path("tokenizer") / QUALITY_NAME).read_text(encoding="utf-8")))


@app.command()
def compare(
    run: Annotated[Path, typer.Argument(help="Folder of a run, whose held-out documents are encoded.")],
    tokenizers: Annotated[list[Path], typer.Argument(help="Other tokenizer.model files, or folders that hold one.")],
) -> None:
    """Print how many bytes of a run's held-out text a token holds, for the run's tokenizer and for others."""
    from camelid.corpus.document import read_documents
    from camelid.tokenizer.build import OWN_NAME
    from camelid.tokenizer.load import load_tokenizer
    from camelid.tokenizer.quality import measure_quality

    loaded = {OWN_NAME: load_tokenizer(run / "tokenizer")}
    loaded |= {name: load_tokenizer(path) for name, path in name_tokenizers(tokenizers).items()}
    texts = ((document.source, document.text) for document in read_documents(run / "corpus", "held_out"))
    _print_quality(measure_quality(loaded, texts))


def _print_quality(rows: Iterable[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("tokenizer", "source", "bytes", "tokens", "bytes per token", "single bytes", box=None)
    for row in rows:
        table.add_row(
            row["tokenizer"],
            row["source"],
            f"{row['num_bytes']:,}",
            f"{row['num_tokens']:,}",
            f"{row['bytes_per_token']:.3f}",
            f"{row['share_byte_fallback']:.2%}",
        )
    Console(width=120, markup=False).print(table)
