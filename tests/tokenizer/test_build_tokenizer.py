import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from small_text import texts

from camelid import artifact
from camelid.artifact import Manifest
from camelid.errors import UserError
from camelid.tokenizer.build import build_tokenizer
from camelid.tokenizer.load import load_tokenizer
from camelid.tokenizer.settings import TokenizerSettings


def build(directory: Path, compare: Mapping[str, Path] | None = None, held_out: str = "a llama's lake") -> Manifest:
    return build_tokenizer(
        TokenizerSettings(vocab_size=400),
        directory,
        train_texts=lambda: iter(texts()),
        held_out=lambda: iter([("python", held_out)]),
        inputs={"corpus": "0" * 64},
        seed=1,
        compare=compare,
    )


def test_the_product_holds_model_and_quality(tmp_path: Path) -> None:
    manifest = build(tmp_path / "tokenizer")
    assert artifact.verify(tmp_path / "tokenizer", "tokenizer") == manifest
    assert manifest.inputs == {"corpus": "0" * 64}
    assert manifest.settings["vocab_size"] == manifest.facts["vocab_size"] == 400
    (row,) = json.loads((tmp_path / "tokenizer/quality.json").read_text(encoding="utf-8"))
    assert (row["tokenizer"], row["source"], row["num_bytes"]) == ("camelid", "python", 14)
    assert manifest.facts["bytes_per_token"] == {"python": row["bytes_per_token"]}
    assert load_tokenizer(tmp_path / "tokenizer").vocab_size == 400


def test_held_out_text_teaches_nothing(tmp_path: Path) -> None:
    build(tmp_path / "one")
    build(tmp_path / "two", held_out="\U0001f999 zebra" * 1000)
    assert (tmp_path / "one/tokenizer.model").read_bytes() == (tmp_path / "two/tokenizer.model").read_bytes()


def test_comparing_changes_the_table_and_not_the_product(tmp_path: Path) -> None:
    alone = build(tmp_path / "alone")
    compared = build(tmp_path / "compared", {"another": tmp_path / "alone"})
    assert compared.digest == alone.digest
    rows = json.loads((tmp_path / "compared/quality.json").read_text(encoding="utf-8"))
    assert [row["tokenizer"] for row in rows] == ["camelid", "another"]
    assert rows[0]["num_tokens"] == rows[1]["num_tokens"]


def test_a_comparison_that_is_not_there_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.model cannot be read as a tokenizer"):
        build(tmp_path / "tokenizer", {"absent": tmp_path / "absent.model"})
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_cannot_take_our_name(tmp_path: Path) -> None:
    build(tmp_path / "camelid")
    with pytest.raises(UserError, match="cannot be called 'camelid'"):
        build(tmp_path / "other", {"camelid": tmp_path / "camelid"})


def test_a_refused_text_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text to learn"):
        build_tokenizer(
            TokenizerSettings(vocab_size=400),
            tmp_path / "tokenizer",
            train_texts=list,
            held_out=list,
            inputs={},
            seed=1,
        )
    assert list(tmp_path.iterdir()) == []
