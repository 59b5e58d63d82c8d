"""Reads a whole source as a build does, without building."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from camelid.corpus.settings import Source
from camelid.corpus.sources import list_files, read_file, source_root
from camelid.corpus.sources.record import RawRecord, Refused, Unreadable

_SOURCE: TypeAdapter[Source] = TypeAdapter(Source)


def read_source(base: Path, **settings: Any) -> tuple[list[RawRecord], list[Refused | Unreadable]]:
    """The records of a source, and what gave none."""
    found = list(iterate_source(base, **settings))
    return (
        [record for record in found if isinstance(record, RawRecord)],
        [record for record in found if not isinstance(record, RawRecord)],
    )


def iterate_source(base: Path, **settings: Any) -> Iterator[RawRecord | Refused | Unreadable]:
    """Everything that a source yields, in its order."""
    source = _SOURCE.validate_python({"name": "source", "path": ".", **settings})
    root = source_root(source, base)
    for path in list_files(source, base):
        yield from read_file(source, root, path)
