"""Numbers over time: append-only JSON lines, one record a line. Every plot reads them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from camelid.artifact import write_text_durably
from camelid.errors import UserError

Record = dict[str, Any]


class MetricsWriter:
    """Appends records to a file; each line is flushed, so that a killed process loses at most the line it was in.

    Args:
        keep_until_step: records of later steps are removed first; a resumed run writes them again. None keeps all. A
            line that was cut in half is removed in any case.

    Raises:
        UserError: the file has a damaged line.
    """

    def __init__(self, path: Path, keep_until_step: int | None = None):
        self._path = path
        _remove_later(path, keep_until_step)
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Appends one record; `kind` says what was measured, "train" or "held_out" for example."""
        self._file.write(_encode({"kind": kind, "step": step, **values}))
        self._file.flush()

    def rewind(self, step: int) -> None:
        """Removes the records of later steps, which are taken again."""
        self._file.close()
        _remove_later(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")

    def sync(self) -> None:
        """Waits until all records are on the disk and not only with the system."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_metrics(path: Path, kind: str | None = None) -> Iterator[Record]:
    """Yields the records of one kind, or all; a last line that a killed process left unfinished is passed over.

    Raises:
        UserError: a line is not a record.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            record = _decode(line, f"{path}, line {number}")
            if kind is None or record["kind"] == kind:
                yield record


def _remove_later(path: Path, keep_until_step: int | None) -> None:
    """Removes the records after a step, or none, and what is left of a line that was cut in half."""
    if not path.exists():
        return
    kept = [r for r in read_metrics(path) if keep_until_step is None or r["step"] <= keep_until_step]
    text = "".join(_encode(record) for record in kept)
    if len(text.encode()) != path.stat().st_size:
        write_text_durably(path, text)


def _encode(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _decode(line: bytes, where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged ({error}); restore the file or delete the line") from error
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str) or type(record.get("step")) is not int:
        raise UserError(f"{where} is not a record with kind and step; restore the file or delete the line")
    return record
