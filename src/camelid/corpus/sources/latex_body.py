"""The part of a paper that is kept: from its first section on, without bibliography (paper section 2.1)."""

import bisect
import re
from collections import Counter
from collections.abc import Iterator

from camelid.corpus.sources.latex import VERBATIM_NAMES

_VERBATIM = re.compile(rf"\\begin\{{({VERBATIM_NAMES})\}}|\\verb\*?([^\sA-Za-z*])[^\n]*?\2")
_SECTION = re.compile(r"\\(?:part|chapter|(?:sub){0,2}section|(?:sub)?paragraph|beginsection)(?![A-Za-z])\*?")
_REFERENCES = re.compile(
    r"\\(?:chapter|section|subsection|paragraph)\*?\s*\{\s*(?:\\\w+\s*)*(?:References|Bibliography|Literature cited|"
    r"Works cited|R[ée]f[ée]rences|Bibliographie|Literatur)\s*[.:]?\s*\}",
    re.IGNORECASE,
)
_BIBLIOGRAPHY = re.compile(r"\\begin\{(thebibliography|references|biblist|bibdiv|refguide)\}")
_BIBLIOGRAPHY_COMMAND = re.compile(
    r"\\(?:bibliography|printbibliography|bibliographystyle|nocite|addbibresource|bibliographyunit)(?![A-Za-z])"
    r"(?:\s*\[[^\]]*\])?(?:\s*\{[^{}]*\})?"
)
_ENDS_PAPER = re.compile(r"\\(?:bibliography|printbibliography)(?![A-Za-z])")
_LEAD_IN = re.compile(
    r"(?:\{|\\(?:begingroup|tiny|scriptsize|footnotesize|small|normalsize|clearpage|newpage|balance|raggedright)|"
    r"\\begin\{(?:small|footnotesize|multicols|spacing)\}(?:\{[\d.]+\})?|\\bibliographystyle\s*\{[^{}]*\})\Z"
)
_LEAD_IN_CHARACTERS = 200
_APPENDIX = re.compile(r"\\(?:appendix|appendices)(?![A-Za-z])|\\begin\{(?:appendix|appendices|subappendices)\}")
_FRONT_END = re.compile(r"\\end\{abstract\}|\\maketitle(?![A-Za-z])|\\end\{frontmatter\}|\\begin\{document\}")
_TITLE = re.compile(r"\\title(?:\s*\[[^\]]*\])?\s*\{")
_TITLE_NOISE = re.compile(
    r"\\(?:thanks|footnote|vspace|hspace|footnotemark|thanksref)\*?\s*(?:\{[^{}]*\}|\[[^\]]*\])|\\\\|~"
)
_EDGE = re.compile(r"\\(begin|end)\{([^{}\n]*)\}")
_GAPS = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")


def cut_body(text: str, *, appendices: bool, without_sections: bool) -> str:
    """What is kept of an expanded document, empty where it has no body.

    Args:
        appendices: whether what comes after the command for appendices stays.
        without_sections: whether a document without sections is kept, from the end of its front matter on.
    """
    start = max(text.find("\\begin{document}"), 0)
    end = text.find("\\end{document}", start)
    text = text[start : end if end >= 0 else len(text)]
    outside = _Outside(text)
    first = next(outside.find(_SECTION), None)
    if first is not None:
        start = first.start()
    elif without_sections:
        start = max((match.end() for match in outside.find(_FRONT_END)), default=0)
    else:
        return ""
    end = len(text)
    if not appendices:
        end = next((match.start() for match in outside.find(_APPENDIX) if match.start() >= start), end)
    return _GAPS.sub("\n\n", _drop_bibliography(text[start:end])).strip() + "\n"


def find_title(text: str) -> str | None:
    """The title of an expanded document, on one line."""
    match = _TITLE.search(text)
    if match is None:
        return None
    depth, end = 1, match.end()
    for brace in re.finditer(r"\\.|[{}]", text[end : end + 2000], re.DOTALL):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            title = _TITLE_NOISE.sub(" ", text[end : end + brace.start()])
            return " ".join(title.split()) or None
    return None


def _drop_bibliography(body: str) -> str:
    """Cuts each bibliography, and what follows it up to the next section."""
    outside = _Outside(body)
    beginnings = sorted(
        (match for pattern in (_BIBLIOGRAPHY, _ENDS_PAPER, _REFERENCES) for match in outside.find(pattern)),
        key=lambda match: match.start(),
    )
    sections = sorted(match.start() for pattern in (_SECTION, _APPENDIX) for match in outside.find(pattern))
    pieces: list[str] = []
    begun = Counter[str]()
    position = 0
    for match in beginnings:
        if match.start() < position:
            continue
        pieces.append(_strip_lead_in(body[position : match.start()]))
        start = position = match.end()
        if match.re is _BIBLIOGRAPHY:
            end = body.find(f"\\end{{{match[1]}}}", position)
            position = end if end >= 0 else len(body)
        following = bisect.bisect_left(sections, position)
        position = sections[following] if following < len(sections) else len(body)
        # Environments that begin in what is kept and end in what is cut are ended.
        begun.update(_count_open(pieces[-1]))
        ended = [name for name, number in _count_open(body[start:position]).items() if number < 0 < begun[name]]
        begun.subtract(ended)
        pieces += (f"\\end{{{name}}}\n" for name in ended)
    kept = "".join([*pieces, body[position:]])
    pieces, position = [], 0
    for match in _Outside(kept).find(_BIBLIOGRAPHY_COMMAND):
        pieces.append(kept[position : match.start()])
        position = match.end()
    return "".join(pieces) + kept[position:]


def _count_open(text: str) -> Counter[str]:
    """How many times more each environment begins in a text than it ends."""
    count = Counter[str]()
    for edge, name in _EDGE.findall(text):
        count[name] += 1 if edge == "begin" else -1
    return count


def _strip_lead_in(text: str) -> str:
    """Without what only sets the bibliography after it, such as the group of a smaller font."""
    while True:
        text = text.rstrip()
        match = _LEAD_IN.search(text[-_LEAD_IN_CHARACTERS:])
        if match is None:
            return text + "\n\n"
        text = text[: -len(match[0])]


class _Outside:
    """A text in which nothing is looked for inside verbatim."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans: list[tuple[int, int]] = []
        position = 0
        while match := _VERBATIM.search(text, position):
            position = match.end()
            if match[1]:
                end = text.find(f"\\end{{{match[1]}}}", position)
                position = end if end >= 0 else len(text)
            self._spans.append((match.start(), position))

    def find(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        """The matches that begin outside verbatim text."""
        spans = iter(self._spans)
        start, end = next(spans, (len(self._text), len(self._text)))
        for match in pattern.finditer(self._text):
            while end <= match.start() < len(self._text) and end < len(self._text):
                start, end = next(spans, (len(self._text), len(self._text)))
            if match.start() < start:
                yield match
