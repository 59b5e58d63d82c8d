"""Worker processes end with the process that started them, however that ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

_CHILD = Path(__file__).with_name("engine_child.py")


def _stop(when: str, number: signal.Signals, *, is_sent_to_all: bool) -> tuple[int, str]:
    """The exit code and the errors of a process that gets a signal when its two workers are there."""
    command = [sys.executable, str(_CHILD), when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        try:
            assert [child.stdout.readline() for _ in range(2)] == [b"here\n"] * 2
            (os.killpg if is_sent_to_all else os.kill)(child.pid, number)
            # Both pipes end when the last process that holds them has ended.
            told = child.communicate(timeout=10)[1]
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return child.returncode, told.decode()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(number: signal.Signals) -> None:
    assert _stop("working", number, is_sent_to_all=False)[0] == -number


@pytest.mark.parametrize("when", ["starting", "working"])
def test_an_interrupt_of_all_processes_is_told_by_the_parent_alone(when: str) -> None:
    code, told = _stop(when, signal.SIGINT, is_sent_to_all=True)
    assert code == -signal.SIGINT
    assert told.count("Traceback") == 1, told
