"""Wikipedia dumps: pages of MediaWiki's export format become articles in plain text (paper section 2.1)."""

import html
import itertools
import mmap
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Set
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.parsers import expat

from camelid.corpus.source_settings import WikipediaSource
from camelid.corpus.sources.archive import iterate_chunks
from camelid.corpus.sources.bzip2 import STREAM, iterate_streams
from camelid.corpus.sources.listing import list_all
from camelid.corpus.sources.record import Found, RawRecord, Refused, Unreadable
from camelid.corpus.sources.wikitext import wikitext_to_text

STEP = "pages"
_DUMP = re.compile(r"\.xml(?:-p\d+p\d+[\w-]*)?(?:\.bz2)?\Z")
_WIKI = re.compile(r"([a-z]{2,3}|simple|[a-z]{2,}(?:[-_][a-z]+)+)wiki(?=\W|\Z)")
_REDIRECT = re.compile(r"\s*#\s*redirect", re.IGNORECASE)
_RANGE = re.compile(r"(.+)@(\d+)-(\d+)\Z")
_PAGE, _PAGE_END = b"<page>", b"</page>"
_FIELDS = frozenset({"title", "ns", "redirect", "revision/text", "revision/model"})
_FIELD_DEPTH = 3
_MAX_PAGE_BYTES = 64 << 20
_MAX_HEADER_BYTES = 1 << 20

# Namespaces of files and categories in the wikis of the paper, old names too, and in some others.
_HIDDEN_NAMES = """
    file image media category archivo imagen archivos categoría fichier catégorie datei bild kategorie bestand
    afbeelding categorie immagine categoria ficheiro imagem arquivo fitxer imatge plik grafika kategoria soubor obrázek
    fájl kép kategória fișier fişier imagine fil billede kategori datoteka slika kategorija датотека слика категорија
    файл картинка категория изображение категорія зображення tiedosto kuva luokka restr skeudenn rummad fasciculus imago
    dosya resim ملف صورة تصنيف ファイル 画像 カテゴリ 파일 그림 분류 文件 图像 檔案 圖像 分类 分類
"""
_HIDDEN = frozenset(_HIDDEN_NAMES.split())


class _Part(NamedTuple):
    """Some unpacked bytes of a dump."""

    name: str
    """The file; for bzip2 streams after the first with the place of the stream in it."""
    data: bytes
    is_beyond: bool = False
    """Whether the bytes are only wanted for the end of a page that began before them."""
    problem: str = ""
    """What is wrong after these bytes."""


class _Page(NamedTuple):
    """A page of a dump, or what is wrong in its place."""

    name: str
    number: int
    """Within its stream; -1 for what stands before the first page."""
    data: bytes
    problem: str = ""


def list_files(source: WikipediaSource, root: Path) -> list[str]:
    """Dumps below a folder, sorted; indexes and hidden files are left out."""
    names = ((path, PurePosixPath(path).name) for path in list_all(root))
    return [path for path, name in names if _DUMP.search(name) and "index" not in name]


def split_file(root: Path, path: str, num_bytes: int) -> list[tuple[str, int]]:
    """Pieces of about `num_bytes` of a dump, cut where a bzip2 stream begins: names that `read_file` takes, and bytes.

    The pieces have the same pages under the same names as the whole. A dump of a single stream is one piece.
    """
    size = (root / path).stat().st_size
    if not path.endswith(".bz2") or size <= num_bytes:
        return [(path, size)]
    starts = [0]
    with (root / path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        while match := STREAM.search(data, starts[-1] + num_bytes):
            starts.append(match.start())
    if len(starts) == 1:
        return [(path, size)]
    pieces = zip(starts, [*starts[1:], size], strict=True)
    return [(f"{path}@{start}-{end}", end - start) for start, end in pieces]


def read_file(source: WikipediaSource, root: Path, path: str) -> Found:
    """The articles of one dump or a piece of it, and the pages that are none."""
    piece = _RANGE.match(path)
    start, end = (int(piece[2]), int(piece[3])) if piece else (0, None)
    path = piece[1] if piece else path
    match = _WIKI.match(PurePosixPath(path).name)
    wiki = source.language or (match[1] if match else None)
    if wiki and source.languages and wiki not in source.languages:
        if start == 0:
            yield Refused(path, 0, STEP, "language not wanted", wiki)
        return
    hidden: Set[str] = _HIDDEN
    pages = _iterate_pages(_read_parts(root / path, path, start, end))
    if start:
        pages = itertools.chain(itertools.islice(_iterate_pages(_read_parts(root / path, path, 0, None)), 1), pages)
    for page in pages:
        if page.number < 0:
            header = page.data.decode("utf-8", "replace")
            wiki = wiki or _find_language(header)
            hidden = hidden | _find_names(header)
        elif page.problem:
            yield Unreadable(page.name, page.number, "damaged", page.problem)
        else:
            yield _read_page(source, wiki or "en", hidden, page)


def _read_page(source: WikipediaSource, wiki: str, hidden: Set[str], page: _Page) -> RawRecord | Refused | Unreadable:
    try:
        fields = _read_fields(page.data)
    except expat.ExpatError as error:
        return Unreadable(page.name, page.number, "not XML", str(error))
    title = fields.get("title", "")
    namespace = fields.get("ns", "0")
    text = fields.get("revision/text", "")
    model = fields.get("revision/model", "wikitext")

    def refuse(reason: str, detail: str = title) -> Refused:
        return Refused(page.name, page.number, STEP, reason, detail)

    if not namespace.isdecimal() or int(namespace) not in source.namespaces:
        return refuse("namespace", namespace)
    if "redirect" in fields or _REDIRECT.match(text):
        return refuse("redirect")
    if model != "wikitext":
        return refuse("not wikitext", model)
    plain = wikitext_to_text(text, title, hidden)
    if not plain:
        return refuse("no text")
    return RawRecord(
        page.name,
        page.number,
        f"{title}\n\n{plain}" if source.with_title else plain,
        url=f"https://{wiki}.wikipedia.org/wiki/{urllib.parse.quote(title.replace(' ', '_'), safe='/:(),')}",
        title=title,
        language="en" if wiki == "simple" else wiki,
        num_raw_bytes=len(page.data),
    )


def _read_fields(page: bytes) -> dict[str, str]:
    """The text of a page's elements by their paths, of the last revision and of the first element of a name.

    expat gathers an article's text in one buffer; a tree would take it entity by entity, which is half as fast.
    """
    fields: dict[str, str] = {}
    opened: list[str] = []
    wanted: str | None = None

    def start(name: str, _attributes: dict[str, str]) -> None:
        nonlocal wanted
        opened.append(name)
        path = "/".join(opened[1:]) if len(opened) <= _FIELD_DEPTH else ""
        if path == "revision":
            fields.pop("revision/text", None)
            fields.pop("revision/model", None)
        wanted = None
        if path in _FIELDS and path not in fields:
            fields[path] = ""
            wanted = path

    def end(_name: str) -> None:
        nonlocal wanted
        opened.pop()
        wanted = None

    def add(text: str) -> None:
        if wanted is not None:
            fields[wanted] += text

    parser = expat.ParserCreate(None, "}")
    parser.buffer_text, parser.buffer_size = True, len(page)
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, add
    parser.Parse(page, True)
    return fields


def _iterate_pages(parts: Iterable[_Part]) -> Iterator[_Page]:
    buffer = b""
    page_name, number = "", -1
    is_in_page = is_too_large = False
    # Places in the buffer: what is wanted begins, needs no more search, and is no longer beyond.
    position = searched = own_end = 0
    for part in parts:
        if part.is_beyond and not is_in_page and (own_end <= position or not _may_begin_page(buffer)):
            return
        if part.data:
            buffer = buffer[position:] + part.data
            position, searched, own_end = 0, searched - position, own_end - position
        own_end = own_end if part.is_beyond else len(buffer)
        while True:
            if not is_in_page:
                start = buffer.find(_PAGE, position)
                if start < 0:
                    position = max(position, len(buffer) - (_MAX_HEADER_BYTES if number < 0 else len(_PAGE)))
                    break
                if number < 0:
                    yield _Page(part.name, -1, buffer[position:start])
                if start >= own_end:
                    return
                number = number + 1 if part.name == page_name else 0
                page_name, is_in_page, is_too_large = part.name, True, False
                position = searched = start
            end = buffer.find(_PAGE_END, searched)
            if end < 0:
                is_too_large = is_too_large or len(buffer) - position > _MAX_PAGE_BYTES
                searched = max(position, len(buffer) - len(_PAGE_END))
                position = searched if is_too_large else position
                break
            end += len(_PAGE_END)
            problem = f"the page is longer than {_MAX_PAGE_BYTES:,} bytes" if is_too_large else ""
            yield _Page(page_name, number, buffer[position:end], problem)
            position, is_in_page = end, False
        if part.problem:
            yield _Page(part.name, number + (not is_in_page), b"", part.problem)
            buffer, position, own_end, is_in_page = b"", 0, 0, False
    if is_in_page:
        yield _Page(page_name, number, b"", "the file ends inside this page")


def _may_begin_page(end: bytes) -> bool:
    return any(end.endswith(_PAGE[:length]) for length in range(1, len(_PAGE)))


def _read_parts(file: Path, path: str, start: int, end: int | None) -> Iterator[_Part]:
    """The unpacked bytes of the streams that begin between two places, and of those after them, marked as beyond."""
    with file.open("rb") as stream:
        if not path.endswith(".bz2"):
            yield from (_Part(path, data) for data in iterate_chunks(stream))
            return
        for place, data, problem in iterate_streams(stream, start):
            name = f"{path}!{place}" if place else path
            yield _Part(name, data, end is not None and place >= end, problem)


def _find_language(header: str) -> str | None:
    """The language that a dump names itself."""
    match = re.search(r"<mediawiki[^>]*\bxml:lang=\"([a-z-]+)\"", header)
    return match[1] if match else None


def _find_names(header: str) -> frozenset[str]:
    """Names of the namespaces of files and categories in this wiki, in lower case."""
    return frozenset(
        html.unescape(name).lower() for name in re.findall(r'<namespace key="(?:6|14)"[^>]*>([^<]+)<', header)
    )
