"""Readers of raw formats, a module for each kind of source. Each lists its files and yields the records of one file."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from camelid.corpus.settings import PythonLibrarySource, Source
from camelid.corpus.source_settings import StackExchangeSource, WikipediaSource
from camelid.corpus.sources.listing import is_utf8, list_all, show_path
from camelid.corpus.sources.record import Found, Unreadable
from camelid.corpus.web_settings import CommonCrawlSource
from camelid.errors import UserError


class Reader(Protocol):
    """What the module of a kind of source offers."""

    def list_files(self, source: Any, root: Path) -> list[str]:
        """Paths of the source's files below its root, in a fixed order."""

    def read_file(self, source: Any, root: Path, path: str) -> Found:
        """The records of one file, and what of it gives none."""


def source_root(source: Source, base: Path) -> Path:
    """The folder that a source's paths are relative to."""
    if isinstance(source, PythonLibrarySource):
        from camelid.corpus.sources import python_library

        return python_library.root()
    path = base / source.path
    return path.parent if path.is_file() else path


def list_files(source: Source, base: Path) -> list[str]:
    """Paths of a source's files below its root, in a fixed order.

    Raises:
        UserError: the folder is missing, holds nothing of the source's kind, or may not be read.
    """
    root = source_root(source, base)
    path = root if isinstance(source, PythonLibrarySource) else base / source.path
    if not path.exists():
        raise UserError(f"source {source.name!r}: {path} does not exist; mend corpus.sources in the recipe")
    if path.is_file():
        return [path.name]
    files = [file for file in _reader(source).list_files(source, root) if is_utf8(file)]
    if not files:
        others = list_all(root)
        found = f"{len(others):,} files, but none of kind {source.kind!r}" if others else "no files"
        raise UserError(f"source {source.name!r}: {path} holds {found}; put some there or name another folder")
    return files


def list_refused(source: Source, base: Path, files: Sequence[str]) -> list[Unreadable]:
    """The files that nothing is read from, and why; hidden files are none.

    Args:
        files: those of `list_files`.
    """
    if isinstance(source, PythonLibrarySource) or (base / source.path).is_file():
        return []
    wanted = set(files)
    found = []
    for path in list_all(source_root(source, base)):
        if not is_utf8(path):
            found.append(Unreadable(show_path(path), 0, "file name is not UTF-8", "rename it"))
        elif path not in wanted:
            found.append(Unreadable(path, 0, "file not wanted", _why_unwanted(source, path)))
    return found


def _why_unwanted(source: Source, path: str) -> str:
    if isinstance(source, StackExchangeSource):
        from camelid.corpus.sources import stack_exchange

        if stack_exchange.is_site(path):
            return f"not one of the {source.num_sites} largest sites"
    return f"not one that is read for kind {source.kind!r}"


def block_files(source: Source) -> int | None:
    """How many consecutive files of a source are compared with one another, None for all."""
    return source.block_files if isinstance(source, CommonCrawlSource) else None


def split_file(source: Source, root: Path, path: str, num_bytes: int) -> list[tuple[str, int]]:
    """Names of pieces of a file that `read_file` takes as well, with their bytes; most formats are read as a whole."""
    if isinstance(source, WikipediaSource):
        from camelid.corpus.sources import wikipedia

        return wikipedia.split_file(root, path, num_bytes)
    return [(path, (root / path).stat().st_size)]


def read_file(source: Source, root: Path, path: str) -> Found:
    """The records of one file, and what of it gives none."""
    return _reader(source).read_file(source, root, path)


def _reader(source: Source) -> Reader:
    """The module that is called like the source's kind, loaded when it is needed: most want libraries of their own."""
    try:
        return cast(Reader, importlib.import_module(f"camelid.corpus.sources.{source.kind}"))
    except ModuleNotFoundError as error:
        raise UserError(
            f"source {source.name!r} of kind {source.kind!r} needs the package {error.name}, which is not installed; "
            "run: pip install 'camelid[corpus]'"
        ) from error
