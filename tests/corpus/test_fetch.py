"""Downloads from a server on this machine that fails on purpose in every way that servers do."""

import gzip
import hashlib
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
        self.failures: dict[str, list[str]] = {}
        self.requests: list[tuple[float, str, str | None]] = []

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
        if start and start >= len(data):
            self.send_response(416)
            self.end_headers()
            return
        body = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if failure == "cut":
            body = body[: len(body) // 2]
        if failure == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.wfile.write(body)

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
    assert sorted(path.name for path in (tmp_path / "X" / "wet").iterdir()) == ["b.wet.gz", "c.wet.gz"]
