"""The house rules that a program can check, and proof that each check can fail."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import camelid
from camelid.settings import Settings, read_sentences

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
FORBIDDEN_STEMS = {"utils", "util", "common", "helpers", "helper", "misc"}
SHIPPED = ("src", "tests", "docs", "benchmarks", "recipes", ".ci")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".yml", ".cff", ".html", ".css", ".js", ".json", ""}
FORBIDDEN_TEXT = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:work|root|home|Users|opt|mnt|tmp)/"),
    "the host of a package index": re.compile(
        r"py[p]i\.org|python[h]osted\.org|download\.py[t]orch\.org|ana[c]onda\.(?:org|com)"
    ),
    "an index address": re.compile(r"--(?:extra-)?index-[u]rl|--find-[l]inks"),
    "unfinished business": re.compile(r"\b(?:TO[D]O|FIX[M]E|XX[X])\b"),
}


def files(*suffixes: str) -> list[Path]:
    """What is shipped, without caches."""
    found = [path for folder in SHIPPED for path in (ROOT / folder).rglob("*")]
    found += (path for path in ROOT.iterdir() if path.name != ".git")  # a file, in a second working tree
    return sorted(p for p in found if p.is_file() and "__pycache__" not in p.parts and p.suffix in suffixes)


def rooms() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "src" / "camelid").glob("*/__init__.py"))


def find_layout_faults(path: Path, text: str) -> Iterator[str]:
    """What is wrong with one Python file, in words."""
    if path.stem in FORBIDDEN_STEMS:
        yield f"{path}: name the subject, not {path.stem}"
    num_lines = len(text.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield f"{path}: {num_lines} lines, {MAX_FILE_LINES} are allowed"
    if path.parts[0] == "src":
        tree = ast.parse(text)
        yield from _find_long_functions(path, tree)
        yield from _find_undocumented(path, tree)


def _find_long_functions(path: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                yield f"{path}: {node.name} has {num_lines} lines, {MAX_FUNCTION_LINES} are allowed"


def _find_undocumented(path: Path, tree: ast.Module) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield f"{path}: the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not (
            node.name.startswith("_") or ast.get_docstring(node)
        ):
            yield f"{path}: {node.name} has no docstring"


def find_forbidden_text(path: Path, text: str) -> Iterator[str]:
    """Text that belongs to one machine or one network, with its line."""
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern in FORBIDDEN_TEXT.items():
            if pattern.search(line):
                yield f"{path}, line {number}: {what}"


def find_vague_settings(model: type[Settings]) -> Iterator[str]:
    """Fields without exactly one sentence."""
    sentences = read_sentences(model)
    for name in model.model_fields:
        sentence = sentences.get(name, "")
        if not sentence.endswith(".") or re.search(r"[.!?]\s+[A-Z]", sentence) or "\n\n" in sentence:
            yield f"{model.__module__}.{model.__name__}.{name}: {sentence!r} is not one sentence"


def settings_models() -> list[type[Settings]]:
    """All settings models of the package; importing every module is the other half of this check."""
    for module in pkgutil.walk_packages(camelid.__path__, "camelid."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = [Settings]
    for model in found:
        found += model.__subclasses__()
    return [model for model in found[1:] if model.__module__.startswith("camelid.")]


def test_python_files_are_small_named_and_documented() -> None:
    faults = [
        fault
        for path in files(".py")
        for fault in find_layout_faults(path.relative_to(ROOT), path.read_text(encoding="utf-8"))
    ]
    assert not faults, "\n".join(faults)


def test_no_file_belongs_to_one_machine() -> None:
    faults = [
        fault
        for path in files(*TEXT_SUFFIXES)
        for fault in find_forbidden_text(path.relative_to(ROOT), path.read_text(encoding="utf-8"))
    ]
    assert not faults, "\n".join(faults)


def test_every_setting_has_one_sentence() -> None:
    faults = [fault for model in settings_models() for fault in find_vague_settings(model)]
    assert not faults, "\n".join(faults)


def test_every_room_has_tests_and_a_page() -> None:
    untested = [room for room in rooms() if not list((ROOT / "tests" / room).glob("test_*.py"))]
    undescribed = [room for room in rooms() if not (ROOT / "docs" / f"{room}.md").is_file()]
    assert not untested, f"no tests/<room>/test_*.py for {untested}"
    assert not undescribed, f"no docs/<room>.md for {undescribed}"


def test_names_of_test_files_are_unique() -> None:
    # pytest itself keeps the conftest.py of several folders apart.
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("src/camelid/x.py", '"""X."""\n' + "x = 1\n" * 500, "501 lines, 500 are allowed"),
        ("tests/test_x.py", "x = 1\n" * 501, "501 lines, 500 are allowed"),
        ("src/camelid/x.py", '"""X."""\ndef f():\n    """F."""\n' + "    x = 1\n" * 59, "f has 61 lines"),
        ("src/camelid/x.py", '"""X."""\nclass A:\n    """A."""\n    async def f():\n' + "        x\n" * 60, "f has 61"),
        ("src/camelid/x.py", "x = 1\n", "the module has no docstring"),
        ("src/camelid/x.py", '"""X."""\nclass A:\n    x = 1\n', "A has no docstring"),
        ("src/camelid/x.py", '"""X."""\ndef f():\n    return 1\n', "f has no docstring"),
        ("src/camelid/utils.py", '"""X."""\n', "name the subject, not utils"),
    ],
)
def test_a_layout_fault_is_found(path: str, text: str, fault: str) -> None:
    (found,) = find_layout_faults(Path(path), text)
    assert fault in found


def test_what_keeps_to_the_rules_is_let_through() -> None:
    text = '"""X."""\ndef _f():\n    pass\ndef f():\n    """F."""\n' + "    x = 1\n" * 58
    assert list(find_layout_faults(Path("src/camelid/x.py"), text + "\n" * 437)) == []


@pytest.mark.parametrize(
    "line",
    [
        *(f"path = '/{folder}/data'" for folder in ("work", "root", "home", "tmp")),
        *(f"see https://{'.'.join(host)}/simple" for host in (("pypi", "org"), ("download", "pytorch", "org"))),
        "pip install -" + "-index-url x",
        "# TO" + "DO later",
    ],
)
def test_forbidden_text_is_found(line: str) -> None:
    assert len(list(find_forbidden_text(Path("docs/x.md"), f"fine\n{line}\n"))) == 1


def test_a_vague_setting_is_found() -> None:
    class Vague(Settings):
        bare: int = 1
        headless: int = 2
        """no full stop"""
        verbose: int = 3
        """One sentence. Another one."""
        good: float = 0.5
        """Share of the whole, 0.5 for a half."""

    assert [fault.split(":")[0].rpartition(".")[2] for fault in find_vague_settings(Vague)] == [
        "bare",
        "headless",
        "verbose",
    ]
