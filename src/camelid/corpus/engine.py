"""Runs tasks on several processes, here or on a Ray cluster, and hands their results on in the order of the tasks."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, TypeVar

from camelid.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

LEAST_WORKER_BYTES = 320 << 20
_TASKS_AHEAD = 4


class Engine:
    """A pool of processes that is started when it is first needed and ends with the block that opened it."""

    def __init__(self, num_workers: int) -> None:
        """
        Args:
            num_workers: 0 for one per core; 1 works in this process.
        """
        self.num_workers = num_workers or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None
        self._lifeline: Connection | None = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None or self._lifeline is None:
            return
        if error is not None and not isinstance(error, Exception):
            self._lifeline.close()
        self._pool.shutdown(cancel_futures=True)
        self._lifeline.close()

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yields function(task) for each task, in order; few results wait at a time, however many tasks there are.

        Args:
            function: a module's function, or a partial of one, for it is sent to other processes by name.

        Raises:
            UserError: a process was ended from outside, as the system does when memory is short.
        """
        if self._is_here(len(tasks)):
            yield from map(function, tasks)
            return
        submit, collect = self._open(function)
        waiting: deque[Any] = deque()
        for task in tasks:
            waiting.append(submit(task))
            if len(waiting) >= self.num_workers * _TASKS_AHEAD:
                yield collect(waiting.popleft())
        while waiting:
            yield collect(waiting.popleft())

    def _is_here(self, num_tasks: int) -> bool:
        """Whether so many tasks are done by this process."""
        return self.num_workers == 1 or num_tasks <= 1

    def _open(self, function: Callable[[Task], Result]) -> tuple[Callable[[Task], Any], Callable[[Any], Result]]:
        """How a task is sent to the workers, which gives a handle, and how the result of a handle is had."""
        if self._pool is None:
            # Spawned, not forked: a fork copies locks that threads of this process may hold.
            context = multiprocessing.get_context("spawn")
            reader, self._lifeline = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(
                self.num_workers, mp_context=context, initializer=_end_with, initargs=(reader,)
            )
        pool = self._pool

        def submit(task: Task) -> Any:
            with _hold_interrupts():
                return pool.submit(function, task)

        def guard(call: Callable[..., Any], *arguments: Any) -> Any:
            try:
                return call(*arguments)
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process was ended from outside, most likely because memory ran out; run it again with a "
                    "smaller corpus.num_workers (what is finished is kept)"
                ) from error

        return lambda task: guard(submit, task), lambda future: guard(future.result)


def _end_with(lifeline: Connection) -> None:
    """Ends this process as soon as the other end of the lifeline is closed, as it is when its holder has died."""

    def watch() -> None:
        wait([lifeline])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _hold_interrupts() -> Iterator[None]:
    """SIGINT waits for the end of the block, and does not reach the processes that are started in it at all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def open_engine(kind: str, num_workers: int, memory_bytes: int | None = None) -> Engine:
    """The engine that the settings name.

    Args:
        kind: `processes` or `ray`.
        num_workers: 0 for one per core.
        memory_bytes: processes of this machine are so few that each can have `LEAST_WORKER_BYTES` of it.

    Raises:
        UserError: Ray is not installed, or no cluster can be had.
    """
    if kind == "ray":
        from camelid.corpus.ray_engine import RayEngine

        return RayEngine(num_workers)
    engine = Engine(num_workers)
    if memory_bytes is not None:
        engine.num_workers = min(engine.num_workers, max(memory_bytes // LEAST_WORKER_BYTES, 1))
    return engine
