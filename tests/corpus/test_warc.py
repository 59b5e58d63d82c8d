"""Records of WARC and ARC files: against FastWARC on sound files, against what was planted in damaged ones."""

import gzip
import random
import zlib
from collections import Counter
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.corpus.sources.warc import MAX_BLOCK_BYTES, ArchiveRecord, Damage, read_archive

_FORMS = ("plain", "one member", "member per record")


def _record(number: int, block: bytes, length: int | None = None) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://site/{number}\r\n"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def _write(path: Path, records: list[bytes], form: str) -> Path:
    if form == "member per record":
        path.write_bytes(b"".join(gzip.compress(record, mtime=0) for record in records))
    else:
        whole = b"".join(records)
        path.write_bytes(whole if form == "plain" else gzip.compress(whole, mtime=0))
    return path


def _blocks(path: Path) -> list[bytes | None]:
    return [record.block for record in read_archive(path) if isinstance(record, ArchiveRecord)]


def _damages(path: Path) -> list[str]:
    return [record.detail for record in read_archive(path) if isinstance(record, Damage)]


def test_real_archives_have_the_records_that_fastwarc_finds(shared_data: Path) -> None:
    folder = shared_data / "commoncrawl"
    damaged = ("clipped.warc.gz", "fragment2_no_header.wet.gz")
    paths = [*folder.glob("warc/*warc*"), *folder.glob("wet/*"), *folder.glob("assembled/*.gz")]
    compared = 0
    for path in (path for path in paths if path.name not in damaged):
        try:
            theirs = [
                (record.headers.get("WARC-Type"), bytes(record.reader.read()))
                for record in ArchiveIterator(str(path), parse_http=False, fsspec_args=False)
            ]
        except OSError:  # single-page-test.warc is gzip in spite of its name, which FastWARC believes
            continue
        found = [(record.kind, record.block) for record in read_archive(path) if isinstance(record, ArchiveRecord)]
        assert found == theirs, path.name
        assert not _damages(path)
        compared += 1
    assert compared >= 25


def test_real_arcs_and_damaged_files(shared_data: Path) -> None:
    folder = shared_data / "commoncrawl"
    kinds = Counter(
        record.kind
        for record in read_archive(folder / "warc/archiveit-2008-example.arc.gz")
        if not isinstance(record, Damage)
    )
    assert kinds == {"filedesc": 1, "response": 299}
    assert len(_blocks(folder / "warc/single-page-test.warc")) == 108
    assert not _blocks(folder / "warc/clipped.warc.gz")
    assert ["the record at byte 0" in detail for detail in _damages(folder / "warc/clipped.warc.gz")] == [True, False]
    assert len(_blocks(folder / "wet/fragment2_no_header.wet.gz")) == 1
    assert len(_damages(folder / "wet/fragment2_no_header.wet.gz")) == 2


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(st.one_of(st.binary(max_size=300), st.just(b"x" * 70_000)), min_size=1, max_size=6),
    form=st.sampled_from(_FORMS),
)
def test_any_block_comes_back(tmp_path_factory: pytest.TempPathFactory, blocks: list[bytes], form: str) -> None:
    path = tmp_path_factory.mktemp("warc") / "x.warc.gz"
    _write(path, [_record(number, block) for number, block in enumerate(blocks)], form)
    assert _blocks(path) == blocks
    assert not _damages(path)


@pytest.mark.parametrize("form", _FORMS)
def test_a_wrong_length_costs_one_record(tmp_path: Path, form: str) -> None:
    blocks = [f"page {number}\n".encode() * 50 for number in range(5)]
    for length in (0, 17, 5000, 10**15):
        records = [_record(number, block) for number, block in enumerate(blocks)]
        records[2] = _record(2, blocks[2], length)
        path = _write(tmp_path / "x.warc.gz", records, form)
        found = _blocks(path)
        # Beyond the largest block nothing is kept to go back to.
        expected = [*blocks[:2], *blocks[3:]] if length < MAX_BLOCK_BYTES else blocks[:2]
        assert [block for block in found if block in blocks] == expected, length
        assert _damages(path)


def test_a_damaged_member_costs_one_record(tmp_path: Path) -> None:
    rng = random.Random(3)
    blocks = [rng.randbytes(400) for _ in range(6)]
    members = [gzip.compress(_record(number, block), mtime=0) for number, block in enumerate(blocks)]
    members[2] = members[2][:60] + bytes([members[2][60] ^ 0xFF]) + members[2][61:]
    path = tmp_path / "x.warc.gz"
    path.write_bytes(b"".join(members))
    assert _blocks(path) == [*blocks[:2], *blocks[3:]]
    start = len(members[0]) + len(members[1])
    assert any(f"gzip member at byte {start:,}" in detail for detail in _damages(path))


def test_what_stands_before_the_end_of_a_cut_file_is_kept(tmp_path: Path) -> None:
    blocks = [random.Random(number).randbytes(3000) for number in range(5)]
    for form in _FORMS:
        path = _write(tmp_path / "x.warc.gz", [_record(number, block) for number, block in enumerate(blocks)], form)
        path.write_bytes(path.read_bytes()[:-1500])
        assert _blocks(path) == blocks[:4]
        assert _damages(path)


def test_a_large_record_is_passed_over(tmp_path: Path) -> None:
    blocks = [b"a" * 10, b"v" * (MAX_BLOCK_BYTES + 1), b"b" * 10]
    path = _write(tmp_path / "x.warc.gz", [_record(number, block) for number, block in enumerate(blocks)], "one member")
    assert _blocks(path) == [blocks[0], None, blocks[2]]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_bytes_make_it_fail(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.warc.gz"
    base = _record(0, b"first\n" * 20) + _record(1, b"second\n" * 20)
    base += b"http://a.b/ 1.2.3.4 20080430204825 text/html 5\nhello\n"
    raw = bytearray(base if data.draw(st.booleans()) else gzip.compress(base, mtime=0))
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=8)):
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(data.draw(st.binary(max_size=20)) + bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    total = sum(len(block or b"") for block in _blocks(path))
    assert total <= len(base)


def test_inflating_is_bounded(tmp_path: Path) -> None:
    bomb = zlib.compressobj(9, wbits=31)
    path = tmp_path / "x.warc.gz"
    path.write_bytes(bomb.compress(b"WARC/1.0\r\n" + b"a" * 50_000_000) + bomb.flush())
    assert not _blocks(path)
    assert _damages(path)
