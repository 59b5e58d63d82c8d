"""What a person can set about the evaluation of a run."""

from pydantic import Field

from camelid.settings import Settings


class EvaluationSettings(Settings):
    """Held-out bits per byte beside general compressors, and text at the end."""

    context_share: float = Field(0.5, ge=0, lt=1)
    """Share of each window that is context only; higher is slower and a little better."""
    max_tokens: int = Field(10_000_000, gt=0)
    """Most held-out tokens per source, rounded up to whole documents."""
    max_compressor_bytes: int = Field(64 * 1024**2, gt=0)
    """Most bytes of training text that the compressors are given before the held-out text, the last ones of it."""
    prompts: tuple[str, ...] = ("",)
    """Beginnings that the finished model continues."""
    sample_tokens: int = Field(160, gt=0)
    """Length of each continuation in tokens."""
    temperature: float = Field(0.7, ge=0)
    """Sampling temperature of the continuations."""
