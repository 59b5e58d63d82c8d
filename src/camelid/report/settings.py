"""What a person can set about the report."""

from pydantic import Field

from camelid.settings import Settings


class ReportSettings(Settings):
    """The page about a run."""

    title: str | None = None
    """Heading of the page; the name of the run's folder unless given."""
    num_sample_steps: int = Field(6, gt=0)
    """Most steps whose samples are shown, spread evenly over the training."""
