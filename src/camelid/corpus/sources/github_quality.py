"""Figures of a source file by which odd ones are told: data, minified and generated code."""

import re

from camelid.corpus.source_settings import CodeQuality

_TOKEN = re.compile(r"\w+|[^\w\s]")


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
    num_letters = sum(map(str.isalpha, text))
    num_alphanumeric = sum(map(str.isalnum, text))
    share = num_alphanumeric / len(text)
    if share < quality.min_alphanumeric_share:
        return "few letters and digits", f"{100 * share:.0f} %"
    per_token = num_letters / max(1, len(_TOKEN.findall(text)))
    if per_token < quality.min_letters_per_token:
        return "few letters per token", f"{per_token:.2f}"
    return None


def is_wanted(path: str, quality: CodeQuality) -> bool:
    """Whether a file's name says that it is of a wanted language."""
    name = path.rpartition("/")[2].lower()
    return not quality.suffixes or any(
        name.endswith(suffix.lower()) if suffix.startswith(".") else name == suffix.lower()
        for suffix in quality.suffixes
    )
