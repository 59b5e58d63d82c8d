"""Many texts at once: the ids of sentencepiece whatever the text, and by sentencepiece where gigatoken may differ."""

import gzip
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from camelid.errors import UserError
from camelid.tokenizer.bulk import BulkEncoder
from camelid.tokenizer.load import load_tokenizer
from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer
from camelid.tokenizer.settings import TokenizerSettings
from camelid.tokenizer.train import train_tokenizer


@pytest.fixture(scope="module")
def llama(shared_data: Path) -> SentencePieceTokenizer:
    tokenizer = load_tokenizer(shared_data / "models/llama-tokenizer/tokenizer.model")
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def own(shared_data: Path) -> SentencePieceTokenizer:
    text = gzip.decompress((shared_data / "text/wikitext-2-raw/wiki.test.raw.gz").read_bytes()).decode()[:300_000]
    return SentencePieceTokenizer(
        train_tokenizer([text], TokenizerSettings(vocab_size=1000, newlines="pieces"), seed=1)
    )


_TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(["<s>", "</s>", "<unk>", "<0x0A>", "▁", " ", "\n", "ab", "<", "é", "👩‍👩‍👧", "\0"])).map(
        "".join
    ),
    st.integers(0, 300).map(lambda number: "x" + " " * number + "y"),
)


@pytest.fixture(scope="module")
def encoders(
    llama: SentencePieceTokenizer, own: SentencePieceTokenizer
) -> list[tuple[SentencePieceTokenizer, BulkEncoder]]:
    return [(tokenizer, BulkEncoder(tokenizer)) for tokenizer in (llama, own)]


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(_TEXTS, max_size=5))
@example(texts=["a </s> b", "<s><s>", "no control", "", "</s"])
def test_ids_are_those_of_sentencepiece(
    encoders: list[tuple[SentencePieceTokenizer, BulkEncoder]], texts: list[str]
) -> None:
    for tokenizer, encoder in encoders:
        assert encoder.is_fast
        found = encoder.encode(texts)
        assert found == [tokenizer.encode(text) for text in texts]
        assert not {tokenizer.bos_id, tokenizer.eos_id} & {index for ids in found for index in ids}


def test_models_that_gigatoken_may_read_otherwise_stay_with_sentencepiece(
    llama: SentencePieceTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "text.txt"
    source.write_text("a few words of text, and some more words of it\n" * 20)
    common: dict[str, Any] = {"input": str(source), "vocab_size": 290, "byte_fallback": True, "hard_vocab_limit": False}
    models: dict[str, dict[str, Any]] = {
        "unigram": {"model_type": "unigram", "normalization_rule_name": "identity"},
        "normalising": {"model_type": "bpe"},
        "defined": {
            "model_type": "bpe", "normalization_rule_name": "identity", "user_defined_symbols": ["words"],
            "remove_extra_whitespaces": False,
        },
    }  # fmt: skip
    for name, changes in models.items():
        prefix = tmp_path / name
        sentencepiece.SentencePieceTrainer.train(model_prefix=str(prefix), minloglevel=2, **common, **changes)
        tokenizer = SentencePieceTokenizer(prefix.with_suffix(".model").read_bytes())
        encoder = BulkEncoder(tokenizer)
        assert not encoder.is_fast, name
        assert encoder.encode(["some words", "<s>"]) == tokenizer.encode_batch(["some words", "<s>"])
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    without = BulkEncoder(llama)
    assert not without.is_fast
    assert without.encode(["text </s>"]) == llama.encode_batch(["text </s>"])


def test_half_of_a_surrogate_pair_is_refused(llama: SentencePieceTokenizer) -> None:
    with pytest.raises(UserError, match="half of a surrogate pair"):
        BulkEncoder(llama).encode(["good", "bad \ud800"])


def _texts(folder: Path) -> Iterator[str]:
    """The texts of the sample as they lie there, all languages; wikitext, LaTeX, code and markup among them."""
    for path in sorted(folder.rglob("*")):
        if path.name.endswith((".tar.gz", ".tgz")):
            with tarfile.open(path) as tar:
                for member in tar:
                    stream = tar.extractfile(member)
                    if stream is not None:
                        yield stream.read().decode("utf-8", "replace")
        elif path.is_file() and path.suffix == ".gz":
            yield gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        elif path.is_file() and path.suffix in (".jsonl", ".csv", ".tsv", ".json", ".md"):
            yield path.read_text(encoding="utf-8", errors="replace")


@pytest.mark.slow
def test_all_of_the_sample_in_all_languages(
    shared_data: Path, encoders: list[tuple[SentencePieceTokenizer, BulkEncoder]]
) -> None:
    num_bytes = 0
    for name in ("langid", "text", "books", "github", "stackexchange", "arxiv", "c4", "eval", "commoncrawl/wet"):
        for text in _texts(shared_data / name):
            pieces = [text[start : start + 100_000] for start in range(0, min(len(text), 10_000_000), 100_000)]
            for tokenizer, encoder in encoders:
                assert encoder.encode(pieces) == tokenizer.encode_batch(pieces)
            num_bytes += sum(len(piece.encode()) for piece in pieces)
    assert num_bytes > 100_000_000
