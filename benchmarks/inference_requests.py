"""Throughput on many requests beside llama.cpp's: python benchmarks/inference_requests.py

64 requests of mixed length, 16 at once: prompts of 16 to 384 tokens cut from WikiText, answers of 16 to 128 tokens, all
drawn evenly by their logarithm, chosen greedily and written to their full length. Camelid's engine does all that it
does for a person (tokens become text, stop conditions are checked), without drafts and with the look-up that it has by
default. llama.cpp is driven as its server drives it, with continuous batching and without HTTP, which favours it. The
sides take turns; the ratio is formed pair by pair.

CAMELID_LLAMA_CPP_PYTHON names a Python interpreter that has llama-cpp-python.
"""

import argparse
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from inference_cpu import INTERPRETER, LlamaCpp, find_model, lower_bound

from camelid import Llama
from camelid.inference.request import SamplingSettings
from camelid.processor import count_physical_cores, processor_name
from camelid.tokenizer.interface import Tokenizer

TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "wikitext-2-raw" / "wiki.test.raw.gz"
NUM_REQUESTS, NUM_AT_ONCE, CONTEXT = 64, 16, 512
PROMPT_TOKENS, NEW_TOKENS = (16, 384), (16, 128)

Request = tuple[list[int], int]


def draw_requests(tokenizer: Tokenizer, seed: int = 0) -> list[Request]:
    """Prompts, and how many tokens follow."""
    ids = tokenizer.encode(gzip.decompress(TEXT.read_bytes()).decode()[:400_000])
    rng = np.random.default_rng(seed)
    requests = []
    for _ in range(NUM_REQUESTS):
        length, num_new = (int(np.exp(rng.uniform(*np.log(span)))) for span in (PROMPT_TOKENS, NEW_TOKENS))
        start = int(rng.integers(len(ids) - length))
        requests.append((ids[start : start + length], num_new))
    return requests


def answer(llama: Llama, requests: list[Request]) -> float:
    """Seconds in which the engine answers them all."""
    settings = [SamplingSettings(max_tokens=count, temperature=0.0, ignore_eos=True) for _, count in requests]
    llama.engine.forget_prefixes()
    start = time.perf_counter()
    completions = llama.engine.generate([prompt for prompt, _ in requests], settings)
    seconds = time.perf_counter() - start
    assert [len(completion.tokens) for completion in completions] == [count for _, count in requests]
    return seconds


def measure(name: str, arguments: argparse.Namespace, interpreter: str) -> dict[str, Any]:
    """Tokens of answers per second of both sides, and their ratios."""
    path = find_model(name, arguments.folder, interpreter)
    sides = {
        draft: Llama.load(path, num_threads=arguments.threads, draft=draft, max_sequences=NUM_AT_ONCE)
        for draft in ("none", "auto")
    }
    requests = draw_requests(sides["none"].tokenizer)
    num_tokens = sum(count for _, count in requests)
    seconds: dict[str, list[float]] = {"none": [], "auto": [], "llama.cpp": []}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requests.json"
        source.write_text(json.dumps(requests), encoding="utf-8")
        peers = [LlamaCpp(interpreter, path, arguments.threads, flash, NUM_AT_ONCE * CONTEXT) for flash in (0, 1)]
        task = f"requests {source}"
        peer = min(peers, key=lambda peer: peer.take_turn(task).seconds)
        for pair in range(arguments.pairs):
            turns = [*sides, "llama.cpp"]
            for side in turns if pair % 2 else reversed(turns):
                taken = peer.take_turn(task).seconds if side == "llama.cpp" else answer(sides[side], requests)
                seconds[side].append(taken)
        for process in peers:
            process.close()
    result: dict[str, Any] = {
        "num_prompt_tokens": sum(len(prompt) for prompt, _ in requests),
        "num_new_tokens": num_tokens,
    }
    for side, times in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds["llama.cpp"], times, strict=True)]
        result[side] = {"tokens_per_second": num_tokens / statistics.median(times)}
        if side != "llama.cpp":
            result[side] |= {"ratio": statistics.median(ratios), "ratio_lower_bound": lower_bound(ratios)}
    print(name, json.dumps(result), flush=True)
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="as in inference_cpu.py; smollm2-q4_1 and q4_0 unless given")
    parser.add_argument("--pairs", type=int, default=5, help="turns of each side")
    parser.add_argument("--threads", type=int, default=count_physical_cores(), help="threads of each side")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-models"), help="where models are kept")
    parser.add_argument("--output", type=Path, help="where to write the result as JSON")
    arguments = parser.parse_args()
    interpreter = os.environ.get(INTERPRETER)
    if not interpreter:
        sys.exit(f"set {INTERPRETER} to a Python interpreter that has llama-cpp-python")
    models = arguments.model or ["smollm2-q4_1", "smollm2-q4_0"]
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor_name(),
        "num_threads": arguments.threads,
        "models": {name: measure(name, arguments, interpreter) for name in models},
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
