"""What a person can set about the corpus."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from camelid.corpus.source_settings import (
    ArxivSource,
    BooksSource,
    CodeQuality,
    FilesSource,
    GithubSource,
    StackExchangeSource,
    WikipediaSource,
)
from camelid.corpus.web_settings import C4Source, CommonCrawlSource, DecontaminationSettings
from camelid.settings import Settings

LEAST_MEMORY_BYTES = 1 << 28
"""A bound below this would not hold: an interpreter with its libraries takes 160 MiB."""


class FolderSource(FilesSource):
    """Any folder of text: .txt, .md, .jsonl and .parquet, also gzip or zstd compressed and inside tar archives."""

    kind: Literal["folder"]
    """Says that this source is a folder."""
    suffixes: tuple[str, ...] = (".txt", ".md")
    """Endings of files that are one text each."""
    text_field: str = "text"
    """Field of JSON lines and column of Parquet files that holds the text."""
    separator: str | None = None
    """Cuts a text file into documents wherever it occurs, or nothing."""


class PythonLibrarySource(Settings):
    """The source files of the Python standard library that runs Camelid, its tests and encoding tables left out."""

    kind: Literal["python_library"]
    """Says that this source is the standard library."""
    name: str = Field("python", pattern=r"^[A-Za-z0-9_-]+$")
    """Name of the source; mixture shares and held-out losses go by it."""
    licence: str | None = "PSF-2.0"
    """Licence of the texts, recorded with each document."""
    quality: CodeQuality | None = None
    """The rules of GitHub's sources: licence headers go and odd files too; or none of them."""


Source = Annotated[
    FolderSource
    | CommonCrawlSource
    | C4Source
    | GithubSource
    | ArxivSource
    | BooksSource
    | StackExchangeSource
    | WikipediaSource
    | PythonLibrarySource,
    Field(discriminator="kind"),
]


class CorpusSettings(Settings):
    """Raw text becomes clean, deduplicated documents, some of them held out."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Where the raw text comes from."""
    min_characters: int = Field(100, ge=1)
    """Shorter documents are dropped."""
    max_characters: int = Field(100_000, ge=1000)
    """Longer documents are cut at the last empty line, or the last line, before this many characters."""
    max_blank_lines: int = Field(2, ge=0)
    """Longer runs of empty lines are cut to this many."""
    held_out_share: float = Field(0.05, gt=0, lt=1)
    """Share of the documents that is never trained on, chosen by a hash of their text."""
    decontamination: DecontaminationSettings = DecontaminationSettings()
    """Documents that share long passages with evaluation sets are found."""
    engine: Literal["processes", "ray"] = "processes"
    """What runs the tasks: processes of this machine, or the Ray cluster that RAY_ADDRESS names."""
    num_workers: int = Field(0, ge=0)
    """Processes that read at once, 0 for one per core; the result does not depend on it."""
    memory_bytes: int | None = Field(None, ge=LEAST_MEMORY_BYTES)
    """Bytes that all processes together may hold while hashes are compared; half a GiB for each unless given."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sources are called {name!r}; give each its own name")
        return self
