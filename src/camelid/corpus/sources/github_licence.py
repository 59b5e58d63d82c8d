"""Which licence a source file is under: that of the nearest licence file above it, or the one that its header names."""

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from licenseclassifier import identify_license

MAX_LICENCE_BYTES = 256 << 10
_MIN_LICENCE_CHARACTERS = 400
_LICENCE_FILE = re.compile(
    r"(?:un)?licen[sc]e(?:[-_.](?:mit|apache|bsd|isc|gpl|lgpl|agpl|mpl|cc0|v?[\d.]+|\d-clause))*(?:\.(?:txt|md|rst|html|markdown))?\Z"
    r"|(?:mit|apache|bsd|mit[-_]apache)[-_]licen[sc]e(?:\.(?:txt|md))?\Z"
    r"|copying(?:\.lesser|\.lib)?(?:\.(?:txt|md))?\Z",
    re.IGNORECASE,
)
_SPDX = re.compile(
    r"SPDX-License-Identifier:\s*\(?\s*([A-Za-z0-9.+-]+)((?:\s+(?:OR|AND|WITH)\s+[A-Za-z0-9.+-]+)*)", re.IGNORECASE
)
_COMMENT_MARKS = re.compile(r"^[ \t]*(?:[#*;%!'\"|/-]+|dnl|REM)[ \t]?", re.MULTILINE)
_HEADER_CHARACTERS = 20_000
_HEADER_COVERAGE = 20.0


def is_licence_file(name: str) -> bool:
    """Whether a file of this name holds the licence of the files beside and below it."""
    return bool(_LICENCE_FILE.match(PurePosixPath(name).name))


def identify(text: str) -> tuple[str, ...]:
    """SPDX names of the licences whose text a licence file is, each once; none where it is not a known one."""
    return tuple(dict.fromkeys(match.id for match in identify_license(text[:MAX_LICENCE_BYTES])))


def nearest_licence(path: str, licences: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """What the licence files in the nearest folder above a file say, None where there are none.

    Args:
        licences: by folder, "." for the outermost.
    """
    for folder in PurePosixPath(path).parents:
        found = licences.get(str(folder))
        if found is not None:
            return found
    return None


def collect(files: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The licences by folder of licence files given by path and text; a folder with several has all of them.

    A text of some length that is no known licence counts as "unknown", a short one, which points to another place, not.
    """
    found: dict[str, tuple[str, ...]] = {}
    for path, text in files:
        folder = str(PurePosixPath(path).parent)
        names = identify(text) or (("unknown",) if len(text) >= _MIN_LICENCE_CHARACTERS else ())
        if names:
            found[folder] = tuple(dict.fromkeys((*found.get(folder, ()), *names)))
    return found


def is_allowed(licence: str, allowed: Iterable[str]) -> bool:
    """Whether a licence is one of the allowed ones or a version of one, whatever its case."""
    name = licence.lower()
    return any(name == entry.lower() or name.startswith(entry.lower() + "-") for entry in allowed)


def header_licences(header: str) -> tuple[str, ...]:
    """SPDX names of the licences that a file's own header puts it under; a choice counts as its first."""
    match = _SPDX.search(header[:_HEADER_CHARACTERS])
    if match is not None:
        joined = match[2].upper()
        return (match[1], *re.findall(r"AND\s+(\S+)", joined)) if " AND " in joined else (match[1],)
    return _identify_notice(_COMMENT_MARKS.sub("", header[:_HEADER_CHARACTERS]))


@functools.lru_cache(maxsize=1024)
def _identify_notice(notice: str) -> tuple[str, ...]:
    """A repository repeats its notice in every file, so that most are known already."""
    return tuple(dict.fromkeys(match.id for match in identify_license(notice, coverage_threshold=_HEADER_COVERAGE)))
