"""Which licence a source file is under: that of the nearest licence file above it, or the one that its header names."""

import functools
import itertools
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

# A name is a short one or words with capitals before "License"; "License: MIT" and "License.txt" end none.
_GAP = r"(?:[ \t]+|[ \t]*\n[ \t]*)"
_NAME = re.compile(
    r"\b(?:(?i:[al]?gpl)|(?:GFDL|MPL|EPL|CPL|CDDL|EUPL|OSL|SSPL|WTFPL|CC0|CC[- ]BY(?:-[A-Z]{2})*))(?=v?\d|\b)"
    r"|\b(?:MIT|X11|BSD|Apache)\b(?=[\w\s,./&-]{0,30}(?i:licen[cs]e|gpl))"
    rf"|(?<![\w+'-])[A-Z][\w+'-]*{_GAP}(?:(?:[A-Z][\w+'-]*|\d(?:[\w.-]*\w)?|and|of){_GAP}){{0,8}}"
    r"(?i:licen[cs]e)\b(?: Agreement)?(?!\.\w|\s*[:=]|\s+(?:MIT|BSD|ISC|L?GPL|Apache)\b)"
    rf"|\b(?i:general{_GAP}public|boost{_GAP}software){_GAP}(?i:licen[cs]e)\b|\bCreative Commons\b"
)
_NO_NAME = re.compile(
    r"the|this|that|see|an?|any|all|no|each|such|your|our|use|under|licensed|released|distributed|copyright|notice|and|of"
    r"|full|open|free|public|software|source|code|file|project|program|package|product|dual|begin|end|standard"
    r"|licen[cs]e|agreement",
    re.IGNORECASE,
)
# Short names as in settings; where two end at one place the stricter is first.
_SHORT_NAMES = {
    "AGPL": r"affero general public|agpl", "LGPL": r"(?:lesser|library) general public|lgpl", "OSL": r"open software",
    "GFDL": r"free documentation", "GPL": r"gnu|general public|gpl", "MPL": r"mozilla", "EPL": r"eclipse",
    "CPL": r"common public", "CDDL": r"common development and distribution", "BSL": r"boost",
    "PSF": r"python software foundation|psf", "CC0": r"creative commons zero", "Artistic": r"artistic", "Zlib": r"zlib",
    "ISC": r"\bisc\b", "Apache": r"apache", "BSD": r"bsd|berkeley", "MIT": r"\bmit\b|expat|\bx11\b|massachusetts",
}  # fmt: skip
_CHOICE = re.compile(r"\bdual(?:ly)?\b|\bchoice\b|\bchoose\b|\balternatively\b", re.IGNORECASE)
_OR = re.compile(r".{0,60}\bor\b.{0,60}|\s*/\s*", re.IGNORECASE | re.DOTALL)


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


def foreign_licences(header: str, allowed: Iterable[str]) -> list[str]:
    """Licences that a file's own header puts it under and that are none of the allowed ones.

    They are those of `header_licences`; where that finds none, those that the header calls by name.
    """
    allowed = tuple(allowed)
    if own := header_licences(header):
        return [licence for licence in own if not is_allowed(licence, allowed)]
    named = _named_licences(_COMMENT_MARKS.sub("", header[:_HEADER_CHARACTERS]))
    # A name says no version, so that "GPL" may be an allowed "GPL-3.0".
    return [
        name
        for short, name in named.items()
        if not is_allowed(short, allowed) and not any(is_allowed(entry, (short,)) for entry in allowed)
    ]


@functools.lru_cache(maxsize=1024)
def _named_licences(notice: str) -> dict[str, str]:
    """Licences that a notice calls by name, by short name, as the notice writes it; a choice counts as its first."""
    found: dict[str, str] = {}
    is_choice = bool(_CHOICE.search(notice))
    end = 0
    for match in _NAME.finditer(notice):
        short = _shorten(match[0])
        name = " ".join(itertools.dropwhile(_NO_NAME.fullmatch, match[0].split())) or (match[0] if short else "")
        # "LICENSE" and "license" may be a file or any licence: words before them count only where they are known.
        if not name or (not short and re.search(r"LICEN[CS]E|licen[cs]e", name)):
            continue
        if not found or not (is_choice or _OR.fullmatch(notice, end, match.start())):
            key = short or name.replace(" ", "-")
            found[key] = max(found.get(key, ""), name, key=len)
        end = match.end()
    return found


def _shorten(name: str) -> str:
    """The short name that the last words of a licence's name stand for; empty where they are not known."""
    ends = {short: [m.end() for m in re.finditer(words, name, re.IGNORECASE)] for short, words in _SHORT_NAMES.items()}
    return max((short for short in ends if ends[short]), key=lambda short: ends[short][-1], default="")


@functools.lru_cache(maxsize=1024)
def _identify_notice(notice: str) -> tuple[str, ...]:
    """A repository repeats its notice in every file, so that most are known already."""
    return tuple(dict.fromkeys(match.id for match in identify_license(notice, coverage_threshold=_HEADER_COVERAGE)))
