"""Stack Exchange pages: numeric order of answers, verbatim code, every row accounted for, held against ElementTree."""

import errno
import gzip
import html
import io
import random
import re
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import quoteattr

import py7zr
import pytest
from read_source import read_source

from camelid.corpus.source_settings import StackExchangeSource
from camelid.corpus.sources import list_files, list_refused, stack_exchange
from camelid.corpus.sources.html_text import html_to_text
from camelid.corpus.sources.record import RawRecord, Refused, Unreadable
from camelid.corpus.sources.spill import Spill
from camelid.corpus.sources.stack_exchange_posts import Rows
from camelid.errors import UserError

_KIND = {"kind": "stack_exchange"}

Sites = dict[str, tuple[list[dict[str, str]], list[RawRecord], list[Refused | Unreadable]]]


def _row(post_id: int, **attributes: str | int) -> str:
    values = {"Id": post_id, "PostTypeId": 1, "Score": 0, "CreationDate": "2016-08-02T15:39:14.947", **attributes}
    return "  <row " + " ".join(f"{name}={quoteattr(str(value))}" for name, value in values.items()) + " />\n"


def _answer(post_id: int, parent: int, score: int, body: str = "") -> str:
    return _row(post_id, PostTypeId=2, ParentId=parent, Score=score, Body=f"<p>{body or f'answer {post_id}'}</p>")


def _question(post_id: int, title: str = "Why?") -> str:
    return _row(post_id, Title=title, Body=f"<p>question {post_id}</p>\n")


def _posts(*rows: str) -> bytes:
    return ('\ufeff<?xml version="1.0" encoding="utf-8"?>\n<posts>\n' + "".join(rows) + "</posts>").encode()


def _write_site(folder: Path, *rows: str) -> None:
    folder.mkdir(parents=True)
    (folder / "Posts.xml").write_bytes(_posts(*rows))


def _tar(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _raw_rows(archive: Path) -> list[dict[str, str]]:
    with tarfile.open(archive) as tar:
        member = next(m for m in tar if m.name.endswith("/Posts.xml"))
        stream = tar.extractfile(member)
        assert stream is not None
        return [row.attrib for row in ElementTree.fromstring(stream.read())]


@pytest.fixture(scope="module")
def real_sites(shared_data: Path) -> Sites:
    """Raw rows, pages and the rest of each site, by the name of its archive."""
    folder = shared_data / "stackexchange"
    return {
        path.name: (_raw_rows(path), *read_source(folder, **_KIND, path=path.name))
        for path in sorted(folder.glob("*.tar.gz"))
    }


def test_every_row_of_the_real_sites_is_accounted_for(real_sites: Sites) -> None:
    num_questions = num_answers = 0
    for rows, records, others in real_sites.values():
        reasons = Counter(other.reason for other in others)
        kinds = Counter(row["PostTypeId"] for row in rows)
        assert len(records) == kinds["1"]
        assert set(reasons) <= {"neither question nor answer", "answer without its question", "empty answer"}
        assert reasons["neither question nor answer"] == len(rows) - kinds["1"] - kinds["2"]
        on_pages = kinds["2"] - reasons["answer without its question"] - reasons["empty answer"]
        # A few answers hold the mark themselves.
        assert on_pages <= sum(record.text.count("\n\nA: ") for record in records) <= on_pages + 4
        num_questions += kinds["1"]
        num_answers += on_pages
    assert (num_questions, num_answers) == (2372, 5330)


def test_answers_of_the_real_sites_stand_by_score(real_sites: Sites) -> None:
    for name, (rows, records, _) in real_sites.items():
        pages = {record.url.rpartition("/")[2]: record.text for record in records}
        answers: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            if row["PostTypeId"] == "2":
                answers.setdefault(row["ParentId"], []).append(row)
        num_checked = 0
        for question, group in answers.items():
            group.sort(key=lambda row: (-int(row["Score"]), int(row["Id"])))
            beginnings = ["\n\nA: " + html_to_text(row["Body"])[:200] for row in group]
            position = 0
            for beginning in beginnings if question in pages else []:
                position = pages[question].index(beginning, position) + 1
                num_checked += 1
        assert num_checked > 50, name


def test_code_of_the_real_sites_is_verbatim(real_sites: Sites) -> None:
    num_blocks = 0
    for rows, records, _ in real_sites.values():
        pages = {record.url.rpartition("/")[2]: record.text for record in records}
        for row in rows:
            page = pages.get(row.get("ParentId", row["Id"]), "")
            for block in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", row.get("Body", ""), re.DOTALL):
                if page and "<" not in block:
                    assert html.unescape(block).strip("\n") in page
                    num_blocks += 1
    assert num_blocks > 150


def test_a_real_page_read_by_eye(shared_data: Path) -> None:
    records, _ = read_source(shared_data / "stackexchange", **_KIND, path="beer.stackexchange.com.tar.gz")
    first = records[0]
    assert first.text.startswith(
        "Q: What is a citra hop, and how does it differ from other hops?\n\n"
        "I was offered a beer the other day that was reportedly made with citra hops. What are citra hops?"
    )
    assert "\n\nA: Citra is a registered trademark since 2007." in first.text
    assert "you can read the Wikipedia article on the Citra brand." in first.text
    assert not re.search(r"</?(p|a|em|strong|code)\b|&(lt|amp|quot);", first.text)
    assert first.url == "https://beer.stackexchange.com/questions/1"
    assert first.licence == "CC BY-SA 3.0"
    assert first.path == "beer.stackexchange.com.tar.gz!beer.stackexchange.com/Posts.xml"
    assert first.offset == 0


def test_scores_are_numbers_and_ties_keep_their_order(tmp_path: Path) -> None:
    scores = {2: 9, 3: 10, 4: -1, 5: 9, 6: 0, 7: 100}
    _write_site(tmp_path / "x.com", *(_answer(i, 1, score) for i, score in reversed(scores.items())), _question(1))
    (record,), others = read_source(tmp_path, **_KIND)
    assert record.text == "Q: Why?\n\nquestion 1" + "".join(f"\n\nA: answer {i}" for i in (7, 3, 2, 5, 6, 4))
    assert record.offset == 6
    assert not others


def test_unanswered_and_low_scored_by_setting(tmp_path: Path) -> None:
    _write_site(tmp_path / "x.com", _question(1), _answer(2, 1, 3), _answer(3, 1, -2), _question(4, "<b> & C"))
    records, _ = read_source(tmp_path, **_KIND)
    assert [record.text for record in records][1:] == ["Q: <b> & C\n\nquestion 4"]
    records, others = read_source(tmp_path, **_KIND, unanswered=False, min_score=0)
    assert [record.text for record in records] == ["Q: Why?\n\nquestion 1\n\nA: answer 2"]
    assert [(o.offset, o.reason) for o in others] == [(3, "no answers"), (2, "low score")]


def test_rows_that_are_on_no_page_are_told(tmp_path: Path) -> None:
    rows = [
        _question(1), _answer(2, 99, 1), _row(3, PostTypeId=5, Body="w"), _question(1), _row(4).replace('"4"', '"x"'),
        '  <row Id="7" PostTypeId="1" Body="&broken;" />\n', _answer(8, 1, 1).replace("answer 8", "fine &#x1; after"),
        _answer(9, 1, 0).replace("answer 9", ""),
    ]  # fmt: skip
    _write_site(tmp_path / "x.com", *rows)
    (record,), others = read_source(tmp_path, **_KIND)
    assert record.text.endswith("A: fine  after") or record.text.endswith("A: fine after")
    assert {(other.offset, other.step, other.reason) for other in others} == {
        (1, "pages", "answer without its question"),
        (2, "pages", "neither question nor answer"),
        (3, "pages", "repeated id"),
        (4, "pages", "neither question nor answer"),
        (5, "read", "not XML"),
        (7, "pages", "empty answer"),
    }


def test_every_container_gives_the_same_pages(tmp_path: Path) -> None:
    data = _posts(*(_question(i) + _answer(i + 1, i, i) for i in range(1, 400, 2)))
    (tmp_path / "plain" / "x.com").mkdir(parents=True)
    (tmp_path / "plain" / "x.com" / "Posts.xml").write_bytes(data)
    for name in ("seven", "tar"):
        (tmp_path / name).mkdir()
    with py7zr.SevenZipFile(tmp_path / "seven" / "x.com.7z", "w") as archive:
        archive.writestr(b"<users/>", "Users.xml")
        archive.writestr(data, "Posts.xml")
    (tmp_path / "seven" / "x.com-Users.7z").write_bytes(b"not looked at")
    (tmp_path / "tar" / "x.com.tar.gz").write_bytes(gzip.compress(_tar("deep/x.com/Posts.xml", data)))
    texts = []
    for name in ("plain", "seven", "tar"):
        records, others = read_source(tmp_path / name, **_KIND)
        assert not others
        assert {record.url for record in records} == {f"https://x.com/questions/{i}" for i in range(1, 400, 2)}
        texts.append([record.text for record in records])
    assert texts[0] == texts[1] == texts[2]


def test_partitions_on_disk_give_the_same_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_site(
        tmp_path / "x.com", *(_question(i) for i in range(1, 300)), *(_answer(1000 + i, i, 1) for i in range(300))
    )
    whole = read_source(tmp_path, **_KIND)
    monkeypatch.setattr(stack_exchange, "_PARTITION_BYTES", 5000)
    parted = read_source(tmp_path, **_KIND)

    def by_offset(record: object) -> int:
        return record.offset  # type: ignore[attr-defined,no-any-return]

    assert [r.offset for r in parted[0]] != [r.offset for r in whole[0]]
    assert [sorted(found, key=by_offset) for found in parted] == [sorted(found, key=by_offset) for found in whole]


def test_the_largest_sites_are_told_by_questions_and_answers(tmp_path: Path) -> None:
    for name, number, rest in (("a", 3, 0), ("b", 5, 0), ("c", 1, 50), ("d", 4, 0)):
        wikis = [_row(1000 + i, PostTypeId=4, Body="x" * 500) for i in range(rest)]
        _write_site(tmp_path / f"{name}.com", *(_question(i) for i in range(number)), *wikis)
    assert len(read_source(tmp_path, **_KIND)[0]) == 13
    records, _ = read_source(tmp_path, **_KIND, num_sites=2)
    assert {record.path for record in records} == {"b.com/Posts.xml", "d.com/Posts.xml"}
    # A damaged site counts as far as it can be read, and what is left out is told.
    (tmp_path / "e.7z").write_bytes(b"7z\xbc\xaf\x27\x1cbroken")
    (tmp_path / "e.com-Votes.7z").write_bytes(b"")
    source = StackExchangeSource(kind="stack_exchange", name="s", path=".", num_sites=2)
    files = list_files(source, tmp_path)
    assert files == ["b.com/Posts.xml", "d.com/Posts.xml"]
    told = {refused.path: refused.detail for refused in list_refused(source, tmp_path, files)}
    largest = "not one of the 2 largest sites"
    assert told == {
        **dict.fromkeys(("a.com/Posts.xml", "c.com/Posts.xml", "e.7z"), largest),
        "e.com-Votes.7z": "not one that is read for kind 'stack_exchange'",
    }


def test_a_damaged_or_locked_archive_is_told(tmp_path: Path) -> None:
    rng = random.Random(5)
    _write_site(tmp_path / "a.com", *(_question(i, "".join(rng.choices("abcdefgh", k=60))) for i in range(300)))
    with py7zr.SevenZipFile(tmp_path / "locked.7z", "w", password="secret") as archive:
        archive.write(tmp_path / "a.com" / "Posts.xml", "Posts.xml")
    with py7zr.SevenZipFile(tmp_path / "broken.7z", "w") as archive:
        archive.write(tmp_path / "a.com" / "Posts.xml", "Posts.xml")
    whole = (tmp_path / "broken.7z").read_bytes()
    for place in rng.sample(range(len(whole)), 40):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        (tmp_path / "broken.7z").write_bytes(broken)
        records, others = read_source(tmp_path, **_KIND)
        assert len(records) >= 300
        told = {other.path.partition("!")[0]: other for other in others}
        assert told["locked.7z"].reason == "damaged"
        assert "asks for a password" in told["locked.7z"].detail
        assert "broken.7z" in told or len(records) == 600


@pytest.mark.parametrize("size", [1, 7, 100])
def test_rows_do_not_depend_on_how_the_bytes_arrive(size: int) -> None:
    data = _posts(_question(1, "Größe"), _answer(2, 1, 5), _question(3))

    def cut(pieces: list[bytes]) -> list[object]:
        seen: list[object] = []
        rows = Rows(lambda *row: seen.append(row))
        for piece in pieces:
            rows.feed(piece)
        rows.close()
        return seen

    whole = cut([data])
    assert len(whole) == 3
    assert cut([data[start : start + size] for start in range(0, len(data), size)]) == whole


def test_an_endless_row_takes_no_memory_and_harms_no_other() -> None:
    seen: list[tuple[int, object, int]] = []
    rows = Rows(lambda *row: seen.append(row))
    rows.feed(_posts(_question(1)).removesuffix(b"</posts>") + b'  <row Id="2" Body="')
    for _ in range(40):
        rows.feed(b"x" * (1 << 20))
        assert len(rows._pending) <= 18 << 20
    rows.feed(b'" />\n' + _question(3).encode())
    rows.close()
    assert [type(found) for _, found, _ in seen] == [dict, str, dict]
    assert 40 << 20 < seen[1][2] < 41 << 20


def test_damaged_archives_give_what_stands_before(tmp_path: Path, shared_data: Path) -> None:
    data = (shared_data / "stackexchange" / "coffee.stackexchange.com.tar.gz").read_bytes()
    (tmp_path / "coffee.stackexchange.com.tar.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.tar.gz").write_bytes(gzip.compress(_tar("Users.xml", b"<users/>")))
    (tmp_path / "junk.7z").write_bytes(b"junk")
    records, others = read_source(tmp_path, **_KIND)
    assert 50 < len(records) < 225
    assert {(other.path.partition("!")[0], other.reason) for other in others if other.step == "read"} == {
        ("coffee.stackexchange.com.tar.gz", "not XML"),
        ("coffee.stackexchange.com.tar.gz", "damaged"),
        ("empty.tar.gz", "no posts"),
        ("junk.7z", "damaged"),
    }


def test_html_becomes_text() -> None:
    assert (
        html_to_text("<p>a <b>b</b>c<br>d</p>\n<p>10<sup>2</sup>, the 5<sup>th</sup></p>") == "a bc\nd\n\n10^2, the 5th"
    )
    nested = "<ul><li>one</li><li>two<ol><li>x</li><li>y</li></ol></li></ul>"
    assert html_to_text(nested + "end") == "* one\n* two\n  1. x\n  2. y\n\nend"
    code = "<pre><code>if x &lt; 1:\n\n\n    y  =  2\n</code></pre>"
    assert html_to_text(f"<p>so</p>{code}<p>then</p>") == "so\n\nif x < 1:\n\n\n    y  =  2\n\nthen"
    assert html_to_text("<!-- a --><script>b()</script><td>c</td><td>d</td>") == "c d"
    assert html_to_text("a < b & c &amp; d") == "a < b & c & d"
    counted = '<ol start="2"><li>b</li><li value="7">g</li><li>h</li></ol><ol start="x"><li>a</li></ol>'
    assert html_to_text(counted) == "2. b\n7. g\n8. h\n\n1. a"
    assert html_to_text("<p>a</p><p>&nbsp;</p><p>b&nbsp;<i>c</i><b>&nbsp; </b>d</p>") == "a\n\nb\xa0c d"


def test_a_full_folder_for_temporary_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullFile(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", FullFile)
    with Spill(2) as spill:
        spill.add(1, (1, "text"))
        with pytest.raises(UserError, match=r"temporary files do not fit into .*; make room there, or set TMPDIR"):
            spill.read(1)


def test_hostile_html_neither_crashes_nor_recurses() -> None:
    for text in ("", "<", "<p", "\x00<p>\ud800</p>", "<div>" * 50_000, "<ul><li>" * 20_000 + "x", "</p></p>", "<!--"):
        assert isinstance(html_to_text(text), str)
    assert isinstance(RawRecord("p", 0, html_to_text("\ud800"), "u").text.encode(), bytes)
