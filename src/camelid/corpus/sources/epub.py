"""The text of an EPUB: its documents in reading order, nothing of its styles, pictures and navigation."""

import io
import posixpath
import urllib.parse
import zipfile
import zlib
from dataclasses import dataclass

from lxml import etree

from camelid.corpus.sources.html_text import element_to_text, html_to_text

_MAX_BYTES = 64 << 20
_MAX_DOCUMENTS = 10_000
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PARSER = etree.XMLParser(
    resolve_entities=False, load_dtd=False, no_network=True, remove_comments=True, remove_pis=True, huge_tree=False
)


class EpubError(ValueError):
    """What is wrong with an EPUB, in a few words."""


@dataclass(frozen=True, slots=True)
class Epub:
    """What is wanted of an EPUB."""

    text: str
    title: str | None
    language: str | None


def read_epub(data: bytes) -> Epub:
    """The texts of the documents in the spine, apart by empty lines.

    Raises:
        EpubError: it is damaged, encrypted or too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read(_Files(archive))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise error if isinstance(error, EpubError) else EpubError(f"damaged: {error}") from error
    except (KeyError, etree.XMLSyntaxError, RecursionError) as error:
        raise EpubError(f"damaged: {error}") from error


class _Files:
    """The members of an archive, of which no more than `_MAX_BYTES` are read altogether."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.names = {name: name for name in archive.namelist()}
        self._archive = archive
        self._bytes_left = _MAX_BYTES

    def read(self, name: str) -> bytes:
        with self._archive.open(name) as file:
            data = file.read(self._bytes_left + 1)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise EpubError(f"larger than {_MAX_BYTES:,} bytes")
        return data


def _read(files: _Files) -> Epub:
    container = etree.fromstring(files.read(_CONTAINER), _PARSER)
    package_path = str(container.xpath("string(//*[local-name()='rootfile']/@full-path)"))
    package = etree.fromstring(files.read(package_path), _PARSER)
    folder = posixpath.dirname(package_path)
    hrefs = {
        item.get("id"): posixpath.normpath(posixpath.join(folder, urllib.parse.unquote(item.get("href", ""))))
        for item in package.xpath("//*[local-name()='manifest']/*[local-name()='item']")
        if "nav" not in (item.get("properties") or "").split()
    }
    spine = [item.get("idref") for item in package.xpath("//*[local-name()='spine']/*[local-name()='itemref']")]
    order = [hrefs[idref] for idref in dict.fromkeys(spine) if idref in hrefs][:_MAX_DOCUMENTS]
    _refuse_encrypted(files, order)
    texts = [_document_text(files.read(name)) for name in order if name in files.names]
    return Epub("\n\n".join(filter(None, texts)), _first(package, "title"), _first(package, "language"))


def _refuse_encrypted(files: _Files, order: list[str]) -> None:
    """Fonts may be scrambled; documents that are cannot be read."""
    if _ENCRYPTION in files.names:
        listed = etree.fromstring(files.read(_ENCRYPTION), _PARSER).xpath("//@URI")
        if {posixpath.normpath(urllib.parse.unquote(str(uri))) for uri in listed} & set(order):
            raise EpubError("encrypted")


def _document_text(data: bytes) -> str:
    try:
        return element_to_text(etree.fromstring(data, _PARSER))
    except etree.XMLSyntaxError:  # named entities, or not well-formed
        return html_to_text(data)


def _first(package: etree._Element, name: str) -> str | None:
    text = " ".join(str(package.xpath(f"string(//*[local-name()='{name}'])")).split())
    return text or None
