"""Gets what is public: lists of files by version, downloads that go on where they stopped, checksums, polite rates."""

import email.utils
import gzip
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
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
_PRINTED = re.compile("[!-~]+")
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

        What was got before stays in `<name>.partial`, what the server calls its version in `<name>.partial.version`;
        the rest of the same version is asked for.

        Raises:
            UserError: the file is not there, its checksum differs twice, the server keeps failing, or the folder
                cannot be written.
        """
        target = folder / file.path
        if target.exists():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        for is_last in (False, True):
            self._insist(file.url, lambda: self._append(file, partial, advance))
            problem = _find_fault(file, partial)
            _version_path(partial).unlink(missing_ok=True)
            if not problem:
                partial.rename(target)
                return True
            partial.unlink()
            if is_last:
                raise UserError(f"{file.url} {problem}; try again later, or another mirror with --base-url")
        raise AssertionError

    def _append(self, file: RemoteFile, partial: Path, advance: Advance) -> None:
        start, version = _find_begun(file, partial)
        if start and start == file.num_bytes:
            return
        response = self._open_rest(file.url, start, version) if start else self._open(file.url)
        if response is None:
            return
        with response:
            # A server that knows no ranges, or has another version by now, sends all of it.
            is_rest = response.status == http.HTTPStatus.PARTIAL_CONTENT
            if is_rest and not response.headers.get("Content-Range", f"bytes {start}-").startswith(f"bytes {start}-"):
                raise http.client.HTTPException("the server sent another range than was asked for")
            try:
                with partial.open("ab" if is_rest else "wb") as out:
                    if not is_rest:
                        _version_path(partial).write_text(_name_version(response.headers), encoding="latin-1")
                    while chunk := _read_chunk(response):
                        out.write(chunk)
                        advance(len(chunk))
                        self._throttle(len(chunk))
            except OSError as error:
                raise UserError(
                    f"{partial.parent} could not be written ({error.strerror or error}); make room there and run it "
                    "again, what is here is kept"
                ) from error
            _check_whole(response)

    def _open_rest(self, url: str, start: int, version: str) -> Any:
        """What lacks beyond `start`, all of it where what is here is of another version, or None where nothing lacks.

        Args:
            version: of what is here, empty where it is not known and a checksum will tell.
        """
        try:
            response = self._open(url, start, version)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return None
            return self._open(url)
        found = _name_version(response.headers)
        if response.status != http.HTTPStatus.PARTIAL_CONTENT or not (version and found) or version == found:
            return response
        response.close()
        return self._open(url)

    def _open(self, url: str, start: int = 0, version: str = "") -> Any:
        check_address(url)
        wait = self._last + self._settings.seconds_between_requests - time.monotonic()
        if wait > 0:
            self._sleep(wait)
        self._last = time.monotonic()
        headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        if version:
            headers["If-Range"] = version
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.urlopen(request, timeout=self._settings.timeout_seconds)

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


def check_address(url: str) -> None:
    """
    Raises:
        UserError: files cannot be fetched from there.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        is_address = parts.scheme in ("http", "https") and bool(host) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_address = False
    if not is_address or "@" in parts.netloc or not _PRINTED.fullmatch(url):
        raise UserError(
            f"{url!r} is no web address; write it as http://host/path or https://host/path, with %20 for a blank"
        )


def _find_begun(file: RemoteFile, partial: Path) -> tuple[int, str]:
    """How many bytes are here that can be gone on from, and of what version they are, if that is known."""
    if not partial.exists():
        return 0, ""
    told = _version_path(partial)
    version = told.read_text(encoding="latin-1") if told.exists() else ""
    return partial.stat().st_size if version or file.checksum else 0, version


def _version_path(partial: Path) -> Path:
    return partial.with_name(partial.name + ".version")


def _name_version(headers: Any) -> str:
    """What tells one version of a file from another, as a server says it; weak tags do not."""
    tag = str(headers.get("ETag", ""))
    return tag if tag.startswith('"') else str(headers.get("Last-Modified", ""))


def _read_chunk(response: Any) -> bytes:
    """Reads on; what the connection does is told apart from what the disk does."""
    try:
        return bytes(response.read(_CHUNK_BYTES))
    except OSError as error:
        raise http.client.HTTPException(str(error)) from error


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
