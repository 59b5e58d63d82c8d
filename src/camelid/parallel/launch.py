"""`--processes N`: starts the processes of a training on this machine and speaks for them with one voice. No torch.

Each process gets torchrun's variables and runs the same command. The first one owns the terminal. A process that fails
leaves its last words in a file; when one has failed, the others are ended, and the words of the one that failed first
are printed, once.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn

from camelid.errors import StoppedError, UserError
from camelid.parallel.place import Place, RefusedByFirstError

FAILURE_FOLDER_VARIABLE = "CAMELID_FAILURE_FOLDER"

_SECONDS_BETWEEN_LOOKS = 0.05
_GRACE_SECONDS = 3.0
"""How long the others may still speak once one has failed: they may refuse the same thing, and they cannot go on."""
_STOP_SECONDS = 120.0
"""How long they may take once one has stopped in order."""
_NUM_SHOWN_LINES = 20


@dataclass(frozen=True)
class _Failure:
    """How a process ended."""

    kind: Literal["refused", "killed", "defect", "lost", "stopped"]
    rank: int
    seconds: float
    code: int
    text: str


# What somebody can mend is told before what may have followed from it; of the same kind, the first one.
_KINDS = ("refused", "killed", "defect", "lost", "stopped")
_LOST_CODE = 128 + signal.SIGKILL


def launch(arguments: Sequence[str], num_processes: int) -> None:
    """Runs `camelid ARGUMENTS` in several processes to the end.

    Raises:
        UserError: what one of them refused.
        StoppedError: they were stopped by a signal, or one of them was killed.
    """
    with tempfile.TemporaryDirectory(prefix="camelid-") as folder, _Children(folder) as children:
        children.start(arguments, num_processes)
        failure = children.wait()
    if failure is None:
        return
    if failure.kind == "refused":
        raise UserError(failure.text)
    if failure.kind == "defect":
        sys.stderr.write(f"process {failure.rank} of {num_processes} failed:\n{failure.text}")
        sys.exit(failure.code)
    raise StoppedError(failure.code - 128, failure.text)


class _Children:
    def __init__(self, folder: str):
        self._folder = Path(folder)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended: dict[int, float] = {}
        self._handlers: dict[int, object] = {}
        self._passed_on: set[int] = set()

    def __enter__(self) -> "_Children":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *_error: object) -> None:
        self._kill()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def start(self, arguments: Sequence[str], num_processes: int) -> None:
        port = _free_port()
        for rank in range(num_processes):
            place = {"RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": num_processes}
            rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, FAILURE_FOLDER_VARIABLE: self._folder}
            with (self._folder / f"{rank}.log").open("wb") as log:
                # A session of their own: what is typed into the terminal reaches them through this process alone.
                # Their standard input is a lifeline: it ends when this process does, however it ends.
                process = subprocess.Popen(
                    [sys.executable, "-m", "camelid", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=None if rank == 0 else log,
                    stderr=None if rank == 0 else log,
                    env={**os.environ, **{name: str(value) for name, value in {**place, **rendezvous}.items()}},
                    start_new_session=True,
                )
            self._processes.append(process)

    def wait(self) -> _Failure | None:
        """Waits until all have ended; how it came to that, if not well."""
        deadline = float("inf")
        while len(self._ended) < len(self._processes):
            for rank, process in enumerate(self._processes):
                if rank not in self._ended and process.poll() is not None:
                    self._ended[rank] = time.time()
                    if process.returncode:
                        is_orderly = process.returncode > 128 and process.returncode != _LOST_CODE
                        deadline = min(deadline, time.monotonic() + (_STOP_SECONDS if is_orderly else _GRACE_SECONDS))
            if time.monotonic() > deadline:
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        self._kill()
        failures = [self._failure(rank) for rank in self._ended if self._processes[rank].returncode]
        return min(failures, key=lambda failure: (_KINDS.index(failure.kind), failure.seconds), default=None)

    def _failure(self, rank: int) -> _Failure:
        words = self._folder / f"{rank}.json"
        if words.is_file():
            return _Failure(**json.loads(words.read_text(encoding="utf-8")))
        code = self._processes[rank].returncode
        of = f"process {rank} of {len(self._processes)}"
        if code < 0:
            again = "the same command goes on from the latest checkpoint"
            if -code in self._passed_on:
                return _Failure("stopped", rank, self._ended[rank], 128 - code, f"stopped; {again}")
            text = f"{of} was ended by {signal.Signals(-code).name}, so the others were too; {again}"
            return _Failure("killed", rank, self._ended[rank], 128 - code, text)
        log = (self._folder / f"{rank}.log").read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return _Failure("defect", rank, self._ended[rank], code, "".join(log[-_NUM_SHOWN_LINES:]))

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._passed_on.add(number)
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def _kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


@contextlib.contextmanager
def one_of_many(place: Place) -> Iterator[None]:
    """Within it, this is one of several processes: the first of them prints, and one of them tells of a failure."""
    folder = os.environ.get(FAILURE_FOLDER_VARIABLE)
    if folder:
        threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    with contextlib.ExitStack() as stack:
        if not place.is_first:
            silence = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stderr(silence))
            stack.enter_context(contextlib.redirect_stdout(silence))
        try:
            yield
        except BaseException as error:
            if folder:
                _leave_words(Path(folder), _describe(place, error))
            if isinstance(error, RefusedByFirstError):
                sys.exit(2)
            raise


def end_now(place: Place, sentence: str, is_told_here: bool) -> NoReturn:
    """Ends this process from any thread, whatever it is waiting for, because another one is lost."""
    if folder := os.environ.get(FAILURE_FOLDER_VARIABLE):
        _leave_words(Path(folder), _Failure("lost", place.rank, time.time(), _LOST_CODE, sentence))
    if is_told_here:
        os.write(2, f"camelid: {sentence}\n".encode())
    sys.stdout.flush()
    os._exit(_LOST_CODE)


def _leave_words(folder: Path, failure: _Failure) -> NoReturn:
    partial = folder / f"{failure.rank}.partial"
    partial.write_text(json.dumps(asdict(failure)), encoding="utf-8")
    partial.rename(folder / f"{failure.rank}.json")
    # Without the interpreter's clean end, which may wait for processes that are gone.
    sys.stdout.flush()
    os._exit(failure.code)


def _describe(place: Place, error: BaseException) -> _Failure:
    now = time.time()
    if isinstance(error, StoppedError):
        return _Failure("stopped", place.rank, now, 128 + error.signal_number, str(error))
    if isinstance(error, KeyboardInterrupt):
        return _Failure("stopped", place.rank, now, 128 + signal.SIGINT, "stopped")
    is_refusal = isinstance(error, UserError) or (isinstance(error, OSError) and error.filename is not None)
    if is_refusal:
        return _Failure("refused", place.rank, now, 2, str(error))
    return _Failure("defect", place.rank, now, 1, "".join(traceback.format_exception(error)))


def _end_with_the_launcher() -> None:
    # Not through sys.stdin: its lock would be held when the interpreter ends.
    while os.read(0, 1024):
        pass
    os._exit(1)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
