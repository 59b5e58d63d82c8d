"""What every source of files has in common."""

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
