"""LaTeX in one piece: files put where they are input, comments gone, and the author's macros expanded.

It works as TeX does, from the beginning to the end of the text: what a macro stands for is put back in front of the
rest, so that nested calls are expanded to a fixed point. What is not the author's is copied as it stands.
"""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from camelid.corpus.sources.latex_macros import (
    PROTECTED,
    Budget,
    Cursor,
    EndlessMacroError,
    Macro,
    fill_in,
    read_arguments,
    read_definition,
    skip_comment,
)

_WORDS = re.compile(r"\\(?:([A-Za-z]+)|(.))|%", re.DOTALL)
_WORDS_WITH_AT = re.compile(r"\\(?:([A-Za-z@]+)|(.))|%", re.DOTALL)
_BLANKS = re.compile(r"[ \t]+")
_DEFINERS = frozenset(
    """
    def gdef edef xdef let newcommand renewcommand providecommand DeclareRobustCommand DeclareMathOperator
    NewDocumentCommand RenewDocumentCommand DeclareDocumentCommand ProvideDocumentCommand
    """.split()  # noqa: SIM905
)
_PREFIXES = frozenset({"long", "global", "outer", "protected"})
_INPUTS = frozenset(
    {"input", "include", "subfile", "subfileinclude", "import", "subimport", "@input", "InputIfFileExists"}
)
_CONDITIONALS = frozenset(
    """
    if ifx ifnum ifdim ifodd ifmmode ifvmode ifhmode ifinner ifcat ifcase ifdefined ifcsname ifvoid ifhbox ifvbox ifeof
    iftrue iffalse ifpdf
    """.split()  # noqa: SIM905
)
VERBATIM_NAMES = (
    r"verbatim\*?|Verbatim|lstlisting|minted|alltt|BVerbatim|LVerbatim|filecontents\*?|code|spec|semiverbatim"
)
_ENVIRONMENT = re.compile(rf"\s*\{{({VERBATIM_NAMES}|comment)\}}")
_ADDRESSES = frozenset({"url", "href", "nolinkurl", "path"})
_INLINE_VERBATIM = frozenset({"verb", "lstinline", "mintinline"})
_MAX_DEPTH = 400
_MAX_EXPANSIONS = 300_000
_MAX_CHARACTERS = 32 << 20
_MAX_WORK = 20_000_000
_CHARACTERS_PER_WORK = 500


# How the style files of several conferences end `et al`: with a dot, unless one follows.
_ONE_DOT = Macro(".")


@dataclass(slots=True)
class _Level:
    """Text that is being read: a file, or what a macro stands for."""

    text: str
    position: int = 0
    file: str = ""


@dataclass
class Document:
    """A document while it is put together."""

    files: Mapping[str, str]
    """Texts of the sources by their path."""
    macros: dict[str, Macro] = field(default_factory=dict)
    """What the sources define; those of PROTECTED are not followed."""
    _flags: dict[str, bool] = field(default_factory=dict)
    _out: list[str] = field(default_factory=list)
    _last_is_word: bool = False
    _num_characters: int = 0
    _num_expansions: int = 0
    _levels: list[_Level] = field(default_factory=list)
    _conditions: list[bool] = field(default_factory=list)
    """For each conditional around, whether it was decided here, so that its `else` and `fi` go."""
    _has_letter_at: bool = False
    _budget: Budget = field(default_factory=lambda: Budget(_MAX_WORK))

    def expand(self, file: str) -> str:
        """The text of a file of the document.

        Raises:
            EndlessMacroError: the macros do not come to an end.
        """
        self._levels = [_Level(self.files[file], file=file)]
        while self._levels:
            self._step()
        return "".join(self._out)

    def _step(self) -> None:
        """Copies up to the next command or comment, and does what it says."""
        level = self._levels[-1]
        pattern = _WORDS_WITH_AT if self._has_letter_at else _WORDS
        match = pattern.search(level.text, level.position)
        if match is None:
            self._copy(level.text[level.position :])
            self._levels.pop()
            if level.file:
                self._last_is_word = False
            return
        self._copy(level.text[level.position : match.start()])
        level.position = match.end()
        if match[0] == "%":
            self._drop_comment(level, match.start())
        elif match[1]:
            self._command(match[1])
        elif match[2] in self.macros:
            self._call(match[2], self.macros[match[2]])
        else:
            self._copy(match[0])

    def _copy(self, text: str) -> None:
        if not text:
            return
        if self._last_is_word and text[0].isalpha():
            self._out.append(" ")
        self._out.append(text)
        self._last_is_word = False
        self._num_characters += len(text)
        if self._num_characters > _MAX_CHARACTERS:
            raise EndlessMacroError(f"more than {_MAX_CHARACTERS:,} characters")

    def _copy_word(self, name: str) -> None:
        self._copy("\\" + name)
        self._last_is_word = True

    def _drop_comment(self, level: _Level, start: int) -> None:
        line_start = level.text.rfind("\n", 0, start) + 1
        if not level.text[line_start:start].strip() and (line_start or level.file):
            # A line of its own goes as a whole, and says nothing about paragraphs.
            end = level.text.find("\n", start)
            level.position = end + 1 if end >= 0 else len(level.text)
        else:
            level.position = skip_comment(level.text, start)

    def _command(self, name: str) -> None:
        level = self._levels[-1]
        if name in _DEFINERS or name == "newif":
            self._define(name, level)
        elif name in self.macros:
            self._call(name, self.macros[name])
        elif name in self._flags or name in _CONDITIONALS:
            self._begin_condition(name, level)
        elif name in ("else", "fi", "or") and self._conditions:
            self._end_condition(name)
        elif name.endswith(("true", "false")) and "if" + name.removesuffix("true").removesuffix("false") in self._flags:
            self._flags["if" + name.removesuffix("true").removesuffix("false")] = name.endswith("true")
        elif name in _INPUTS:
            self._input(name, level)
        elif name == "endinput":
            while self._levels and not self._levels[-1].file:
                self._levels.pop()
            if self._levels:
                self._levels[-1].position = len(self._levels[-1].text)
        elif name in _INLINE_VERBATIM:
            self._copy_inline(name, level)
        elif name in _ADDRESSES:
            self._copy_address(name, level)
        elif name == "begin" and (match := _ENVIRONMENT.match(level.text, level.position)):
            self._copy_environment(match[1], level)
        elif name in ("makeatletter", "makeatother"):
            self._has_letter_at = name == "makeatletter"
        elif name in ("usepackage", "RequirePackage"):
            self._copy_word(name)
            self._load_package(level)
        elif name in ("newenvironment", "renewenvironment"):
            self._drop_environment(level)
        elif name in _PREFIXES and re.compile(r"\s*\\(?:[gex]?def|let|long|global)\b").match(
            level.text, level.position
        ):
            pass
        else:
            self._copy_word(name)

    def _define(self, command: str, level: _Level) -> None:
        cursor = Cursor(level.text, level.position, self._budget)
        if command == "newif":
            name = cursor.read_name()
            if name is not None:
                self._flags[name] = False
                level.position = cursor.position
            return
        while (found := read_definition(command, cursor)) is None and self._join_outer():
            level, cursor = self._cursor()
        if found is None:
            self._copy_word(command)
            return
        level.position = cursor.position
        name, macro = found
        if name in PROTECTED or (command.lower().startswith("provide") and name in self.macros):
            return
        target = macro.body.removeprefix("\\")
        if macro.is_alias and target in self.macros:
            macro = self.macros[target]
        self.macros[name] = macro

    def _call(self, name: str, macro: Macro) -> None:
        """Puts what a macro stands for in front of the rest; without its arguments the call is copied.

        TeX drops the blanks after a call. In the author's text they stay here: formulas do not mind, and words stay
        apart. In what a macro stands for they go, as whoever wrote it saw in print.
        """
        if macro.is_alias:
            self._copy(macro.body if macro.body != "\\relax" else "")
            self._last_is_word = macro.body.startswith("\\") and macro.body[1:].isalpha()
            return
        level, cursor = self._cursor()
        while (arguments := read_arguments(macro, cursor)) is None and self._join_outer():
            level, cursor = self._cursor()
        if arguments is None:
            self._copy("\\" + name)
            self._last_is_word = name.isalpha()
            return
        level.position = cursor.position
        if not level.file and not macro.parameters and name.isalpha():
            blanks = _BLANKS.match(level.text, level.position)
            if blanks is not None and not self._keeps_blanks(macro):
                level.position = blanks.end()
        self._num_expansions += 1
        if self._num_expansions > _MAX_EXPANSIONS or len(self._levels) > _MAX_DEPTH:
            raise EndlessMacroError(f"\\{name} does not come to an end")
        text = fill_in(macro, arguments).replace("\\xspace", "")
        if macro is _ONE_DOT and self._next_character() == ".":
            text = ""
        self._num_characters += len(text)
        if self._num_characters > _MAX_CHARACTERS:
            raise EndlessMacroError(f"more than {_MAX_CHARACTERS:,} characters")
        self._levels.append(_Level(text))

    def _keeps_blanks(self, macro: Macro) -> bool:
        """Whether a macro, or one that it calls, has an `xspace`, which puts a blank back."""
        waiting = [macro]
        met: set[str] = set()
        while waiting:
            body = waiting.pop().body
            if "\\xspace" in body:
                return True
            self._budget.spend(1 + len(body) // _CHARACTERS_PER_WORK)
            called = {match[1] for match in _WORDS.finditer(body) if match[1] in self.macros} - met
            met |= called
            waiting += (self.macros[name] for name in called)
        return False

    def _next_character(self) -> str:
        rests = (level.text[level.position : level.position + 1] for level in reversed(self._levels))
        return next(filter(None, rests), "")

    def _cursor(self) -> tuple[_Level, Cursor]:
        level = self._levels[-1]
        return level, Cursor(level.text, level.position, self._budget)

    def _join_outer(self) -> bool:
        """Makes one text of a macro's and the text around it, where what a command needs may stand; not of a file's."""
        level = self._levels[-1]
        if level.file or len(self._levels) == 1:
            return False
        self._levels.pop()
        outer = self._levels[-1]
        self._budget.spend(len(outer.text) // _CHARACTERS_PER_WORK)
        outer.text, outer.position = level.text[level.position :] + outer.text[outer.position :], 0
        return True

    def _begin_condition(self, name: str, level: _Level) -> None:
        known = {"iftrue": True, "iffalse": False, **self._flags}.get(name)
        digits = re.compile(r"[01]{1,2}(?!\d)").match(level.text, level.position) if name == "if" else None
        if digits is not None:  # \if0 is how authors comment out
            known = digits[0] in ("00", "11")
            level.position = digits.end()
        if known is None:
            self._copy_word(name)
            self._conditions.append(False)
        elif known or self._skip_branch(stop_at_else=True) == "else":
            self._conditions.append(True)

    def _end_condition(self, name: str) -> None:
        if not self._conditions[-1]:
            self._copy_word(name)
        elif name == "else":
            self._skip_branch(stop_at_else=False)
        if name == "fi" or (name == "else" and self._conditions[-1]):
            self._conditions.pop()

    def _skip_branch(self, *, stop_at_else: bool) -> str:
        """Goes past a branch that does not hold; returns the command that ended it."""
        depth = 0
        while self._levels:
            level = self._levels[-1]
            for match in re.compile(r"\\([A-Za-z@]+|.)|%[^\n]*", re.DOTALL).finditer(level.text, level.position):
                self._budget.spend(1)
                name = match[1] or ""
                if name in _CONDITIONALS or name in self._flags:
                    depth += 1
                elif name == "fi" or (name == "else" and stop_at_else and depth == 0):
                    if depth == 0:
                        level.position = match.end()
                        return name
                    depth -= 1
            if level.file or len(self._levels) == 1:
                level.position = len(level.text)
                return ""
            self._levels.pop()
        return ""

    def _input(self, name: str, level: _Level) -> None:
        match = re.compile(r"\s*\{([^{}]*)\}(?:\s*\{([^{}]*)\})?|[ \t]+([^\s{}\\%]+)").match(level.text, level.position)
        if match is None:
            self._copy_word(name)
            return
        wanted = match[1] if match[1] is not None else match[3]
        level.position = match.end()
        if "import" in name and match[2] is not None:
            wanted = posixpath.join(wanted, match[2])
        elif match[2] is not None:
            level.position = match.end(1) + 1
        file = self._find_file(wanted.strip().strip('"'))
        if (
            file is not None
            and all(open_level.file != file for open_level in self._levels)
            and len(self._levels) < _MAX_DEPTH
        ):
            self._levels.append(_Level(self.files[file], file=file))

    def _find_file(self, name: str) -> str | None:
        """The source that an input means, relative to the file that asks or to the first one."""
        folders = [posixpath.dirname(level.file) for level in reversed(self._levels) if level.file]
        for folder in dict.fromkeys(folders):
            for ending in (".tex", "", ".sty", ".ltx", ".TEX"):
                path = posixpath.normpath(posixpath.join(folder, name + ending))
                if path in self.files:
                    return path
        # Archives are packed anew with other folders; a name that is there once is meant.
        stem = posixpath.basename(name).removesuffix(".tex")
        alike = [path for path in self.files if posixpath.basename(path) in (stem, f"{stem}.tex")]
        return alike[0] if len(alike) == 1 and stem else None

    def _load_package(self, level: _Level) -> None:
        """Learns the simple macros of a style file that lies beside the sources."""
        match = re.compile(r"\s*(?:\[[^\]]*\])?\s*\{([^{}]*)\}").match(level.text, level.position)
        for name in match[1].split(",") if match else ():
            file = self._find_file(name.strip() + ".sty")
            if file is None:
                continue
            inner = Document(self.files)
            inner._levels = [_Level(self.files[file], file=file)]
            inner._has_letter_at = True
            try:
                while inner._levels:
                    inner._step()
            except EndlessMacroError:
                continue
            if "futurelet" in inner.macros.get("onedot", _ONE_DOT).body:
                inner.macros["onedot"] = _ONE_DOT
            for defined, macro in inner.macros.items():
                if "@" not in defined + macro.body and not re.search(r"\\(?:if|csname|expandafter|the\b)", macro.body):
                    self.macros.setdefault(defined, macro)

    def _copy_inline(self, name: str, level: _Level) -> None:
        match = re.compile(r"\*?(?:\[[^\]\n]*\])?(?:\{[^{}\n]*\}(?=[^\s\w]))?([^\sA-Za-z*])(?:(?!\1).)*?\1").match(
            level.text, level.position
        )
        if name != "verb" and level.text.startswith("{", level.position):
            match = re.compile(r"\{[^{}\n]*\}").match(level.text, level.position)
        self._copy_word(name)
        if match is not None:
            self._copy(match[0])
            level.position = match.end()

    def _copy_address(self, name: str, level: _Level) -> None:
        """In a web address a percent sign begins no comment."""
        self._copy_word(name)
        match = re.compile(r"\s*\{[^{}\n]*\}").match(level.text, level.position)
        if match is not None:
            self._copy(match[0])
            level.position = match.end()

    def _copy_environment(self, name: str, level: _Level) -> None:
        end = level.text.find(f"\\end{{{name}}}", level.position)
        after = end + len(f"\\end{{{name}}}") if end >= 0 else len(level.text)
        if name != "comment":
            self._copy("\\begin" + level.text[level.position : after])
        level.position = after

    def _drop_environment(self, level: _Level) -> None:
        cursor = Cursor(level.text, level.position, self._budget)
        if cursor.peek() == "*":
            cursor.position += 1
        for _ in range(3):
            cursor.skip_space()
            while cursor.read_optional() is not None:
                cursor.skip_space()
            if cursor.read_group() is None:
                self._copy("\\newenvironment")
                return
        level.position = cursor.position
