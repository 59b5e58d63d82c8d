"""What publishers list: the files of a version of each source, with checksums where there are any."""

import re
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from camelid.corpus.fetch import Client, RemoteFile, unpack_list
from camelid.errors import UserError

_SUM_LINE = re.compile(r"([0-9a-f]{32,64})[ \t]+\*?(\S+)")
_SUM_NAMES = {32: "md5", 40: "sha1", 64: "sha256"}


@dataclass(frozen=True)
class Publisher:
    """Where a source is published."""

    base_url: str
    version: str
    """An example of one, and what is fetched unless another is named."""
    list_files: Callable[[Client, str, str], Iterator[RemoteFile]]
    """Takes the client, the base address and the version."""
    note: str = ""


def find_publisher(source: str) -> Publisher:
    """
    Raises:
        UserError: there is no such source.
    """
    if source not in PUBLISHERS:
        raise UserError(f"{source!r} is not among what can be fetched; name one of {', '.join(PUBLISHERS)}")
    return PUBLISHERS[source]


def _join(base: str, path: str) -> str:
    return f"{base.rstrip('/')}/{urllib.parse.quote(path.lstrip('/'))}"


def _common_crawl(kind: str) -> Callable[[Client, str, str], Iterator[RemoteFile]]:
    def list_files(client: Client, base: str, version: str) -> Iterator[RemoteFile]:
        listing = unpack_list(client.read(_join(base, f"crawl-data/{version}/{kind}.paths.gz")))
        for line in listing.split():
            yield RemoteFile(_join(base, line), f"{version}/{kind}/{line.rpartition('/')[2]}")

    return list_files


def _c4(_client: Client, base: str, version: str) -> Iterator[RemoteFile]:
    for split, count in (("train", 1024), ("validation", 8)):
        for number in range(count):
            name = f"{version}/c4-{split}.{number:05d}-of-{count:05d}.json.gz"
            yield RemoteFile(_join(base, name), name)


def _wikipedia(client: Client, base: str, version: str) -> Iterator[RemoteFile]:
    wiki, _, date = version.partition("/")
    if not re.fullmatch(r"\d{8}", date):
        raise UserError(f"a version of Wikipedia is a wiki and a date, enwiki/20220701 for example, not {version!r}")
    listing = unpack_list(client.read(_join(base, f"{wiki}/{date}/{wiki}-{date}-sha1sums.txt")))
    wanted = re.compile(rf"{re.escape(wiki)}-{date}-pages-articles-multistream\d*\.xml(?:-p\d+p\d+)?\.bz2")
    found = [(name, checksum) for name, checksum in _checksums(listing) if wanted.fullmatch(name)]
    # The whole and its pieces are both listed; the pieces can be read side by side.
    pieces = [item for item in found if "multistream.xml.bz2" not in item[0]]
    for name, checksum in pieces or found:
        yield RemoteFile(_join(base, f"{wiki}/{date}/{name}"), f"{wiki}/{date}/{name}", checksum)


def _gutenberg(client: Client, base: str, version: str) -> Iterator[RemoteFile]:
    listing = unpack_list(client.read(_join(base, version)))
    for number in re.findall(r"^(\d+),Text,", listing, re.MULTILINE):
        yield RemoteFile(_join(base, f"cache/epub/{number}/pg{number}.txt"), f"pg{number}.txt")


def _arxiv(client: Client, base: str, version: str) -> Iterator[RemoteFile]:
    for item in _parse_xml(client.read(_join(base, version)), "arXiv's manifest").iter("file"):
        name, checksum, size = (item.findtext(key, "") for key in ("filename", "md5sum", "size"))
        num_bytes = int(size) if size.isascii() and size.isdecimal() else None
        yield RemoteFile(_join(base, name), name, f"md5:{checksum}" if checksum else "", num_bytes)


def _stack_exchange(client: Client, base: str, version: str) -> Iterator[RemoteFile]:
    root = _parse_xml(client.read(_join(base, f"{version}/{version}_files.xml")), "the archive's list of files")
    for item in root.iter("file"):
        name, checksum, size = item.get("name", ""), item.findtext("md5", ""), item.findtext("size", "")
        if name.endswith(".7z") and "meta" not in name.split("."):
            num_bytes = int(size) if size.isascii() and size.isdecimal() else None
            yield RemoteFile(_join(base, f"{version}/{name}"), name, f"md5:{checksum}" if checksum else "", num_bytes)


def _checksums(listing: str) -> Iterator[tuple[str, str]]:
    """Name and checksum of each line of a list as sha1sum and its like write it."""
    for digest, name in _SUM_LINE.findall(listing):
        if len(digest) in _SUM_NAMES:
            yield name, f"{_SUM_NAMES[len(digest)]}:{digest}"


def _parse_xml(data: bytes, what: str) -> ElementTree.Element:
    try:
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise UserError(f"{what} declares entities, which no list of files needs; do not trust it")
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise UserError(f"{what} is not XML ({error}); name another version") from error


PUBLISHERS = {
    "commoncrawl-wet": Publisher("https://data.commoncrawl.org", "CC-MAIN-2019-30", _common_crawl("wet")),
    "commoncrawl-warc": Publisher("https://data.commoncrawl.org", "CC-MAIN-2019-30", _common_crawl("warc")),
    "c4": Publisher("https://huggingface.co/datasets/allenai/c4/resolve/main", "en", _c4),
    "wikipedia": Publisher("https://dumps.wikimedia.org", "enwiki/20220701", _wikipedia),
    "gutenberg": Publisher("https://www.gutenberg.org", "cache/epub/feeds/pg_catalog.csv", _gutenberg),
    "arxiv": Publisher(
        "https://arxiv.s3.amazonaws.com",
        "src/arXiv_src_manifest.xml",
        _arxiv,
        "arXiv's bucket asks for an account that pays for the transfer: name a mirror with --base-url",
    ),
    "stackexchange": Publisher("https://archive.org/download", "stackexchange", _stack_exchange),
}
