"""The Python standard library on this machine: real source code that everyone who runs Camelid already has."""

import os
import platform
import sysconfig
from pathlib import Path, PurePosixPath

from camelid.corpus.settings import PythonLibrarySource
from camelid.corpus.sources.github_header import strip_header
from camelid.corpus.sources.github_quality import find_fault, is_wanted
from camelid.corpus.sources.record import Found, RawRecord, Refused, Unreadable, decode

STEP = "code"
_EXCLUDED_FOLDERS = {"test", "tests", "idle_test", "encodings", "site-packages", "dist-packages", "__pycache__"}


def root() -> Path:
    """Where the library lies."""
    return Path(sysconfig.get_path("stdlib"))


def list_files(source: PythonLibrarySource, library: Path) -> list[str]:
    """Source files, sorted; tests, encoding tables and installed packages are left out."""
    found = []
    for folder, subfolders, names in os.walk(library):
        # Never entered: site-packages may hold a hundred times as many files as the library.
        subfolders[:] = [name for name in subfolders if name not in _EXCLUDED_FOLDERS]
        paths = (Path(folder, name) for name in names if name.endswith(".py"))
        found += [path.relative_to(library).as_posix() for path in paths if path.is_file()]
    return sorted(found)


def read_file(source: PythonLibrarySource, library: Path, path: str) -> Found:
    """The one record of a source file, after the rules of GitHub's sources where they are set.

    All of the library is under one licence, so that no header is asked for another.
    """
    try:
        text = decode((library / path).read_bytes())
    except UnicodeDecodeError as error:
        yield Unreadable(path, 0, "not UTF-8", f"byte {error.start}")
        return
    num_raw_bytes = len(text.encode())
    if source.quality is not None:
        text = strip_header(text).text
        if not is_wanted(path, source.quality):
            yield Refused(path, 0, STEP, "other suffix")
            return
        if num_raw_bytes > source.quality.max_bytes:
            yield Refused(path, 0, STEP, "too large", f"{num_raw_bytes:,} bytes")
            return
        if (fault := find_fault(text, source.quality)) is not None:
            yield Refused(path, 0, STEP, *fault)
            return
    major, minor, _ = platform.python_version_tuple()
    url = f"python-{major}.{minor}/{path}"
    yield RawRecord(path, 0, text, url=url, title=PurePosixPath(path).stem, num_raw_bytes=num_raw_bytes)
