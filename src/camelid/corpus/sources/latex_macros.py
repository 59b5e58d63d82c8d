"""Macros of a LaTeX document: how they are defined, and what stands in the place of a call."""

import re
from dataclasses import dataclass

_BRACE = re.compile(r"\\.|[{}%]", re.DOTALL)
_PARAMETER = re.compile(r"#([1-9#])")
_ENDS_WITH_WORD = re.compile(r"\\[A-Za-z@]+\Z")
# Commands that show where a document is cut, or that others look for: a redefinition of them is not followed.
PROTECTED = frozenset(
    """
    begin end part chapter section subsection subsubsection paragraph subparagraph item label ref eqref cite citep citet
    caption footnote documentclass documentstyle usepackage RequirePackage input include bibliography bibliographystyle
    printbibliography appendix appendices title author date maketitle thanks newtheorem left right def newcommand
    renewcommand providecommand let
    """.split()  # noqa: SIM905 (forty names on forty lines)
)


@dataclass(frozen=True, slots=True)
class Macro:
    """A definition."""

    body: str
    """With #1 to #9 where the arguments go."""
    parameters: tuple[str | None, ...] = ()
    """For each argument what ends it: None for a token or group, the empty text for an optional one in brackets, and a
    delimiter otherwise."""
    prefix: str = ""
    """Text that must stand before the first argument."""
    defaults: tuple[str, ...] = ()
    """What optional arguments are when they are left out, in their order."""
    is_alias: bool = False
    """Whether the body is a command that means what it meant when the alias was made."""


class EndlessMacroError(ValueError):
    """The macros of a document do not come to an end, or to too much text or work."""


class Budget:
    """Work that a document may cost: what is read again and again, as no real document is, comes to an end."""

    def __init__(self, amount: int) -> None:
        self._left = amount

    def spend(self, amount: int) -> None:
        """Raises EndlessMacroError when nothing is left."""
        self._left -= amount
        if self._left < 0:
            raise EndlessMacroError("its macros take too much work")


class Cursor:
    """A place in a text, from which the pieces of LaTeX's syntax are read."""

    def __init__(self, text: str, position: int, budget: Budget) -> None:
        self.text = text
        self.position = position
        self._budget = budget

    def skip_space(self) -> None:
        """Goes past blanks, line breaks and comments."""
        text, position = self.text, self.position
        while position < len(text):
            if text[position].isspace():
                position += 1
            elif text[position] == "%":
                position = text.find("\n", position) + 1 or len(text)
            else:
                break
        self.position = position

    def peek(self) -> str:
        """The next character, empty at the end."""
        return self.text[self.position : self.position + 1]

    def read_group(self) -> str | None:
        """What stands in the braces that open here, without comments, or None where none do or they are not closed."""
        if self.peek() != "{":
            return None
        pieces = []
        depth = 0
        start = self.position + 1
        for match in _BRACE.finditer(self.text, self.position):
            self._budget.spend(1)
            mark = match[0]
            if match.start() < start - 1:
                continue
            if mark == "{":
                depth += 1
            elif mark == "}":
                depth -= 1
                if depth == 0:
                    pieces.append(self.text[start : match.start()])
                    self.position = match.end()
                    return "".join(pieces)
            elif mark == "%":
                if match.start() < start:
                    continue  # inside a comment
                pieces.append(self.text[start : match.start()])
                start = skip_comment(self.text, match.start())
        return None

    def read_optional(self) -> str | None:
        """What stands in the brackets that open here, or None."""
        if self.peek() != "[":
            return None
        return self.read_until("]", self.position + 1)

    def read_until(self, delimiter: str, start: int) -> str | None:
        """The text from `start` to a delimiter outside braces; the cursor goes behind it."""
        depth = 0
        pattern = re.compile(rf"\\.|[{{}}]|{re.escape(delimiter)}", re.DOTALL)
        for match in pattern.finditer(self.text, start):
            self._budget.spend(1)
            if match[0] == delimiter and depth == 0:
                self.position = match.end()
                return self.text[start : match.start()]
            depth += (match[0] == "{") - (match[0] == "}")
            if depth < 0:
                return None
        return None

    def read_token(self) -> str | None:
        """A group's content, a command, or one character, as TeX takes an argument."""
        self.skip_space()
        if self.peek() == "{":
            return self.read_group()
        match = re.compile(r"\\(?:[A-Za-z@]+|.)|[^}]", re.DOTALL).match(self.text, self.position)
        if match is None:
            return None
        self.position = match.end()
        return match[0]

    def read_name(self) -> str | None:
        r"""The name of a command as `\name` or `{\name}`."""
        self.skip_space()
        match = re.compile(r"\{?\s*\\([A-Za-z@]+|[^A-Za-z\s])\s*").match(self.text, self.position)
        if match is None:
            return None
        end = match.end()
        if match[0][0] == "{":
            if self.text[end : end + 1] != "}":
                return None
            end += 1
        self.position = end
        return match[1]


def skip_comment(text: str, start: int) -> int:
    """Where the text goes on after the comment that begins at `start`: after it TeX ignores the indentation too."""
    end = text.find("\n", start)
    if end < 0:
        return len(text)
    following = re.compile(r"[ \t]*").match(text, end + 1)
    assert following is not None
    # An empty line after a comment still ends the paragraph.
    return end if text.startswith("\n", following.end()) else following.end()


def read_definition(command: str, cursor: Cursor) -> tuple[str, Macro] | None:
    """The name and macro that `command`, which was just read, defines, or None where it is not understood."""
    if command in ("def", "gdef", "edef", "xdef"):
        return _read_def(cursor)
    if command == "let":
        return _read_let(cursor)
    if cursor.peek() == "*":
        cursor.position += 1
        is_starred = True
    else:
        is_starred = False
    name = cursor.read_name()
    if name is None:
        return None
    cursor.skip_space()
    if command == "DeclareMathOperator":
        body = cursor.read_group()
        star = "*" if is_starred else ""
        return None if body is None else (name, Macro(rf"\operatorname{star}{{{body}}}"))
    if command in ("NewDocumentCommand", "RenewDocumentCommand", "DeclareDocumentCommand", "ProvideDocumentCommand"):
        return _read_document_command(name, cursor)
    count, default = cursor.read_optional(), None
    if count is not None:
        cursor.skip_space()
        default = cursor.read_optional()
        cursor.skip_space()
    body = cursor.read_group() if cursor.peek() == "{" else cursor.read_token()
    if body is None or not (count or "0").strip().isdecimal() or int(count or 0) > 9:
        return None
    parameters: tuple[str | None, ...] = (None,) * int(count or 0)
    if default is not None and parameters:
        return name, Macro(body, ("", *parameters[1:]), defaults=(default,))
    return name, Macro(body, parameters)


def _read_def(cursor: Cursor) -> tuple[str, Macro] | None:
    name = cursor.read_name()
    if name is None:
        return None
    start = cursor.position
    opening = cursor.text.find("{", start)
    if opening < 0:
        return None
    prefix, *pieces = re.split(r"#[1-9]", cursor.text[start:opening].rstrip("\n").strip(" "))
    cursor.position = opening
    body = cursor.read_group()
    return None if body is None else (name, Macro(body, tuple(piece or None for piece in pieces), prefix))


def _read_let(cursor: Cursor) -> tuple[str, Macro] | None:
    name = cursor.read_name()
    match = re.compile(r"\s*=?\s?(\\(?:[A-Za-z@]+|.)|\S)", re.DOTALL).match(cursor.text, cursor.position)
    if name is None or match is None:
        return None
    cursor.position = match.end()
    return name, Macro(match[1], is_alias=True)


def _read_document_command(name: str, cursor: Cursor) -> tuple[str, Macro] | None:
    arguments = cursor.read_group()
    cursor.skip_space()
    body = cursor.read_group()
    if arguments is None or body is None:
        return None
    parameters: list[str | None] = []
    defaults: list[str] = []
    for match in re.finditer(r"\+?(m)|(o)|O\{([^{}]*)\}|(\S)", arguments):
        if match[4]:
            return None  # stars, tokens and other kinds
        parameters.append(None if match[1] else "")
        if not match[1]:
            defaults.append(match[3] or "")
    return name, Macro(body, tuple(parameters), defaults=tuple(defaults))


def read_arguments(macro: Macro, cursor: Cursor) -> list[str] | None:
    """The arguments of a call at the cursor, or None where they are not all there."""
    if macro.prefix:
        if not cursor.text.startswith(macro.prefix, cursor.position):
            return None
        cursor.position += len(macro.prefix)
    defaults = iter(macro.defaults)
    arguments: list[str] = []
    for parameter in macro.parameters:
        if parameter is None:
            argument = cursor.read_token()
        elif parameter == "":
            default = next(defaults)
            start = cursor.position
            cursor.skip_space()
            argument = cursor.read_optional()
            if argument is None:
                cursor.position, argument = start, default
        else:
            argument = cursor.read_until(parameter, cursor.position)
            if argument is not None and re.fullmatch(r"\{[^{}]*\}", argument):
                argument = argument[1:-1]
        if argument is None:
            return None
        arguments.append(argument)
    return arguments


def fill_in(macro: Macro, arguments: list[str]) -> str:
    """The body with its arguments; a command does not run into the letters after it."""
    pieces: list[str] = []
    position = 0
    for match in _PARAMETER.finditer(macro.body):
        pieces.append(macro.body[position : match.start()])
        position = match.end()
        number = match[1]
        if number == "#":
            pieces.append("#")
        elif int(number) <= len(arguments):
            pieces.append(arguments[int(number) - 1])
    pieces.append(macro.body[position:])
    return join(pieces)


def join(pieces: list[str]) -> str:
    """Pieces of LaTeX one after another, with a blank where a command would run into a letter."""
    joined: list[str] = []
    last = ""
    for piece in pieces:
        if piece:
            if piece[0].isalpha() and last and _ENDS_WITH_WORD.search(last):
                joined.append(" ")
            joined.append(piece)
            last = piece if len(piece) > 1 or not last.startswith("\\") else last + piece
    return "".join(joined)
