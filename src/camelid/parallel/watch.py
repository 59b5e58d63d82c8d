"""Who is missing: processes that train together say that they go on, and the one that does not is named.

A collective operation tells late, or never, that somebody is missing, and not who; so each process has a thread that
writes a growing number into the store of the rendezvous, with what the process is doing, under gloo and NCCL alike.

- A process whose number stands still is lost: stopped, or gone with its machine. The process before it notices.
- A process whose number grows while its step does not end hangs, in a read of a dead disk or on a broken GPU; the first
  process notices that, and names those that are behind the others.
- A store that does not answer is lost together with the process or machine that keeps it. Each process notices.

Time is counted in turns of the thread, so that processes that are all halted for a while, and go on, miss nobody.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from camelid.parallel.place import Place

READING = "reading the batch"
COMPUTING = "computing"
OTHER = "other work"
LEFT = "nothing more"
"""What a process can be doing; the last two may take as long as they take."""

_STAGES = (READING, COMPUTING)
_MIN_TURNS = 20
"""Turns of the thread, at least, in which nothing is heard before a process is lost."""
_STEP_FACTOR = 3
"""Steps are allowed this many times the slowest one so far, where that is longer than the setting."""
_AGAIN = "so all of them end here; run the same command again, it goes on from the latest checkpoint"


class Lost(NamedTuple):
    """What is said of processes that are missing."""

    sentence: str
    is_told_here: bool
    """Whether this process is the one that tells the person."""


class Watch:
    """One process's part in watching over all of them.

    Nobody is missed before this process has taken its first step, which generates code.

    Args:
        timeout_seconds: how long a process may be silent, and a step may take unless steps are slow.
        end: ends this process, from any thread, with a sentence that it tells or leaves to another process.
    """

    def __init__(self, place: Place, store: Store, timeout_seconds: float, end: Callable[[str, bool], None]):
        self._place = place
        self._store = PrefixStore("camelid/watch", store.clone())  # type: ignore[attr-defined]
        self._timeout_seconds = timeout_seconds
        self._end = end
        self.interval = min(timeout_seconds / _MIN_TURNS, 1 + place.num_processes / 1000)
        self._max_silent_turns = round(timeout_seconds / self.interval)
        self._step, self._doing, self._since = 0, OTHER, time.monotonic()
        self._num_steps, self._slowest_seconds = 0, 0.0
        self._is_over = threading.Event()
        self._has_failed = False
        self._num_turns = 0

    def start(self) -> None:
        """Begins to say that this process goes on."""
        for work in (self._take_turns, self._guard_store):
            threading.Thread(target=work, daemon=True).start()

    def stop(self, has_failed: bool) -> None:
        """This process needs the others no longer; if it has failed, they miss it."""
        self._has_failed = has_failed
        self._is_over.set()

    def now(self, step: int, doing: str) -> None:
        """Says what this process is doing from now on, in a step or after it."""
        if doing == OTHER and self._doing == COMPUTING:
            seconds = time.monotonic() - self._since
            # The first step is slow for its own reasons.
            self._slowest_seconds = seconds if self._num_steps == 1 else max(self._slowest_seconds, seconds)
            self._num_steps += 1
        self._step, self._doing, self._since = step, doing, time.monotonic()

    def explain(self) -> Lost | None:
        """Finds who is lost after a collective operation has failed, or nobody; takes a few turns."""
        with contextlib.suppress(RuntimeError):
            return self._verdict() or self._accuse_silent("ended")
        return None

    def _take_turns(self) -> None:
        neighbour = (self._place.rank + 1) % self._place.num_processes
        heard, silent_turns = "", 0
        mark, standing_turns = (0, OTHER), 0
        while not self._is_over.wait(self.interval):
            # What the store refuses, because its keeper is gone for example, is left to `_guard_store`.
            with contextlib.suppress(RuntimeError):
                self._write_beat()
                said = self._read(neighbour)
                silent_turns = silent_turns + 1 if said == heard and self._num_steps and not _has_left(said) else 0
                standing_turns = standing_turns + 1 if (self._step, self._doing) == mark else 0
                heard, mark = said, (self._step, self._doing)
                lost = self._verdict()
                is_late = self._place.is_first and standing_turns * self.interval > self._step_seconds()
                if lost is None and (is_late or silent_turns >= self._max_silent_turns):
                    silent_turns = standing_turns = 0
                    lost = self._accuse_silent(f"did not answer for {self._timeout_seconds:g} s")
                    lost = lost or (self._accuse_hanging() if is_late else None)
                self._num_turns += 1
                if lost is not None and not self._is_over.is_set():
                    self._end(*lost)
        if not self._has_failed:
            self._doing = LEFT
            with contextlib.suppress(RuntimeError):
                self._write_beat()

    def _guard_store(self) -> None:
        seen, silent_turns = 0, 0
        while not self._is_over.wait(self.interval):
            silent_turns = silent_turns + 1 if self._num_turns == seen and self._num_steps else 0
            seen = self._num_turns
            if silent_turns >= self._max_silent_turns:
                is_kept_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
                keeper = (
                    f"torchrun on {os.environ.get('MASTER_ADDR')}, through which the processes find one another,"
                    if is_kept_by_torchrun
                    else self._name(0)
                )
                text = f"{keeper} did not answer for {self._timeout_seconds:g} s in step {self._step:,}"
                self._end(f"{text}, {_AGAIN}", self._place.local_rank == 0 or not is_kept_by_torchrun)

    def _write_beat(self) -> None:
        beat = {"turn": self._num_turns, "seconds": time.time(), "step": self._step, "doing": self._doing}
        self._store.set(str(self._place.rank), json.dumps({**beat, "machine": socket.gethostname()}))

    def _read(self, rank: int) -> str:
        key = str(rank)
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _read_all(self) -> list[str]:
        return [self._read(rank) for rank in range(self._place.num_processes)]

    def _accuse_silent(self, what: str) -> Lost | None:
        """Looks at all processes for a few turns: those that write nothing meanwhile are lost."""
        before = self._read_all()
        for _ in range(5):
            time.sleep(self.interval)
            self._write_beat()
            if (lost := self._verdict()) is not None:
                return lost
        silent = [r for r, said in enumerate(self._read_all()) if said == before[r] and not _has_left(said)]
        if not silent:
            return None
        names = [self._name(rank, before[rank]) for rank in silent]
        return self._accuse(f"{_list(names)} {what} in step {self._step:,}")

    def _accuse_hanging(self) -> Lost | None:
        """Compares how far the processes are in a step that does not end, unless one of them does other work."""
        said = [json.loads(text) if text else {"doing": OTHER} for text in self._read_all()]
        if any(one["doing"] not in _STAGES for one in said):
            return None
        marks = [(one["step"], _STAGES.index(one["doing"])) for one in said]
        behind = [rank for rank, mark in enumerate(marks) if mark < max(marks)]
        seconds, step = f"{self._step_seconds():.0f} s", f"{self._step:,}"
        if not behind:
            return self._accuse(f"all processes answer and none of them has ended step {step} within {seconds}")
        names = [self._name(rank, json.dumps(said[rank])) for rank in behind]
        verb, doing = ("have" if len(behind) > 1 else "has"), said[behind[0]]["doing"]
        return self._accuse(f"{_list(names)} {verb} been {doing} for {seconds} in step {step}")

    def _step_seconds(self) -> float:
        """How long a step may take."""
        limit = max(self._timeout_seconds, _STEP_FACTOR * self._slowest_seconds)
        return limit if self._num_steps and self._doing != OTHER else float("inf")

    def _accuse(self, text: str) -> Lost:
        """What the first process that says so says is said by all, and told by that one."""
        words = json.dumps({"by": self._place.rank, "text": f"{text}, {_AGAIN}"})
        return self._error(self._store.compare_set("lost", "", words).decode())

    def _verdict(self) -> Lost | None:
        return self._error(self._store.get("lost").decode()) if self._store.check(["lost"]) else None

    def _error(self, words: str) -> Lost:
        verdict = json.loads(words)
        return Lost(verdict["text"], verdict["by"] == self._place.rank)

    def _name(self, rank: int, said: str = "") -> str:
        name = f"process {rank} of {self._place.num_processes}"
        machine = json.loads(said)["machine"] if said else socket.gethostname()
        return name if machine == socket.gethostname() else f"{name} (on {machine})"


def _has_left(said: str) -> bool:
    return bool(said) and json.loads(said)["doing"] == LEFT


def _list(names: list[str]) -> str:
    shown = names if len(names) <= 8 else [*names[:8], f"{len(names) - 8:,} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


@contextlib.contextmanager
def watching(place: Place, store: Store, timeout_seconds: float, end: Callable[[str, bool], None]) -> Iterator[Watch]:
    """Watches over the processes within the `with` block, which all of them enter; arguments as in `Watch`."""
    watch = Watch(place, store, timeout_seconds, end)
    watch.start()
    has_failed = True
    try:
        yield watch
        has_failed = False
    except RuntimeError as error:
        if _is_of_communication(error) and (lost := watch.explain()) is not None:
            end(*lost)
        raise
    finally:
        watch.stop(has_failed)


def _is_of_communication(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection"))
