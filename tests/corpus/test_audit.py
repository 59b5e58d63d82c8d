"""The audit page says what the manifest and the files say."""

import html
import re
from pathlib import Path

import pytest
from web_pages import write_wet

from camelid.corpus.audit import TABLE_1, write_audit
from camelid.corpus.build import build_corpus
from camelid.corpus.settings import CorpusSettings
from camelid.errors import UserError


def test_the_page_has_books_samples_and_mixture(tmp_path: Path) -> None:
    good = "This page is written in plain English, about the llamas of the Andes and number <{}>. " * 5
    pages = [(f"http://site/{n}?a=1&b=2", good.format(*[chr(97 + n)] * 5)) for n in range(12)]
    pages += [("http://short/", "A <b>short</b> page."), ("http://site/french", "Ceci est une page en français. " * 20)]
    write_wet(tmp_path / "wet" / "a.wet.gz", pages)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("Notes of a person, long enough to stay in the corpus. " * 4)
    sources = [
        {"kind": "common_crawl", "name": "web", "path": "wet", "licence": "terms of use"},
        {"kind": "folder", "name": "notes", "path": "notes"},
    ]
    chosen = CorpusSettings.model_validate({"sources": sources, "num_workers": 1})
    facts = build_corpus(chosen, tmp_path / "corpus", seed=0, base=tmp_path).facts["sources"]
    write_audit(tmp_path / "corpus", tmp_path / "audit.html", num_samples=3)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    plain = html.unescape(re.sub(r"<[^>]+>", "|", page))
    assert facts["web"]["dropped"] == {"language": {"other language": 1}, "pages": {"too short": 1}}
    assert re.search(r"language\|+other language\|+1\|+7\.14%", plain)
    assert "A <b>short</b> page." in plain
    assert "<b>short" not in page
    assert "Ceci est une page" in plain
    assert plain.count("http://site/") == 3
    assert re.search(r"Languages\|+en\|+12\|+fr\|+1\|", plain)
    assert re.search(r"common_crawl\|+\d+\.\d%\|+67\.0%", plain)
    assert "core hours" in plain
    # Numbers stand right of one another, under their heading.
    assert "<th class='n'>records</th>" in page
    assert "<th>licences</th>" in page
    assert "Not looked for" in plain
    assert not re.search(r"<(?:script|link|img|iframe)\b|src=", page)


def test_table_1_adds_up() -> None:
    assert sum(share for share, _ in TABLE_1.values()) == 100


def test_only_a_finished_corpus_has_a_page(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished product"):
        write_audit(tmp_path / "none", tmp_path / "audit.html", num_samples=1)
