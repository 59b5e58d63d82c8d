"""Passages of evaluation sets in documents: planted ones are found, and nothing else is."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid.corpus.build import build_corpus
from camelid.corpus.document import read_documents
from camelid.corpus.settings import CorpusSettings
from camelid.corpus.steps.decontaminate import Passages, load_passages
from camelid.errors import UserError

_QUESTION = "Which of the following animals is best known for carrying loads across the high Andes of Peru?"


@given(
    sets=st.lists(st.lists(st.sampled_from("abc"), max_size=12), min_size=1, max_size=3),
    text=st.lists(st.sampled_from("abc"), max_size=20),
    length=st.integers(4, 6),
)
def test_found_is_what_has_a_passage_in_common(sets: list[list[str]], text: list[str], length: int) -> None:
    passages = Passages(length)
    for number, words in enumerate(sets):
        passages.add(f"set {number}", " ".join(words))

    def grams(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}

    # A passage of two sets is told of the first one.
    known: set[tuple[str, ...]] = set()
    wanted = set()
    for number, words in enumerate(sets):
        if (grams(words) - known) & grams(text):
            wanted.add(f"set {number}")
        known |= grams(words)
    assert passages.find(" ".join(text)).keys() == wanted


def test_real_sets_are_read_and_find_themselves(shared_data: Path) -> None:
    names = ("gsm8k", "humaneval", "piqa", "openbookqa", "truthfulqa", "winogender", "mbpp")
    passages = load_passages(tuple(shared_data / "eval" / name for name in names), 13)
    line = json.loads((shared_data / "eval/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()[5])
    assert "gsm8k/test.jsonl" in passages.find("Before. " + line["question"].upper() + " After.")
    assert not passages.find(
        "Nothing in this plain sentence about nothing stands in any evaluation set that we know of."
    )


def _build(folder: Path, **decontamination: Any) -> tuple[dict[str, Any], set[str]]:
    sources = [{"kind": "folder", "name": "notes", "path": "text"}]
    values = {"sources": sources, "min_characters": 1, "num_workers": 1, "decontamination": decontamination}
    name = f"corpus-{decontamination.get('is_dropped')}"
    facts = build_corpus(CorpusSettings.model_validate(values), folder / name, seed=0, base=folder).facts["sources"][
        "notes"
    ]
    return facts, {d.path for split in ("train", "held_out") for d in read_documents(folder / name, split)}


def test_found_documents_are_counted_and_dropped_where_so_set(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(f"A quiz page. {_QUESTION.replace(' of ', ', OF ')} The llama.")
    (tmp_path / "text" / "b.txt").write_text("Which of the following animals is best known for its wool?")
    (tmp_path / "text" / "c.txt").write_text("Something else.")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "quiz.jsonl.gz").write_bytes(gzip.compress(json.dumps({"q": {"stem": [_QUESTION]}}).encode()))
    facts, paths = _build(tmp_path, files=["eval"])
    assert facts["counts"] == {"contaminated by eval/quiz.jsonl.gz": 1, "contaminated_documents": 1}
    assert paths == {"a.txt", "b.txt", "c.txt"}
    facts, paths = _build(tmp_path, files=["eval"], is_dropped=True)
    assert facts["dropped"]["decontaminate"] == {"shares a passage": 1}
    assert paths == {"b.txt", "c.txt"}


def test_sets_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_passages((tmp_path / "none",), 13)
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="cannot be read as an evaluation set"):
        load_passages((tmp_path / "bad.txt",), 13)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no text of 13 words"):
        load_passages((tmp_path / "empty",), 13)
