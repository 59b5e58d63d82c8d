"""Compiles the kernels for this processor when they are first needed, and keeps the library in the user's cache.

The library's name is made of the sources, the flags, the processor and the compiler; so a new release, machine or
compiler builds its own, and none is ever rewritten. Several processes may come here at once: one compiles.
"""

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from camelid.errors import UserError
from camelid.lock import LockedError, take_lock
from camelid.processor import describe_processor

SOURCES = Path(__file__).parent
MAIN_SOURCE = "camelid.cpp"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-shared",
    "-fPIC",
    "-pthread",
)
"""Flags of every build; none of them may change the order or the rounding of float operations."""

_TIMEOUT_SECONDS = 300


def native_flags() -> tuple[str, ...]:
    """Flags that let the compiler use all that this processor has."""
    return ("-mcpu=native",) if os.uname().machine in ("aarch64", "arm64") else ("-march=native",)


@functools.cache
def find_compiler() -> tuple[str, ...] | None:
    """The command of a C++ compiler: what CXX names, g++, clang++ or c++, or the one in the `ziglang` wheel."""
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        found = shutil.which(name) if name else None
        if found:
            return (found,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "c++")
    return None


def can_compile() -> bool:
    """Whether there is a compiler, or a library that one has left behind."""
    return find_compiler() is not None or _find_built(native_flags()) is not None


def build_library(flags: tuple[str, ...] | None = None) -> Path:
    """The kernels' shared library, compiled unless it was before.

    Args:
        flags: in place of `native_flags`, for another instruction set.

    Raises:
        UserError: there is no compiler, or it fails.
    """
    flags = native_flags() if flags is None else flags
    compiler = find_compiler()
    if compiler is None:
        built = _find_built(flags)
        if built is None:
            raise UserError(
                "there is no C++ compiler for the kernels; install g++ or clang++, or `pip install ziglang`"
            )
        return built
    library = cache_folder() / f"{_hash_sources(flags)}-{_hash(_ask_version(compiler))}.so"
    if not library.exists():
        _compile_once(compiler, flags, library)
    return library


def cache_folder() -> Path:
    """Where libraries are kept: below CAMELID_CACHE, else XDG_CACHE_HOME/camelid, else ~/.cache/camelid."""
    own = os.environ.get("CAMELID_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "camelid"
    return base / "kernels"


def _compile_once(compiler: tuple[str, ...], flags: tuple[str, ...], library: Path) -> None:
    try:
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        while not library.exists():
            try:
                with take_lock(library.with_suffix(".lock")):
                    if not library.exists():
                        _compile(compiler, flags, library)
            except LockedError:
                time.sleep(0.05)
    except OSError as error:
        raise UserError(
            f"the kernels cannot be kept in {library.parent} ({error.strerror}); name another folder in CAMELID_CACHE"
        ) from error


def _compile(compiler: tuple[str, ...], flags: tuple[str, ...], library: Path) -> None:
    partial = library.with_suffix(f".{os.getpid()}.partial")
    command = [*compiler, *FLAGS, *flags, str(SOURCES / MAIN_SOURCE), "-o", str(partial)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
        if done.returncode:
            complaint = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:300])
            raise UserError(f"{compiler[0]} cannot compile the kernels ({complaint}); name another compiler in CXX")
        partial.replace(library)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{compiler[0]} took more than {_TIMEOUT_SECONDS} seconds for the kernels; name another compiler in CXX"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _find_built(flags: tuple[str, ...]) -> Path | None:
    return next(iter(sorted(cache_folder().glob(f"{_hash_sources(flags)}-*.so"))), None)


def _hash_sources(flags: tuple[str, ...]) -> str:
    files = sorted(path for path in SOURCES.iterdir() if path.suffix in (".cpp", ".h"))
    texts = [f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in files]
    return _hash("\0".join([*texts, *FLAGS, *flags, describe_processor()]))


def _ask_version(compiler: tuple[str, ...]) -> str:
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
