"""A lock between processes: a file that one of them holds, and that no killed process leaves locked behind."""

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO


class LockedError(Exception):
    """Another process holds the lock; `holder` says which, as far as it is known."""

    def __init__(self, holder: str):
        super().__init__(f"locked by {holder or 'another process'}")
        self.holder = holder


class Lock:
    """A lock that is held until the `with` block ends or the process dies, whichever comes first."""

    def __init__(self, path: Path, file: TextIO):
        self._path = path
        self._file = file
        _held.append(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file in _held:
            _held.remove(self._file)
            self._path.unlink(missing_ok=True)  # while it is still ours: see take_lock
            self._file.close()


def take_lock(path: Path) -> Lock:
    """Takes the lock at once or not at all.

    Raises:
        LockedError: another process holds it.
        OSError: the file cannot be written.
    """
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise LockedError(holder) from error
        # The holder before us may have deleted the file after we opened it; then what we hold guards nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(f"process {os.getpid()}")
                file.flush()
                return Lock(path, file)
        file.close()


_held: list[TextIO] = []


def _let_go_in_child() -> None:
    # A forked worker shares its parent's lock and would go on holding it after the parent was killed.
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go_in_child)
