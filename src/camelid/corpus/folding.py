"""Text made alike before it is compared or scored: case, digits, accents and punctuation, a whole page at a time.

ASCII goes through one table of bytes. Of the rest only the distinct characters of a page are looked at, each once in
the life of a process; a page in any script then costs a few replacements.
"""

import unicodedata
from collections.abc import Callable

# The released code's list (facebookresearch/cc_net, text_normalizer). The full-width digit that stands there among the
# quotes is a digit by the time the list is applied.
RELEASED_PUNCTUATION = {
    "，": ",", "。": ".", "、": ",", "„": '"', "”": '"', "“": '"', "«": '"', "»": '"', "」": '"', "「": '"',
    "《": '"', "》": '"', "´": "'", "∶": ":", "：": ":", "？": "?", "！": "!", "（": "(", "）": ")", "；": ";",
    "–": "-", "—": " - ", "．": ". ", "～": "~", "’": "'", "…": "...", "━": "-", "〈": "<", "〉": ">", "【": "[",
    "】": "]", "％": "%", "►": "-",
}  # fmt: skip
_ASCII = bytes(range(128))
_CONTROLS = frozenset(map(chr, [*range(10), *range(11, 32), *range(127, 160)]))


class Folding:
    """A way of folding, given by what becomes of a single character."""

    def __init__(self, fold: Callable[[str], str]) -> None:
        """
        Args:
            fold: the text that stands for a character; a line feed must stay one.
        """
        ascii_folds = {code: fold(chr(code)) for code in _ASCII}
        assert all(len(text) <= 1 for text in ascii_folds.values())
        assert ascii_folds[10] == "\n"
        self._table = bytes(ord(ascii_folds[code] or "\0") if code < 128 else code for code in range(256))
        self._deleted = bytes(code for code in _ASCII if not ascii_folds[code])
        self._folds: dict[str, str] = {}
        self._fold = fold

    def __call__(self, text: str) -> bytes:
        """The folded text in UTF-8, with as many line feeds as before."""
        data = text.encode()
        if not text.isascii():
            folds = self._folds
            is_changed = False
            for character in set(data.translate(None, _ASCII).decode()):
                folded = folds.get(character)
                if folded is None:
                    folded = folds[character] = self._fold(character)
                if folded != character:
                    text = text.replace(character, folded)
                    is_changed = True
            if is_changed:
                data = text.encode()
        return data.translate(self._table, self._deleted)


def _strip_accents(character: str) -> str:
    parts = unicodedata.normalize("NFD", character)
    return unicodedata.normalize("NFC", "".join(part for part in parts if unicodedata.category(part) != "Mn"))


def _is_digit(character: str) -> bool:
    return unicodedata.category(character) == "Nd"


def fold_as_paper(character: str) -> str:
    """The key of a paragraph after the CCNet paper: lower case, 0 for digits, no punctuation, accents or controls."""
    if character == "\n":
        return character
    if _is_digit(character):
        return "0"
    if character in _CONTROLS or unicodedata.category(character).startswith("P"):
        return ""
    return _strip_accents(character.lower())


def fold_as_released(character: str) -> str:
    """The key of a paragraph after the released code: accents and ASCII punctuation stay."""
    if _is_digit(character):
        return "0"
    if character in _CONTROLS or character in RELEASED_PUNCTUATION:
        return ""
    return character.lower()


def fold_for_model(character: str) -> str:
    """What the language model reads: lower case, no accents, 0 for digits, ASCII punctuation."""
    if character == "\n":
        return character
    if _is_digit(character):
        return "0"
    if character in _CONTROLS:
        return ""
    return RELEASED_PUNCTUATION.get(character) or _strip_accents(character.lower())
