"""The five sources from published dumps through a whole build: the books, the shares that are kept, the same bytes."""

from pathlib import Path
from typing import Any

import pytest

from camelid.artifact import Manifest
from camelid.corpus.build import build_corpus
from camelid.corpus.settings import CorpusSettings

_SMALL: tuple[dict[str, Any], ...] = (
    {"kind": "github", "name": "github", "path": "github/gorilla__mux.tar.gz"},
    {"kind": "wikipedia", "name": "wikipedia", "path": "wikipedia/minidumps/slwiki-pages-articles.xml.bz2"},
    {"kind": "arxiv", "name": "arxiv", "path": "arxiv/recipes-decision.tar.gz"},
    {"kind": "stack_exchange", "name": "stackexchange", "path": "stackexchange/conlang.meta.stackexchange.com.tar.gz"},
)
_WHOLE: tuple[dict[str, Any], ...] = (
    {"kind": "github", "name": "github", "path": "github"},
    {"kind": "wikipedia", "name": "wikipedia", "path": "wikipedia", "languages": ()},
    {"kind": "books", "name": "books", "path": "books"},
    {"kind": "arxiv", "name": "arxiv", "path": "arxiv"},
    {"kind": "stack_exchange", "name": "stackexchange", "path": "stackexchange"},
)


def _build(base: Path, folder: Path, sources: tuple[dict[str, Any], ...], num_workers: int) -> Manifest:
    settings = CorpusSettings.model_validate({"sources": sources, "num_workers": num_workers, "min_characters": 1})
    return build_corpus(settings, folder / f"corpus-{num_workers}", seed=0, base=base)


def _num_dropped(facts: dict[str, Any], *steps: str) -> int:
    chosen = (reasons for step, reasons in facts["dropped"].items() if not steps or step in steps)
    return sum(sum(reasons.values()) for reasons in chosen)


def _check_books(manifest: Manifest) -> None:
    for name, facts in manifest.facts["sources"].items():
        num_out = facts["train_documents"] + facts["held_out_documents"]
        assert facts["records_in"] + facts["parts_added"] == num_out + _num_dropped(facts), name
        assert num_out > 0, name


def test_a_build_of_one_file_each(shared_data: Path, tmp_path: Path) -> None:
    _check_books(_build(shared_data, tmp_path, _SMALL, 1))


@pytest.mark.slow
def test_the_whole_sample_gives_the_same_bytes_with_any_number_of_workers(shared_data: Path, tmp_path: Path) -> None:
    manifests = [_build(shared_data, tmp_path, _WHOLE, number) for number in (1, 2, 4)]
    assert len({manifest.digest for manifest in manifests}) == 1
    _check_books(manifests[0])
    sources = manifests[0].facts["sources"]
    # Ninety of a hundred stay of what is an article, a book, a paper or a page.
    articles = sources["wikipedia"]["records_in"] - 955 - 246
    assert sources["wikipedia"]["dropped"]["pages"]["no text"] < 0.1 * articles
    assert _num_dropped(sources["arxiv"]) < 0.1 * sources["arxiv"]["records_in"]
    assert sources["books"]["dropped"] == {"overlap": {"in another book": 19}}
    pages = (
        sources["stackexchange"]["records_in"]
        - sources["stackexchange"]["dropped"]["pages"]["neither question nor answer"]
    )
    assert pages == 2372 + sources["stackexchange"]["dropped"]["pages"].get("answer without its question", 0)
