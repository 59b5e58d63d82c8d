"""Of the standard library its own source files are read, and nothing that was installed beside it."""

from pathlib import Path

from camelid.corpus.settings import PythonLibrarySource
from camelid.corpus.sources import python_library

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
