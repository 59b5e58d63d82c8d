"""What the engine costs beside the model: python benchmarks/engine_overhead.py --out results/engine_overhead.json

The runner returns prepared logits at once, so that all the time is the engine's: scheduling, laying out the step,
choosing tokens, text. Half of the logits are those of a model that is sure of itself, half of one that is not. Figures
are processor microseconds of the engine's thread a step, the least of several runs: what else the machine does counts
little.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camelid.checkpoint.find import open_model
from camelid.inference.engine import Engine
from camelid.inference.request import SamplingSettings
from camelid.inference.speculative import LookupDrafter
from camelid.inference.step import Step
from camelid.model.config import ModelConfig
from camelid.tokenizer.interface import Tokenizer

NUM_STEPS = 200
NUM_PROMPT = 300
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.8, top-p 0.95": {"temperature": 0.8},
    "temperature 0.8, top-k 40, top-p 0.95": {"temperature": 0.8, "top_k": 40},
    "temperature 1": {"temperature": 1.0, "top_p": 1.0},
    "greedy, repetition penalty": {"temperature": 0.0, "repetition_penalty": 1.1},
    "greedy, 5 log-probabilities": {"temperature": 0.0, "logprobs": 5},
    "greedy, 2 stop texts": {"temperature": 0.0, "stop": ("\n\n", "User:")},
}


class PreparedRunner:
    """Gives logits that were made before."""

    is_batch_invariant = True
    page_size = 16
    num_pages = 16 * 64

    def __init__(self, vocab_size: int):
        self.config = ModelConfig(
            dim=2, num_layers=1, num_heads=1, num_kv_heads=1, ffn_hidden_dim=1, vocab_size=vocab_size,
            max_sequence_length=1024,
        )  # fmt: skip
        rng = np.random.default_rng(0)
        logits = rng.standard_normal((64, vocab_size)).astype(np.float32) * 2.5
        logits[::2, rng.integers(0, vocab_size, 5)] += 15
        self._logits = logits
        self._turn = 0

    def run(self, step: Step) -> NDArray[np.float32]:
        """Logits [O, V] that have nothing to do with the step."""
        self._turn += 1
        return self._logits[self._turn % 8 :][: len(step.outputs)]


def measure(
    tokenizer: Tokenizer, vocab_size: int, batch_size: int, sampling: dict[str, Any], has_drafts: bool
) -> float:
    """Microseconds of the thread a step, while every sequence writes."""
    drafter = LookupDrafter() if has_drafts else None
    engine = Engine(PreparedRunner(vocab_size), tokenizer, max_step_tokens=16 * NUM_PROMPT, drafter=drafter)
    settings = SamplingSettings(max_tokens=2 * NUM_STEPS, ignore_eos=True, **sampling)
    rng = np.random.default_rng(1)
    for _ in range(batch_size):
        engine.add_request(rng.integers(0, tokenizer.vocab_size, NUM_PROMPT).tolist(), settings)
    for _ in range(5):
        engine.step()
    start = time.thread_time()
    for _ in range(NUM_STEPS):
        engine.step()
    return (time.thread_time() - start) / NUM_STEPS * 1e6


def main() -> None:
    """Measures every way, prints a table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    tokenizer = open_model("smollm2-135m-instruct").load_tokenizer()
    rows = []
    for vocab_size in (tokenizer.vocab_size, 128_256):
        for name, sampling in [*WAYS.items(), ("greedy, look-up", WAYS["greedy"])]:
            row: dict[str, Any] = {"vocab_size": vocab_size, "way": name}
            for batch_size in (1, 16):
                times = [
                    measure(tokenizer, vocab_size, batch_size, sampling, name.endswith("look-up"))
                    for _ in range(arguments.rounds)
                ]
                row[f"microseconds_batch_{batch_size}"] = round(min(times))
            rows.append(row)
            one, sixteen = row["microseconds_batch_1"], row["microseconds_batch_16"]
            print(f"| {vocab_size:,} | {name} | {one} | {sixteen} |", flush=True)
    if arguments.out:
        machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
        arguments.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
