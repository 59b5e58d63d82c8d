"""Of the standard library its own source files are read, and nothing that was installed beside it."""

from pathlib import Path

from camelid.corpus.settings import PythonLibrarySource
from camelid.corpus.source_settings import CodeQuality
from camelid.corpus.sources import python_library
from camelid.corpus.sources.record import RawRecord, Refused

SOURCE = PythonLibrarySource(kind="python_library")


def test_tests_tables_and_installed_packages_are_left_out(tmp_path: Path) -> None:
    for path in (
        "os.py",
        "json/decoder.py",
        "json/data.txt",
        "test/test_os.py",
        "json/tests/x.py",
        "encodings/cp037.py",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x = 1\n", encoding="utf-8")
    for folder in ("site-packages/torch", "dist-packages", "folder.py"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "setup.py").write_text("", encoding="utf-8")
    assert python_library.list_files(SOURCE, tmp_path) == ["folder.py/setup.py", "json/decoder.py", "os.py"]


def test_real_library_is_source_code_of_about_ten_megabytes() -> None:
    root = python_library.root()
    files = python_library.list_files(SOURCE, root)
    assert {"os.py", "json/decoder.py"} <= set(files)
    assert 400 < len(files) < 900
    assert 7e6 < sum((root / path).stat().st_size for path in files) < 16e6


def test_the_rules_of_githubs_sources_where_they_are_set(tmp_path: Path) -> None:
    """Headers go, odd files go, and the rest stays as it is, without the packages of the extra."""
    code = "import os\n\n\ndef area(width, height):\n    return width * height\n"
    files = {
        "plain.py": code,
        "headed.py": "#! /usr/bin/env python3\n# Copyright 2001 by X\n# All rights reserved.\n\n" + code,
        "table.py": "TABLE = [" + "0x1, " * 400 + "]\n",
        "empty.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    chosen = PythonLibrarySource(kind="python_library", quality=CodeQuality())
    found = {name: next(iter(python_library.read_file(chosen, tmp_path, name))) for name in files}
    kept = {name: record.text for name, record in found.items() if isinstance(record, RawRecord)}
    assert kept == {"plain.py": code, "headed.py": "#! /usr/bin/env python3\n" + code}
    reasons = {name: record.reason for name, record in found.items() if isinstance(record, Refused)}
    assert reasons == {"table.py": "long line", "empty.py": "empty"}
    whole = next(iter(python_library.read_file(SOURCE, tmp_path, "headed.py")))
    assert isinstance(whole, RawRecord)
    assert whole.text == files["headed.py"]
