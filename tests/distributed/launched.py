"""Trainings that a test starts from the command line, and their processes."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from camelid.artifact import partial_path


def begin_run(tiny_run: Path, folder: Path) -> Path:
    """A run whose data are ready and whose training is not begun."""
    shutil.copytree(tiny_run.parent, folder / "tiny", copy_function=shutil.copy2)
    for stage in ("train", "evaluation", "report"):
        shutil.rmtree(folder / "tiny" / "run" / stage)
    return folder / "tiny" / "run"


def words(run: Path, *more: str) -> list[str]:
    """The command that trains."""
    return [sys.executable, "-m", "camelid", "train", str(run.parent / "tiny.toml"), "--out", str(run), *more]


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end of the `with` block if it is still there then."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_steps(run: Path, count: int) -> None:
    """Returns once so many lines of metrics are written."""
    metrics = partial_path(run / "train") / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(parent: int) -> list[int]:
    """Processes that a launcher started, in the order of their ranks."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                variables = dict(
                    item.split("=", 1) for item in (entry / "environ").read_text().split("\0") if "=" in item
                )
                status = (entry / "stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue
            if int(status[1]) == parent and "RANK" in variables:
                children[int(variables["RANK"])] = int(entry.name)
    return [pid for _, pid in sorted(children.items())]
