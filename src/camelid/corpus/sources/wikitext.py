"""Wikitext becomes plain text: links keep their words, formulas and code stay readable, all other markup goes.

One pass over the brackets of a page with a stack, then one over its lines. mwparserfromhell parses 0.3 MB/s of real
articles, which rules it out for whole dumps; the tests hold this against it.
"""

import functools
import html
import re
from collections.abc import Set

from camelid.corpus.sources.wikitext_templates import LINE_BREAK, show_template

_MARK = re.compile("\x00(\\d+)\x00")
# Most references hold no other element, and are met as a whole.
_TAG = re.compile(
    r"<!--|<ref(?=[\s/>])[^<>]*+(?<!/)>[^<]*+</ref>|"
    r"<(ref|nowiki|pre|source|syntaxhighlight|math|chem|ce|gallery|timeline|imagemap|score|graph|mapframe|maplink|"
    r"templatedata|templatestyles|indicator|categorytree|inputbox|hiero|noinclude|table|references|section|rss|phonos|"
    r"includeonly|ruby)(?=[\s/>])([^<>]*)>",
    re.IGNORECASE,
)
_TABLE_EDGE = re.compile(r"<(/?)table\b", re.IGNORECASE)
_LITERAL = frozenset({"nowiki", "pre", "source", "syntaxhighlight"})
_FORMULA = frozenset({"math", "chem", "ce"})
_TRANSPARENT = frozenset({"ruby", "section"})
# Nine links in ten have no bracket inside; they need no stack.
_PLAIN_LINK = re.compile(r"\[\[([^\[\]{}|]*+)(?:\|([^\[\]{}|]*+))?+\]\]")
# Nor do templates without brackets inside, unless those around them could come together when they go.
_PLAIN_TEMPLATE = re.compile(r"\{\{(?<![\[{]\{\{)([^{}\[\]]*+)\}\}(?![\]}])")
_MARKS_OF_BRACKETS = frozenset("[]{}|")
_BRACKET = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}(?!\})")
_OPENERS = {"}}": "{{", "]]": "[[", "|}": "{|"}
_MAX_DEPTH = 100
_MAX_INDENT = 40
_MAX_LIST_DEPTH = 6
_EXTERNAL = re.compile(
    r"\[(?:(?:https?|ftps?|irc|news|git|svn|gopher):)?//[^\s\]\[]*[ \t]*([^\]\[\n]*)\]|\[mailto:[^\s\[]+ ([^\]\[\n]*)\]"
)
_HTML = re.compile(
    r"<(/?)(br|hr|p|div|blockquote|center|poem|ul|ol|li|dl|dt|dd|h[1-6]|tr|td|th|tbody|thead|caption|span|b|i|u|s|em|"
    r"strong|small|big|sub|sup|code|tt|kbd|samp|var|cite|q|abbr|font|del|ins|strike|bdi|bdo|dfn|mark|rb|rt|rp|rtc|ruby|"
    r"section|noinclude|includeonly|onlyinclude|nowiki|ref|references|templatestyles|time|data|wbr|table|math|pre|"
    r"source|syntaxhighlight|gallery|a|img|col|colgroup|translate|tvar|languages)(?:[\s/][^<>]*)?>",
    re.IGNORECASE,
)
_BLOCKS = re.compile("br|hr|p|div|blockquote|center|poem|[uod]l|li|d[td]|h[1-6]|tr|caption|table")
_POEM = re.compile(r"<poem\b[^<>]*+>.*?</poem>", re.DOTALL)
_POWER = re.compile(r"<sup>\s*([-+−]?(?:\d{1,4}|\d{0,3}[nkmxyzijt]))\s*</sup>", re.IGNORECASE)
_HARD_BREAKS = re.compile(rf"{LINE_BREAK}[ {LINE_BREAK}]*")
_MARKS_OF_FONT = re.compile(r"''+")
# Of a run of four one stays, of a longer one all after the fifth.
_QUOTES = re.compile(r"''(?<!''')(?:'''|'(?='(?!'))|'?(?!'))")
_SWITCH = re.compile(r"__[^\W\d_]{3,40}__")
_HEADING = re.compile(r"(={1,6})[ \t]*(.*?)[ \t]*\1[ \t]*\Z")
_ITEM = re.compile(r"([*#:;]+)[ \t]*")
_EMPTY = r"[(（](?:[\w '’.-]{0,20}+:)?(?:[\s,;:/–—-]++|\b(?:or|und|et)\b)*+[)）]"
_HAS_EMPTY_PARENTHESES = re.compile(_EMPTY)  # found much sooner than with the blank before it
# Where one may end, or one that has a blank at its end; found sooner again, and most lines have neither.
_HAS_LOOSE_END = re.compile(r"\)(?<=[\s,;:/–—(（rdt-]\))")
_EMPTY_PARENTHESES = re.compile(" ?" + _EMPTY)
_OPENING_PARENTHESIS = re.compile(r"\([\s,;:]+")
_CLOSING_PARENTHESIS = re.compile(r"[ ,;]*[ ,]\)")
# Each branch begins with a character, which rules most places out.
_BLANKS = re.compile(r" (?:[,.;](?=\s|\Z)|  *(?:[,.;](?=\s|\Z))?)")
_IMAGE = re.compile(
    r"[^|\[\]]+\.(?:jpe?g|png|gif|svg|tiff?|webp|webm|og[gva]|mp3|mid|wav|pdf|djvu|xcf)\s*(?:\||\Z)", re.IGNORECASE
)
_INTERWIKI = re.compile(r"\s*[a-z]{2,3}(?:-[a-z]{2,10})*(?:-[a-z]+)?\s*:")


_Open = tuple[str, list[str]]
"""A bracket that waits for its other half, and the text since it."""


def wikitext_to_text(text: str, title: str, hidden: Set[str]) -> str:
    """The text that a reader sees in the body of an article.

    Headings stand alone on a line, list items begin with `* ` or a number, formulas stand between dollar signs; tables,
    files, references, comments and templates other than those of a sentence are left out, and sections with nothing in
    them.

    Args:
        hidden: namespaces, in lower case, whose links show no text: those of files and categories.
    """
    kept: list[str] = []
    text = _take_out_tags(text.replace("\x00", ""), kept)
    text = _resolve_brackets(text, title, hidden)
    text = _EXTERNAL.sub(lambda match: match[1] or match[2] or "", text)
    if "<" in text:
        if "<poem" in text:
            text = _POEM.sub(lambda match: match[0].replace("\n", LINE_BREAK), text)
        text = _POWER.sub(r"^\1", text)
        text = _HTML.sub(_show_html, text)
    text = _QUOTES.sub("", _show_apostrophes(text))
    text = _SWITCH.sub(lambda match: "" if match[0].isupper() else match[0], text)
    if "&" in text:
        text = html.unescape(text)
    text = text.replace("\t", " ").replace("\xa0", " ")
    text = _BLANKS.sub(lambda match: match[0].strip(" ") or " ", text)
    text = _lay_out(text)
    return _MARK.sub(lambda match: kept[int(match[1])], text) if kept else text


def _take_out_tags(text: str, kept: list[str]) -> str:
    """Puts marks where code and formulas stand, appending them to `kept`, and cuts comments and invisible elements."""
    pieces = []
    position = 0
    unclosed: set[str] = set()
    for match in _TAG.finditer(text):
        start, end = match.span()
        if start < position:  # inside the element before
            continue
        pieces.append(text[position:start])
        position = end
        if match.lastindex is None:
            if text[end - 1] == ">":
                continue
            end = text.find("-->", end)
            # A comment alone on its line takes the line with it.
            position = end + 3 if end >= 0 else len(text)
            if pieces[-1].endswith("\n") and text.startswith("\n", position):
                position += 1
            continue
        name = match[1].lower()
        if match[2].endswith("/") or name in unclosed or name in _TRANSPARENT:
            continue
        end = _find_end(text, name, position)
        if end < 0:
            unclosed.add(name)
            continue
        content = text[position:end]
        position = text.find(">", end) + 1 or len(text)
        if name in _LITERAL or name in _FORMULA:
            pieces.append(f"\x00{len(kept)}\x00")
            kept.append(_show_literal(name, content))
    pieces.append(text[position:])
    return "".join(pieces)


def _find_end(text: str, name: str, position: int) -> int:
    """Where the element that begins before `position` is closed, -1 for nowhere; tables may hold tables."""
    if name != "table":
        found = _closing_tag(name).search(text, position)
        return found.start() if found else -1
    depth = 1
    for match in _TABLE_EDGE.finditer(text, position):
        depth += -1 if match[1] else 1
        if depth == 0:
            return match.start()
    return -1


@functools.cache
def _closing_tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"</{name}\b", re.IGNORECASE)


def _show_literal(name: str, content: str) -> str:
    if name in _FORMULA:
        formula = " ".join(html.unescape(content).split())
        return f"${formula}$" if formula else ""
    if name == "nowiki":
        return html.unescape(content)
    return "\n" + html.unescape(content).strip("\n") + "\n"


def _resolve_brackets(text: str, title: str, hidden: Set[str]) -> str:
    text = _show_plain_templates(_show_plain_links(text, hidden), title)
    pieces: list[str] = []
    stack: list[_Open] = [("", pieces)]
    position = 0
    for match in _BRACKET.finditer(text):
        token, start = match[0], match.start()
        if "|" in token and text[max(0, start - _MAX_INDENT) : start].rpartition("\n")[2].strip(" \t:*#"):
            continue  # tables begin and end at the beginning of a line
        pieces.append(text[position:start])
        position = match.end()
        kind = _OPENERS.get(token)
        if kind is None:
            if len(stack) < _MAX_DEPTH:
                pieces = []
                stack.append((token, pieces))
            continue
        if stack[-1][0] != kind:
            if all(opened != kind for opened, _ in stack):
                continue
            while stack[-1][0] != kind:
                _give_up(stack)
        content = "".join(stack.pop()[1])
        pieces = stack[-1][1]
        if kind == "{{":
            pieces.append(show_template(content, title))
        elif kind == "[[":
            pieces.append(_show_link(content, hidden))
        else:
            pieces.append("\n")
    pieces.append(text[position:])
    while len(stack) > 1:
        _give_up(stack)
    return "".join(stack[0][1])


def _show_plain_links(text: str, hidden: Set[str]) -> str:
    # Text, target, label, text, target, ...: quicker than a call for each of 30,000 links.
    pieces = _PLAIN_LINK.split(text)
    pieces[1::3] = [
        _show_link(target if label is None else f"{target}|{label}", hidden)
        if label == "" or ":" in target
        else (label or target.strip())
        for target, label in zip(pieces[1::3], pieces[2::3], strict=True)
    ]
    del pieces[2::3]
    return "".join(pieces)


def _show_plain_templates(text: str, title: str) -> str:
    pieces = _PLAIN_TEMPLATE.split(text)
    shown = [show_template(content, title) for content in pieces[1::2]]
    # What shows brackets waits for the stack, which does not look into it again.
    pieces[1::2] = [
        words if _MARKS_OF_BRACKETS.isdisjoint(words) else f"{{{{{content}}}}}"
        for content, words in zip(pieces[1::2], shown, strict=True)
    ]
    return "".join(pieces)


def _give_up(stack: list[_Open]) -> None:
    """The innermost bracket is never closed: a link's words stay; of a template or table what looks like it goes."""
    kind, pieces = stack.pop()
    content = "".join(pieces)
    if kind == "[[":
        content = content.partition("|")[2] or content if "|" in content.partition("\n")[0] else content
    else:
        lines = content.split("\n")
        first = next((n for n, line in enumerate(lines[1:], 1) if line.strip() and line.lstrip()[0] not in "|!}"), None)
        content = "" if first is None else "\n".join(["", *lines[first:]])
    stack[-1][1].append(content)


def _show_link(content: str, hidden: Set[str]) -> str:
    target, pipe, label = content.partition("|")
    if target.lstrip().startswith(":"):
        target = target.lstrip()[1:]
    elif ":" in target:
        prefix = target.partition(":")[0].strip().lower().replace("_", " ")
        if prefix in hidden or (not pipe and _INTERWIKI.match(target)) or _IMAGE.match(content):
            return ""
    if label:
        return label
    if pipe:  # [[Page (kind)|]] shows Page
        target = re.sub(r"^[^:]*:|\s*\([^()]*\)\s*$", "", target)
    return target.strip()


def _show_html(match: re.Match[str]) -> str:
    name = match[2].lower()
    if _BLOCKS.fullmatch(name):
        return LINE_BREAK
    return " " if name in ("td", "th") else ""


def _show_apostrophes(text: str) -> str:
    """Leaves an apostrophe that touches a mark of italics: in `''Iliad'''s` and `l'''[[Iliad]]''` three are not bold.

    As MediaWiki does, only in lines where neither italics nor bold comes out even.
    """
    pieces: list[str] = []
    done = 0
    position = text.find("'''")
    while position >= 0:
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        if text.count("'''", position, end) % 2:
            start = text.rfind("\n", 0, position) + 1
            runs = [match.span() for match in _MARKS_OF_FONT.finditer(text, start, end)]
            bold = [first for first, stop in runs if stop - first == 3]
            if bold and sum(stop - first in (2, 5) for first, stop in runs) % 2:
                place = min(bold, key=lambda first: _rank_of_word(text[max(start, first - 2) : first]))
                pieces += (text[done:place], "'")
                done = place + 3
        position = text.find("'''", end)
    return "".join([*pieces, text[done:]]) if pieces else text


def _rank_of_word(before: str) -> int:
    """Of the two characters before three apostrophes: first comes a word of one letter, last the end of a word."""
    return 2 if before[-1:] == " " else int(before[:1] != " ")


def _lay_out(text: str) -> str:
    """Headings, items and paragraphs as plain lines; sections without text are left out."""
    laid: list[str] = []
    headings: list[tuple[int, str]] = []
    number = 0
    gap = ""  # what stands between this line and the one before, where both are not of one paragraph
    was_prose = False
    for raw in text.split("\n"):
        line = raw.strip()
        if not line:
            gap = "\n\n"
            continue
        is_stripped = len(line) < len(raw)
        if "(" in line or "（" in line:
            line = _mend_parentheses(line)
            if not line:
                gap = "\n\n"
                continue
        mark = line[0]
        if mark == "=" and (heading := _HEADING.match(line)) and heading[2]:
            level = len(heading[1])
            while headings and headings[-1][0] >= level:
                headings.pop()
            headings.append((level, heading[2]))
            continue
        is_prose = False
        if mark in "*#:;":
            number = number + 1 if mark == "#" and line[1:2] not in ("*", "#", ":") else number * (mark == "#")
            line = _show_item(line, number)
            mark = line[:1]
        else:
            number = 0
            is_prose = raw[0] != " " and mark != "\x00"
        if not line or (mark in "|!{}" and _is_table_rest(line)):
            was_prose = False
            continue
        if headings:
            for _, heading_text in headings:
                laid += ("\n\n", heading_text) if laid else (heading_text,)
            headings.clear()
            gap = "\n\n"
        before, after = _breaks_around(raw) if is_stripped and LINE_BREAK in raw else ("", "")
        if laid:
            laid.append(max(gap, before) or (" " if is_prose and was_prose else "\n"))
        laid.append(line)
        gap, was_prose = after, is_prose and line[-1] != "\x00"
    text = "".join(laid)
    if LINE_BREAK not in text:
        return text
    text = text.replace(f" {LINE_BREAK}", LINE_BREAK)
    return _HARD_BREAKS.sub(lambda match: "\n" * min(2, match[0].count(LINE_BREAK)), text)


def _breaks_around(line: str) -> tuple[str, str]:
    """What the breaks at the beginning and the end of a line set it apart by."""
    body = line.strip(f" {LINE_BREAK}")
    before, _, after = line.partition(body)
    return "\n" * min(2, before.count(LINE_BREAK)), "\n" * min(2, after.count(LINE_BREAK))


def _mend_parentheses(line: str) -> str:
    """Takes out what is left of parentheses of which templates showed nothing."""
    has_loose_end = _HAS_LOOSE_END.search(line)
    if (has_loose_end or "）" in line) and _HAS_EMPTY_PARENTHESES.search(line):
        line = _EMPTY_PARENTHESES.sub("", line)
    line = _OPENING_PARENTHESIS.sub("(", line)
    return _CLOSING_PARENTHESIS.sub(")", line) if has_loose_end and (" )" in line or ",)" in line) else line


def _show_item(line: str, number: int) -> str:
    match = _ITEM.match(line)
    assert match is not None
    marks, words = match[1], line[match.end() :]
    if not words.strip(" .,;:|-–"):
        return ""
    if marks[-1] in ":;":
        return words
    depth = min(len(marks), _MAX_LIST_DEPTH) - 1
    return "  " * depth + (f"{number}. " if marks == "#" else "* ") + words


def _is_table_rest(line: str) -> bool:
    """Whether a line belongs to a table whose beginning a template made."""
    return line[0] == "|" or (line[0] == "!" and ("!!" in line or "|" in line)) or line in ("}", "{", "{|", "|}", "}}")
