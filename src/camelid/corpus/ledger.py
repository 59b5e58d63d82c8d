"""The books of a build: what came in is what went out and what was dropped, each drop with step and reason."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa

from camelid.corpus.document import Document, write_rows

_EXCERPTS = 2
_EXCERPT_CHARACTERS = 600
LEDGER_NAME = "ledger.parquet"


@dataclass(frozen=True, slots=True)
class Drop:
    """One record or document that did not come through."""

    source: str
    path: str
    offset: int
    part: int
    step: str
    """Name of the step that dropped it."""
    reason: str
    detail: str = ""
    score: float | None = None
    """What the step measured, where it measures."""
    excerpt: str | None = None
    """How the text begins, for a few drops of each reason."""


class Drops:
    """What a task did not keep, in its order."""

    def __init__(self) -> None:
        self.rows: list[Drop] = []
        self._num_excerpts: Counter[tuple[str, str]] = Counter()

    def add(self, document: Document, step: str, reason: str, detail: str = "", *, score: float | None = None) -> None:
        """Books a document; the first ones of each reason leave an excerpt, for people to look at."""
        excerpt = None
        if self._num_excerpts[step, reason] < _EXCERPTS:
            self._num_excerpts[step, reason] += 1
            excerpt = document.text[:_EXCERPT_CHARACTERS]
        place = (document.source, document.path, document.offset, document.part)
        self.rows.append(Drop(*place, step, reason, detail, score, excerpt))


LEDGER_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("part", pa.int64(), nullable=False),
        pa.field("step", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("excerpt", pa.string()),
    ]
)


@dataclass
class Books:
    """Counts of one source."""

    records_in: int = 0
    """Records that were met, readable or not."""
    bytes_in: int = 0
    """UTF-8 bytes of the readable ones."""
    parts_added: int = 0
    """Documents that came into being because a record was cut."""
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By step and reason."""

    def add(self, other: "Books") -> None:
        """Adds the counts of a task."""
        self.records_in += other.records_in
        self.bytes_in += other.bytes_in
        self.parts_added += other.parts_added
        self.dropped += other.dropped

    def check(self, source: str, num_out: int) -> None:
        """Stops the build unless every record is accounted for."""
        expected = self.records_in + self.parts_added - self.dropped.total()
        if num_out != expected:
            raise RuntimeError(
                f"the books of source {source} do not balance: {self.records_in} records in, {self.parts_added} parts "
                f"added, {self.dropped.total()} dropped, but {num_out} documents out"
            )

    def by_step(self) -> dict[str, dict[str, int]]:
        """The drops as step -> reason -> number."""
        steps: dict[str, dict[str, int]] = {}
        for (step, reason), number in sorted(self.dropped.items()):
            steps.setdefault(step, {})[reason] = number
        return steps


def write_ledger(path: Path, drops: Iterable[Drop]) -> None:
    """Writes drops as Parquet."""
    write_rows(path, (asdict(drop) for drop in drops), LEDGER_SCHEMA)
