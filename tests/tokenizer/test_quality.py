import json
from pathlib import Path

import pytest
from small_text import small_tokenizer, texts

from camelid.tokenizer.load import load_tokenizer
from camelid.tokenizer.quality import measure_quality


def test_rows_count_bytes_and_tokens_by_source() -> None:
    tokenizer = small_tokenizer()
    pairs = [("prose", "the llama"), ("signs", "\U0001f999é"), ("prose", "a lake\n"), ("nothing", "")]
    rows = measure_quality({"ours": tokenizer}, iter(pairs))
    assert [(row["tokenizer"], row["source"]) for row in rows] == [("ours", "prose"), ("ours", "signs")]
    prose, signs = rows
    assert prose["num_bytes"] == 9 + 7
    assert prose["num_tokens"] == len(tokenizer.encode("the llama")) + len(tokenizer.encode("a lake\n"))
    assert prose["bytes_per_token"] == prose["num_bytes"] / prose["num_tokens"]
    assert prose["share_byte_fallback"] == 1 / prose["num_tokens"], "the line break alone is a byte"
    # Six bytes of text that no piece holds, after the space that begins every text.
    assert signs["num_bytes"] == 6
    assert (signs["num_tokens"], signs["share_byte_fallback"]) == (7, 6 / 7)
    json.dumps(rows)


def test_many_texts_are_measured_in_one_pass() -> None:
    pairs = [("a" if i % 3 else "b", text) for i, text in enumerate(texts(200))]
    rows = {row["source"]: row for row in measure_quality({"ours": small_tokenizer()}, iter(pairs))}
    for source, row in rows.items():
        own = [text for name, text in pairs if name == source]
        assert row["num_bytes"] == sum(len(text.encode()) for text in own)
        assert row["num_tokens"] == sum(len(small_tokenizer().encode(text)) for text in own)


def test_tokenizers_stand_side_by_side(shared_data: Path) -> None:
    released = load_tokenizer(shared_data / "models/llama-tokenizer")
    rows = measure_quality({"ours": small_tokenizer(), "released": released}, [("x", text) for text in texts(3)])
    assert [row["tokenizer"] for row in rows] == ["ours", "released"]
    assert rows[0]["num_bytes"] == rows[1]["num_bytes"]
    # A real text of the paper's kind has a little under 4 bytes per token of the released tokenizer.
    assert rows[1]["bytes_per_token"] == pytest.approx(3.4, abs=0.8)


def test_no_text_gives_no_rows() -> None:
    assert measure_quality({"ours": small_tokenizer()}, []) == []
