"""How politely and how insistently files are fetched."""

from pydantic import Field

from camelid.settings import Settings


class FetchSettings(Settings):
    """Manners of downloading."""

    seconds_between_requests: float = Field(1.0, ge=0)
    """Least time between two requests."""
    max_bytes_per_second: float | None = Field(None, gt=0)
    """Fastest download, or as fast as it comes."""
    num_tries: int = Field(6, ge=1)
    """Attempts at one request before giving up."""
    first_wait_seconds: float = Field(2.0, ge=0)
    """Pause after the first failure, which doubles with each; a server that names a time is obeyed."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Silence after which a connection is given up."""
