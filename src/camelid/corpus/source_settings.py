"""What a person can set about the sources that come from published dumps."""

from typing import Literal

from pydantic import Field

from camelid.settings import Settings


class FilesSource(Settings):
    """A source that lies in a folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Name of the source; mixture shares and held-out losses go by it."""
    path: str
    """The folder, or a single file; relative to the recipe's folder."""
    licence: str | None = None
    """Licence of the texts, recorded with each document that names none itself."""
    min_characters: int | None = Field(None, ge=1)
    """Shorter documents of this source are dropped, in place of `corpus.min_characters`."""


class StackExchangeSource(FilesSource):
    """Stack Exchange dumps: a site as the published .7z, as a tar archive, or as a folder with its Posts.xml."""

    kind: Literal["stack_exchange"]
    """Says that this source is Stack Exchange."""
    num_sites: int | None = Field(28, ge=1)
    """Only so many sites with the most questions and answers are read, or all where it is left out."""
    unanswered: bool = True
    """Whether questions without answers are kept."""
    min_score: int | None = None
    """Answers with a lower score are left out, or none are."""


class WikipediaSource(FilesSource):
    """Wikipedia dumps as they are published: pages-articles in XML, plain or bzip2, also multistream."""

    kind: Literal["wikipedia"]
    """Says that this source is Wikipedia."""
    licence: str | None = "CC BY-SA"
    """Licence of the texts, recorded with each document."""
    min_characters: int | None = Field(1, ge=1)
    """Shorter articles are dropped; the paper keeps short ones too."""
    languages: tuple[str, ...] = (
        "bg", "ca", "cs", "da", "de", "en", "es", "fr", "hr", "hu",
        "it", "nl", "pl", "pt", "ro", "ru", "sl", "sr", "sv", "uk",
    )  # fmt: skip
    """Codes of the wikis that are read, those of the paper by default; an empty list reads all."""
    language: str | None = None
    """Code of the wiki, where the files are not called after it as in `enwiki-20220701-pages-articles.xml.bz2`."""
    namespaces: tuple[int, ...] = (0,)
    """Numbers of the namespaces that are read; 0 holds the articles."""
    with_title: bool = False
    """Whether an article begins with its title."""


class BooksSource(FilesSource):
    """Books as .txt and .epub, also in .zip, .gz and tar archives; those of Project Gutenberg as it ships them."""

    kind: Literal["books"]
    """Says that this source is books."""
    max_overlap: float = Field(0.9, gt=0, le=1)
    """A book goes when more than this share of its words lies in passages that a kept book has too; 1 keeps all."""
    overlap_words: int = Field(5, ge=2, le=50)
    """Number of consecutive words that make a passage."""
    keep: Literal["longest", "first"] = "longest"
    """Which of overlapping books stays."""


class ArxivSource(FilesSource):
    """arXiv's sources as it ships them: a gzipped tar or a gzipped TeX file for each paper, also in its bulk tars."""

    kind: Literal["arxiv"]
    """Says that this source is arXiv."""
    appendices: bool = False
    """Whether appendices are kept."""
    without_sections: bool = True
    """Whether a paper without any section is kept, from the end of its abstract on."""


class CodeQuality(Settings):
    """When a source file is too odd to learn from; the figures are RedPajama's."""

    max_line_length: int = Field(1000, ge=1)
    """Files with a longer line are dropped."""
    max_mean_line_length: float = Field(100, gt=0)
    """Files whose lines are longer on average are dropped."""
    min_alphanumeric_share: float = Field(0.25, ge=0, le=1)
    """Files with a smaller share of letters and digits among their characters are dropped."""
    min_letters_per_token: float = Field(1.5, ge=0)
    """Files with fewer letters for each word, number or mark are dropped."""
    max_bytes: int = Field(1 << 20, ge=1)
    """Larger files are dropped unread."""
    suffixes: tuple[str, ...] = (
        ".asm", ".awk", ".bash", ".bat", ".c", ".cc", ".clj", ".cmake", ".cmd", ".coffee", ".cpp", ".cs", ".css",
        ".cxx", ".d", ".dart", ".el", ".erl", ".ex", ".exs", ".f", ".f03", ".f08", ".f77", ".f90", ".f95", ".fs",
        ".go", ".gradle", ".groovy", ".h", ".hh", ".hpp", ".hrl", ".hs", ".html", ".hxx", ".java", ".jl", ".js",
        ".jsx", ".kt", ".less", ".lisp", ".lua", ".m", ".markdown", ".md", ".ml", ".mli", ".mm", ".nim", ".pas",
        ".php", ".pl", ".pm", ".proto", ".ps1", ".py", ".pyx", ".r", ".rb", ".rs", ".rst", ".sass", ".scala", ".scm",
        ".scss", ".sh", ".sql", ".swift", ".tcl", ".tex", ".ts", ".tsx", ".vb", ".vhd", ".vim", ".zig", ".zsh",
        "Dockerfile", "Makefile", "CMakeLists.txt",
    )  # fmt: skip
    """Endings of the files that are read, upper and lower case alike; an empty list reads all."""


class GithubSource(FilesSource):
    """Source code: folders and tar archives of repositories, and BigQuery exports as JSON lines or Parquet."""

    kind: Literal["github"]
    """Says that this source is code."""
    licences: tuple[str, ...] = ("Apache", "BSD", "MIT")
    """SPDX names of the licences that are kept; a name stands for its versions too, as `BSD` for `BSD-3-Clause`."""
    content_field: str = "content"
    """Field of an export that holds the text."""
    licence_field: str = "license"
    """Field of an export that holds the licence's name."""
    path_field: str = "path"
    """Field of an export that holds the file's path, also looked for with `sample_` before it."""
    repository_field: str = "repo_name"
    """Field of an export that holds the repository's name, also looked for with `sample_` before it."""
    quality: CodeQuality = CodeQuality()
    """When a file is too odd to learn from."""
