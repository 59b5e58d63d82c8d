"""What a person can set about the models that filters of the corpus ask."""

from pydantic import Field

from camelid.settings import Settings


class LanguageModelSettings(Settings):
    """Good text becomes pieces and n-grams."""

    vocab_size: int = Field(65_536, ge=64)
    """Pieces at most; a small text gives fewer."""
    order: int = Field(5, ge=2, le=6)
    """Pieces of an n-gram; kenlm as it is installed reads models of up to 6."""
    max_documents: int | None = Field(1_000_000, ge=1)
    """Only so many documents are read, or all."""
    max_document_characters: int | None = Field(None, ge=1)
    """Only so much of the beginning of each document is read, or all of it."""
    max_piece_characters: int = Field(500_000_000, ge=1)
    """Pieces are found in so much text from the beginning, which memory holds some ten times over."""
    memory_bytes: int = Field(1 << 30, ge=1 << 20)
    """Bytes that sorting n-grams takes; the result does not depend on it."""


class ReferenceModelSettings(Settings):
    """Pages that Wikipedia cites and random pages become a linear classifier."""

    language: str | None = "en"
    """Pages of other languages are left out, or none are."""
    min_reference_characters: int = Field(1000, ge=1)
    """Shorter cited pages are left out."""
    min_random_characters: int = Field(300, ge=1)
    """Shorter random pages are left out."""
    max_pages: int = Field(300_000, ge=2)
    """Cited pages at most, and as many random ones."""
    is_only_references: bool = True
    """Whether only links inside of reference tags count, or all external links."""
    held_out_share: float = Field(0.1, ge=0, lt=1)
    """Share of the pages that only measures the classifier."""
    dimension: int = Field(100, ge=1)
    """Length of the vectors of words."""
    epochs: int = Field(5, ge=1)
    """How often the pages are gone through."""
    learning_rate: float = Field(0.1, gt=0)
    """Size of the first steps."""
    min_word_count: int = Field(5, ge=1)
    """Rarer words are left out."""
