"""Boilerplate at the beginning of source files: licences and copyright go, code and what explains it stays."""

import re
from dataclasses import dataclass

# What stands before or between comments and is no code yet: interpreter, encoding and editor lines, guards.
_OPENING = re.compile(
    r"(?:#![^\n]*\n|[ \t]*[#;/%\"-]+[ \t]*(?:-\*-[^\n]*-\*-|vim?:[^\n]*|[^\n]{0,20}coding[:=][^\n]*)[^\n]*\n"
    r"|<\?php[^\n]*\n"
    r"|<\?xml[^\n]*\?>[ \t]*\n?|<!DOCTYPE[^>]*>[ \t]*\n?|[ \t]*\n|#[ \t]*pragma once[^\n]*\n"
    r"|['\"]use strict['\"];?[ \t]*\n|#[ \t]*ifndef[ \t]+\w+[ \t]*\n#[ \t]*define[ \t]+\w+[ \t]*\n|@charset[^\n]*\n)+",
    re.IGNORECASE,
)
_BLOCKS = (
    ("/*", "*/"), ("<!--", "-->"), ("(*", "*)"), ("{-", "-}"), ('"""', '"""'), ("'''", "'''"), ("--[[", "]]"),
    ("#|", "|#"), ("=begin", "=end"), ("<#", "#>"), ("{{!--", "--}}"), ("<%--", "--%>"), ("#=", "=#"),
    ("@*", "*@"), ("%{", "%}"), ("/+", "+/"), ("{#", "#}"), ("###", "###"),
)  # fmt: skip
_LINES = re.compile(
    r"[ \t]*(?:(//|--|;|%|'|!|\"|\\|\*|REM\b|rem\b|dnl\b|\.\.[ \t]|"
    r"#(?!include|define|if|pragma|import|!|\[|undef|error|line|region)))",
)
_LEGAL = (
    r"copyright", r"\(c\)[ \t]*(?:by |\d{4})", r"©", r"all rights reserved", r"SPDX-", r"licen[sc]ed (?:to|under|as)",
    r"@licen[sc]e", r"\blicen[sc]e\b.{0,80}(?:file|terms|version|detail|http|conditions)",
    r"under the (?:terms|(?:\w+ ){1,3}licen[sc]e)", r"under (?:the )?(?:gnu )?[al]?gpl", r"public licen[sc]e",
    r"apache licen[sc]e", r"\b(?:begin|end) licen[sc]e", r"\bcddl header",
    r"\b(?:mit|bsd|isc|mpl|[al]?gpl|epl|cddl|zlib|unlicense|cc0)\b.{0,12}licen[sc]e",
    r"\blic(?:\.|en[sc]e:?) *(?:mit|bsd|[al]?gpl|mpl|epl|cddl|apache)", r"permission is hereby granted",
    r"public domain", r"free software", r"redistributions? (?:and use|of source|in binary|must)",
    r"without (?:any )?(?:express|implied|warrant)", r"warrant(?:y|ies)", r"in no event", r"\bas is\b",
    r"liabilit(?:y|ies)", r"liable for", r"merchantab", r"above copyright notice", r"provided that the",
    r"endorse or promote", r"see (?:the )?(?:licen[sc]e|copying)",
    r"you (?:may|should) (?:obtain|have received) a copy", r"use of this source code is governed",
)  # fmt: skip
_BOILERPLATE = re.compile("|".join(_LEGAL), re.IGNORECASE | re.DOTALL)
_WORD = re.compile(r"\w")
_MAX_COMMENTS = 8
_MAX_COMMENT_CHARACTERS = 40_000


@dataclass(frozen=True, slots=True)
class Code:
    """A source file in two parts."""

    text: str
    """Without the boilerplate."""
    boilerplate: str
    """What was taken out, in which a licence may be named."""


def strip_header(text: str) -> Code:
    """Takes the boilerplate out of the comments before the first line of code.

    Of a comment that also explains, only the paragraphs about licence and copyright go. Interpreter lines, encodings
    and declarations stay; so does everything that is no comment, and every comment that speaks of nothing legal.
    """
    opening = _OPENING.match(text)
    position = opening.end() if opening else 0
    kept = [text[:position]]
    removed = []
    for _ in range(_MAX_COMMENTS):
        end, block = _find_comment(text, position)
        if end <= position:
            break
        comment = text[position:end]
        if _BOILERPLATE.search(comment):
            comment, boilerplate = _split_comment(comment, block)
            removed.append(boilerplate)
            if not comment.strip():
                end += len(text[end:]) - len(text[end:].lstrip("\n"))
        kept.append(comment)
        position = end
        if (gap := _OPENING.match(text, position)) is not None:
            kept.append(gap[0])
            position = gap.end()
    return Code("".join(kept) + text[position:], "\n".join(removed)) if removed else Code(text, "")


def _find_comment(text: str, position: int) -> tuple[int, tuple[str, str] | None]:
    """Where the comment that begins here ends, and its marks if it is a block; `position` itself where none begins."""
    start = position + len(text[position : position + 200]) - len(text[position : position + 200].lstrip(" \t"))
    for opener, closer in _BLOCKS:
        if text.startswith(opener, start):
            end = text.find(closer, start + len(opener), start + _MAX_COMMENT_CHARACTERS)
            if end < 0:
                break
            end += len(closer)
            line_end = text.find("\n", end)
            line_end = len(text) if line_end < 0 else line_end + 1
            # Code after the comment on its line, or a comment that closes at once, is no header.
            if text[end:line_end].strip() and opener not in ("###",):
                return (end, (opener, closer)) if "\n" in text[start:end] else (position, None)
            return line_end, (opener, closer)
    end = position
    mark = ""
    while match := _LINES.match(text, end):
        first = match[1].strip()[:1]
        if mark and first != mark:
            break
        mark = first
        line_end = text.find("\n", end)
        end = len(text) if line_end < 0 else line_end + 1
        if end - position > _MAX_COMMENT_CHARACTERS or end == len(text):
            break
    return end, None


def _split_comment(comment: str, block: tuple[str, str] | None) -> tuple[str, str]:
    """What stays of a comment that holds boilerplate, and what goes."""
    lines = comment.splitlines(keepends=True)
    groups: list[list[int]] = [[]]
    for number, line in enumerate(lines):
        if _WORD.search(line.replace("dnl", "").replace("REM", "").replace("=begin", "").replace("=end", "")):
            groups[-1].append(number)
        elif groups[-1]:
            groups.append([])
    groups = [group for group in groups if group]
    legal = [n for n, group in enumerate(groups) if _BOILERPLATE.search("".join(lines[i] for i in group))]
    if not legal:
        return "", comment
    first, last = legal[0], legal[-1]
    going = {i for group in groups[first : last + 1] for i in group}
    staying = [i for group in (*groups[:first], *groups[last + 1 :]) for i in group]
    if not staying:
        return "", comment
    low, high = min(going), max(going)
    # Blank lines and rules between what goes, go too.
    dropped = set(range(low, high + 1))
    if staying[-1] < low:
        dropped |= set(range(low, len(lines)))
        tail = [] if block is None else [_closing(lines[-1], block)]
    else:
        tail = []
    head = [] if block is None or min(staying) < low else [block[0] + "\n"]
    if min(staying) > high:
        dropped |= set(range(high + 1))
    kept = head + [line for number, line in enumerate(lines) if number not in dropped] + tail
    return "".join(kept), "".join(lines[number] for number in sorted(dropped))


def _closing(line: str, block: tuple[str, str]) -> str:
    """The line that closes a block whose end went."""
    before, _, after = line.partition(block[1])
    blanks = before[: len(before) - len(before.lstrip(" \t"))]
    return blanks + block[1] + after
