"""Documents that share a passage with an evaluation set: an n-gram of words, 13 as in the GPT-3 paper, in common."""

import csv
import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, cast

from camelid.corpus.document import Document
from camelid.corpus.task import Work
from camelid.corpus.web_settings import DecontaminationSettings
from camelid.errors import UserError

NAME = "decontaminate"
_WORD = re.compile(r"\w+")
_ANCHOR_WORDS = 4
_READ_ERRORS = (OSError, EOFError, zlib.error, tarfile.TarError)


def find_overlap(settings: DecontaminationSettings, documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields the documents; those with a passage of an evaluation set are counted and, where so set, dropped."""
    if not settings.files:
        yield from documents
        return
    passages = load_passages(tuple(work.task.base / file for file in settings.files), settings.ngram_words)
    for document in documents:
        found = passages.find(document.text)
        if not found:
            yield document
            continue
        work.counts["contaminated_documents"] += 1
        for name in sorted(found):
            work.counts[f"contaminated by {name}"] += 1
        if not settings.is_dropped:
            yield document
            continue
        name, passage = sorted(found.items())[0]
        work.drops.add(document, NAME, "shares a passage", f"{name}: {passage}")


class Passages:
    """The n-grams of evaluation sets, by hash, with the set that each comes from."""

    def __init__(self, ngram_words: int) -> None:
        self._length = ngram_words
        self._anchor = min(_ANCHOR_WORDS, ngram_words)
        self._names: list[str] = []
        self._grams: dict[bytes, int] = {}
        self._anchors: set[str] = set()

    def __len__(self) -> int:
        return len(self._grams)

    def add(self, name: str, text: str) -> None:
        """Takes the n-grams of one text; one that is shorter than an n-gram has none."""
        plain, starts = _join_words(text)
        if len(starts) > self._length and name not in self._names:
            self._names.append(name)
        for start in range(len(starts) - self._length):
            begin = starts[start]
            gram = plain[begin : starts[start + self._length]]
            self._grams.setdefault(_hash(gram), self._names.index(name))
            self._anchors.add(plain[begin : starts[start + self._anchor]])

    def find(self, text: str) -> dict[str, str]:
        """The sets that share a passage with a text, each with the first passage."""
        plain, starts = _join_words(text)
        found: dict[str, str] = {}
        anchors, step = self._anchors, self._anchor
        for start in range(len(starts) - self._length):
            begin = starts[start]
            # Hashing only what begins like a passage is several times faster than hashing every n-gram.
            if plain[begin : starts[start + step]] in anchors:
                gram = plain[begin : starts[start + self._length]]
                number = self._grams.get(_hash(gram))
                if number is not None:
                    found.setdefault(self._names[number], gram.strip())
        return found


def _join_words(text: str) -> tuple[str, list[int]]:
    """The words, each with a blank behind it, and where each begins and the last one ends."""
    words = _WORD.findall(text.lower())
    return " ".join(words) + " ", [0, *accumulate(len(word) + 1 for word in words)]


def _hash(gram: str) -> bytes:
    return hashlib.blake2b(gram.encode(), digest_size=8).digest()


@cache
def load_passages(paths: tuple[Path, ...], ngram_words: int) -> Passages:
    """The passages of evaluation files, loaded once in a process.

    Raises:
        UserError: a file cannot be read, or none of a path has a passage.
    """
    passages = Passages(ngram_words)
    for path in paths:
        num_before = len(passages)
        if not path.exists():
            raise UserError(f"{path} does not exist; mend corpus.decontamination.files")
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path.parent).as_posix()
            try:
                for text in _read_texts(file):
                    passages.add(name, text)
            except (*_READ_ERRORS, UnicodeDecodeError, csv.Error) as error:
                raise UserError(f"{file} cannot be read as an evaluation set ({error}); mend or remove it") from error
        if len(passages) == num_before:
            told = f"{path} holds no text of {ngram_words} words that the files before it do not hold"
            raise UserError(f"{told}; put evaluation sets there or mend corpus.decontamination.files")
    return passages


def _read_texts(file: Path) -> Iterator[str]:
    if file.name.endswith((".tar.gz", ".tar", ".tgz")):
        with tarfile.open(file) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield from _texts_of(member.name, stream.read())
        return
    with file.open("rb") as opened:
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=opened)) if file.suffix == ".gz" else opened
        yield from _texts_of(file.name.removesuffix(".gz"), stream.read())


def _texts_of(name: str, data: bytes) -> Iterable[str]:
    text = data.decode("utf-8-sig")
    if name.endswith((".jsonl", ".json")):
        try:
            values: list[Any] = [json.loads(text)]
        except ValueError:
            values = [_load(line) for line in text.splitlines() if line.strip()]
        return (found for value in values for found in _strings(value))
    if name.endswith((".csv", ".tsv")):
        rows = csv.reader(io.StringIO(text), delimiter="\t" if name.endswith(".tsv") else ",")
        return (cell for row in rows for cell in row)
    return text.split("\n\n")


def _load(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
