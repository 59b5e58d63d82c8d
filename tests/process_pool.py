"""Processes that are started once and then form one gloo group after another, of any size."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_TIMEOUT_SECONDS = 900


class ProcessPool:
    """Runs a function in the first `size` of the processes, which are one group while it runs."""

    def __init__(self) -> None:
        # Forked from a process that has torch loaded and has computed nothing, so it is loaded once.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["camelid.training.trainer", "process_pool"])
        self._folder = tempfile.TemporaryDirectory()
        self._workers: list[tuple[Any, Connection]] = []
        self._num_groups = 0

    def run(self, size: int, function: Callable[..., Any], **arguments: Any) -> list[Any]:
        """What `function(processes, **arguments)` returns in each process; fails with the first failure's traceback."""
        while len(self._workers) < size:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(len(self._workers), theirs), daemon=True)
            process.start()
            self._workers.append((process, ours))
        self._num_groups += 1
        store = str(Path(self._folder.name) / f"group-{self._num_groups}")
        connections = [connection for _, connection in self._workers[:size]]
        for connection in connections:
            connection.send((function, size, store, arguments))
        outcomes = []
        for rank, connection in enumerate(connections):
            assert connection.poll(_TIMEOUT_SECONDS), f"process {rank} does not answer"
            outcomes.append(connection.recv())
        failures = [text for is_failed, text in outcomes if is_failed]
        assert not failures, failures[0]
        return [result for _, result in outcomes]

    def close(self) -> None:
        """Ends the processes."""
        for process, connection in self._workers:
            connection.send(None)
            process.join(10)
            process.kill()
        self._folder.cleanup()


def _serve(rank: int, connection: Connection) -> None:
    import torch
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    from camelid.parallel.place import Place
    from camelid.parallel.processes import Processes, join_store

    torch.set_num_threads(1)
    while (task := connection.recv()) is not None:
        function, size, store, arguments = task
        place = Place(rank, size, rank, size)
        try:
            alone = nullcontext(Processes(Place(), None))
            timeout = timedelta(seconds=_TIMEOUT_SECONDS)
            group = join_store(place, FileStore(store, size), timeout) if size > 1 else alone
            with group as processes:
                outcome = (False, function(processes, **arguments))
        except BaseException:
            outcome = (True, f"process {rank} of {size}:\n{traceback.format_exc()}")
        connection.send(outcome)
