"""llama.cpp in an environment of its own, which slow tests compare with.

CAMELID_LLAMA_CPP_PYTHON names a Python interpreter that has llama-cpp-python. Without it one is made in the user's
cache folder, once: llama.cpp is compiled there, which takes a quarter of an hour on two cores.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHILD = Path(__file__).with_name("llama_cpp_child.py")
Tokens = NDArray[np.int64]
Logits = NDArray[np.float32]


def find_interpreter() -> Path:
    """The interpreter that has llama-cpp-python; makes it where there is none."""
    if named := os.environ.get("CAMELID_LLAMA_CPP_PYTHON"):
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "camelid" / "llama_cpp"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "llama-cpp-python"], check=True)
        done.touch()
    return python


def run_child(*arguments: str | Path) -> None:
    """Runs the script beside this file under llama.cpp's interpreter."""
    command = [str(find_interpreter()), str(CHILD), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def evaluate(
    model: Path, prompts: Sequence[Sequence[int]], num_tokens: int, folder: Path
) -> list[tuple[Tokens, Logits]]:
    """Prompts with their likeliest continuations [T], and llama.cpp's logits after each token [T, V]."""
    request, answer = folder / "request.json", folder / "answer.npz"
    tree = {"model": str(model), "prompts": [list(prompt) for prompt in prompts], "num_tokens": num_tokens}
    request.write_text(json.dumps(tree), encoding="utf-8")
    run_child("evaluate", request, answer)
    with np.load(answer) as found:
        return [(found[f"tokens.{number}"], found[f"logits.{number}"]) for number in range(len(prompts))]
