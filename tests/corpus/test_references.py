"""Links of a dump, and a classifier of the pages behind them."""

import bz2
import random
from pathlib import Path
from typing import Any

import pytest
from web_pages import write_wet

from camelid.artifact import Manifest
from camelid.corpus.build import build_corpus
from camelid.corpus.document import read_documents
from camelid.corpus.model_settings import ReferenceModelSettings
from camelid.corpus.reference_model import address_key, extract_links, train_reference_model
from camelid.corpus.settings import CorpusSettings
from camelid.errors import UserError

_GOOD = "study university report evidence government published century historian research data journal".split(" ")  # noqa: SIM905
_POOR = "buy cheap click deal shipping cart discount login menu subscribe casino".split(" ")  # noqa: SIM905


def _dump(path: Path, text: str) -> Path:
    page = f"<mediawiki><page><title>A</title><ns>0</ns><revision><text>{text}</text></revision></page>"
    talk = (
        "<page><title>Talk:A</title><ns>1</ns><text>&lt;ref&gt;http://talk.org/x&lt;/ref&gt;</text></page></mediawiki>"
    )
    path.write_bytes(bz2.compress((page + talk).encode()))
    return path


def test_links_of_references_are_found_across_lines_and_several_in_one(tmp_path: Path) -> None:
    text = (
        "&lt;ref&gt;[http://a.org/1 one]&lt;/ref&gt; and &lt;ref name=&quot;b&quot;&gt;{{cite web\n|url=https://b.org/2?x=1&amp;amp;y=2\n}}"
        "&lt;/ref&gt; http://outside.org/ &lt;ref name=&quot;b&quot; /&gt; text &lt;REF&gt;//c.org/3.&lt;/REF&gt;"
    )
    path = _dump(tmp_path / "dump.xml.bz2", text)
    inside = ["http://a.org/1", "https://b.org/2?x=1&amp;y=2", "//c.org/3"]
    assert list(extract_links(path, True)) == inside
    assert "http://outside.org/" in list(extract_links(path, False))
    assert not any("talk.org" in link for link in extract_links(path, False))


def test_one_address_has_one_key() -> None:
    same = ["http://www.Site.org/a/", "https://site.org/a", "//site.org/a#part", "http://site.org:80/a"]
    assert len({address_key(url) for url in same}) == 1
    assert address_key("http://site.org/A") != address_key("http://site.org/a")
    assert address_key("http://site.org/a?x=1") != address_key("http://site.org/a")


def test_real_dump_has_references(shared_data: Path) -> None:
    dump = shared_data / "wikipedia/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    links = list(extract_links(dump, True))
    assert len(links) > 4000
    assert all(link.startswith(("http", "//", "Http", "HTTP")) for link in links)
    assert set(links) < set(extract_links(dump, False))


def _text(rng: random.Random, words: list[str]) -> str:
    return " ".join(rng.choices([*words, "the", "of", "and", "is", "a", "that", "in", "to"], k=260))


def _train(folder: Path, name: str, seed: int = 0, num_workers: int = 1, **changes: Any) -> Manifest:
    chosen = ReferenceModelSettings(dimension=8, epochs=20, learning_rate=0.5, **changes)
    return train_reference_model(
        chosen, [folder / "dump.xml.bz2"], folder / "wet", folder / name, seed=seed, num_workers=num_workers
    )


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    rng = random.Random(8)
    cited = [(f"https://good.org/{n}", _text(rng, _GOOD)) for n in range(60)]
    others = [(f"https://shop.com/{n}", _text(rng, _POOR)) for n in range(150)]
    pages = [*cited, *others]
    rng.shuffle(pages)
    for number in range(3):
        write_wet(tmp_path / "wet" / f"{number}.wet.gz", pages[number::3])
    _dump(tmp_path / "dump.xml.bz2", "".join(f"&lt;ref&gt;http://www.good.org/{n}/&lt;/ref&gt;" for n in range(80)))
    return tmp_path


def test_pages_like_references_are_kept(crawl: Path) -> None:
    facts = _train(crawl, "model", language=None).facts
    assert facts["reference_pages"] == 60
    assert facts["train_pages"] + facts["held_out_pages"] == 120
    assert facts["held_out_accuracy"] > 0.9
    source = {
        "kind": "common_crawl", "name": "web", "path": "wet", "paragraphs": None, "language": None,
        "references": {"model": "model"},
    }  # fmt: skip
    chosen = CorpusSettings.model_validate({"sources": [source], "num_workers": 1})
    build_corpus(chosen, crawl / "corpus", seed=0, base=crawl)
    documents = [*read_documents(crawl / "corpus", "train"), *read_documents(crawl / "corpus", "held_out")]
    assert sum("good.org" in document.url for document in documents) / len(documents) > 0.9
    assert all((document.reference_score or 0) >= 0.25 for document in documents)


def test_the_same_pages_give_the_same_bytes(crawl: Path) -> None:
    first = _train(crawl, "a", language=None).digest
    assert _train(crawl, "b", language=None, num_workers=2).digest == first
    assert _train(crawl, "c", language=None, seed=1).digest != first


def test_archives_without_cited_pages_are_refused(crawl: Path) -> None:
    _dump(crawl / "dump.xml.bz2", "&lt;ref&gt;http://elsewhere.org/&lt;/ref&gt;")
    with pytest.raises(UserError, match="holds 0 usable pages that are cited"):
        _train(crawl, "model", language=None)
    _dump(crawl / "dump.xml.bz2", "no links")
    with pytest.raises(UserError, match="no external links found"):
        _train(crawl, "model", language=None)
