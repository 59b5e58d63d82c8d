"""Books: what Project Gutenberg puts around them is gone, whatever its age and encoding, and EPUBs of any make."""

import bz2
import gzip
import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from read_source import read_source

from camelid.corpus.sources import epub
from camelid.corpus.sources.epub import EpubError, read_epub
from camelid.corpus.sources.gutenberg import decode_book, strip_gutenberg
from camelid.corpus.sources.record import RawRecord

_BODY = "CHAPTER I\n\nIt was a dark and stormy night; the rain fell in torrents.\n\nTHE END"


@pytest.fixture(scope="module")
def real_books(shared_data: Path) -> dict[str, RawRecord]:
    """The books of the sample by their name in the archive."""
    records, others = read_source(shared_data / "books", kind="books")
    assert not others
    return {record.path.rpartition("!")[2]: record for record in records}


def test_every_real_book_is_without_what_was_around_it(real_books: Mapping[str, RawRecord]) -> None:
    assert len(real_books) == 93
    for name, record in real_books.items():
        for words in (
            "* START OF TH",
            "* END OF TH",
            "SMALL PRINT",
            "www.gutenberg",
            "FULL LICENSE",
            "Character set encoding",
        ):
            assert words not in record.text, (name, words)
        assert not record.text.lower().startswith(("produced by", "transcribed", "project gutenberg", "*project"))
        assert record.num_raw_bytes is not None
        assert len(record.text) > 0.7 * record.num_raw_bytes - 25_000
        is_gutenberg = name.startswith("gutenberg")
        assert (record.licence is not None, record.language) == (is_gutenberg, "en" if is_gutenberg else None)
    assert real_books["gutenberg/5200.txt"].licence == "copyrighted, Project Gutenberg Licence"
    assert real_books["gutenberg/1342-0.txt"].licence == "public domain in the USA"


@pytest.mark.parametrize(
    ("name", "title", "beginning", "end"),
    [
        (
            "gutenberg/1342-0.txt",
            "Pride and Prejudice",
            "PRIDE AND PREJUDICE\n\nBy Jane Austen\n\n\n\nChapter 1\n\n\nIt is a truth universally acknowledged",
            "had been the means of uniting them.",
        ),
        (
            "gutenberg/1260.txt",  # ***START OF THE PROJECT without a blank
            "Jane Eyre an Autobiography",
            "JANE EYRE\nAN AUTOBIOGRAPHY\n\n\nBY\nCHARLOTTE BRONTE",
            "respond,--'Amen; even so come, Lord Jesus!'\"",
        ),
        ("gutenberg/1112.txt", "Romeo and Juliet", "", "Exeunt omnes.\n\nTHE END"),
        (
            "gutenberg/76-0.txt",
            "Adventures of Huckleberry Finn, Complete",
            "ADVENTURES\n\nOF",
            "YOURS TRULY, _HUCK FINN_.",
        ),
        ("gutenberg-10000s/10008-8.txt", "The Mystery", "THE MYSTERY\n\nBY\n\nSTEWART", "glowed and faded.\n\nTHE END"),
        (
            "other-editions/Herman Melville___Moby Dick.txt",
            "Herman Melville___Moby Dick",
            "MOBY DICK;\nOR THE WHALE",
            "--WHALE SONG.",
        ),
    ],
)
def test_real_books_begin_and_end_where_they_should(
    real_books: Mapping[str, RawRecord], name: str, title: str, beginning: str, end: str
) -> None:
    assert real_books[name].title == title
    assert real_books[name].text.startswith(beginning)
    assert real_books[name].text.endswith(end)


def test_encodings_of_the_real_books(real_books: Mapping[str, RawRecord]) -> None:
    eight, seven = (real_books[f"gutenberg-10000s/10007{suffix}.txt"].text for suffix in ("-8", ""))
    assert "protégée" in eight or "é" in eight
    assert "é" not in seven
    assert "�" not in "".join(record.text for record in real_books.values())


_HEADERS = {
    "new": "Title: X\n\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\nProduced by A. Person\n\n",
    "two lines": "*** START OF THE PROJECT GUTENBERG EBOOK A VERY LONG\nTITLE ON TWO LINES ***\n\n",
    "notes": "***START OF THE PROJECT GUTENBERG EBOOK X***\n\n"
    "E-text prepared by B\nand C\n\nTranscriber's note:\nnone.\n\n\n",
    "small print": "**This is a Project Gutenberg Etext**\n\n"
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04*END*\n\n",
    "small print 2": "The Project Gutenberg EBook of X\n\n"
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.10/01*END*\n\n",
    "oldest": "The Project Gutenberg Etext of X, 1971\n\nThis Etext is in the public domain.\n\n\n",
    "thanks": "*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\n"
    "This eBook was made by C.\n\nSpecial thanks to D.\n\n",
}  # fmt: skip
_FOOTERS = {
    "new": "\n\nEnd of Project Gutenberg's X\n\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\n",
    "licence": "\n*** END OF THE PROJECT GUTENBERG EBOOK A LONG\nTITLE ON TWO LINES ***\n*** START: FULL LICENSE ***\n",
    "no blank": "\n\n\n***END OF THE PROJECT GUTENBERG EBOOK X***\n",
    "old": "\n\nEnd of The Project Gutenberg Etext of X\n",
    "words": "\n\nThis is the end of Project Gutenberg's X\n",
    "small print": "\n\n***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN EBOOKS**START***\nlegal\n",
    "german": "\n\nEnde dieses Project Gutenberg Etextes X\n",
}  # fmt: skip


@pytest.mark.parametrize("header", ["", *_HEADERS.values()], ids=["none", *_HEADERS])
@pytest.mark.parametrize("footer", ["", *_FOOTERS.values()], ids=["none", *_FOOTERS])
def test_any_header_and_footer_goes(header: str, footer: str) -> None:
    assert strip_gutenberg(header + _BODY + footer).text == _BODY


@pytest.mark.parametrize(
    "note",
    [
        "[Project Gutenberg Editor’s Note: There is another version of\nthis work]",
        "Transcriber’s Note:\n\nItalics are marked.\n\nIn chapters 24 and 89 an L stands for the pound.",
        "     Original Transcriber’s Note: This etext is from an 1887 edition.\n\n     Italics have been kept.",
        "Digitized by Dave <dave@example.net>. This text is free of copyright.",
        "<<THIS ELECTRONIC VERSION IS PROVIDED BY A LIBRARY>>",
        "Note: X by Y, etext #150",
    ],
)
def test_notes_by_the_makers_of_the_file_go(note: str) -> None:
    header, footer = _HEADERS["new"], _FOOTERS["new"]
    book = strip_gutenberg(f"{header}A TITLE\n\nBy B. C.\n\n\n{note}\n\n\n\n{_BODY * 200}\n\n\n{note}{footer}")
    assert book.text == f"A TITLE\n\nBy B. C.\n\n\n{_BODY * 200}"
    assert strip_gutenberg(f"{header}    {note}\n\n\n{_BODY}{footer}").text == _BODY


def test_a_book_that_says_so_is_not_public_domain(real_books: Mapping[str, RawRecord]) -> None:
    assert real_books["gutenberg/1112.txt"].licence == "copyrighted, Project Gutenberg Licence"
    beginnings = "".join(record.text[:5000] for record in real_books.values()).lower()
    for words in ("transcriber’s note", "transcriber's note", "digitized by", "editor’s note:", "electronic version"):
        assert words not in beginnings


def test_words_of_the_book_are_no_footer() -> None:
    text = "He read of Project Gutenberg.\n\nAt the end of the project, Gutenberg died.\n\n" + _BODY
    assert strip_gutenberg(text).text == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("naïve “é”".encode(), "naïve “é”"),
        (b"\xef\xbb\xbf" + "é".encode(), "é"),
        (b"\xff\xfe" + "é–\r\n".encode("utf-16-le"), "é–\n"),
        (b"\xfe\xff" + "é".encode("utf-16-be"), "é"),
        ("“é” £".encode("cp1252"), "“é” £"),
        ("Character set encoding: ISO-8859-1\r\rœuvre".encode("cp1252"), "Character set encoding: ISO-8859-1\n\nœuvre"),
        ("Character set encoding: ISO-8859-2\nžluť".encode("iso-8859-2"), "Character set encoding: ISO-8859-2\nžluť"),
        ("Character set encoding: KOI8-R\nМосква".encode("koi8-r"), "Character set encoding: KOI8-R\nМосква"),
        ("Character set encoding: UTF-8\né".encode("latin-1"), "Character set encoding: UTF-8\né"),
        (b"Character set encoding: nonsense-42\n\xe9\x81", "Character set encoding: nonsense-42\né\x81"),
        (b"", ""),
    ],
)  # fmt: skip
def test_bytes_become_letters(data: bytes, text: str) -> None:
    assert decode_book(data) == text


def _epub(
    documents: Mapping[str, str], *, spine: Iterable[str] = (), extra: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    buffer = io.BytesIO()
    items = "".join(f'<item id="{name}" href="text/{name}" media-type="application/xhtml+xml"/>' for name in documents)
    itemrefs = "".join(f'<itemref idref="{name}"/>' for name in (spine or documents))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container><rootfiles><rootfile full-path="OEBPS/p.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "OEBPS/p.opf",
            '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
            "<dc:title>The  Book</dc:title><dc:language>fr-CA</dc:language></metadata>"
            f'<manifest>{items}<item id="nav" href="nav.xhtml" properties="nav"/></manifest>'
            f'<spine><itemref idref="nav"/>{itemrefs}</spine></package>',
        )
        archive.writestr("OEBPS/nav.xhtml", "<html><body>Contents of the book</body></html>")
        for name, text in documents.items():
            archive.writestr(f"OEBPS/text/{name}", text)
        for name, text in extra.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def _xhtml(body: str) -> str:
    return f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body>{body}</body></html>'


def test_epub_is_read_in_the_order_of_its_spine() -> None:
    data = _epub(
        {"b.xhtml": _xhtml("<h1>Two</h1><p>b</p>"), "a.xhtml": _xhtml("<h1>One</h1><p>a&nbsp;<i>x</i></p>")},
        spine=["a.xhtml", "b.xhtml", "a.xhtml", "missing"],
    )
    found = read_epub(data)
    assert found.text == "One\n\na\xa0x\n\nTwo\n\nb"
    assert (found.title, found.language) == ("The Book", "fr-CA")


def test_hostile_epubs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    good = _epub({"a.xhtml": _xhtml("<p>a</p>")})
    bomb = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'
    found = read_epub(_epub({"a.xhtml": bomb + "<html><body><p>x&b;&c;</p></body></html>"}))
    assert "root" not in found.text
    assert len(found.text) < 50
    scrambled = '<encryption><CipherReference URI="OEBPS/text/a.xhtml"/></encryption>'
    with pytest.raises(EpubError, match="encrypted"):
        read_epub(_epub({"a.xhtml": "x"}, extra={"META-INF/encryption.xml": scrambled}))
    for cut in (b"", b"PK", good[: len(good) // 2], good[:-30], good.replace(b"PK\x03\x04", b"PK\x03\x05", 3)):
        with pytest.raises(EpubError, match="damaged"):
            read_epub(cut)
    monkeypatch.setattr(epub, "_MAX_BYTES", 100_000)
    with pytest.raises(EpubError, match="larger than"):
        read_epub(_epub({"a.xhtml": _xhtml("<p>" + "a" * 200_000 + "</p>")}))


def test_every_container_is_read_and_the_rest_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(_BODY)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(_BODY.encode()))
    (tmp_path / "c.epub").write_bytes(_epub({"a.xhtml": _xhtml("<p>An EPUB.</p>")}))
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("deep/d.txt", _BODY)
        archive.writestr("d.jpg", "picture")
    (tmp_path / "e.epub").write_bytes(b"PK no")
    (tmp_path / "f.txt").write_bytes(bytes(range(256)) * 50)
    (tmp_path / "g.txt").write_text("\n \n")
    (tmp_path / "h.tar.gz").write_bytes(b"\x1f\x8b broken")
    (tmp_path / "i.zip").write_bytes(bz2.compress(b"no zip"))
    (tmp_path / "j.jpg").write_bytes(b"not looked at")
    records, others = read_source(tmp_path, kind="books", licence="mine")
    assert [(r.path, r.title, r.language) for r in records] == [
        ("a.txt", "a", None),
        ("b.txt.gz", "b.txt", None),
        ("c.epub", "The Book", "fr"),
        ("d.zip!deep/d.txt", "d", None),
    ]
    assert [(o.path, o.step, o.reason) for o in others] == [
        ("e.epub", "read", "unreadable EPUB"),
        ("f.txt", "read", "not text"),
        ("g.txt", "books", "no text"),
        ("h.tar.gz", "read", "damaged"),
        ("i.zip", "read", "damaged"),
    ]
