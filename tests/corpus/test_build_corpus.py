"""A corpus from files of every kind: what is kept, what is dropped and why, and that nothing else changes the bytes."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.artifact import Manifest, partial_path
from camelid.corpus import task as task_module
from camelid.corpus.build import build_corpus, fingerprint_sources
from camelid.corpus.document import Document, read_documents
from camelid.corpus.ledger import LEDGER_NAME
from camelid.corpus.settings import CorpusSettings
from camelid.errors import UserError

_SENTENCE = "The quick brown llama jumps over the lazy fence, {}.\n"


def _settings(**changes: Any) -> CorpusSettings:
    source = {"kind": "folder", "name": "notes", "path": "text", **changes.pop("source", {})}
    values = {"sources": [source], "min_characters": 20, "num_workers": 1, **changes}
    return CorpusSettings.model_validate(values)


def _build(folder: Path, name: str = "corpus", **changes: Any) -> Manifest:
    return build_corpus(_settings(**changes), folder / name, seed=0, base=folder)


def _documents(folder: Path, name: str = "corpus") -> list[Document]:
    return [*read_documents(folder / name, "train"), *read_documents(folder / name, "held_out")]


def _ledger(folder: Path, name: str = "corpus") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / name / LEDGER_NAME).to_pylist()
    return rows


def _write_texts(folder: Path, number: int = 30) -> Path:
    text = folder / "text"
    text.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        (text / f"{index:03d}.txt").write_text(_SENTENCE.format(index) * (1 + index % 5), encoding="utf-8")
    return text


def test_bytes_do_not_depend_on_workers_or_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_texts(tmp_path)
    monkeypatch.setattr(task_module, "_TASK_BYTES", 300)
    digests = {_build(tmp_path, f"corpus-{n}", num_workers=n).digest for n in (1, 2, 4)}
    left = partial_path(tmp_path / "killed")
    left.mkdir()
    (left / "train-00007.parquet").write_bytes(b"half a file")
    assert digests == {_build(tmp_path, "killed").digest}


def test_every_format_is_read(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    line = _SENTENCE.format
    (text / "a.txt").write_bytes(b"\xef\xbb\xbf" + line("a").replace("\n", "\r\n").encode())
    (text / "b.md").write_text(line("b"))
    (text / "c.txt.gz").write_bytes(gzip.compress(line("c").encode()))
    (text / "d.txt.zst").write_bytes(zstandard.compress(line("d").encode()))
    record = json.dumps({"text": line("e"), "url": "site/e", "title": "E"}).encode() + b"\n"
    (text / "e.jsonl").write_bytes(record)
    (text / "f.jsonl.gz").write_bytes(gzip.compress(record.replace(b"fence, e", b"fence, f")))
    (text / "g.jsonl.zst").write_bytes(zstandard.compress(record.replace(b"fence, e", b"fence, g")))
    pq.write_table(pa.table({"text": [line("h"), line("i")]}), text / "h.parquet")
    with tarfile.open(text / "j.tar.gz", "w:gz") as archive:
        for name in ("j", "k"):
            member = tarfile.TarInfo(f"deep/{name}.txt")
            member.size = len(line(name))
            archive.addfile(member, io.BytesIO(line(name).encode()))
    _build(tmp_path)
    found = {document.path: document for document in _documents(tmp_path)}
    assert sorted(document.text for document in _documents(tmp_path)) == [line(name) for name in "abcdefghijk"]
    assert found["e.jsonl"].url == "site/e"
    assert found["e.jsonl"].title == "E"
    assert "j.tar.gz!deep/k.txt" in found
    assert not _ledger(tmp_path)


def test_what_cannot_be_read_is_in_the_ledger_and_the_rest_is_kept(tmp_path: Path) -> None:
    text = _write_texts(tmp_path, 3)
    (text / "latin.txt").write_bytes("café au lait, s'il vous plaît".encode("latin-1"))
    many = "".join(_SENTENCE.format(n * n) for n in range(3000))
    (text / "cut.txt.gz").write_bytes(gzip.compress(many.encode())[:-900])
    good = json.dumps({"text": _SENTENCE.format("json")})
    lines = (good, '{"a": ' + "1" * 5000, json.dumps({"body": 3}), '{"text": "\\ud800 half a pair of surrogates"}')
    (text / "lines.jsonl").write_text("\n".join(lines))
    (text / "table.parquet").write_bytes(b"PAR1 and no more")
    (text / "picture.png").write_bytes(b"\x89PNG")
    (text / "cut.txt.zst").write_bytes(zstandard.compress(many.encode())[:-900])
    (text / "header.tar.gz").write_bytes(gzip.compress(b"")[:3])
    strings = pa.array([b"row one is long enough", b"caf\xe9", b"row three is long enough"], pa.binary()).view(
        pa.string()
    )
    pq.write_table(pa.table({"text": strings}), text / "bytes.parquet")
    Path(os.fsdecode(os.fsencode(text) + b"/caf\xe9.txt")).write_text(_SENTENCE)
    _build(tmp_path, max_characters=1_000_000)
    reasons = {(row["path"], row["offset"], row["reason"]) for row in _ledger(tmp_path)}
    assert reasons == {
        ("latin.txt", 0, "not UTF-8"),
        ("cut.txt.gz", 1, "damaged"),
        ("lines.jsonl", 1, "not JSON"),
        ("lines.jsonl", 2, "no text"),
        ("lines.jsonl", 3, "not UTF-8"),
        ("table.parquet", 0, "damaged"),
        ("picture.png", 0, "unrecognised suffix"),
        ("cut.txt.zst", 1, "damaged"),
        ("header.tar.gz", 0, "damaged"),
        ("bytes.parquet", 1, "not UTF-8"),
        ("caf\\xe9.txt", 0, "file name is not UTF-8"),
    }
    texts = {document.path: document.text for document in _documents(tmp_path)}
    assert texts["lines.jsonl"] == _SENTENCE.format("json")
    for name in ("cut.txt.gz", "cut.txt.zst"):
        saved = texts[name].rstrip("\n")
        assert len(saved) > 1000
        assert many.startswith(saved)
    rows = {document.offset for document in _documents(tmp_path) if document.path == "bytes.parquet"}
    assert rows == {0, 2}


def test_all_frames_of_a_compressed_file_are_read(tmp_path: Path) -> None:
    parts = [_SENTENCE.format(n) * 1000 for n in range(3)]
    (tmp_path / "text").mkdir()
    packed = b"".join(zstandard.compress(part.encode()) for part in parts)
    (tmp_path / "text" / "a.txt.zst").write_bytes(packed)
    (tmp_path / "text" / "b.txt").write_text(_SENTENCE)
    _build(tmp_path, max_characters=1_000_000)
    texts = {document.path: document.text for document in _documents(tmp_path)}
    assert texts["a.txt.zst"].strip() == "".join(parts).strip()


def test_files_that_a_kind_does_not_read_are_in_the_ledger(tmp_path: Path) -> None:
    text = _write_texts(tmp_path, 2)
    (text / "notes.pdf").write_bytes(b"%PDF")
    _build(tmp_path, source={"kind": "books"})
    assert [(row["path"], row["reason"]) for row in _ledger(tmp_path)] == [("notes.pdf", "file not wanted")]
    (text / "more.pdf").write_bytes(b"%PDF")
    before = fingerprint_sources(_settings(source={"kind": "books"}), tmp_path)
    (text / "more.pdf").unlink()
    assert fingerprint_sources(_settings(source={"kind": "books"}), tmp_path) != before
    with pytest.raises(UserError, match=r"holds 3 files, but none of kind 'c4'"):
        _build(tmp_path, source={"kind": "c4"})


def test_what_may_not_be_read_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = _write_texts(tmp_path, 2)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).name != "001.txt")
    for kind in ("folder", "books"):
        with pytest.raises(UserError, match=r"001\.txt may not be read; allow it"):
            _build(tmp_path, source={"kind": kind})
    monkeypatch.undo()

    def walk(root: Path, onerror: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        onerror(PermissionError(13, "Permission denied", str(text / "shut")))
        yield str(root), [], []

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(UserError, match=r"shut may not be read \(Permission denied\)"):
        _build(tmp_path)


def test_a_separator_cuts_files_into_documents(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    stories = [_SENTENCE.format(n).strip() for n in range(5)]
    (tmp_path / "text" / "stories.txt").write_text("<|end|>".join(stories))
    _build(tmp_path, source={"separator": "<|end|>"})
    found = sorted(_documents(tmp_path), key=lambda document: document.offset)
    assert [document.text.strip() for document in found] == stories


def test_first_of_equal_texts_is_kept(tmp_path: Path) -> None:
    text = _write_texts(tmp_path, 4)
    (text / "zz.txt").write_text((text / "001.txt").read_text() + "   \n\n\n")
    _build(tmp_path)
    drops = [(row["path"], row["step"], row["reason"]) for row in _ledger(tmp_path)]
    assert drops == [("zz.txt", "exact", "duplicate")]


def test_long_records_are_cut_at_empty_lines_and_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    paragraphs = [_SENTENCE.format(n) * 7 for n in range(40)]
    whole = "\n".join(paragraphs)
    (tmp_path / "text" / "novel.txt").write_text(whole)
    _build(tmp_path, max_characters=1000)
    parts = sorted(_documents(tmp_path), key=lambda document: document.part)
    assert "\n".join(part.text for part in parts) == whole
    assert all(len(part.text) <= 1000 for part in parts)
    assert len({part.id for part in parts}) == len(parts)


def test_cleaning_leaves_wording_and_indentation_alone(tmp_path: Path) -> None:
    text = _write_texts(tmp_path, 2)
    (text / "code.txt").write_text("def f():\t \n\n\n\n\n\n    x  =  1\x00\x0c\n\ttabbed = 2   \n")
    _build(tmp_path)
    found = {document.path: document.text for document in _documents(tmp_path)}
    assert found["code.txt"] == "def f():\n\n\n    x  =  1\n\ttabbed = 2\n"


def test_held_out_text_is_chosen_by_content_alone(tmp_path: Path) -> None:
    text = _write_texts(tmp_path, 200)
    _build(tmp_path, held_out_share=0.2)
    held_out = {document.text for document in read_documents(tmp_path / "corpus", "held_out")}
    train = {document.text for document in read_documents(tmp_path / "corpus", "train")}
    assert not held_out & train
    assert 0.1 < len(held_out) / 200 < 0.3
    for index in range(0, 200, 2):
        (text / f"{index:03d}.txt").rename(text / f"renamed-{index}.md")
    (text / "more.txt").write_text(_SENTENCE.format("more"))
    _build(tmp_path, "again", held_out_share=0.2)
    again = {document.text for document in read_documents(tmp_path / "again", "held_out")}
    assert again - {_SENTENCE.format("more")} == held_out


def test_two_documents_are_one_for_each_split(tmp_path: Path) -> None:
    _write_texts(tmp_path, 2)
    for share in (0.001, 0.999):
        _build(tmp_path, f"corpus-{share}", held_out_share=share)
        for split in ("train", "held_out"):
            assert len(list((tmp_path / f"corpus-{share}").glob(f"{split}-*.parquet"))) == 1


def test_empty_and_useless_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    with pytest.raises(UserError, match="holds no files"):
        _build(tmp_path)
    (tmp_path / "text" / "a.txt").write_text("short")
    with pytest.raises(UserError, match=r"no usable text: of 1 records 0 documents are left.*1 too short"):
        _build(tmp_path)
    assert not (tmp_path / "corpus").exists()
    with pytest.raises(ValueError, match="two sources are called 'notes'"):
        CorpusSettings.model_validate({"sources": [{"kind": "folder", "name": "notes", "path": "x"}] * 2})


def test_a_corpus_of_an_older_version_is_refused_in_a_sentence(tmp_path: Path) -> None:
    _write_texts(tmp_path)
    _build(tmp_path)
    (path,) = (tmp_path / "corpus").glob("train-*.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["language_score", "perplexity"]), path)
    with pytest.raises(UserError, match=r"train-00000.parquet .* no column 'language_score'; build the corpus again"):
        list(read_documents(tmp_path / "corpus", "train"))


def test_fingerprint_notices_a_change(tmp_path: Path) -> None:
    text = _write_texts(tmp_path, 3)
    before = fingerprint_sources(_settings(), tmp_path)
    assert fingerprint_sources(_settings(), tmp_path) == before
    (text / "001.txt").write_text("changed")
    assert fingerprint_sources(_settings(), tmp_path) != before


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.one_of(st.text(max_size=60), st.binary(max_size=30)), min_size=1, max_size=12))
def test_books_balance(tmp_path_factory: pytest.TempPathFactory, texts: list[str | bytes]) -> None:
    folder = tmp_path_factory.mktemp("books")
    _write_texts(folder, 2)
    for number, text in enumerate(texts):
        data = text if isinstance(text, bytes) else text.encode()
        (folder / "text" / f"x{number}.txt").write_bytes(data)
    books = _build(folder).facts["sources"]["notes"]
    dropped = sum(sum(reasons.values()) for reasons in books["dropped"].values())
    num_out = books["train_documents"] + books["held_out_documents"]
    assert books["records_in"] + books["parts_added"] == num_out + dropped
    assert num_out == len(_documents(folder))
    assert dropped == len(_ledger(folder))


def test_real_texts(shared_data: Path, tmp_path: Path) -> None:
    sources = [
        {"kind": "folder", "name": "stories", "path": "text/tinystories_sample.txt.gz", "separator": "<|endoftext|>"},
        {"kind": "folder", "name": "plays", "path": "text/tinyshakespeare.txt.gz"},
        {"kind": "folder", "name": "wiki", "path": "text/wikitext-2-raw", "suffixes": [".raw"]},
    ]
    chosen = CorpusSettings.model_validate({"sources": sources, "num_workers": 1})
    facts = build_corpus(chosen, tmp_path / "corpus", seed=0, base=shared_data).facts["sources"]
    assert 2200 < facts["stories"]["records_in"] < 2400
    assert facts["plays"]["train_bytes"] + facts["plays"]["held_out_bytes"] > 1_100_000
    assert facts["wiki"]["records_in"] == 1


def test_standard_library(tmp_path: Path) -> None:
    chosen = CorpusSettings.model_validate({"sources": [{"kind": "python_library"}], "num_workers": 1})
    facts = build_corpus(chosen, tmp_path / "corpus", seed=0, base=tmp_path).facts["sources"]["python"]
    assert 400 < facts["records_in"] < 900
    assert facts["train_bytes"] > 5_000_000
    for document in read_documents(tmp_path / "corpus", "held_out"):
        assert not {"test", "tests", "site-packages", "encodings"}.intersection(document.path.split("/")[:-1])
        assert document.licence == "PSF-2.0"
