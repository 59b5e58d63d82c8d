"""Downloads from a server on this machine that fails on purpose in every way that servers do."""

import gzip
import hashlib
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from camelid.cli.corpus import app
from camelid.corpus.fetch import Client, RemoteFile, fetch
from camelid.corpus.fetch_settings import FetchSettings
from camelid.corpus.manifests import PUBLISHERS, find_publisher
from camelid.errors import UserError

_DATA = bytes(range(256)) * 4000


class _Server(ThreadingHTTPServer):
    """What it serves, how it fails, and what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.failures: dict[str, list[str]] = {}
        self.requests: list[tuple[float, str, str | None]] = []
        self.answers: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        wanted = self.headers.get("Range")
        self.server.requests.append((time.monotonic(), path, wanted))
        failures = self.server.failures.get(path, [])
        failure = failures.pop(0) if failures else ""
        data = self.server.files.get(path)
        if data is None or failure.isdecimal():
            self.send_response(int(failure or 404))
            self.send_header("Retry-After", "7")
            self.end_headers()
            return
        if failure == "drop":
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and failure != "whole" else 0
        version = self.server.versions.get(path, {})
        if failure != "ignore If-Range" and self.headers.get("If-Range", "") not in {"", *version.values()}:
            start = 0
        if start and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.end_headers()
            return
        body = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        for name, value in version.items():
            self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if failure == "cut":
            body = body[: len(body) // 2]
        if failure == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.wfile.write(body)

    def send_response(self, code: int, message: str | None = None) -> None:
        self.server.answers.append(code)
        super().send_response(code, message)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class _Pauses(list[float]):
    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def _client(pauses: _Pauses | None = None, **changes: float | int) -> Client:
    values = {"seconds_between_requests": 0.0, "num_tries": 4, "first_wait_seconds": 1.0, "timeout_seconds": 5.0}
    return Client(FetchSettings.model_validate({**values, **changes}), pauses if pauses is not None else _Pauses())


def _file(server: _Server, name: str = "a.bin") -> RemoteFile:
    server.files[name] = _DATA
    return RemoteFile(f"{server.url}/{name}", name, "sha1:" + hashlib.sha1(_DATA).hexdigest(), len(_DATA))


def test_a_cut_connection_goes_on_where_it_was(server: _Server, tmp_path: Path) -> None:
    file = _file(server)
    server.failures["a.bin"] = ["cut", "cut", "drop"]
    assert _client().download(file, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == _DATA
    half, rest = len(_DATA) // 2, len(_DATA) // 2 + (len(_DATA) + 1) // 2 // 2
    assert [wanted for _, _, wanted in server.requests] == [None, f"bytes={half}-", f"bytes={rest}-", f"bytes={rest}-"]
    assert not list(tmp_path.glob("*.partial"))
    assert not _client().download(file, tmp_path)


def test_what_a_killed_process_left_is_taken_up(server: _Server, tmp_path: Path) -> None:
    file = _file(server)
    (tmp_path / "a.bin.partial").write_bytes(_DATA[:1000])
    _client().download(file, tmp_path)
    assert [wanted for _, _, wanted in server.requests] == ["bytes=1000-"]
    (tmp_path / "a.bin").rename(tmp_path / "a.bin.partial")
    assert _client().download(file, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == _DATA


def test_a_server_without_ranges_sends_it_again(server: _Server, tmp_path: Path) -> None:
    file = _file(server)
    (tmp_path / "a.bin.partial").write_bytes(_DATA[:1000])
    server.failures["a.bin"] = ["whole"]
    _client().download(file, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == _DATA


_TAG = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
_DATE = {"ETag": 'W/"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
_NEW_TAG = {"ETag": '"2"', "Last-Modified": "Fri, 02 Jan 2026 00:00:00 GMT"}
_NEW_DATE = {"ETag": 'W/"1"', "Last-Modified": "Fri, 02 Jan 2026 00:00:00 GMT"}


@pytest.mark.parametrize(
    ("before", "after", "failure", "answers"),
    [
        (_TAG, _TAG, "", [206]),
        (_DATE, _DATE, "", [206]),
        (_TAG, _NEW_TAG, "", [200]),
        (_DATE, _NEW_DATE, "", [200]),
        (_TAG, _NEW_TAG, "ignore If-Range", [206, 200]),
        (_DATE, _NEW_DATE, "ignore If-Range", [206, 200]),
        (_TAG, _NEW_TAG, "whole", [200]),
        (_TAG, {}, "", [200]),
        ({}, {}, "", [200]),
    ],
)
def test_only_the_same_version_goes_on(
    server: _Server,
    tmp_path: Path,
    before: dict[str, str],
    after: dict[str, str],
    failure: str,
    answers: list[int],
) -> None:
    file = RemoteFile(_file(server).url, "a.bin")
    server.versions["a.bin"] = before
    server.failures["a.bin"] = ["cut", failure]
    with pytest.raises(UserError, match="what is here is kept"):
        _client(num_tries=1).download(file, tmp_path)
    assert (tmp_path / "a.bin.partial").stat().st_size == len(_DATA) // 2
    server.versions["a.bin"] = after
    server.files["a.bin"] = _DATA if answers == [206] else _DATA[::-1]
    assert _client().download(file, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == server.files["a.bin"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert server.answers == [200, *answers]


@pytest.mark.parametrize(("num_more", "num_requests"), [(0, 1), (5, 2)])
def test_a_part_as_long_as_the_file_or_longer(
    server: _Server, tmp_path: Path, num_more: int, num_requests: int
) -> None:
    file = RemoteFile(_file(server).url, "a.bin")
    server.versions["a.bin"] = _TAG
    (tmp_path / "a.bin.partial").write_bytes(_DATA + bytes(num_more))
    (tmp_path / "a.bin.partial.version").write_text(_TAG["ETag"])
    assert _client().download(file, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == _DATA
    assert len(server.requests) == num_requests


def test_a_full_disk_is_no_failure_of_the_server(server: _Server, tmp_path: Path) -> None:
    file = _file(server)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"{tmp_path} could not be written \(File too large\); make room"):
            _client().download(file, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(server.requests) == 1
    assert (tmp_path / "a.bin.partial").read_bytes() == _DATA[:300_000]
    assert _client().download(file, tmp_path)
    assert [wanted for _, _, wanted in server.requests] == [None, "bytes=300000-"]
    (tmp_path / "b.bin.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device"):
        _client().download(_file(server, "b.bin"), tmp_path)


def test_wrong_bytes_are_fetched_once_more_and_then_refused(server: _Server, tmp_path: Path) -> None:
    file = _file(server)
    server.failures["a.bin"] = ["flip"]
    assert _client().download(file, tmp_path)
    server.failures["b.bin"] = ["flip", "flip"]
    with pytest.raises(UserError, match="has the sha1"):
        _client().download(_file(server, "b.bin"), tmp_path)
    assert not (tmp_path / "b.bin").exists()
    longer = RemoteFile(f"{server.url}/a.bin", "c.bin", num_bytes=len(_DATA) + 1)
    with pytest.raises(UserError, match="and its list says"):
        _client().download(longer, tmp_path)


def test_busy_servers_are_asked_again_when_they_say(server: _Server, tmp_path: Path) -> None:
    pauses = _Pauses()
    file = _file(server)
    server.failures["a.bin"] = ["503", "429", "drop"]
    assert _client(pauses).download(file, tmp_path)
    assert pauses == [7.0, 7.0, 4.0]
    server.failures["b.bin"] = ["500"] * 9
    with pytest.raises(UserError, match=r"answers 500 .* after 4 tries"):
        _client(_Pauses()).download(_file(server, "b.bin"), tmp_path)
    with pytest.raises(UserError, match=r"answers 404 .*look at the version"):
        _client().download(RemoteFile(f"{server.url}/none", "none"), tmp_path)
    assert Counter(path for _, path, _ in server.requests)["none"] == 1


def test_requests_and_bytes_keep_their_distance(server: _Server, tmp_path: Path) -> None:
    client = Client(FetchSettings(seconds_between_requests=0.15, max_bytes_per_second=1e8))
    for name in ("a", "b", "c"):
        client.download(_file(server, name), tmp_path)
    times = [moment for moment, _, _ in server.requests]
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.14
    pauses = _Pauses()
    _client(pauses, max_bytes_per_second=1000.0).download(_file(server, "d"), tmp_path)
    assert sum(pauses) == pytest.approx(len(_DATA) / 1000)


def test_lists_that_leave_the_folder_are_not_trusted(server: _Server, tmp_path: Path) -> None:
    for path in ("../x", "/x", "a/../../x"):
        with pytest.raises(UserError, match="is outside of"):
            list(fetch([RemoteFile(server.url, path)], tmp_path, _client()))
    with pytest.raises(UserError, match="is no web address"):
        _client().read("file:///etc/passwd")


@pytest.mark.parametrize(
    "address",
    [
        *("http://[::1", "http://a b", "http://host:port", "http://host:0", "http://", "http:///path", ""),
        *("http://a..b", "http://you@host", "http://host/ä", "http://host/a\tb", "ftp://host", "host/path"),
    ],
)
def test_what_is_no_address_is_refused_at_once(tmp_path: Path, address: str) -> None:
    words = ["fetch", "c4", "--out", str(tmp_path), "--base-url", address, "--dry-run"]
    refused = CliRunner().invoke(app, words).exception
    assert isinstance(refused, UserError)
    assert f"{address!r} is no web address" in str(refused)
    pauses = _Pauses()
    with pytest.raises(UserError, match="is no web address"):
        _client(pauses).read(address)
    assert not pauses


def _list(server: _Server, source: str, version: str) -> list[RemoteFile]:
    return list(find_publisher(source).list_files(_client(), server.url, version))


def test_lists_of_every_publisher_are_understood(server: _Server) -> None:
    paths = "crawl-data/X/segments/1/wet/a.wet.gz\ncrawl-data/X/segments/1/wet/b.wet.gz\n"
    server.files["crawl-data/X/wet.paths.gz"] = gzip.compress(paths.encode())
    assert [file.path for file in _list(server, "commoncrawl-wet", "X")] == ["X/wet/a.wet.gz", "X/wet/b.wet.gz"]
    digest = "a" * 40
    names = ["articles-multistream.xml.bz2", "articles-multistream1.xml-p1p41242.bz2", "articles1.xml-p1p2.bz2"]
    sums = "".join(f"{digest}  dawiki-20220701-pages-{name}\n" for name in names)
    server.files["dawiki/20220701/dawiki-20220701-sha1sums.txt"] = sums.encode()
    (piece,) = _list(server, "wikipedia", "dawiki/20220701")
    assert piece.path.endswith("multistream1.xml-p1p41242.bz2")
    assert piece.checksum == f"sha1:{digest}"
    server.files["books.csv"] = b"Text#,Type,Issued\n12,Text,2000\n13,Sound,2000\n14,Text,2001\n"
    assert [file.path for file in _list(server, "gutenberg", "books.csv")] == ["pg12.txt", "pg14.txt"]
    entry = "<file><filename>src/a_001.tar</filename><md5sum>d4</md5sum><size>12</size></file>"
    server.files["manifest.xml"] = f"<arXivSRC>{entry}</arXivSRC>".encode()
    assert _list(server, "arxiv", "manifest.xml")[0] == RemoteFile(
        f"{server.url}/src/a_001.tar", "src/a_001.tar", "md5:d4", 12
    )
    dump = '<files><file name="x.com.7z"><md5>9</md5><size>3</size></file><file name="x.meta.com.7z"/></files>'
    server.files["se/se_files.xml"] = dump.encode()
    assert [file.path for file in _list(server, "stackexchange", "se")] == ["x.com.7z"]
    assert len(_list(server, "c4", "en")) == 1032
    assert set(PUBLISHERS) > {"arxiv", "c4", "gutenberg", "stackexchange", "wikipedia"}


def test_hostile_lists_are_refused(server: _Server) -> None:
    server.files["m.xml"] = b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    with pytest.raises(UserError, match="declares entities"):
        _list(server, "arxiv", "m.xml")
    server.files["m.xml"] = b"<a>"
    with pytest.raises(UserError, match="is not XML"):
        _list(server, "arxiv", "m.xml")
    server.files["crawl-data/X/wet.paths.gz"] = gzip.compress(b"a" * 1000)[:-9]
    with pytest.raises(UserError, match="is damaged"):
        _list(server, "commoncrawl-wet", "X")
    with pytest.raises(UserError, match="name one of commoncrawl-wet"):
        find_publisher("books3")


def test_the_command_fetches_and_leaves_alone_what_is_there(server: _Server, tmp_path: Path) -> None:
    paths = [f"crawl-data/X/wet/{name}.wet.gz" for name in "abc"]
    server.files["crawl-data/X/wet.paths.gz"] = gzip.compress("\n".join(paths).encode())
    server.files.update(dict.fromkeys(paths, _DATA))
    words = ["fetch", "commoncrawl-wet", "--out", str(tmp_path), "--version", "X", "--base-url", server.url]
    words += ["--first", "1", "--limit", "2", "--set", "seconds_between_requests=0"]
    runner = CliRunner()
    listed = runner.invoke(app, [*words, "--dry-run"])
    assert listed.stdout.split() == [f"{server.url}/{path}" for path in paths[1:]]
    assert not list(tmp_path.iterdir())
    assert runner.invoke(app, words).stdout.count(": fetched") == 2
    assert runner.invoke(app, words).stdout.count(": was there") == 2
    refused = runner.invoke(app, [*words, "--first", "3"]).exception
    assert isinstance(refused, UserError)
    assert "only 3 files of commoncrawl-wet match" in str(refused)
    assert sorted(path.name for path in (tmp_path / "X" / "wet").iterdir()) == ["b.wet.gz", "c.wet.gz"]
