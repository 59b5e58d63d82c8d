"""Where sentences end: by rule, without a model that would have to be fetched.

C4 was made with NLTK's Punkt, whose English parameters are a download. Here a sentence ends with `.`, `!` or `?` and
what closes it, before a blank, unless the word is an abbreviation, an initial, or the next word begins in lower case.
"""

import re

_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s)")
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """mr mrs ms dr prof st sr jr vs etc inc ltd co corp gen col sgt capt lt cmdr gov sen rep hon rev messrs mt ft
        no nos vol fig figs ed eds al approx dept est min max jan feb mar apr jun jul aug sep sept oct nov dec mon tue
        wed thu fri sat sun a.m p.m e.g i.e u.s u.k u.n cf viz op cit pp""",
    )
)
_LAST_WORD = re.compile(r"[^\s\"'“‘(\[]+\Z")


def split_sentences(line: str) -> list[str]:
    """The sentences of a line; joined by the blanks between them they are the line."""
    sentences = []
    start = 0
    for end in _END.finditer(line):
        if line[end.start()] == "." and not _ends_sentence(line, start, end):
            continue
        sentences.append(line[start : end.end()])
        start = end.end() + 1
    if rest := line[start:].strip():
        sentences.append(rest)
    return sentences


def _ends_sentence(line: str, start: int, end: re.Match[str]) -> bool:
    if line[end.end() + 1 : end.end() + 2].islower():
        return False
    word = _LAST_WORD.search(line, start, end.start())
    if word is None or end.end() - end.start() > 1:
        return True
    text = word[0]
    return text.lower() not in _ABBREVIATIONS and not (len(text) == 1 and text.isupper())
