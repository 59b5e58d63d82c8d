"""Numbers over time: append-only JSON lines, one record a line. Every plot reads them."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Record = dict[str, Any]


class MetricsWriter:
    """Appends records to a file; each line is flushed, so that a killed process loses at most the line it was in.

    Args:
        keep_until_step: records of later steps, and a line cut in half, are removed first; a resumed run writes
            them again.
    """

    def __init__(self, path: Path, keep_until_step: int | None = None):
        if keep_until_step is not None and path.exists():
            kept = [record for record in read_metrics(path) if record["step"] <= keep_until_step]
            path.write_text("".join(_encode(record) for record in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, **values: Any) -> None:
        self._file.write(_encode({"kind": kind, "step": step, **values}))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_metrics(path: Path, kind: str | None = None) -> Iterator[Record]:
    """Yields the records of one kind, or all; a last line that a killed process left unfinished is passed over."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            record: Record = json.loads(line)
            if kind is None or record["kind"] == kind:
                yield record


def _encode(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
