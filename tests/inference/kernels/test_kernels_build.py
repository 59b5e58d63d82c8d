"""Compiling and keeping the kernels: several processes at once, no compiler, a broken one, a folder that is closed."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from camelid import processor
from camelid.errors import UserError
from camelid.inference.kernels import build

FAKE_COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo fake 1.0; exit 0; fi
echo compiled >> {log}
sleep 0.3
while [ $# -gt 1 ]; do shift; done
echo library > "$1"
"""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAMELID_CACHE", str(tmp_path / "cache"))
    build.find_compiler.cache_clear()
    return tmp_path / "cache" / "kernels"


def write_program(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def use_compiler(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(path))
    build.find_compiler.cache_clear()


def use_no_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    build.find_compiler.cache_clear()


def test_several_processes_compile_once(tmp_path: Path, empty_cache: Path) -> None:
    log = tmp_path / "log"
    compiler = write_program(tmp_path / "compiler", FAKE_COMPILER.format(log=log))
    code = "from camelid.inference.kernels.build import build_library; print(build_library())"
    environment = {**os.environ, "CXX": str(compiler)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    paths = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(paths) == 1
    assert [path.name for path in empty_cache.iterdir()] == [Path(paths.pop()).name]
    assert log.read_text(encoding="utf-8") == "compiled\n"


def test_a_library_is_named_by_flags_and_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.0", "2.0"):
        text = FAKE_COMPILER.format(log=tmp_path / "log").replace("fake 1.0", f"fake {version}")
        use_compiler(write_program(tmp_path / f"compiler{version}", text), monkeypatch)
        for flags in (("-O1",), ("-O2",)):
            build.build_library(flags)
            build.build_library(flags)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "compiled\n" * 4
    monkeypatch.setattr(build, "describe_processor", lambda: "another processor")
    build.build_library(("-O1",))
    assert (tmp_path / "log").read_text(encoding="utf-8") == "compiled\n" * 5


def test_without_a_compiler_what_was_built_before_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        use_no_compiler(patch, tmp_path)
        assert not build.can_compile()
        with pytest.raises(UserError, match="no C\\+\\+ compiler"):
            build.build_library()
    use_compiler(write_program(tmp_path / "compiler", FAKE_COMPILER.format(log=tmp_path / "log")), monkeypatch)
    library = build.build_library()
    use_no_compiler(monkeypatch, tmp_path)
    assert build.can_compile()
    assert build.build_library() == library


def test_a_compiler_that_fails_is_named_with_its_complaint(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "#!/bin/sh\necho 'x.cpp:1: error: no such luck' >&2\nexit 1\n"
    use_compiler(write_program(tmp_path / "compiler", program), monkeypatch)
    with pytest.raises(UserError, match=r"compiler cannot compile the kernels \(x.cpp:1: error: no such luck\)"):
        build.build_library()
    assert list(empty_cache.iterdir()) == []


def test_a_compiler_that_was_interrupted_leaves_nothing_that_counts(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiler(write_program(tmp_path / "compiler", FAKE_COMPILER.format(log=tmp_path / "log")), monkeypatch)
    library = build.build_library()
    content = library.read_bytes()
    library.unlink()
    empty_cache.joinpath(f"{library.stem}.123.partial").write_bytes(b"half")
    assert build.build_library().read_bytes() == content


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMELID_CACHE", str(write_program(tmp_path / "file", "")))
    with pytest.raises(UserError, match="name another folder in CAMELID_CACHE"):
        build.build_library()


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert build.cache_folder() == tmp_path / "cache" / "kernels"
    monkeypatch.delenv("CAMELID_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert build.cache_folder() == Path("/there/camelid/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert build.cache_folder() == Path.home() / ".cache" / "camelid" / "kernels"


def test_cores_are_counted_once_and_within_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_CPUS", tmp_path)
    monkeypatch.setattr(processor, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2, 3, 8}, raising=False)
    for cpu, siblings in {0: "0,4", 1: "1-2", 2: "1-2", 3: "3"}.items():
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(siblings + "\n", encoding="utf-8")
    assert processor.count_physical_cores() == 4
    for quota, cores in (("max 100000", 4), ("250000 100000", 3), ("1000 100000", 1)):
        (tmp_path / "cpu.max").write_text(quota + "\n", encoding="utf-8")
        assert processor.count_physical_cores() == cores
