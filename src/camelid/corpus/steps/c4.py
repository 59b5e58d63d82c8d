"""The rules that make C4 of CommonCrawl's text, in the order of the released generator (Raffel et al. 2020).

First pass: page length, lines, sentences; then one page per address is chosen, and one page per line, or one place per
span of three sentences. Second pass: what is left, language, bad words.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from camelid.corpus.document import Document
from camelid.corpus.engine import Engine
from camelid.corpus.shuffle import mark, read_marks, write_keys
from camelid.corpus.steps.sentences import split_sentences
from camelid.corpus.task import Task, Work
from camelid.corpus.web_settings import C4Rules
from camelid.errors import UserError

NAME = "c4"
_URLS, _PIECES = "c4-urls", "c4-pieces"
_SPAN_SENTENCES = 3
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICY = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
_SUSPICIOUS = (b"lorem ipsum", b"javascript", b"{", b"terms of use")
# What all phrases of a kind have in common, and the phrases.
_SUSPICIOUS_PHRASES = (
    (b" policy", (b"privacy policy", b"cookie policy")),
    (b" cookies", (b"uses cookies", b"use of cookies", b"use cookies")),
)
# Besides A to Z, the only character whose small letter is one of a to z and nothing else.
_KELVIN_SIGN = "\N{KELVIN SIGN}".encode()
_ADDRESS = re.compile(r"[a-z]+://(?:www\.)?", re.IGNORECASE)
_TRACKING = re.compile(r"[?&](?:utm_[^&#]*|fbclid=[^&#]*|gclid=[^&#]*)")


@dataclass(frozen=True)
class _Edition:
    min_words: int
    min_sentences: int
    end_marks: tuple[str, ...]


_EDITIONS = {
    "generator": _Edition(5, 3, (".", "?", "!", '"')),
    "datatrove": _Edition(3, 5, (".", "?", "!", '"', "'")),
}


def normalise_address(url: str) -> str:
    """An address without scheme, `www.`, tracking queries and a slash at the end."""
    rest = _TRACKING.sub("", _ADDRESS.sub("", url, count=1))
    return rest.rstrip("/")


def apply_page_rules(rules: C4Rules, documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields the pages with the lines that stay, and stores the hashes of their addresses and of their pieces."""
    edition = _EDITIONS[rules.edition]
    urls: list[int] = []
    pieces: list[int] = []
    for document in documents:
        if len(document.text) > rules.max_page_characters:
            work.drops.add(document, NAME, "too long", f"{len(document.text):,} characters")
            continue
        lines, reason = filter_lines(document.text, rules, edition.min_words, edition.end_marks)
        if reason:
            work.drops.add(document, NAME, reason)
            continue
        if not _has_sentences(lines, edition.min_sentences):
            work.drops.add(document, NAME, "too few sentences")
            continue
        url = _hash(normalise_address(document.url))
        urls.append(url)
        # The lowest second column stays: of lines the page decides, of spans the order does.
        owner = url if rules.duplicates == "lines" else 0
        for key in _piece_keys(rules, lines):
            pieces += (key, owner)
        yield document.with_text("\n".join(lines))
    write_keys(work.path(_URLS), np.array(urls, np.uint64))
    write_keys(work.path(_PIECES), np.array(pieces, np.uint64).reshape(-1, 2))


def filter_lines(text: str, rules: C4Rules, min_words: int, end_marks: tuple[str, ...]) -> tuple[list[str], str]:
    """The lines of a page that stay, or the reason for which the whole page goes."""
    max_characters = rules.max_word_characters
    last_marks = frozenset(end_marks)
    kept = []
    for end in (*[match.start() for match in _line_ends(end_marks).finditer(text)], len(text)):
        line = text[text.rfind("\n", 0, end) + 1 : end].strip()
        if len(line) > max_characters and max(map(len, line.split())) > max_characters:
            continue
        if "[" in line:
            line = _CITATION.sub("", line)
        if line[-1:] not in last_marks or line.endswith("..."):
            continue
        if len(line.split(None, min_words - 1)) < min_words:
            continue
        kept.append(line)
    if _may_be_suspicious(kept):
        return _filter_suspicious(kept)
    return kept, "" if kept else "no line left"


def _may_be_suspicious(lines: Sequence[str]) -> bool:
    """Whether the rules that look for words find any."""
    text = "\n".join(lines)
    try:
        # Small letters cost a quarter in bytes, and words are found sooner there.
        words = text.encode().lower()
    except UnicodeEncodeError:
        return True
    if len(words) > len(text) and _KELVIN_SIGN in words:
        return True
    for word in _SUSPICIOUS:
        if word in words:
            return True
    return any(common in words and any(map(words.__contains__, phrases)) for common, phrases in _SUSPICIOUS_PHRASES)


@cache
def _line_ends(end_marks: tuple[str, ...]) -> re.Pattern[str]:
    """Where lines end that may stay: after an end mark, or what may stand behind one, a blank or a citation mark.

    Few lines of the web do, and only they become strings of their own. The line break comes first in the pattern, so
    that the machine that matches it runs once a line and not once a character.
    """
    return re.compile(rf"\n(?<=[{re.escape(''.join(end_marks))}\]\s]\n)")


def _filter_suspicious(lines: Sequence[str]) -> tuple[list[str], str]:
    """The rules that look for words, for the few pages that have any of them."""
    kept = []
    for line in lines:
        lowered = line.lower()
        if "lorem ipsum" in lowered:
            return [], "lorem ipsum"
        if "javascript" in lowered:
            continue
        if "{" in line:
            return [], "curly bracket"
        if ("cookie" in lowered or "policy" in lowered or "terms of use" in lowered) and _POLICY.search(lowered):
            continue
        kept.append(line)
    return kept, "" if kept else "no line left"


def _has_sentences(lines: Sequence[str], number: int) -> bool:
    # Each line ends a sentence, so the lines alone are often enough.
    return len(lines) >= number or sum(len(split_sentences(line)) for line in lines) >= number


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8], "little")


def _piece_keys(rules: C4Rules, lines: Sequence[str]) -> list[int]:
    """Hashes of what must not come twice: each line, or each span of three sentences."""
    if rules.duplicates == "lines":
        return [_hash(line.lower()) for line in lines]
    sentences = [sentence.lower() for line in lines for sentence in split_sentences(line)]
    number = len(sentences) - _SPAN_SENTENCES + 1
    return [_hash("\n".join(sentences[place : place + _SPAN_SENTENCES])) for place in range(max(number, 0))]


def decide(rules: C4Rules, tasks: Sequence[Task], folder: Path, engine: Engine) -> dict[str, Any]:
    """Marks pages of an address that came before, and pieces that another place holds.

    Of equal lines the one on the page whose address has the lowest hash stays, and once on that page; of equal spans
    the first.
    """
    name, memory_bytes = tasks[0].source.name, tasks[0].settings.memory_bytes
    files = [task.folder / _URLS for task in tasks]
    mark(files, folder / f"{name}-{_URLS}", "later", memory_bytes, engine)
    files = [task.folder / _PIECES for task in tasks]
    num_pieces, num_repeated = mark(files, folder / f"{name}-{_PIECES}", "not_lowest", memory_bytes, engine)
    return {f"{rules.duplicates}_compared": num_pieces, f"{rules.duplicates}_repeated": num_repeated}


def remove_repeated(rules: C4Rules, documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields one page per address without what other pages have; those with too few sentences left are dropped."""
    edition = _EDITIONS[rules.edition]
    is_again = read_marks(work.path(_URLS), work.task.shared_folder).tolist()
    is_repeated = read_marks(work.path(_PIECES), work.task.shared_folder).tolist()
    place = 0
    for number, document in enumerate(documents):
        lines = document.text.split("\n")
        sentences = [split_sentences(line) for line in lines] if rules.duplicates == "spans" else []
        length = len(lines)
        if rules.duplicates == "spans":
            length = max(sum(map(len, sentences)) - _SPAN_SENTENCES + 1, 0)
        marks = is_repeated[place : place + length]
        place += length
        if is_again[number]:
            work.drops.add(document, NAME, "address again", document.url)
            continue
        if any(marks):
            if rules.duplicates == "lines":
                lines = [line for line, mark_ in zip(lines, marks, strict=True) if not mark_]
            else:
                lines = _remove_spans(sentences, marks)
            if not _has_sentences(lines, edition.min_sentences):
                work.drops.add(document, NAME, "too few sentences of its own")
                continue
            document = document.with_text("\n".join(lines))
        yield document
    assert place == len(is_repeated), f"{place} pieces were read and {len(is_repeated)} compared"


def _remove_spans(sentences: Sequence[Sequence[str]], marks: Sequence[bool]) -> list[str]:
    """The lines without the sentences of marked spans."""
    gone = {place + step for place, is_marked in enumerate(marks) if is_marked for step in range(_SPAN_SENTENCES)}
    lines = []
    number = 0
    for line in sentences:
        kept = [sentence for place, sentence in enumerate(line, start=number) if place not in gone]
        number += len(line)
        if kept:
            lines.append(" ".join(kept))
    return lines


def drop_bad_words(rules: C4Rules, documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields the pages without any term of the list."""
    if rules.bad_words is None:
        yield from documents
        return
    terms = load_bad_words(work.task.base / rules.bad_words)
    for document in documents:
        if found := terms.search(document.text.lower()):
            work.drops.add(document, NAME, "bad word", found[0])
        else:
            yield document


@cache
def load_bad_words(path: Path) -> re.Pattern[str]:
    """A pattern of all terms of a file, each bounded by what is no letter.

    Raises:
        UserError: the file is missing, empty or not UTF-8.
    """
    try:
        terms = {line.strip().lower() for line in path.read_text(encoding="utf-8").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of bad words ({error}); mend rules.bad_words") from error
    if not terms:
        raise UserError(f"{path} holds no terms; leave rules.bad_words out, or name another file")
    longest_first = sorted(terms, key=lambda term: (-len(term), term))
    return re.compile(rf"(?<![^\W\d_])(?:{'|'.join(map(re.escape, longest_first))})(?![^\W\d_])")
