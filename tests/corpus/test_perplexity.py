"""Perplexity: KenLM's own scores, percentiles of a crawl, and good text below bad text."""

import gzip
import random
from pathlib import Path
from typing import Any

import kenlm
import numpy as np
import pyarrow.parquet as pq
import pytest
import sentencepiece
from typer.testing import CliRunner
from web_pages import write_wet

from camelid import artifact
from camelid.cli.corpus import app
from camelid.corpus.build import build_corpus
from camelid.corpus.document import read_documents
from camelid.corpus.language_model import train_language_model
from camelid.corpus.ledger import LEDGER_NAME
from camelid.corpus.model_settings import LanguageModelSettings
from camelid.corpus.settings import CorpusSettings
from camelid.corpus.steps.perplexity import ARPA_NAME, PIECES_NAME, load_language_model
from camelid.errors import UserError


def _sentences(shared_data: Path, number: int) -> list[str]:
    text = gzip.decompress((shared_data / "text/wikitext-2-raw/wiki.test.raw.gz").read_bytes()).decode()
    return [line.strip() for line in text.splitlines() if len(line) > 200][:number]


@pytest.fixture(scope="module")
def model_folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm") / "en"
    texts = _sentences(shared_data, 700)
    settings = LanguageModelSettings(vocab_size=2000, order=4, memory_bytes=1 << 24)
    train_language_model(settings, lambda: texts, folder, inputs={})
    return folder


def test_scores_are_kenlms_on_the_same_pieces(model_folder: Path) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_folder / PIECES_NAME))
    ngrams = kenlm.Model(str(model_folder / ARPA_NAME))
    text = "The “first” line of 1999.\n\nAnd the secönd one"
    lines = ['the "first" line of 0000.', "and the second one"]
    encoded = [" ".join(pieces.encode(line, out_type=str)) for line in lines]
    length = sum(len(line.split(" ")) + 1 for line in encoded)
    wanted = 10 ** (-sum(ngrams.score(line) for line in encoded) / length)
    assert load_language_model(model_folder).perplexity(text) == pytest.approx(wanted, abs=0.051)
    glued = ngrams.score(" ".join(pieces.encode("".join(lines), out_type=str)))
    length = len(pieces.encode("".join(lines))) + 1
    found = load_language_model(model_folder).perplexity(text, "page")
    assert found == pytest.approx(10 ** (-glued / length), abs=0.051)


def test_held_out_text_ranks_under_shuffled_text_and_boilerplate(model_folder: Path, shared_data: Path) -> None:
    model = load_language_model(model_folder)
    rng = random.Random(4)
    boilerplate = "Home Login Contact Us\nPrivacy Policy\nAdd to cart\nShare on Facebook\nAll rights reserved\nNext >>"
    wins = []
    for text in _sentences(shared_data, 1000)[700:]:
        words = text.split()
        rng.shuffle(words)
        good = model.perplexity(text)
        wins += [good < model.perplexity(" ".join(words)), good < model.perplexity(boilerplate)]
    assert len(wins) > 300
    assert sum(wins) / len(wins) > 0.95


def test_the_same_text_gives_the_same_model(model_folder: Path, shared_data: Path, tmp_path: Path) -> None:
    texts = _sentences(shared_data, 700)
    settings = LanguageModelSettings(vocab_size=2000, order=4, memory_bytes=1 << 30)
    again = train_language_model(settings, lambda: texts, tmp_path / "again", inputs={})
    assert again.digest == artifact.read_manifest(model_folder).digest


def _build(folder: Path, name: str, **perplexity: Any) -> tuple[dict[str, Any], dict[str, float]]:
    source = {
        "kind": "common_crawl", "name": "web", "path": "wet", "min_page_characters": 1, "paragraphs": None,
        "perplexity": {"models": {"en": "en"}, **perplexity},
    }  # fmt: skip
    chosen = CorpusSettings.model_validate({"sources": [source], "min_characters": 1, "num_workers": 1})
    facts = build_corpus(chosen, folder / name, seed=0, base=folder).facts["sources"]["web"]
    documents = [*read_documents(folder / name, "train"), *read_documents(folder / name, "held_out")]
    return facts, {document.url: document.perplexity or 0.0 for document in documents}


def test_buckets_are_measured_on_the_crawl(model_folder: Path, shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "en").symlink_to(model_folder)
    rng = random.Random(6)
    pages = []
    for number, text in enumerate(_sentences(shared_data, 1000)[700:800]):
        words = text.split()
        if number % 3 == 0:
            rng.shuffle(words)
        pages.append((f"u:{number}", " ".join(words)))
    write_wet(tmp_path / "wet" / "a.wet.gz", pages)
    model = load_language_model(model_folder)
    wanted = {url: model.perplexity(text) for url, text in pages}
    facts, everything = _build(tmp_path, "all", kept=["head", "middle", "tail"])
    assert everything == {url: wanted[url] for url in everything}
    head, middle = facts["decided"]["perplexity_cutoffs"]["en"]
    values = sorted(everything.values())
    assert [head, middle] == [float(np.percentile(values, p, method="inverted_cdf")) for p in (30, 60)]
    _, kept = _build(tmp_path, "kept")
    assert kept == {url: value for url, value in everything.items() if value < middle}
    rows = pq.read_table(tmp_path / "kept" / LEDGER_NAME).to_pylist()
    tail = [row["score"] for row in rows if row["reason"] == "in the tail"]
    assert len(tail) == facts["counts"]["bucket tail"]
    assert all(score >= middle for score in tail)
    _, fixed = _build(tmp_path, "fixed", cutoffs={"en": [1.0, values[10]]})
    assert sorted(fixed.values()) == values[:10]


def test_the_command_trains_on_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for number in range(40):
        words = " ".join(f"word{(number * n) % 23} and more" for n in range(60))
        (tmp_path / "text" / f"{number}.txt").write_text(f"{words}.\nA second line of text {number}.")
    sources = [{"kind": "folder", "name": "notes", "path": "text"}]
    chosen = CorpusSettings.model_validate({"sources": sources, "num_workers": 1})
    build_corpus(chosen, tmp_path / "corpus", seed=0, base=tmp_path)
    words_of_command = ["train-lm", str(tmp_path / "corpus"), "--out", str(tmp_path / "lm"), "--set", "vocab_size=100"]
    done = CliRunner().invoke(app, [*words_of_command, "--set", "order=3"])
    assert done.exit_code == 0, done.output
    assert "n-grams by order" in done.stdout
    assert load_language_model(tmp_path / "lm").perplexity("word1 and more word2 and more") < 100
    again = CliRunner().invoke(app, [*words_of_command, "--set", "ordr=3"])
    assert isinstance(again.exception, UserError)
    assert "did you mean 'order'" in str(again.exception)
    again = CliRunner().invoke(app, [*words_of_command, "--language", "xx"])
    assert isinstance(again.exception, UserError)
    assert "has no document of language 'xx', only of none" in str(again.exception)


def test_a_missing_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model\.arpa"):
        load_language_model(tmp_path)
    write_wet(tmp_path / "wet" / "a.wet.gz", [("u:1", "text")])
    with pytest.raises(UserError, match="en does not exist"):
        _build(tmp_path, "corpus")
