"""Project Gutenberg's texts: which bytes mean which letters, and where the book begins and ends in the file."""

import codecs
import re
from dataclasses import dataclass

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DECLARED = re.compile(
    rb"^[ \t]*Character set (?:encoding|for this file)[ \t]*:[ \t]*([\w. ()-]{2,40})", re.MULTILINE | re.I
)
_NAME = re.compile(r"(?:ISO[- ]?)?(?:8859[-_ ]?\d+|646)|[A-Za-z][\w-]*")
_HEADER_BYTES = 20_000

_MARK = r"^[ \t]*\*{2,}[ \t]*"
_GUTENBERG = r"(?:the |this |of )*Project Gutenberg"
_START = re.compile(rf"{_MARK}START OF {_GUTENBERG}[^\n]*(?:\n[^\n]+){{0,4}}?\*{{2,}}[ \t]*$", re.MULTILINE | re.I)
_OLD_TITLE = re.compile(r"\W*(?:this is )?(?:the |a )?project gutenberg('s)? e?-?(?:text|book|edition)", re.I)
_SMALL_PRINT_END = re.compile(r"^[ \t]*\*+ ?END ?\*?[ ]?THE SMALL PRINT[^\n]*$", re.MULTILINE | re.I)
_SMALL_PRINT_START = re.compile(r"^[ \t]*\*+ ?START ?\*{0,2} ?THE SMALL PRINT[^\n]*$", re.MULTILINE | re.I)
_END = re.compile(
    rf"(?:{_MARK}END OF {_GUTENBERG}|^[ \t]*(?:This is )?(?:the )?End of {_GUTENBERG}|^[ \t]*(?:Ende|Fin|Fine|Einde) "
    r"[^\n]{0,30}Project Gutenberg)",
    re.MULTILINE | re.I,
)
_MAKERS = "produced|transcribed|prepared|scanned|digiti[sz]ed|proofread|created|typed|corrected|updated"
_CREDIT = re.compile(
    rf"\W{{0,3}}(?:(?:{_MAKERS}) (?:and \w+ )?(?:by|from)|e-?text (?:prepared|scanned|produced|by)|special thanks|"
    r"this (?:e-?text|e-?book|file|text) was|html version by|transcriber.?s notes?|credits:|note: project gutenberg|"
    r"(?:the )?project gutenberg (?:is proud|e?-?(?:text|book))|note from the original file)",
    re.I,
)
_MAX_CREDITS = 6
# Notes by the makers of the file, which begin a paragraph between title and text, or all that stands behind it.
_NOTE = re.compile(
    r"(?:\A|\n[ \t]*\n)(?=[\W_]{0,80}(?:original )?(?:"
    r"(?:transcriber|preparer|redactor|(?:pg|project gutenberg) editor).?s.? notes?|"
    r"comments on the preparation of the e-?text|note: [^\n]{0,80}e-?text|note from the original file|"
    r"digiti[sz]ed by|this electronic version)\b)",
    re.I,
)
_NOTE_WORDS = re.compile(
    r"e-?text|e-?book|transcri|gutenberg|proofread|this version|underscore|italics|"
    r"(?:has|have) been (?:re-?\w+|moved|corrected|changed|kept)",
    re.I,
)
_PARAGRAPH = re.compile(r"\S.*?(?=\n[ \t]*\n|\Z)", re.DOTALL)
_NO_NOTE = re.compile(r"\[Illustration|[\W_]+\Z")
_FRONT_CHARACTERS = 12_000
_BACK_CHARACTERS = 6_000
_MAX_NOTE_CHARACTERS = 4_000
_MAX_HEADING_CHARACTERS = 60
_COPYRIGHTED = re.compile(
    r"\bcopyrighted project gutenberg|this electronic version.{0,100}is copyright|"
    r"this is neither shareware nor public domain",
    re.I | re.DOTALL,
)
_COPYRIGHTED_LICENCE = "copyrighted, Project Gutenberg Licence"
_PUBLIC_DOMAIN = "public domain in the USA"
_FIELD = r"^[ \t]*{}:[ \t]*([^\n]+(?:\n[ \t]{{4,}}[^\n:]+)*)"
_TITLE = re.compile(_FIELD.format("Title"), re.MULTILINE)
_LANGUAGE = re.compile(_FIELD.format("Language"), re.MULTILINE)
_LANGUAGES = {
    "english": "en", "french": "fr", "german": "de", "finnish": "fi", "dutch": "nl", "italian": "it", "spanish": "es",
    "portuguese": "pt", "latin": "la", "hungarian": "hu", "swedish": "sv", "danish": "da", "polish": "pl",
    "czech": "cs", "catalan": "ca", "romanian": "ro", "serbian": "sr", "slovenian": "sl", "croatian": "hr",
    "bulgarian": "bg", "russian": "ru", "ukrainian": "uk", "greek": "el", "esperanto": "eo", "norwegian": "no",
    "chinese": "zh", "japanese": "ja", "welsh": "cy", "tagalog": "tl", "icelandic": "is",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Book:
    """A book without what its publisher put around it."""

    text: str
    title: str | None = None
    language: str | None = None
    licence: str | None = None


def decode_book(data: bytes) -> str:
    """Text with line feeds: by its byte order mark, as UTF-8, as its header says, or else as Windows 1252."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _with_line_feeds(data[len(mark) :].decode(encoding, "replace"))
    try:
        return _with_line_feeds(data.decode("utf-8"))
    except UnicodeDecodeError:
        pass
    match = _DECLARED.search(data[:_HEADER_BYTES])
    encoding = _known_encoding(match[1].decode("ascii")) if match else ""
    if encoding:
        try:
            return _with_line_feeds(data.decode(encoding))
        except UnicodeDecodeError:
            pass
    # Windows 1252 leaves five bytes undefined; Latin-1 gives them the control characters that cleaning takes out.
    text = data.decode("cp1252", "surrogateescape")
    return _with_line_feeds(re.sub("[\udc80-\udcff]", lambda match: chr(ord(match[0]) - 0xDC00), text))


def _known_encoding(name: str) -> str:
    """Python's name for a declared 8-bit encoding, empty where there is none."""
    lowered = name.lower()
    if re.search(r"8859[-_ ]?1\b|latin-?1\b|ansi|ascii|us-|utf|unicode", lowered):
        return ""  # ISO-8859-1 is what people call Windows 1252, and UTF-8 it was not
    for word in (name, re.sub(r"^iso[- ]?", "iso-", lowered), lowered.split()[0].rstrip(".")):
        try:
            return codecs.lookup(word.strip()).name
        except (LookupError, ValueError):
            continue
    return ""


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def strip_gutenberg(text: str) -> Book:
    """The book inside a Project Gutenberg file of any age; other texts come back as they are."""
    head = text[:_HEADER_BYTES]
    start = _find_start(text, head)
    end = _find_end(text, max(start, 0))
    if start < 0 and end == len(text):
        return Book(text.strip("\n"))
    header = text[: max(start, 0)]
    title, language = _TITLE.search(header), _LANGUAGE.search(header)
    return Book(
        _strip_notes(_strip_credits(text[max(start, 0) : end])),
        " ".join(title[1].split()) if title else None,
        _LANGUAGES.get(re.split(r"[ ,;(]", language[1].strip().lower())[0]) if language else None,
        _COPYRIGHTED_LICENCE if _COPYRIGHTED.search(text[: max(start, 0) + _FRONT_CHARACTERS]) else _PUBLIC_DOMAIN,
    )


def _find_start(text: str, head: str) -> int:
    """Where the header ends, -1 where there is none."""
    if match := _START.search(head):
        return match.end()
    if match := _SMALL_PRINT_END.search(text[: max(_HEADER_BYTES, len(text) // 3)]):
        return match.end()
    if not _OLD_TITLE.match(text):
        return -1
    # The oldest texts have a few lines about the project and no mark after them.
    position = 0
    for paragraph in re.finditer(r"[^\n].*?(?:\n\s*\n|\Z)", text[: min(6000, _find_end(text, 0))], re.DOTALL):
        if re.search(r"gutenberg|e-?text|public domain", paragraph[0], re.I):
            position = paragraph.end()
    return position


def _find_end(text: str, start: int) -> int:
    """Where the footer begins."""
    ends = [match.start() for pattern in (_END, _SMALL_PRINT_START) if (match := pattern.search(text, start))]
    return min(ends, default=len(text))


def _strip_credits(text: str) -> str:
    """Without the paragraphs at the beginning that say who made the file."""
    text = text.strip("\n \t")
    for _ in range(_MAX_CREDITS):
        if not _CREDIT.match(text):
            break
        paragraph, _, rest = text.partition("\n\n")
        if not rest or len(paragraph) > 2000:
            break
        text = rest.lstrip("\n")
    return text.strip("\n")


def _strip_notes(text: str) -> str:
    """Without what the makers of the file say about it before the text begins, and after its end."""
    for _ in range(_MAX_CREDITS):
        match = _NOTE.search(text, 0, _FRONT_CHARACTERS)
        if match is None:
            break
        rest = text[_end_of_note(text, match.end()) :].lstrip("\n")
        text = f"{text[: match.start()]}\n\n\n{rest}"
    match = _NOTE.search(text, max(_FRONT_CHARACTERS, len(text) - _BACK_CHARACTERS))
    return text[: match.start() if match else len(text)].strip("\n")


def _end_of_note(text: str, start: int) -> int:
    """A note that has a heading goes on to the next gap, another as long as its paragraphs speak of the file."""
    end = start
    is_headed = False
    for paragraph in _PARAGRAPH.finditer(text, start, start + _MAX_NOTE_CHARACTERS):
        gap = text.count("\n", end, paragraph.start())
        if end == start:
            is_headed = len(paragraph[0]) <= _MAX_HEADING_CHARACTERS
        elif gap > 2 or _NO_NOTE.match(paragraph[0]) or not (is_headed or _NOTE_WORDS.search(paragraph[0])):
            break
        end = paragraph.end()
    return end
