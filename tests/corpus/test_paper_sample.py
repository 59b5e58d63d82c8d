"""The recipe of the paper's mixture: its shares are Table 1's, and its seven sources build from raw files."""

import json
from pathlib import Path

import pytest

from camelid.corpus.build import build_corpus
from camelid.corpus.document import count_documents
from camelid.recipe import load_recipe

_NAMES = {"CommonCrawl": "common_crawl", "StackExchange": "stack_exchange"}
_PATHS = {
    "common_crawl": "commoncrawl/wet/whirlwind.warc.wet.gz",
    "c4": "c4/olmo-c4-sample.01.json.gz",
    "github": "github/gorilla__mux.tar.gz",
    "wikipedia": "wikipedia/minidumps/slwiki-pages-articles.xml.bz2",
    "books": "books",
    "arxiv": "arxiv/recipes-decision.tar.gz",
    "stack_exchange": "stackexchange/conlang.meta.stackexchange.com.tar.gz",
}


def test_the_shares_are_those_of_table_1(shared_data: Path) -> None:
    paper = json.loads((shared_data.parent / "reference" / "llama_paper.json").read_text(encoding="utf-8"))

    def find_rows(tree: object) -> list[dict[str, object]]:
        if isinstance(tree, dict):
            if "sampling_proportion" in tree:
                return [tree]
            return [row for value in tree.values() for row in find_rows(value)]
        return [row for value in tree for row in find_rows(value)] if isinstance(tree, list) else []

    table = {str(row["source"]): row["sampling_proportion"] for row in find_rows(paper)}
    mixture = load_recipe("paper-sample")[0].dataset.mixture
    assert {_NAMES.get(name, name.lower()): share for name, share in table.items()} == mixture
    assert sum(mixture.values()) == pytest.approx(1)


@pytest.mark.slow
def test_the_seven_sources_build(shared_data: Path, tmp_path: Path) -> None:
    recipe, _ = load_recipe("paper-sample")
    overrides = [
        f"corpus.sources.{number}.path={_PATHS[source.name]}" for number, source in enumerate(recipe.corpus.sources)
    ]
    # Any language will do for the one page of the small web sample.
    overrides += ["corpus.num_workers=1", "corpus.sources.0.language.languages=[]"]
    corpus = load_recipe("paper-sample", overrides)[0].corpus
    build_corpus(corpus, tmp_path / "corpus", seed=recipe.seed, base=shared_data)
    assert set(count_documents(tmp_path / "corpus", "train")) == set(recipe.dataset.mixture)
