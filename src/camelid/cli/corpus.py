"""`camelid corpus`: raw text becomes documents, and what that takes is fetched, trained and looked at."""

import re
from pathlib import Path
from typing import Annotated

import typer

from camelid.cli.options import OutOption, RebuildOption, RecipeArgument, SetOption, run_stages
from camelid.errors import UserError

app = typer.Typer(help="Raw text becomes clean, deduplicated documents.", no_args_is_help=True)

ProductOption = Annotated[Path, typer.Option("--out", help="Folder of the product.")]
WorkersOption = Annotated[int, typer.Option("--workers", min=0, help="Processes, 0 for one per core.")]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGTkmgt]?)(i?)B?)", re.IGNORECASE)


@app.callback()
def _group() -> None:
    pass


@app.command()
def build(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    rebuild: RebuildOption = False,
    engine: Annotated[
        str | None, typer.Option("--engine", help="processes, or ray for the cluster that RAY_ADDRESS names.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Processes, 0 for one per core.")] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Bound on comparing hashes, all processes: 1GiB.")
    ] = None,
) -> None:
    """Read, clean and deduplicate the recipe's sources."""
    from camelid.corpus.settings import LEAST_MEMORY_BYTES

    memory_bytes = None if memory is None else parse_size(memory, "--memory")
    if memory_bytes is not None and memory_bytes < LEAST_MEMORY_BYTES:
        raise UserError(f"--memory {memory} is too little to hold; give at least {LEAST_MEMORY_BYTES >> 20}MiB")
    chosen = {"engine": engine, "num_workers": workers, "memory_bytes": memory_bytes}
    overrides = [*set_, *(f"corpus.{name}={value}" for name, value in chosen.items() if value is not None)]
    run = run_stages(recipe, out, overrides, [], "corpus", rebuild)
    typer.echo(run.path("corpus"))


def parse_size(text: str, option: str) -> int:
    """Bytes of `1GiB`, `500 MB` or `1073741824`.

    Raises:
        UserError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UserError(f"{option} {text!r} is no size; write it as 1GiB, 500MB or a number of bytes")
    prefix, is_binary = match[2].upper(), bool(match[3])
    return int(float(match[1]) * (1024 if is_binary else 1000) ** " KMGT".index(prefix or " "))


@app.command("train-lm")
def train_lm(
    corpus: Annotated[Path, typer.Argument(help="Folder of a finished corpus of good text, Wikipedia for example.")],
    out: ProductOption,
    language: Annotated[
        str | None, typer.Option("--language", help="Only documents of this language; all unless given.")
    ] = None,
    set_: SetOption = [],  # noqa: B006
) -> None:
    """Train the n-gram model that `perplexity` of a CommonCrawl source asks."""
    from camelid import artifact
    from camelid.corpus.document import read_documents
    from camelid.corpus.language_model import train_language_model
    from camelid.corpus.model_settings import LanguageModelSettings
    from camelid.settings import apply_overrides, validate

    settings = validate(LanguageModelSettings, apply_overrides({}, set_), "--set")
    digest = artifact.read_manifest(corpus, "corpus").digest
    if language is not None:
        _refuse_unknown(language, corpus)
    manifest = train_language_model(
        settings,
        lambda: (
            document.text
            for document in read_documents(corpus, "train")
            if language is None or document.language == language
        ),
        out,
        inputs={"corpus": digest, "language": language or "all"},
    )
    facts = manifest.facts
    typer.echo(f"{out}: {facts['num_pieces']:,} pieces, n-grams by order {facts['num_ngrams']}")


def _refuse_unknown(language: str, corpus: Path) -> None:
    """
    Raises:
        UserError: no document of a corpus is in a language.
    """
    from camelid.corpus.document import read_documents

    others = set()
    for document in read_documents(corpus, "train"):
        if document.language == language:
            return
        others.add(document.language or "none")
    raise UserError(f"{corpus} has no document of language {language!r}, only of {', '.join(sorted(others))}")


@app.command("train-references")
def train_references(
    dumps: Annotated[list[Path], typer.Argument(help="Wikipedia dumps (pages-articles, .xml or .xml.bz2).")],
    pages: Annotated[Path, typer.Option("--pages", help="A WARC or WET file, or a folder of them.")],
    out: ProductOption,
    set_: SetOption = [],  # noqa: B006
    seed: Annotated[int, typer.Option("--seed", min=0, help="Chooses the random pages.")] = 0,
    workers: WorkersOption = 0,
) -> None:
    """Train the classifier of pages that Wikipedia cites, which `references` of a CommonCrawl source asks."""
    from camelid.corpus.model_settings import ReferenceModelSettings
    from camelid.corpus.reference_model import train_reference_model
    from camelid.settings import apply_overrides, validate

    settings = validate(ReferenceModelSettings, apply_overrides({}, set_), "--set")
    facts = train_reference_model(settings, dumps, pages, out, seed=seed, num_workers=workers).facts
    measured = facts.get("held_out_accuracy")
    right = f", right on {measured:.1%} of {facts['held_out_pages']:,} others" if measured is not None else ""
    typer.echo(f"{out}: {facts['cited_addresses']:,} cited addresses, {facts['train_pages']:,} pages{right}")


@app.command()
def fetch(
    source: Annotated[str, typer.Argument(help="What to fetch; a name that is not known prints those that are.")],
    out: ProductOption,
    version: Annotated[str | None, typer.Option("--version", help="Which release; a usual one unless given.")] = None,
    base_url: Annotated[str | None, typer.Option("--base-url", help="A mirror of the publisher.")] = None,
    first: Annotated[int, typer.Option("--first", min=0, help="Leave out so many files of the list.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Fetch only so many files.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the addresses and fetch none of them.")] = False,
    set_: SetOption = [],  # noqa: B006
) -> None:
    """Get files of a public source; what is there is left alone, and what was begun goes on."""
    from camelid.corpus.fetch import Client, check_address
    from camelid.corpus.fetch import fetch as fetch_files
    from camelid.corpus.fetch_settings import FetchSettings
    from camelid.corpus.manifests import find_publisher
    from camelid.settings import apply_overrides, validate

    publisher = find_publisher(source)
    if base_url is not None:
        check_address(base_url)
    client = Client(validate(FetchSettings, apply_overrides({}, set_), "--set"))
    if publisher.note and base_url is None:
        typer.echo(publisher.note, err=True)
    listed = list(publisher.list_files(client, base_url or publisher.base_url, version or publisher.version))
    if first >= len(listed):
        raise UserError(
            f"only {len(listed):,} files of {source} match, so --first {first:,} leaves none; name a smaller number, "
            "or another --version"
        )
    files = listed[first : None if limit is None else first + limit]
    for file, is_new in fetch_files(files, out, client, is_listed_only=dry_run):
        typer.echo(file.url if dry_run else f"{out / file.path}: {'fetched' if is_new else 'was there'}")


@app.command()
def audit(
    corpus: Annotated[Path, typer.Argument(help="Folder of a finished corpus.")],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("audit.html"),
    samples: Annotated[int, typer.Option("--samples", min=0, help="Texts of each kind to show.")] = 5,
) -> None:
    """Write a page on what was kept and what was dropped, to be looked at by people."""
    from camelid.corpus.audit import write_audit

    write_audit(corpus, out, num_samples=samples)
    typer.echo(out)
