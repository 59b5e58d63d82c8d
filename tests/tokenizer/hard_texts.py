"""Texts on which tokenizers tend to differ, made from a seed."""

import random
from collections.abc import Iterator

CONTROL_NAMES = (
    "<s>",
    "</s>",
    "<unk>",
    "<0x0A>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<repo_name>",
    "[INST]",
    "<<SYS>>",
)

_SPACES = " \t\n\r\v\f\0\x85\u00a0\u1680\u2003\u2028\u202f\u3000\ufeff\u200b\u200d\u2581"
_DIGITS = "0123456789٠١٢३४²³½Ⅷ①𝟘𝟙"
_MARKS = "!?.,:;'\"`´^~|/\\()[]{}<>=+-*&%$#@_«»“”‘’…—¿¡、。！？（）「」"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FOREIGN = (
    "àéîõüßñçøåæœşğıİŁžđþŋǅʼnſKÅабвгдежзийклмнопячыьэюλμνξοπρσςאבגדהابتثجحकखगघกขคง漢字中文日本語ひらがなカタカナ"
    "한국어አማርኛ"
)
_ODD = (
    *("e\u0301", "a\u0308", "\u0300\u0301\u0302", "\U0001f999", "\U0001f469\u200d\U0001f52c", "\U0001f1e9\U0001f1ea"),
    *("\ufffd", "\u2585", "\uff10", "\ufb01", "\u0130"),
)
_WORDS = (
    *("the", "llama's", "isn't", "WE'LL", "they've", "I'd", "He'S", "don't", "'tis", "O'Neill", "rock'n'roll"),
    *("int", "main(void)", "{", "return", "0;", "}", "def", "run(self,", "x=10):", "https://example.org/a?b=1&c=%20"),
    *("3.14159", "1,000,000", "2026-11-24T12:00:00Z", "café", "naïve", "Donaudampfschifffahrt", "Привет", "مرحبا"),
    *("你好世界", "こんにちは", "안녕하세요", "नमस्ते"),
)


def hard_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Random and adversarial texts, the same for the same seed; none holds half of a surrogate pair."""
    source = random.Random(seed)
    makers = (_words, _runs, _soup, _soup, _points, _code, _names)
    for _ in range(count):
        yield source.choice(makers)(source)


def _words(source: random.Random) -> str:
    separators = (" ", " ", " ", "  ", "\n", "\n\n", "\t", "")
    return "".join(source.choice(_WORDS) + source.choice(separators) for _ in range(source.randint(1, 12)))


def _runs(source: random.Random) -> str:
    """The same character many times over, and then another."""
    alphabet = _SPACES + _DIGITS + _MARKS + _LETTERS + "漢한é\U0001f999"
    return "".join(source.choice(alphabet) * source.randint(1, 40) for _ in range(source.randint(1, 5)))


def _soup(source: random.Random) -> str:
    alphabets = (_SPACES, _DIGITS, _MARKS, _LETTERS, _LETTERS, _FOREIGN, _ODD, " ", " ")
    return "".join(source.choice(source.choice(alphabets)) for _ in range(source.randint(0, 40)))


def _points(source: random.Random) -> str:
    """Any characters of Unicode, unassigned ones too."""
    tops = (0x80, 0x800, 0x3000, 0x10000, 0x20000, 0x110000)
    points = (source.randrange(source.choice(tops)) for _ in range(source.randint(1, 20)))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def _code(source: random.Random) -> str:
    lines = (
        " " * source.randint(0, 20) + source.choice(_WORDS) + source.choice((":", ";", "", " {", " #"))
        for _ in range(5)
    )
    return source.choice(("\n", "\r\n", "\n\n")).join(lines)


def _names(source: random.Random) -> str:
    """Names of control tokens, whole and in parts."""
    parts = []
    for _ in range(source.randint(1, 6)):
        name = source.choice(CONTROL_NAMES)
        cut = source.randint(0, len(name))
        parts += [name if source.random() < 0.6 else name[:cut], source.choice(("", " ", "a", "\n", "\u2581", "1"))]
    return "".join(parts)
