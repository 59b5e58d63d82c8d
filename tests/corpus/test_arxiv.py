"""arXiv papers: no comment, no macro of the author's, no bibliography, and every brace in its place."""

import contextlib
import gzip
import io
import re
import tarfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from read_source import read_source

from camelid.corpus.sources import latex
from camelid.corpus.sources.arxiv import find_mains
from camelid.corpus.sources.latex import Document
from camelid.corpus.sources.latex_body import cut_body, find_title
from camelid.corpus.sources.latex_macros import PROTECTED, EndlessMacroError
from camelid.corpus.sources.record import RawRecord

_DEFINITION = re.compile(
    r"\\(?:newcommand|renewcommand|providecommand|DeclareRobustCommand|DeclareMathOperator)\*?\s*\{?\s*\\([A-Za-z]+)"
    r"|\\(?:def|gdef|edef|let)\s*\\([A-Za-z]+)"
)
_VERBATIM = re.compile(r"\\begin\{(verbatim|lstlisting|code|spec)\}.*?\\end\{\1\}|\\(?:url|href)\{[^{}]*\}", re.DOTALL)
_BIBLIOGRAPHY = re.compile(r"thebibliography|\\bibliography|\\printbibliography|\\nocite")


@pytest.fixture(scope="module")
def real_papers(shared_data: Path) -> dict[str, RawRecord]:
    """The papers of the sample by archive and main file."""
    records, others = read_source(shared_data / "arxiv", kind="arxiv", appendices=True)
    assert [(other.path, other.reason) for other in others] == [
        ("mrl-0005-ringct.tar.gz!main.tex", "version of another file")
    ]
    return {record.path: record for record in records}


def _sources(archive: Path) -> Mapping[str, str]:
    data = gzip.decompress(archive.read_bytes())
    if data[257:262] != b"ustar":
        return {"main.tex": data.decode()}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            member.name: tar.extractfile(member).read().decode("utf-8", "replace")  # type: ignore[union-attr]
            for member in tar
            if member.isfile() and member.name.endswith((".tex", ".lhs"))
        }


def _expand(text: str, **files: str) -> str:
    return Document({"main.tex": text, **{f"{name}.tex": other for name, other in files.items()}}).expand("main.tex")


def _body(text: str, *, appendices: bool = False, without_sections: bool = True) -> str:
    return cut_body(text, appendices=appendices, without_sections=without_sections).strip()


def test_every_real_archive_gives_a_paper(real_papers: Mapping[str, RawRecord], shared_data: Path) -> None:
    archives = {path.name for path in (shared_data / "arxiv").iterdir()}
    assert {path.partition("!")[0] for path in real_papers} == archives
    assert len(archives) == 38
    assert all(len(record.text) > 1500 for record in real_papers.values())


def test_no_comment_macro_or_bibliography_is_left_in_the_real_papers(
    real_papers: Mapping[str, RawRecord], shared_data: Path
) -> None:
    num_macros = 0
    for path, record in real_papers.items():
        sources = _sources(shared_data / "arxiv" / path.partition("!")[0])
        bare = "\n".join(re.sub(r"(?<!\\)%.*", "", text) for text in sources.values())
        defined = {match[1] or match[2] for match in _DEFINITION.finditer(bare)} - PROTECTED
        text = _VERBATIM.sub("", record.text)
        commands = Counter(re.findall(r"\\([A-Za-z]+)", text))
        assert not {name: commands[name] for name in defined & commands.keys()}, path
        assert not re.findall(r"(?<!\\)(?:\\\\)*%.{0,40}", text), path
        assert not _BIBLIOGRAPHY.findall(text), path
        num_macros += len(defined)
    assert num_macros > 1000


def test_braces_and_environments_of_the_real_papers_balance(real_papers: Mapping[str, RawRecord]) -> None:
    for path, record in real_papers.items():
        braces = Counter(re.sub(r"\\.", "", _VERBATIM.sub("", record.text), flags=re.DOTALL))
        assert braces["{"] == braces["}"], path
        begun, ended = (Counter(re.findall(rf"\\{word}\{{(\w+\*?)\}}", record.text)) for word in ("begin", "end"))
        assert begun == ended, path
        # A formula that a macro ran into would have its dollars or braces wrong.
        formulas = re.findall(r"(?<![\\$])\$([^$\n]{1,80})\$(?!\$)", re.sub(r"\\\$", "", record.text))
        unbalanced = [formula for formula in formulas if formula.count("{") != formula.count("}")]
        assert len(unbalanced) <= 0.02 * len(formulas) + 2, (path, unbalanced[:3])


@pytest.mark.parametrize(
    ("path", "beginning", "present", "absent"),
    [
        (
            "robust-sls-v2.tar.gz!main.tex",
            "\\section{Introduction}\n\\label{sec:introduction}\nRobust control seeks to explicitly account",
            ["\\boldsymbol{\\Phi}_x", "\\begin{equation}"],
            ["\\tf", "\\Phix", "\\begin{abstract}", "\\maketitle"],
        ),
        (
            "recipes-straightline.tar.gz!straightline.tex",
            "\\section*{Data analysis recipes",
            ["outlined in Section~\\ref{sec:standard}", "P_{\\mathrm{b}}"],
            ["\\sectionname", "\\note{", "to-do for next revision"],
        ),
        (
            "stacks-algebraic.gz",
            "\\section{Introduction}",
            ["\\label{section-introduction}", "\\mathcal{X}"],
            ["\\usepackage", "\\input{chapters}", "\\title"],
        ),
    ],
)
def test_real_papers_read_by_eye(
    real_papers: Mapping[str, RawRecord], path: str, beginning: str, present: list[str], absent: list[str]
) -> None:
    text = real_papers[path].text
    assert text.startswith(beginning)
    for words in present:
        assert words in text
    for words in absent:
        assert words not in text


@pytest.mark.parametrize(
    ("definitions", "text", "expanded"),
    [
        (r"\newcommand{\R}{\mathbb{R}}", r"$x\in\R$ and \R{}", r"$x\in\mathbb{R}$ and \mathbb{R}{}"),
        (r"\newcommand\eps\varepsilon \def\d{\delta}", r"$\eps a\d b\d2$", r"$\varepsilon a\delta b\delta2$"),
        (
            r"\newcommand{\norm}[1]{\lVert #1 \rVert}",
            r"$\norm{\frac{a}{b}}+\norm x+\norm\alpha$",
            r"$\lVert \frac{a}{b} \rVert+\lVert x \rVert+\lVert \alpha \rVert$",
        ),
        (
            r"\newcommand{\p}[2][t]{\partial_{#1}#2}",
            r"\p{f} \p[x]{f} \p [y] f",
            r"\partial_{t}f \partial_{x}f \partial_{y}f",
        ),
        (r"\def\f(#1,#2){<#1|#2>}\def\g#1.{[#1]}", r"\f(a,{b,c}) \g x y.z", r"<a|b,c> [ x y]z"),
        (
            r"\DeclareMathOperator{\Tr}{Tr}\DeclareMathOperator*{\argmax}{arg\,max}",
            r"\Tr A,\argmax_x",
            r"\operatorname{Tr} A,\operatorname*{arg\,max}_x",
        ),
        (r"\newcommand{\A}{\B\B}\newcommand{\B}{\C1}\newcommand{\C}[1]{c#1}", r"\A!", r"c1c1!"),
        (
            r"\newcommand{\be}{\begin{equation}}\newcommand{\ee}{\end{equation}}",
            r"\be x\ee",
            r"\begin{equation} x\end{equation}",
        ),
        (r"\def\a{1}\def\a{2}\providecommand{\a}{3}\providecommand{\q}{4}", r"\a\q", r"24"),
        (r"\renewcommand{\a}{1}\def\b{\a}\let\c=\b\def\b{x}", r"\c\b", r"1x"),
        (r"\let\oldvec\vec\renewcommand{\vec}[1]{\oldvec{\mathbf{#1}}}", r"\vec{x}", r"\vec{\mathbf{x}}"),
        (r"\newcommand{\outer}[1]{\def\inner##1{<##1#1>}}\outer{z}", r"\inner{a}", r"<az>"),
        (
            r"\newcommand{\x}[1]{\mathbf#1}\newcommand{\y}[1]{#1b}",
            r"\x a \y\alpha \y{\beta}",
            r"\mathbf a \alpha b \beta b",
        ),
        (r"\newcommand{\half}{\frac12}\newcommand{\two}[2]{#1/#2}\newcommand{\start}{\two a}", r"\start b", r"a/b"),
        (r"\NewDocumentCommand{\n}{m o O{d}}{#1#2#3}", r"\n{a} \n{a}[b] \n{a}[b][c]", r"ad abd abc"),
        (r"\newcommand{\ie}{i.e.\xspace}\long\def\l#1{#1}\global\let\h\hbar", r"\ie{} \l{x} \h", r"i.e.{} x \hbar"),
        # A blank after a call goes in what a macro stands for, but where an xspace puts it back.
        (r"\newcommand{\w}{word}\newcommand{\ws}{\w s}\newcommand{\v}{\w\ s}", r"\ws \w s \v", r"words word s word\ s"),
        (r"\newcommand{\w}{word\xspace}\newcommand{\v}{\w}\newcommand{\vs}{\v s \w s}", r"\vs", r"word s word s"),
        (r"\newcommand{\c}[1]{% a comment" + "\n" + r"  #1% another {" + "\n}", r"\c{x}", "x"),
        (r"\newif\ifdraft\draftfalse ", r"a\ifdraft b\ifx c\fi d\else e\fi f", "a e f"),
        (r"\newif\iflong\longtrue", r"\iflong b\else e\fi f\if0 no\fi\iffalse{\fi g\iffalse x\else y\fi", "b f g y"),
        (r"\newcommand{\section}{nothing}", r"\section{A}\unknown{b}", r"\section{A}\unknown{b}"),
        (
            r"\newenvironment{prob}[1][x]{\begin{quote}#1}{\end{quote}}",
            r"\begin{prob}a\end{prob}",
            r"\begin{prob}a\end{prob}",
        ),
        (r"\newcommand{\nc}{\newcommand}\nc\tit{T}\nc{\two}[1]{#1#1}", r"\tit\two{a}", r"Taa"),
        (r"\newcommand{\broken", r"text", r"\newcommand{\brokentext"),
        (r"\newcommand{\three}[3]{#1#2#3}", r"\three{a}", r"\three{a}"),
    ],
)  # fmt: skip
def test_macros_are_expanded(definitions: str, text: str, expanded: str) -> None:
    assert " ".join(_expand(definitions + text).split()) == " ".join(expanded.split())


def test_comments_go_and_percent_signs_stay() -> None:
    text = "50\\% of a% gone\n  b\n  % a line of its own {\nc \\\\% gone\nd\n%\n\ne \\url{x/%20y} \\href{z%2}{w}%"
    assert _expand(text) == "50\\% of ab\n  c \\\\d\n\ne \\url{x/%20y} \\href{z%2}{w}"
    verbatim = "\\begin{verbatim}\n100% \\R \\begin{x}\n\\end{verbatim} \\verb|50% \\R| \\lstinline!%! % gone"
    assert _expand("\\newcommand{\\R}{r}" + verbatim) == verbatim.removesuffix("% gone")
    assert _expand("a\\begin{comment}\n\\R % b\n\\end{comment}c") == "ac"


def test_files_are_put_where_they_are_input() -> None:
    text = "\\input{macros}\\input one \\include{two}\n\\input{missing}\\input{main}end"
    expanded = _expand(text, macros="\\newcommand{\\m}{M}", one="1\\m", two="2\\input{one}\\endinput never")
    assert expanded.split() == ["1M", "21M", "end"]
    document = Document(
        {
            "a/main.tex": "\\input{sub/x}\\subfile{./y}\\import{sub/}{z}",
            "a/sub/x.tex": "X",
            "a/y.tex": "Y",
            "a/sub/z.tex": "Z",
        }
    )
    assert document.expand("a/main.tex") == "XYZ"
    style = {
        "main.tex": "\\usepackage{mine}\\v{x}\\cite{y}",
        "mine.sty": "\\newcommand{\\v}[1]{\\mathbf{#1}}\\def\\cite#1{\\@cite{#1}}",
    }
    assert Document(style).expand("main.tex").endswith("\\mathbf{x}\\cite{y}")
    conference = {
        "main.tex": "\\usepackage{cvpr}A \\etal~B, C \\etal. D",
        "cvpr.sty": "\\makeatletter\\DeclareRobustCommand\\onedot{\\futurelet\\@let@token\\@onedot}\n"
        "\\def\\@onedot{\\ifx\\@let@token.\\else.\\null\\fi\\xspace}\n\\def\\etal{\\emph{et al}\\onedot}\n",
    }
    assert Document(conference).expand("main.tex").endswith("A \\emph{et al}.~B, C \\emph{et al}. D")


@pytest.mark.parametrize(
    "text",
    [
        r"\def\a{\a}\a",
        r"\def\a{\b\b}\def\b{\a}\a",
        r"\def\a#1{\a{#1#1}}\a{x}",
        "".join(rf"\def\m{chr(97 + i)}{{{(chr(92) + 'm' + chr(98 + i)) * 10}}}" for i in range(12)) + r"\ma",
        r"\newcommand{\a}{{\a}}\a",
    ],
)
def test_macros_without_end_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latex, "_MAX_EXPANSIONS", 3000)
    monkeypatch.setattr(latex, "_MAX_CHARACTERS", 1 << 20)
    with pytest.raises(EndlessMacroError):
        _expand(text)


_CALLS = " ".join(rf"\m{x}" for x in "abcdefghijklmnopqrstuvwxyz")
_BROKEN = [
    "\\" * 999, "{" * 9999, "%" * 9999, "\\begin{verbatim}" * 99, "\\verb", "\\newcommand", "\\def\\a#1", "\\fi\\else",
    "\\iffalse", "\\let", "\\input", "\\newif", "\\newenvironment{a}", "\\def\\a{\\input{main}}\\a", "\\verb|a", "#1",
    "\\newcommand{\\a}[99]{x}\\a", "\\if0", "\\ifx\\a\\else\\fi\\fi", "\\section" * 999, "\\bibliography{" * 999,
    "$" * 999,
]  # fmt: skip


@pytest.mark.parametrize("text", _BROKEN)
def test_broken_latex_does_not_crash(text: str) -> None:
    assert isinstance(_body(_expand(text)), str)


@pytest.mark.parametrize(
    "text",
    [
        r"\def\a#1{x}" + r"\a{" * 20_000,
        r"\newcommand{\a}[2][d]{x}" + r"\a[" * 20_000,
        r"\def\a#1z{x}" + r"\a y" * 20_000,
        r"\def\a#1#2{x}\def\b{\a}" + r"\b" * 20_000,
        r"\newcommand{\a}{" * 20_000,
        r"\iffalse " * 50_000,
        "".join(rf"\def\m{x}{{{_CALLS}}}" for x in "bcdefghijklmnopqrstuvwxyz") + r"\def\ma{ \mb c}\ma",
        r"\begin{verbatim}" * 50_000,
        r"\verb|" * 50_000,
        r"\section{a}\bibliography{x}" * 20_000,
        r"\section{a}\begin{thebibliography}" * 20_000,
    ],
    ids=lambda text: text[:30],
)
def test_hostile_latex_ends_soon(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latex, "_MAX_WORK", 200_000)
    start = time.process_time()
    with contextlib.suppress(EndlessMacroError):
        _body(_expand(text))
    assert time.process_time() - start < 5


_FRONT = (
    "\\documentclass{article}\n\\title{A \\\\ B\\thanks{c}}\n\\begin{document}\n"
    "\\maketitle\n\\begin{abstract}x\\end{abstract}\n"
)


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("\\section{One}\na\n\\end{document}\nafter", "\\section{One}\na"),
        ("intro\n\\paragraph{P} a", "\\paragraph{P} a"),
        ("letter text", "letter text"),
        ("\\section{A}a\n\\bibliographystyle{x}\\bibliography{refs}\n\\section{B}b", "\\section{A}a\n\n\\section{B}b"),
        ("\\section{A}a\n{\\small\n\\bibliography{refs}}\n\\begin{figure}late\\end{figure}", "\\section{A}a"),
        (
            "\\section{A}a\n\\begin{thebibliography}{9}\\bibitem{x} y \\section{no}\\end{thebibliography}\n"
            "late\n\\section{B}b",
            "\\section{A}a\n\n\\section{B}b",
        ),
        ("\\section{A}a\n\\section*{References}\n[1] x\n\\section{B}b", "\\section{A}a\n\n\\section{B}b"),
        ("\\section{A}a\n\\appendix\n\\section{B}b", "\\section{A}a"),
        (
            "\\section{A}\\begin{verbatim}\\section{x}\\bibliography{y}\\end{verbatim}a",
            "\\section{A}\\begin{verbatim}\\section{x}\\bibliography{y}\\end{verbatim}a",
        ),
        ("\\section{A}see \\nocite{*}\\cite{x}", "\\section{A}see \\cite{x}"),
        (
            "\\section{A}\\begin{back}a\n\\begin{small}\\bibliography{x}\\end{small}\\end{back}\n\\section{B}b",
            "\\section{A}\\begin{back}a\n\n\\end{back}\n\\section{B}b",
        ),
    ],
)  # fmt: skip
def test_the_body_is_from_the_first_section_to_the_bibliography(text: str, body: str) -> None:
    assert _body(_FRONT + text) == body


def test_appendices_and_papers_without_sections_by_setting() -> None:
    text = _FRONT + "\\section{A}a\n\\bibliography{x}\n\\appendix\n\\section{B}b"
    assert _body(text, appendices=True) == "\\section{A}a\n\n\\appendix\n\\section{B}b"
    assert _body(_FRONT + "letter", without_sections=False) == ""
    assert find_title(_FRONT) == "A B"
    assert find_title("no title") is None
    assert find_title("\\title{open") is None


def test_a_version_of_another_file_is_refused(tmp_path: Path) -> None:
    begin = "\\documentclass{article}\\begin{document}\\section{A}\n"
    lines = [f"A sentence of some length with the number {number}.\n" for number in range(20)]
    other = begin + "".join(line.replace("sentence", "supplement") for line in lines)
    texts = {"a.tex": begin + "".join(lines[:15]), "b.tex": begin + "".join(lines), "c.tex": other}
    (tmp_path / "2201.00001.tar.gz").write_bytes(
        gzip.compress(_tar(**{name: text.encode() for name, text in texts.items()}))
    )
    records, (refused,) = read_source(tmp_path, kind="arxiv")
    assert [record.path.rpartition("!")[2] for record in records] == ["b.tex", "c.tex"]
    assert (refused.path.rpartition("!")[2], refused.reason) == ("a.tex", "version of another file")
    assert refused.detail == "b.tex"
    assert sum(record.num_raw_bytes or 0 for record in records) > 0


def test_main_files_are_those_that_no_other_inputs() -> None:
    begin = "\\documentclass{article}\\begin{document}"
    assert find_mains({"a.tex": begin + "\\input{b}", "b.tex": begin, "c.sty": begin}) == ["a.tex"]
    assert find_mains({"a.tex": begin, "b.tex": begin, "f.tex": "\\documentclass{standalone}" + begin[-16:]}) == [
        "a.tex",
        "b.tex",
    ]
    assert find_mains({"a.tex": "% " + begin, "long.tex": "\\magnification=1200 text"}) == ["long.tex"]
    assert find_mains({"readme.txt": "hello"}) == []


def _tar(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("__", "/").replace("_dot_", "."))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../x"), (tarfile.CHRTYPE, "")):
            link = tarfile.TarInfo(f"link{kind!r}.tex")
            link.type, link.linkname = kind, target
            archive.addfile(link)
    return buffer.getvalue()


def test_archives_of_every_kind_and_hostile_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = b"\\begin{document}\\input{../../../../etc/passwd}\\section{A}The text of a paper.\\end{document}"
    (tmp_path / "2001.00001.gz").write_bytes(gzip.compress(paper))
    (tmp_path / "2001.00002v2.tar.gz").write_bytes(
        gzip.compress(_tar(main_dot_tex=paper, ____x_dot_tex=b"\\section{no}"))
    )
    (tmp_path / "hep-th9901001.gz").write_bytes(gzip.compress(b"\\section{A}caf\xe9 in Latin-1"))
    bulk = _tar(**{"2001__2001_dot_00003_dot_gz": gzip.compress(paper), "2001__2001_dot_00004_dot_pdf": b"%PDF-1.5"})
    (tmp_path / "arXiv_src_2001_001.tar").write_bytes(bulk)
    (tmp_path / "a-cut.gz").write_bytes(gzip.compress(paper * 99)[:-30])
    (tmp_path / "b-bomb.gz").write_bytes(gzip.compress(b"x" * 3_000_000))
    (tmp_path / "c-endless.tex").write_bytes(b"\\def\\a{\\a}\\begin{document}\\a\\end{document}")
    (tmp_path / "d-pictures.tar.gz").write_bytes(gzip.compress(_tar(a_dot_png=b"\x89PNG")))
    (tmp_path / "e-pdf.gz").write_bytes(gzip.compress(b"%PDF-1.4"))
    monkeypatch.setattr("camelid.corpus.sources.arxiv._MAX_PAPER_BYTES", 2_000_000)
    records, others = read_source(tmp_path, kind="arxiv")
    assert [(r.path, r.url, r.text) for r in records] == [
        ("2001.00001.gz", "https://arxiv.org/abs/2001.00001", "\\section{A}The text of a paper.\n"),
        ("2001.00002v2.tar.gz!main.tex", "https://arxiv.org/abs/2001.00002v2", "\\section{A}The text of a paper.\n"),
        (
            "arXiv_src_2001_001.tar!2001/2001.00003.gz",
            "https://arxiv.org/abs/2001.00003",
            "\\section{A}The text of a paper.\n",
        ),
        ("hep-th9901001.gz", "https://arxiv.org/abs/hep-th/9901001", "\\section{A}café in Latin-1\n"),
    ]
    assert [(o.path.rpartition("!")[2], o.step, o.reason) for o in others] == [
        ("a-cut.gz", "read", "damaged"),
        ("2001/2001.00004.pdf", "papers", "PDF only"),
        ("b-bomb.gz", "read", "too large"),
        ("c-endless.tex", "papers", "endless macros"),
        ("d-pictures.tar.gz", "papers", "no LaTeX"),
        ("e-pdf.gz", "papers", "PDF only"),
    ]
