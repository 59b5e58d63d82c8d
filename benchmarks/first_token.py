"""From the command to the first byte of text: python benchmarks/first_token.py --out results/first_token.json

`camelid generate` is started anew for each figure, once with its standard output a pipe and once a terminal, and the
clock runs from before the process exists to the first byte that it writes there. Beside it runs the same interpreter
with what cannot be left out: nothing at all, and numpy. Kernels and bytecode are compiled before the first figure.
"""

import argparse
import json
import os
import platform
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from camelid.processor import processor_name

PROMPT = "The llama is"
MODEL = "smollm2-135m-instruct"
MAX_SECONDS = 0.7
"""What the command is to take at most."""


def seconds_to_first_byte(command: list[str], is_terminal: bool) -> float:
    """Seconds from before the process exists to the first byte on its standard output; it is then ended."""
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        try:
            first = os.read(ours, 1)
            seconds = time.perf_counter() - start
        except OSError:  # how a terminal tells that nobody writes to it any more
            first = b""
        process.kill()
        said = process.stderr.read().decode(errors="replace") if process.stderr else ""
    os.close(ours)
    if not first:
        raise SystemExit(f"{' '.join(command)} writes nothing: {said}")
    return seconds


def measure(way: Callable[[], float], num_runs: int) -> dict[str, float]:
    """Least and median seconds."""
    way()
    found = [way() for _ in range(num_runs)]
    return {"least": round(min(found), 3), "median": round(statistics.median(found), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds from the command to the first byte of text.")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as bytecode:  # as an installed package has it, whatever the environment says
        os.environ["PYTHONPYCACHEPREFIX"] = bytecode
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        found = measure_all(arguments.model, arguments.runs)
    for name, figures in found.items():
        print(f"{name:30} least {figures['least']:.3f} s, median {figures['median']:.3f} s")
    print(f"wanted: {MAX_SECONDS} s")
    if arguments.out:
        about = {"processor": processor_name(), "python": platform.python_version(), "model": arguments.model}
        arguments.out.write_text(json.dumps({**about, "runs": arguments.runs, "seconds": found}, indent=1) + "\n")


def measure_all(model: str, num_runs: int) -> dict[str, dict[str, float]]:
    """Figures of each way."""
    camelid = str(Path(sys.executable).with_name("camelid"))
    generate = [camelid, "generate", "--model", model, "--max-tokens", "32", "--temperature", "0", PROMPT]
    ways = {
        "camelid generate, pipe": lambda: seconds_to_first_byte(generate, is_terminal=False),
        "camelid generate, terminal": lambda: seconds_to_first_byte(generate, is_terminal=True),
        "camelid --help": lambda: seconds_to_first_byte([camelid, "--help"], is_terminal=False),
        "python": lambda: seconds_to_first_byte([sys.executable, "-c", "print(1)"], is_terminal=False),
        "python, numpy": lambda: seconds_to_first_byte([sys.executable, "-c", "import numpy; print(1)"], False),
    }
    return {name: measure(way, num_runs) for name, way in ways.items()}


if __name__ == "__main__":
    main()
