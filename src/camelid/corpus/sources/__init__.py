"""Readers of raw formats. Each lists its files and yields the records of one file."""

from collections.abc import Iterator
from pathlib import Path

from camelid.corpus.settings import FolderSource, PythonLibrarySource, Source
from camelid.corpus.sources import folder, python_library
from camelid.corpus.sources.record import RawRecord, Unreadable
from camelid.errors import UserError


def source_root(source: Source, base: Path) -> Path:
    """The folder that a source's paths are relative to."""
    match source:
        case FolderSource():
            root = base / source.path
            return root.parent if root.is_file() else root
        case PythonLibrarySource():
            return python_library.root()


def list_files(source: Source, base: Path) -> list[str]:
    """Paths of a source's files below its root, sorted.

    Raises:
        UserError: the folder is missing or empty.
    """
    match source:
        case FolderSource():
            path = base / source.path
            if not path.exists():
                raise UserError(f"source {source.name!r}: {path} does not exist; mend corpus.sources in the recipe")
            files = [path.name] if path.is_file() else folder.list_files(path)
        case PythonLibrarySource():
            path = python_library.root()
            files = python_library.list_files(path)
    if not files:
        raise UserError(f"source {source.name!r}: {path} holds no files; put text there or mend corpus.sources")
    return files


def read_file(source: Source, root: Path, path: str) -> Iterator[RawRecord | Unreadable]:
    """The records of one file, and what of it could not be read."""
    match source:
        case FolderSource():
            return folder.read_file(source, root, path)
        case PythonLibrarySource():
            return python_library.read_file(root, path)
