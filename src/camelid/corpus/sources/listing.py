"""Which files lie below a folder."""

import os
from pathlib import Path

from camelid.errors import UserError


def list_all(root: Path) -> list[str]:
    """All regular files by relative path, sorted; hidden ones and linked folders are left out.

    Raises:
        UserError: a file or folder may not be read.
    """
    found = []
    for folder, subfolders, names in os.walk(root, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for path in (Path(folder, name) for name in names if not name.startswith(".")):
            if path.is_file():
                if not os.access(path, os.R_OK):
                    raise UserError(f"{path} may not be read; allow it, or take the file away")
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


def is_utf8(path: str) -> bool:
    """Whether the bytes of a path are UTF-8, as the paths of all records are."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "ignore") == path


def show_path(path: str) -> str:
    """A path with the bytes that are not UTF-8 written out."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename} may not be read ({error.strerror}); allow it, or take the folder away")
