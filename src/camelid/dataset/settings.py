"""What a person can set about the dataset."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from camelid.settings import Settings


class DatasetSettings(Settings):
    """Documents as token shards, and the proportions in which training draws from their sources."""

    mixture: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Share of each source in the training, scaled to a sum of 1; when empty, sources count by their tokens."""
    shard_tokens: int = Field(2**26, gt=0)
    """Tokens in one file; the last file of a source holds the rest."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mixture and not sum(self.mixture.values()):
            raise ValueError("mixture gives no source a share above 0")
        return self
