"""A process that is stopped, killed or hangs ends the others soon, and one sentence names it."""

import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from launched import begin_run, children_of, started, wait_for_steps, words
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from camelid.parallel.place import Place
from camelid.parallel.watch import COMPUTING, OTHER, READING, Watch

_SECONDS = 1.0
_LONG = ("--set", "train.steps=100000", "--set", "train.timeout_seconds=4")
_MESHES = {2: "train.mesh.shard=2", 4: "train.mesh={shard=2, tensor=2}"}


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return begin_run(tiny_run, tmp_path)


class _Watched:
    """Several watches in one process, over one store, and what they say."""

    def __init__(self, count: int):
        self._store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5), wait_for_workers=False)
        self.said: list[tuple[int, str, bool]] = []
        self.watches = [Watch(Place(rank, count), self._store, _SECONDS, self._hear(rank)) for rank in range(count)]

    def _hear(self, rank: int) -> Callable[[str, bool], None]:
        def end(sentence: str, is_told_here: bool) -> None:
            self.said.append((rank, sentence, is_told_here))
            self.watches[rank].stop(has_failed=True)

        return end

    def take_first_step(self) -> None:
        for watch in self.watches:
            watch.start()
            watch.now(1, COMPUTING)
            watch.now(1, OTHER)

    def stop(self) -> None:
        for watch in self.watches:
            watch.stop(has_failed=False)

    def sentence(self, num_left: int) -> str:
        """What all that are left say and one of them tells."""
        deadline = time.monotonic() + 10 * _SECONDS
        while len(self.said) < num_left:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)
        assert sum(is_told for _, _, is_told in self.said) == 1
        [sentence] = {sentence for _, sentence, _ in self.said}
        return sentence


def test_who_is_silent_is_named() -> None:
    watched = _Watched(4)
    watched.take_first_step()
    watched.watches[2].stop(has_failed=True)
    assert watched.sentence(3).startswith("process 2 of 4 did not answer for 1 s in step 1, so all of them end here;")
    assert 2 not in [rank for rank, _, _ in watched.said]


def test_two_that_are_silent_are_named() -> None:
    watched = _Watched(4)
    watched.take_first_step()
    for rank in (0, 1):
        watched.watches[rank].stop(has_failed=True)
    assert watched.sentence(2).startswith("process 0 of 4 and process 1 of 4 did not answer for 1 s in step 1")


def test_who_hangs_before_a_collective_is_named() -> None:
    watched = _Watched(3)
    watched.take_first_step()
    for rank, watch in enumerate(watched.watches):
        watch.now(2, READING if rank == 1 else COMPUTING)
    assert watched.sentence(3).startswith("process 1 of 3 has been reading the batch for 1 s in step 2")


def test_a_step_that_no_process_ends() -> None:
    watched = _Watched(2)
    watched.take_first_step()
    for watch in watched.watches:
        watch.now(2, COMPUTING)
    assert watched.sentence(2).startswith("all processes answer and none of them has ended step 2 within 1 s")


def test_nobody_is_missed_who_may_take_long() -> None:
    """The first step, other work, a process that has left, and a process that others wait for with other work."""
    first, other, left, waiting = _Watched(2), _Watched(2), _Watched(2), _Watched(2)
    for watch in first.watches:
        watch.start()
        watch.now(1, COMPUTING)
    for watched in (other, left, waiting):
        watched.take_first_step()
    left.watches[1].stop(has_failed=False)
    waiting.watches[0].now(2, COMPUTING)
    time.sleep(3 * _SECONDS)
    for watched in (first, other, left, waiting):
        assert not watched.said
        watched.stop()


def test_slow_steps_are_no_hang() -> None:
    watched = _Watched(2)
    watched.take_first_step()
    for step, seconds in ((2, 0.8), (3, 1.6)):
        for watch in watched.watches:
            watch.now(step, COMPUTING)
        time.sleep(seconds * _SECONDS)
        for watch in watched.watches:
            watch.now(step, OTHER)
    assert not watched.said
    watched.stop()


def _stop_one(run: Path, launcher: list[str], size: int, rank: int, number: int) -> tuple[int, str, float]:
    """Exit code, last words, and the seconds that it took to end once a process has got a signal."""
    command = [*launcher, *words(run, *_LONG, "--set", _MESHES[size])[3:]]
    if "torch.distributed.run" not in launcher:
        command += ["--processes", str(size)]
    with started(command) as process:
        wait_for_steps(run, 3)
        child = children_of(process.pid)[rank]
        os.kill(child, number)
        begin = time.monotonic()
        try:
            _, errors = process.communicate(timeout=90)
        finally:
            if Path(f"/proc/{child}").exists():
                os.kill(child, signal.SIGKILL)
    assert not Path(f"/proc/{child}").exists()
    return process.returncode, errors, time.monotonic() - begin


_BY_CAMELID = [sys.executable, "-m", "camelid"]
_BY_TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--shutdown-timeout",
    "3",
    "--nproc-per-node",
]


def test_a_stopped_process_is_named(run: Path) -> None:
    code, errors, seconds = _stop_one(run, _BY_CAMELID, 2, 1, signal.SIGSTOP)
    assert errors.splitlines()[-1].startswith("camelid: process 1 of 2 did not answer for 4 s in step ")
    assert code == 128 + signal.SIGKILL
    assert "Traceback" not in errors
    assert seconds < 30


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_one_of_four_is_stopped(run: Path, rank: int) -> None:
    """Process 0 keeps the store through which the others learn of one another."""
    code, errors, _ = _stop_one(run, _BY_CAMELID, 4, rank, signal.SIGSTOP)
    assert errors.splitlines()[-1].startswith(f"camelid: process {rank} of 4 did not answer for 4 s in step ")
    assert code == 128 + signal.SIGKILL
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize(("number", "what"), [(signal.SIGSTOP, "did not answer for 4 s"), (signal.SIGKILL, "ended")])
@pytest.mark.parametrize("rank", [0, 1])
def test_lost_under_torchrun(run: Path, rank: int, number: signal.Signals, what: str) -> None:
    code, errors, _ = _stop_one(run, [*_BY_TORCHRUN, "2", "-m", "camelid"], 2, rank, number)
    assert code == 1  # torchrun's own
    said = [line for line in errors.splitlines() if line.startswith("camelid: ")]
    assert len(said) == 1, errors
    assert said[0].startswith(f"camelid: process {rank} of 2 {what} in step ")


@pytest.mark.slow
def test_all_halted_for_longer_than_the_timeout_go_on(run: Path) -> None:
    command = [*_BY_CAMELID, *words(run, *_LONG, "--set", _MESHES[2], "--processes", "2")[3:]]
    with started(command) as process:
        wait_for_steps(run, 3)
        members = [process.pid, *children_of(process.pid)]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in members:
                os.kill(pid, number)
            time.sleep(8)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the state is saved" in errors
    assert "did not answer" not in errors
