"""Gets what is public: lists of files by version, downloads that go on where they stopped, checksums, polite rates."""

import email.utils
import gzip
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from camelid import __version__
from camelid.corpus.fetch_settings import FetchSettings
from camelid.errors import UserError
from camelid.progress import Advance, progress

_CHUNK_BYTES = 1 << 18
_MAX_LIST_BYTES = 256 << 20
_AGENT = f"camelid/{__version__} (corpus fetch)"
_MAX_WAIT_SECONDS = 300.0
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class RemoteFile:
    """A file to get."""

    url: str
    path: str
    """Where it goes, relative to the folder."""
    checksum: str = ""
    """`md5:...`, `sha1:...` or `sha256:...`, or empty where the publisher gives none."""
    num_bytes: int | None = None


class Client:
    """Sends one request at a time, never faster than is polite, and tries again what failed in passing."""

    def __init__(self, settings: FetchSettings, sleep: Callable[[float], None] = time.sleep) -> None:
        self._settings = settings
        self._sleep = sleep
        self._last = 0.0

    def read(self, url: str, max_bytes: int = _MAX_LIST_BYTES) -> bytes:
        """The whole of a small file.

        Raises:
            UserError: it is not there, is too large, or the server keeps failing.
        """

        def attempt() -> bytes:
            with self._open(url, 0) as response:
                data = bytes(response.read(max_bytes + 1))
                if len(data) > max_bytes:
                    raise UserError(f"{url} has more than {max_bytes:,} bytes, which no list of files has")
                _check_whole(response)
                return data

        found: bytes = self._insist(url, attempt)
        return found

    def download(self, file: RemoteFile, folder: Path, advance: Advance = lambda _: None) -> bool:
        """Gets one file unless it is there; says whether it had to.

        What was got before stays in `<name>.partial`, and the rest is asked for.

        Raises:
            UserError: the file is not there, its checksum differs twice, or the server keeps failing.
        """
        target = folder / file.path
        if target.exists():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        for is_last in (False, True):
            self._insist(file.url, lambda: self._append(file, partial, advance))
            problem = _find_fault(file, partial)
            if not problem:
                partial.rename(target)
                return True
            partial.unlink()
            if is_last:
                raise UserError(f"{file.url} {problem}; try again later, or another mirror with --base-url")
        raise AssertionError

    def _append(self, file: RemoteFile, partial: Path, advance: Advance) -> None:
        start = partial.stat().st_size if partial.exists() else 0
        if file.num_bytes is not None and start == file.num_bytes:
            return
        with self._open(file.url, start) as response:
            # A server that knows no ranges sends all of it again.
            is_rest = response.status == http.HTTPStatus.PARTIAL_CONTENT
            if is_rest and not response.headers.get("Content-Range", f"bytes {start}-").startswith(f"bytes {start}-"):
                raise http.client.HTTPException("the server sent another range than was asked for")
            with partial.open("ab" if is_rest else "wb") as out:
                while chunk := response.read(_CHUNK_BYTES):
                    out.write(chunk)
                    advance(len(chunk))
                    self._throttle(len(chunk))
            _check_whole(response)

    def _open(self, url: str, start: int) -> Any:
        if not url.startswith(("https://", "http://")):
            raise UserError(f"{url} is no web address; files are fetched by http and https only")
        wait = self._last + self._settings.seconds_between_requests - time.monotonic()
        if wait > 0:
            self._sleep(wait)
        self._last = time.monotonic()
        headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(url, headers=headers)
        try:
            return urllib.request.urlopen(request, timeout=self._settings.timeout_seconds)
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
                # Nothing is left to send, or what is here belongs to another version: the checksum tells.
                return _Nothing()
            raise

    def _throttle(self, num_bytes: int) -> None:
        if self._settings.max_bytes_per_second is not None:
            self._sleep(num_bytes / self._settings.max_bytes_per_second)

    def _insist(self, url: str, attempt: Callable[[], Any]) -> Any:
        pause = self._settings.first_wait_seconds
        for number in range(self._settings.num_tries):
            try:
                return attempt()
            except urllib.error.HTTPError as error:
                reason = f"answers {error.code} ({error.reason})"
                if error.code not in _TRY_AGAIN:
                    raise UserError(f"{url} {reason}; look at the version, or name a mirror with --base-url") from error
                asked = _retry_after(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException) as error:
                reason, asked = f"does not come through ({error})", None
            if number + 1 < self._settings.num_tries:
                self._sleep(min(asked if asked is not None else pause, _MAX_WAIT_SECONDS))
                pause *= 2
        raise UserError(
            f"{url} {reason} after {self._settings.num_tries} tries; run it again later, what is here is kept"
        )


class _Nothing:
    """The answer of a server that has no bytes beyond those that are here."""

    status = http.HTTPStatus.PARTIAL_CONTENT
    length = 0
    headers: dict[str, str] = {}  # noqa: RUF012 (never written)

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def read(self, _num_bytes: int = -1) -> bytes:
        return b""


def _check_whole(response: Any) -> None:
    """Notices a connection that ended early, which the standard library passes over when reading in pieces."""
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _find_fault(file: RemoteFile, path: Path) -> str:
    """What is wrong with a downloaded file in words, or nothing."""
    num_bytes = path.stat().st_size if path.exists() else 0
    if file.num_bytes is not None and num_bytes != file.num_bytes:
        return f"has {num_bytes:,} bytes, and its list says {file.num_bytes:,}"
    if file.checksum:
        algorithm, _, wanted = file.checksum.partition(":")
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
        if found != wanted.lower():
            return f"has the {algorithm} {found[:12]}, and its list says {wanted[:12]}"
    return ""


def fetch(
    files: Sequence[RemoteFile], folder: Path, client: Client, *, is_listed_only: bool = False
) -> Iterator[tuple[RemoteFile, bool]]:
    """Gets files one after another; yields each, and whether it had to be got.

    Raises:
        UserError: a file would lie outside the folder, or cannot be had.
    """
    for file in files:
        pure = PurePosixPath(file.path)
        if pure.is_absolute() or ".." in pure.parts:
            raise UserError(f"the list of files names {file.path!r}, which is outside of {folder}; do not trust it")
    for file in files:
        if is_listed_only:
            yield file, False
            continue
        with progress(PurePosixPath(file.path).name, file.num_bytes, "bytes") as advance:
            got = client.download(file, folder, advance)
        yield file, got


def unpack_list(data: bytes) -> str:
    """The text of a list of files, gzip or plain."""
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise UserError(f"a list of files is damaged ({error}); run it again") from error
    return data.decode("utf-8", "replace")
