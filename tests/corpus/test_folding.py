"""Folded text and paragraph keys: against the obvious way, character by character."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid.corpus.folding import Folding, fold_as_paper, fold_as_released, fold_for_model
from camelid.corpus.steps.paragraphs import make_keys

_FOLDS = [fold_as_paper, fold_as_released, fold_for_model]
_TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("aZ9 \n\t.,-é«１…Ж")), max_size=60)


@pytest.mark.parametrize("fold", _FOLDS)
@given(text=_TEXTS)
def test_whole_pages_fold_like_single_characters(fold: object, text: str) -> None:
    assert callable(fold)
    found = Folding(fold)(text).decode()
    assert found == "".join(map(fold, text))
    assert found.count("\n") == text.count("\n")


def test_the_papers_normalisation() -> None:
    text = "Über 1,234 Äpfel!\n  ÜBER 99 apfel \n— ¿Qué? 42\nqué 7\nuber 0 apfel"
    keys = make_keys("paper")([text])[0].tolist()
    assert keys[0] == keys[1] == keys[4]
    assert keys[2] == keys[3] != keys[0]


def test_the_released_normalisation() -> None:
    """The published regular expressions, line by line: digits one by one, accents and ASCII punctuation stay."""
    text = "Über 12 Äpfel!\n“quoted” – 3…\n\x7f tab\there １"
    listed = re.compile("[“”„«»–—…’．，。、１」「《》´∶：？！（）；～━〈〉【】％►\x00-\x1f\x7f-\x9f]")
    wanted = [listed.sub("", re.sub(r"\d", "0", line.strip().lower())).strip() for line in text.split("\n")]
    assert make_keys("released")([text])[0].tolist() == make_keys("released")(["\n".join(wanted)])[0].tolist()


@given(text=_TEXTS)
def test_folded_for_the_model_has_no_case_accents_or_digits(text: str) -> None:
    for character in Folding(fold_for_model)(text).decode():
        assert unicodedata.category(character) not in ("Nd",) or character == "0"
        assert character == "\n" or unicodedata.category(character) != "Cc" or ord(character) > 159
