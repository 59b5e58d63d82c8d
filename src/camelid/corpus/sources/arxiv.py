"""arXiv sources: each paper's LaTeX in one piece, from its first section to its bibliography (paper section 2.1)."""

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from camelid.corpus.source_settings import ArxivSource
from camelid.corpus.sources.archive import READ_ERRORS, Member, iterate_tar, read_at_most
from camelid.corpus.sources.latex import Document
from camelid.corpus.sources.latex_body import cut_body, find_title
from camelid.corpus.sources.latex_macros import EndlessMacroError
from camelid.corpus.sources.listing import list_all
from camelid.corpus.sources.record import Found, RawRecord, Refused, Unreadable

STEP = "papers"
_PAPERS = (".tar.gz", ".tgz", ".gz", ".tar", ".tex", ".pdf")
_SOURCES = (".tex", ".ltx", ".latex", ".sty", ".cls", ".bbl", ".lhs", ".def", ".txt", ".inc", ".tikz", "")
_NOT_MAIN = (".sty", ".cls", ".bbl", ".def")
_MAX_PAPER_BYTES = 256 << 20
_MAX_FILE_BYTES = 16 << 20
_MAX_SOURCE_BYTES = 64 << 20
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*")
_BEGIN = re.compile(r"\\begin\s*\{document\}")
_STANDALONE = re.compile(r"\\documentclass(?:\[[^\]]*\])?\s*\{(?:standalone|beamer|minimal)\}")
_INPUT = re.compile(r"\\(?:input|include|subfile)\s*\{?\s*([^\s{}\\]+)")
_ENCODING = re.compile(r"\\usepackage\s*\[\s*([\w-]+)\s*\]\s*\{inputenc\}")
_ENCODINGS = {
    "latin1": "cp1252", "ansinew": "cp1252", "cp1252": "cp1252", "latin2": "iso-8859-2", "latin5": "iso-8859-9",
    "latin9": "iso-8859-15", "cp1250": "cp1250", "cp1251": "cp1251", "koi8-r": "koi8-r", "applemac": "mac-roman",
}  # fmt: skip
_MIN_LINE_CHARACTERS = 30
_MAX_SHARED_LINES = 0.8
_NEW_ID = re.compile(r"\d{4}\.\d{4,5}(?:v\d+)?\Z")
_OLD_ID = re.compile(r"([a-z-]+(?:\.[A-Z]{2})?)_?(\d{7}(?:v\d+)?)\Z")


def list_files(source: ArxivSource, root: Path) -> list[str]:
    """Papers and bulk archives below a folder, sorted; hidden ones are left out."""
    return [path for path in list_all(root) if path.endswith(_PAPERS)]


def read_file(source: ArxivSource, root: Path, path: str) -> Found:
    """The papers of a file, mostly one."""
    try:
        with (root / path).open("rb") as file:
            if path.endswith(".tar") and _is_bulk(root / path):
                yield from _read_bulk(source, root / path, path)
            else:
                yield from _read_paper(source, path, Member(path, 0, file))
    except READ_ERRORS as error:
        yield Unreadable(path, 0, "damaged", str(error))


def _is_bulk(path: Path) -> bool:
    """Whether a tar holds papers, as arXiv's monthly ones do, and not the files of one."""
    member = next((m for m in iterate_tar(path)), None)
    return member is not None and member.name.endswith((".gz", ".pdf"))


def _read_bulk(source: ArxivSource, file: Path, path: str) -> Found:
    number = 0
    try:
        for member in iterate_tar(file):
            if member.name.endswith(_PAPERS):
                number += 1
                yield from _read_paper(source, f"{path}!{member.name}", member)
    except READ_ERRORS as error:
        yield Unreadable(path, number, "damaged", f"{error} after {number} papers, which were kept")


def _read_paper(source: ArxivSource, name: str, member: Member) -> Found:
    if member.name.endswith(".pdf"):
        yield Refused(name, 0, STEP, "PDF only")
        return
    try:
        data = _unpack(member)
    except READ_ERRORS as error:
        yield Unreadable(name, 0, "damaged", str(error))
        return
    if data is None:
        yield Unreadable(name, 0, "too large", f"more than {_MAX_PAPER_BYTES:,} bytes unpacked")
        return
    if data.startswith(b"%PDF"):
        yield Refused(name, 0, STEP, "PDF only")
        return
    try:
        files = _read_sources(data)
    except READ_ERRORS as error:
        yield Unreadable(name, 0, "damaged", str(error))
        return
    yield from _make_records(source, name, files, len(data))


def _unpack(member: Member) -> bytes | None:
    """A paper's bytes without gzip, None where there are too many."""
    data = read_at_most(member.stream, _MAX_PAPER_BYTES)
    if data is None or not data.startswith(b"\x1f\x8b"):
        return data
    decompressor = zlib.decompressobj(wbits=31)
    unpacked = decompressor.decompress(data, _MAX_PAPER_BYTES + 1)
    if len(unpacked) > _MAX_PAPER_BYTES:
        return None
    if not decompressor.eof:
        raise gzip.BadGzipFile("the gzip stream is cut short")
    return unpacked


def _read_sources(data: bytes) -> dict[str, str]:
    """The texts of a paper by path; what is no TeX is left out."""
    if data[257:262] != b"ustar" and not _looks_like_old_tar(data):
        return {"main.tex": _decode({"main.tex": data})["main.tex"]}
    found: dict[str, bytes] = {}
    num_bytes = 0
    for member in iterate_tar(data):
        path = PurePosixPath(member.name)
        if path.name.startswith("._") or path.suffix.lower() not in _SOURCES:
            continue
        text = read_at_most(member.stream, _MAX_FILE_BYTES)
        if text is None or b"\0" in text[:1000]:
            continue
        num_bytes += len(text)
        if num_bytes > _MAX_SOURCE_BYTES:
            break
        found[str(PurePosixPath(*(part for part in path.parts if part not in ("/", "."))))] = text
    return _decode(found)


def _looks_like_old_tar(data: bytes) -> bool:
    """Whether bytes begin like a tar header from before ustar: a name, zeros, octal numbers."""
    return (
        len(data) >= 512 and data[:1] != b"\0" and b"\0" in data[1:100] and bool(re.match(rb"[ 0-7]{6}", data[100:106]))
    )


def _decode(found: Mapping[str, bytes]) -> dict[str, str]:
    """The texts of a paper, by UTF-8 or the encoding that one of them names."""
    named = (_ENCODING.search(data.decode("latin-1")) for data in found.values())
    encoding = next((_ENCODINGS.get(match[1].lower(), "cp1252") for match in named if match), "cp1252")
    texts = {}
    for path, data in found.items():
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode(encoding, "replace")
        texts[path] = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    return texts


def _make_records(
    source: ArxivSource, name: str, files: Mapping[str, str], num_bytes: int
) -> Iterator[RawRecord | Refused]:
    mains = find_mains(files)
    if not mains:
        yield Refused(name, 0, STEP, "no LaTeX", f"{len(files)} files")
        return
    reasons = []
    papers: list[tuple[int, str, str | None, str]] = []
    for number, main in enumerate(mains):
        document = Document(files)
        try:
            text = document.expand(main)
        except EndlessMacroError as error:
            reasons.append(("endless macros", f"{main}: {error}"))
            continue
        body = cut_body(text, appendices=source.appendices, without_sections=source.without_sections)
        if not body.strip():
            reasons.append(("no section" if not source.without_sections else "no text", main))
            continue
        papers.append((number, main, find_title(text), body))
    if not papers:
        yield Refused(name, 0, STEP, *reasons[0])
    versions = _find_versions([body for *_, body in papers])
    is_counted = False
    for place, (number, main, title, body) in enumerate(papers):
        path = f"{name}!{main}" if len(files) > 1 else name
        if place in versions:
            yield Refused(path, number, STEP, "version of another file", papers[versions[place]][1])
            continue
        yield RawRecord(path, number, body, url=_url(name), title=title, num_raw_bytes=0 if is_counted else num_bytes)
        is_counted = True


def _find_versions(bodies: Sequence[str]) -> dict[int, int]:
    """The texts of an archive that are for the most part another one's, with that one: the longer or the first."""
    lines = [{line for line in body.split("\n") if len(line) >= _MIN_LINE_CHARACTERS} for body in bodies]
    found: dict[int, int] = {}
    order = sorted(range(len(bodies)), key=lambda place: -len(lines[place]))
    for rank, place in enumerate(order):
        for longer in order[:rank]:
            if longer not in found and len(lines[place] & lines[longer]) > _MAX_SHARED_LINES * len(lines[place]):
                found[place] = longer
                break
    return found


def find_mains(files: Mapping[str, str]) -> list[str]:
    """The documents of a paper: files that begin one and are input by no other; without any, the longest file."""
    bare = {
        path: _COMMENT.sub(r"\1", text)
        for path, text in files.items()
        if PurePosixPath(path).suffix.lower() not in _NOT_MAIN
    }
    begun = [path for path, text in bare.items() if _BEGIN.search(text)]
    inputs = {
        str(PurePosixPath(asked).with_suffix("")).removeprefix("./")
        for text in bare.values()
        for asked in _INPUT.findall(text)
    }
    mains = [path for path in begun if str(PurePosixPath(path).with_suffix("")) not in inputs]
    papers = [path for path in mains if not _STANDALONE.search(bare[path])]
    if papers or mains or begun:
        return sorted(papers or mains or begun)
    plain = [path for path, text in bare.items() if "\\" in text and PurePosixPath(path).suffix.lower() != ".txt"]
    return [max(plain, key=lambda path: (len(bare[path]), path))] if plain else []


def _url(name: str) -> str:
    """The address of a paper whose file is called after its number."""
    stem = PurePosixPath(name.rpartition("!")[2]).name
    for ending in _PAPERS:
        stem = stem.removesuffix(ending)
    if _NEW_ID.match(stem):
        return f"https://arxiv.org/abs/{stem}"
    old = _OLD_ID.match(stem)
    return f"https://arxiv.org/abs/{old[1]}/{old[2]}" if old else name
