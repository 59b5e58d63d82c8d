"""One process at a time, whatever dies and whatever forks."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from camelid.lock import LockedError, take_lock

HOLD = r"""
import os, sys, time
from pathlib import Path
from camelid.lock import take_lock
with take_lock(Path(sys.argv[1])):
    if "fork" in sys.argv and os.fork() == 0:
        os.write(1, b"%d\n" % os.getpid())
        time.sleep(60)
    os.write(1, b"%d\n" % os.getpid())
    time.sleep(60)
"""


def hold(path: Path, *arguments: str) -> tuple["subprocess.Popen[str]", list[int]]:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path), *arguments], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return child, [int(child.stdout.readline()) for _ in range(1 + len(arguments))]


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    child, _ = hold(path)
    with pytest.raises(LockedError) as caught:
        take_lock(path)
    child.kill()
    child.communicate()
    assert caught.value.holder == f"process {child.pid}"


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    child, _ = hold(path)
    child.kill()
    child.communicate()
    assert path.exists()
    with take_lock(path):
        assert path.read_text() == f"process {os.getpid()}"
    assert not path.exists()


def test_a_killed_holders_orphan_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    child, pids = hold(path, "fork")
    (orphan,) = {*pids} - {child.pid}
    child.kill()
    child.wait()
    try:
        with take_lock(path):
            os.kill(orphan, 0)  # raises if it did not outlive its parent
    finally:
        os.kill(orphan, signal.SIGKILL)
        child.communicate()


def test_a_file_deleted_before_it_was_locked_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.lock"
    flock = fcntl.flock
    deletions = iter([True, False])

    def flock_too_late(file: IO[str], operation: int) -> None:
        if next(deletions):
            path.unlink()  # the holder before us leaves, between our opening and our locking
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock_too_late)
    with take_lock(path):
        assert path.read_text() == f"process {os.getpid()}"
        monkeypatch.setattr(fcntl, "flock", flock)
        with pytest.raises(LockedError):
            take_lock(path)


def test_never_two_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    inside = threading.Semaphore(1)

    def work(_: int) -> int:
        taken = 0
        for _ in range(200):
            try:
                with take_lock(path):
                    assert inside.acquire(blocking=False), "two threads hold the lock"
                    time.sleep(0)
                    inside.release()
                    taken += 1
            except LockedError:
                pass
        return taken

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) > 0
    assert not path.exists()
