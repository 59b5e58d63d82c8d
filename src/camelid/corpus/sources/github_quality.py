"""Figures of a source file by which odd ones are told: data, minified and generated code."""

import re

from camelid.corpus.source_settings import CodeQuality

_TOKEN = re.compile(r"\w+|[^\w\s]")


def _kind(character: str) -> str:
    if character.isalpha():
        return "a"
    if character.isdigit():
        return "0"
    return "_" if character == "_" else " " if character.isspace() else "."


_KINDS = bytes(ord(_kind(chr(code))) for code in range(128)) + bytes(128)
_WORDS = bytes.maketrans(b"a0_", b"www")


def find_fault(text: str, quality: CodeQuality) -> tuple[str, str] | None:
    """Why a file is dropped, and the figure that says so; None for a good one."""
    lines = text.splitlines()
    longest = max(map(len, lines), default=0)
    if not text.strip():
        return "empty", ""
    if longest > quality.max_line_length:
        return "long line", f"{longest:,} characters"
    mean = sum(map(len, lines)) / len(lines)
    if mean > quality.max_mean_line_length:
        return "long lines on average", f"{mean:.0f} characters"
    num_letters, num_alphanumeric, num_tokens = _count(text)
    share = num_alphanumeric / len(text)
    if share < quality.min_alphanumeric_share:
        return "few letters and digits", f"{100 * share:.0f} %"
    per_token = num_letters / max(1, num_tokens)
    if per_token < quality.min_letters_per_token:
        return "few letters per token", f"{per_token:.2f}"
    return None


def _count(text: str) -> tuple[int, int, int]:
    """Letters, letters and digits, and tokens: words and numbers, and every other mark by itself."""
    if not text.isascii():
        return sum(map(str.isalpha, text)), sum(map(str.isalnum, text)), len(_TOKEN.findall(text))
    kinds = text.encode().translate(_KINDS)
    num_letters, num_digits = kinds.count(b"a"), kinds.count(b"0")
    words = kinds.translate(_WORDS)
    num_words = words.count(b" w") + words.count(b".w") + words.startswith(b"w")
    return num_letters, num_letters + num_digits, num_words + words.count(b".")


def is_wanted(path: str, quality: CodeQuality) -> bool:
    """Whether a file's name says that it is of a wanted language."""
    name = path.rpartition("/")[2].lower()
    return not quality.suffixes or any(
        name.endswith(suffix.lower()) if suffix.startswith(".") else name == suffix.lower()
        for suffix in quality.suffixes
    )
