"""What a process and all that it started hold in memory."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def _read_tree(pid: int) -> int:
    """Proportional set size of a process and its descendants in bytes; those that end meanwhile count nothing."""
    total = 0
    folder = Path("/proc") / str(pid)
    try:
        for line in (folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in (folder / "task").iterdir():
            total += sum(_read_tree(int(child)) for child in (task / "children").read_text().split())
    except OSError:
        pass
    return total


def run_watched(command: Sequence[str], interval_seconds: float = 0.05) -> tuple[str, int]:
    """Runs a command, and returns what it prints and the most that its processes held together at any sample."""
    peak_bytes = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _read_tree(process.pid))
            time.sleep(interval_seconds)
        assert process.stdout is not None
        text = process.stdout.read()
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return text, peak_bytes
