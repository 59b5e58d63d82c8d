"""Keys of lines: the sum that they are said to be, one character at a time, and no two different lines alike."""

import itertools
import random
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from camelid.corpus import line_keys
from camelid.corpus.folding import fold_as_paper, fold_as_released
from camelid.corpus.hashing import mix, sort_stably
from camelid.corpus.line_keys import LineKeys

_LETTERS = st.one_of(st.characters(codec="utf-8"), st.sampled_from("aZ09 \n\t.,-é«１…Жİೋ"))
# Beside letters, more blanks in a row than are passed step by step.
_TEXTS = st.lists(st.one_of(_LETTERS, st.sampled_from([" " * 6, "\n"])), max_size=40).map("".join)
_PAPER = LineKeys(fold_as_paper, is_number_one=True)
_RELEASED = LineKeys(fold_as_released, is_number_one=False)


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def _fold(line: str, is_paper: bool) -> str:
    folded = "".join(map(fold_as_paper if is_paper else fold_as_released, line))
    return (re.sub("00+", "0", folded) if is_paper else folded).strip(" ")


def _key(line: str) -> int:
    return _mix(sum(_mix(ord(c)) * pow(0x5851F42D4C957F2D, place, 2**64) for place, c in enumerate(line)) % 2**64)


@settings(deadline=None, max_examples=200)
@given(texts=st.lists(_TEXTS, max_size=5))
@example(texts=["\nword      \nword"])
@pytest.mark.parametrize("is_paper", [True, False])
def test_keys_are_those_of_the_folded_lines(texts: list[str], is_paper: bool) -> None:
    folded = [_fold(line, is_paper) for text in texts for line in text.split("\n")]
    keys, is_blank = (_PAPER if is_paper else _RELEASED)(texts)
    assert is_blank.tolist() == [not line for line in folded]
    found = [(line, key) for line, key in zip(folded, keys.tolist(), strict=True) if line]
    assert found == [(line, _key(line)) for line in folded if line]


@settings(deadline=None, max_examples=100)
@given(text=st.text(st.sampled_from("aB 09.\néİ"), max_size=80))
def test_long_lines_have_the_same_keys(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_keys, "_SEGMENT_CHARACTERS", 5)
        patch.setattr(line_keys, "_LONG_LINE", 9)
        for keys_of in (_PAPER, _RELEASED):
            short_keys, short_blank = keys_of([text])
            with pytest.MonkeyPatch.context() as whole:
                whole.setattr(line_keys, "_SEGMENT_CHARACTERS", 1 << 16)
                whole.setattr(line_keys, "_LONG_LINE", 1 << 18)
                keys, is_blank = keys_of([text])
            assert short_blank.tolist() == is_blank.tolist()
            assert short_keys[~short_blank].tolist() == keys[~is_blank].tolist()


def test_different_lines_have_different_keys() -> None:
    """Anagrams, lines that repeat, swapped words and all short words: what a sum of products could confuse."""
    rng = random.Random(1)
    lines = {"".join(letters) for letters in itertools.permutations("abcdefgh")}
    lines |= {"".join(letters) for letters in itertools.product("abcd", repeat=8)}
    lines |= {letter * number for letter in "xyzü漢" for number in range(1, 2000)}
    words = [f"w{number:b}".replace("0", "o").replace("1", "i") for number in range(64)]
    lines |= {" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(100_000)}
    keys, is_blank = _PAPER(["\n".join(sorted(lines))])
    assert not is_blank.any()
    assert len(np.unique(keys)) == len(lines) > 200_000
    # Ranges of equal width hold equally many, low bits too.
    for bits in (keys >> np.uint64(60), keys & np.uint64(15)):
        counts = np.bincount(bits.astype(np.int64), minlength=16)
        assert counts.max() < 1.1 * counts.min()


@given(numbers=st.lists(st.integers(0, 9), max_size=40))
def test_equal_hashes_stay_in_their_order(numbers: list[int]) -> None:
    hashes = mix(np.array(numbers, np.uint64))
    assert sort_stably(hashes).tolist() == np.argsort(hashes, kind="stable").tolist()
