"""Stack Exchange dumps: a page for each question, its answers by score, highest first (paper section 2.1).

A site's Posts file is read once, as a stream. Its rows are kept apart by question in partitions small enough for
memory, which lie in a temporary file where the site is large; pages are made from one partition after another.
"""

import contextlib
import functools
import lzma
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import py7zr
from py7zr.exceptions import ArchiveError, PasswordRequired

from camelid.corpus.source_settings import StackExchangeSource
from camelid.corpus.sources.archive import READ_ERRORS, TAR_SUFFIXES, iterate_chunks, iterate_tar
from camelid.corpus.sources.html_text import html_to_text
from camelid.corpus.sources.listing import list_all
from camelid.corpus.sources.record import Found, RawRecord, Refused, Unreadable
from camelid.corpus.sources.spill import Spill
from camelid.corpus.sources.stack_exchange_posts import Attributes, Post, Rows, make_post

STEP = "pages"
_POSTS = "Posts.xml"
_OTHER_TABLES = re.compile(r"-(Badges|Comments|PostHistory|PostLinks|Tags|Users|Votes)\.7z$")
_PARTITION_BYTES = 64 << 20
_MAX_PARTITIONS = 4096
_QUESTION_OR_ANSWER = re.compile(rb'PostTypeId="[12]"')
_MATCH_BYTES = len(b'PostTypeId="1"')
_DAMAGE = (*READ_ERRORS, ArchiveError, PasswordRequired, lzma.LZMAError)

Feed = Callable[[bytes], None]


def list_files(source: StackExchangeSource, root: Path) -> list[str]:
    """The sites' archives and Posts files, those of the largest `num_sites` where there are more, sorted by path."""
    found = [path for path in list_all(root) if is_site(path)]
    if source.num_sites is None or len(found) <= source.num_sites:
        return found
    sizes = {name: _count_posts(root / name, (root / name).stat().st_mtime_ns) for name in found}
    largest = sorted(found, key=lambda name: (-sizes[name], name))[: source.num_sites]
    return sorted(largest)


def is_site(path: str) -> bool:
    """Whether a file of this name may hold a site's posts."""
    is_archive = path.endswith(TAR_SUFFIXES) or (path.endswith(".7z") and not _OTHER_TABLES.search(path))
    return is_archive or PurePosixPath(path).name == _POSTS


@functools.cache
def _count_posts(path: Path, _changed: int) -> int:
    """Questions and answers of a site, of a damaged one up to the damage."""
    number = 0
    rest = b""

    def count(chunk: bytes) -> None:
        nonlocal number, rest
        data = rest + chunk
        number += len(_QUESTION_OR_ANSWER.findall(data))
        # One byte less than a match, so that none is counted twice.
        rest = data[1 - _MATCH_BYTES :]

    with contextlib.suppress(*_DAMAGE):
        for _ in _feed_posts(path, path.name, lambda _name, _num_bytes: count):
            pass
    return number


def read_file(source: StackExchangeSource, root: Path, path: str) -> Found:
    """The pages of one site, and the rows that are on none."""
    tables: list[_Table] = []

    def open_table(name: str, num_bytes: int) -> Feed:
        tables.append(_Table(name, num_bytes))
        return tables[-1].rows.feed

    damage: Exception | None = None
    try:
        for _ in _feed_posts(root / path, path, open_table):
            yield from tables[-1].take_refusals()
    except _DAMAGE as error:
        damage = error
    for table in tables:
        yield from table.make_pages(source)
    if damage is not None:
        name, num_rows = (tables[-1].name, tables[-1].rows.num_rows) if tables else (path, 0)
        told = "it asks for a password" if isinstance(damage, PasswordRequired) else str(damage)
        yield Unreadable(name, num_rows, "damaged", f"{told} after {num_rows:,} rows, which were kept")
    elif not tables:
        yield Unreadable(path, 0, "no posts", f"it holds no {_POSTS}")


class _Table:
    """The posts of one site on their way to pages."""

    def __init__(self, name: str, num_bytes: int) -> None:
        self.name = name
        self.rows = Rows(self._take)
        self._spill = Spill(max(1, min(num_bytes // _PARTITION_BYTES, _MAX_PARTITIONS)))
        self._refusals: list[Refused | Unreadable] = []

    def take_refusals(self) -> Iterator[Refused | Unreadable]:
        """The rows since the last call that are on no page."""
        yield from self._refusals
        self._refusals.clear()

    def make_pages(self, source: StackExchangeSource) -> Found:
        """The pages, question by question within each partition."""
        self.rows.close()
        site = site_of(self.name)
        with self._spill:
            for partition in range(self._spill.num_partitions):
                questions: dict[int, Post] = {}
                answers: dict[int, list[Post]] = defaultdict(list)
                for item in self._spill.read(partition):
                    post = Post(*item)
                    if post.parent is not None:
                        answers[post.parent].append(post)
                    elif questions.setdefault(post.id, post) is not post:
                        self._refuse(post.row, "repeated id", f"question {post.id}")
                for number, question in sorted(questions.items()):
                    yield self._make_page(source, site, question, answers.pop(number, []))
                for orphan in (post for group in answers.values() for post in group):
                    self._refuse(orphan.row, "answer without its question", f"answer {orphan.id} to {orphan.parent}")
                yield from self.take_refusals()

    def _take(self, row: int, attributes: Attributes | str, num_bytes: int) -> None:
        if isinstance(attributes, str):
            self._refusals.append(Unreadable(self.name, row, "not XML", attributes))
            return
        post = make_post(attributes, row, num_bytes)
        if isinstance(post, str):
            self._refuse(row, "neither question nor answer", post)
        else:
            question = post.id if post.parent is None else post.parent
            self._spill.add(question % self._spill.num_partitions, post)

    def _refuse(self, row: int, reason: str, detail: str = "") -> None:
        self._refusals.append(Refused(self.name, row, STEP, reason, detail))

    def _make_page(
        self, source: StackExchangeSource, site: str, question: Post, answers: list[Post]
    ) -> RawRecord | Refused:
        title = " ".join(question.title.split())
        kept = [f"Q: {title}\n\n{html_to_text(question.body)}".strip()]
        for answer in sorted(answers, key=lambda post: (-post.score, post.id)):
            text = html_to_text(answer.body)
            if not text:
                self._refuse(answer.row, "empty answer")
            elif source.min_score is not None and answer.score < source.min_score:
                self._refuse(answer.row, "low score", f"score {answer.score}")
            else:
                kept.append(f"A: {text}")
        if len(kept) == 1 and not source.unanswered:
            return Refused(self.name, question.row, STEP, "no answers", title)
        return RawRecord(
            self.name,
            question.row,
            "\n\n".join(kept),
            url=f"https://{site}/questions/{question.id}",
            title=title or None,
            licence=question.licence or None,
            num_raw_bytes=question.num_bytes + sum(answer.num_bytes for answer in answers),
        )


def site_of(name: str) -> str:
    """The site's host: the folder around Posts.xml, or else the name of the archive."""
    archive, _, member = name.rpartition("!")
    folder = PurePosixPath(member).parent.name
    stem = PurePosixPath(archive).name
    for suffix in (*TAR_SUFFIXES, ".7z"):
        stem = stem.removesuffix(suffix)
    return folder or stem.removesuffix("-Posts") or "unknown"


def _feed_posts(file: Path, path: str, open_table: Callable[[str, int], Feed]) -> Iterator[None]:
    """Pushes the bytes of each Posts file into what `open_table` gives for its name and size; yields now and then."""
    if path.endswith(TAR_SUFFIXES):
        for member in iterate_tar(file):
            if PurePosixPath(member.name).name == _POSTS:
                feed = open_table(f"{path}!{member.name}", member.num_bytes)
                for chunk in iterate_chunks(member.stream):
                    feed(chunk)
                    yield
    elif path.endswith(".7z"):
        with py7zr.SevenZipFile(file) as archive:
            sizes = {m.filename: m.uncompressed for m in archive.list() if PurePosixPath(m.filename).name == _POSTS}
            archive.extract(
                targets=list(sizes), factory=_Writers(lambda name: open_table(f"{path}!{name}", sizes[name]))
            )
    else:
        feed = open_table(path, file.stat().st_size)
        with file.open("rb") as stream:
            for chunk in iterate_chunks(stream):
                feed(chunk)
                yield


class _Writers(py7zr.WriterFactory):
    """Hands what py7zr unpacks on to feeds, so that nothing is written to disk."""

    def __init__(self, open_feed: Callable[[str], Feed]) -> None:
        self._open_feed = open_feed

    def create(self, filename: str) -> "_Writer":
        return _Writer(self._open_feed(filename))


class _Writer(py7zr.Py7zIO):
    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._num_bytes = 0

    def write(self, s: bytes | bytearray) -> int:
        self._feed(bytes(s))
        self._num_bytes += len(s)
        return len(s)

    def read(self, size: int | None = None) -> bytes:
        return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0

    def flush(self) -> None:
        pass

    def size(self) -> int:
        return self._num_bytes
