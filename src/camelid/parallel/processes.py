"""Processes that work on one thing: they join, wait for the first of them, agree, and leave."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from camelid import artifact
from camelid.artifact import Draft
from camelid.errors import UserError
from camelid.parallel.launch import end_now
from camelid.parallel.place import Place, RefusedByFirstError
from camelid.parallel.watch import Watch, watching

# The first process may build a corpus while the others wait.
_LONGEST_WAIT = timedelta(days=90)
_SECONDS_BETWEEN_LOOKS = 0.02


class Processes:
    """The processes of a training; one process alone is the simplest case and talks to nobody."""

    def __init__(self, place: Place, store: Store | None):
        self.place = place
        self._store = store
        self._num_waits = 0
        self._watch: Watch | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes, prints and decides for all."""
        return self.place.is_first

    def first_does(self, work: Callable[[], Any]) -> Any:
        """Lets the first process do something while the others wait, however long it takes.

        Returns:
            What `work` returned, to all of them: something that JSON can hold.

        Raises:
            UserError: to all of them, what `work` refused.
            RuntimeError: the first process failed otherwise.
        """
        if self._store is None:
            return work()
        key = f"camelid/first/{self._num_waits}"
        self._num_waits += 1
        if not self.is_first:
            self._store.wait([key], _LONGEST_WAIT)
            outcome = json.loads(self._store.get(key))
            if "refused" in outcome:
                raise RefusedByFirstError(outcome["refused"])
            if "failed" in outcome:
                raise RuntimeError(f"the first process failed ({outcome['failed']})")
            return outcome["done"]
        try:
            result = work()
        except UserError as error:
            self._store.set(key, json.dumps({"refused": str(error)}))
            raise
        except BaseException as error:
            self._store.set(key, json.dumps({"failed": repr(error)}))
            raise
        self._store.set(key, json.dumps({"done": result}))
        return result

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any of the processes; all of them must ask."""
        if self._store is None:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    @contextlib.contextmanager
    def watched(self, timeout_seconds: float) -> Iterator[None]:
        """Within it, a process that is killed, stopped or hangs ends all of them, with a sentence that names it.

        Args:
            timeout_seconds: as in `Watch`.
        """
        if self._store is None:
            yield
            return
        with watching(self.place, self._store, timeout_seconds, partial(end_now, self.place)) as self._watch:
            try:
                yield
            finally:
                self._watch = None

    def now(self, step: int, doing: str) -> None:
        """Says what this process is doing from now on; one of the words of `watch`."""
        if self._watch is not None:
            self._watch.now(step, doing)

    @contextlib.contextmanager
    def publish(self, directory: Path, **arguments: Any) -> Iterator[Draft]:
        """`artifact.publish` by the first process; the others get a draft whose facts go nowhere."""
        with contextlib.ExitStack() as stack:
            if not self.is_first:
                self.first_does(_nothing)
                yield Draft(artifact.partial_path(directory))
                self.first_does(_nothing)
                return
            drafts: list[Draft] = []
            self.first_does(lambda: drafts.append(stack.enter_context(artifact.publish(directory, **arguments))))
            yield drafts[0]
            self.first_does(stack.close)


def _nothing() -> None:
    pass


@contextlib.contextmanager
def join(place: Place, timeout: timedelta = timedelta(minutes=30)) -> Iterator[Processes]:
    """Makes this process one of those that torchrun or `--processes` started; a process alone makes no group.

    Args:
        timeout: how long a process waits for the others in a collective operation.
    """
    if place.num_processes == 1:
        yield Processes(place, None)
        return
    store, _, _ = next(rendezvous("env://"))
    with join_store(place, _begin_anew(place, store, timeout), timeout) as processes:
        yield processes


def _begin_anew(place: Place, store: Store, timeout: timedelta) -> Store:
    """The part of a store that is these processes' own.

    torchrun starts processes again with the store of those that were killed, where the old addresses would be found;
    and the machines count their attempts apart. So each process greets with a word that nobody used before, the first
    one answers to all such words with its own, and that one is the name of the attempt.
    """
    own = uuid4().hex
    if not place.is_first:
        store.set(f"camelid/greeting/{place.rank}", own)
        answer = f"camelid/answer/{own}"
        store.wait([answer], timeout)
        attempt = store.get(answer).decode()
        store.add(f"camelid/joined/{attempt}", 1)
        return PrefixStore(f"camelid/attempt/{attempt}", store)
    answered = set()
    deadline = time.monotonic() + timeout.total_seconds()
    while store.add(f"camelid/joined/{own}", 0) < place.num_processes - 1:
        for key in (f"camelid/greeting/{rank}" for rank in range(1, place.num_processes)):
            if store.check([key]) and (greeting := store.get(key).decode()) not in answered:
                answered.add(greeting)
                store.set(f"camelid/answer/{greeting}", own)
        if time.monotonic() > deadline:
            raise UserError(f"fewer than {place.num_processes:,} processes have come; start all of them again")
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return PrefixStore(f"camelid/attempt/{own}", store)


@contextlib.contextmanager
def join_store(place: Place, store: Store, timeout: timedelta) -> Iterator[Processes]:
    """As `join`, by a store that is there already."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group(
        backend,
        store=PrefixStore("camelid/group", store),
        rank=place.rank,
        world_size=place.num_processes,
        timeout=timeout,
    )
    try:
        yield Processes(place, store)
        dist.barrier()
    finally:
        dist.destroy_process_group()
