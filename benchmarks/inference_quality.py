"""What int8 activations cost in quality, beside llama.cpp on the same files: python benchmarks/inference_quality.py

Real weights read real text in windows of their context, at most 512 tokens. The truth is float32 arithmetic in torch on
the same quantised weights, so that only what the kernels round shows: perplexity, and the Kullback-Leibler divergence
of each token's distribution from the truth's. SmolLM2 reads WikiText and stories15M TinyStories, which lie beside the
checkout.

CAMELID_LLAMA_CPP_PYTHON names a Python interpreter that has llama-cpp-python.
"""

import argparse
import gzip
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference_cpu import INTERPRETER, PAGE_SIZE, LlamaCpp
from torch import Tensor

from camelid.checkpoint import gguf
from camelid.checkpoint.find import open_model
from camelid.checkpoint.load import load_transformer
from camelid.inference.runners.native import NativeRunner
from camelid.inference.step import Step
from camelid.processor import count_physical_cores

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODELS = {"smollm2": ("smollm2-135m-instruct", "text/wikitext-2-raw/wiki.test.raw.gz")}
MODELS["stories15m"] = ("stories15M", "text/tinystories_sample.txt.gz")
ENCODINGS = ("q4_0", "q4_1", "q8_0")
MAX_WINDOW = 512


class Score:
    """Sums over the tokens of all windows."""

    def __init__(self) -> None:
        self.num_tokens = self.num_predicted = 0
        self.divergence = self.nats = 0.0

    def add(self, logits: Tensor, truth: Tensor, tokens: Tensor) -> None:
        """Counts a window: logits and the truth's log-probabilities [T, V]."""
        found = logits.log_softmax(-1)
        self.divergence += float((truth.exp() * (truth - found)).sum(-1).double().sum())
        self.nats -= float(found[:-1].gather(1, tokens[1:, None]).double().sum())
        self.num_tokens += len(tokens)
        self.num_predicted += len(tokens) - 1

    def report(self) -> dict[str, float]:
        return {
            "perplexity": math.exp(self.nats / self.num_predicted),
            "divergence_in_nats": self.divergence / self.num_tokens,
        }


def run_native(runner: NativeRunner, tokens: Tensor) -> Tensor:
    count = len(tokens)
    pages = np.arange(-(-count // PAGE_SIZE), dtype=np.int32)[None]
    ids = tokens.numpy().astype(np.int32)
    step = Step(ids, np.array([count], np.int32), np.zeros(1, np.int32), pages, np.arange(count, dtype=np.int32))
    return torch.from_numpy(runner.run(step))


def run_peer(peer: LlamaCpp, tokens: Tensor, folder: Path) -> Tensor:
    source, target = folder / "tokens", folder / "logits"
    tokens.numpy().astype(np.int32).tofile(source)
    peer.take_turn(f"logits {source} {target}")
    return torch.from_numpy(np.fromfile(target, np.float32).reshape(len(tokens), -1))


@torch.inference_mode()
def measure(name: str, encoding: str, num_tokens: int, interpreter: str, folder: Path) -> dict[str, Any]:
    """Scores of the truth, the kernels and llama.cpp with and without flash attention."""
    model_name, text_name = MODELS[name]
    source = open_model(SHARED / "models" / "stories15M" / "stories15M.bin.gz" if name == "stories15m" else model_name)
    path = folder / f"{name}-{encoding}.gguf"
    if not path.exists():
        gguf.write(source, path, encoding=None if name == "smollm2" and encoding == "q4_1" else encoding)
    model = gguf.read(path)
    text = gzip.decompress((SHARED / text_name).read_bytes()).decode()
    ids = torch.tensor(source.load_tokenizer().encode(text[: num_tokens * 8], bos=True)[:num_tokens])
    transformer = load_transformer(model)
    window = min(MAX_WINDOW, model.config.max_sequence_length)
    runner = NativeRunner(model, -(-window // PAGE_SIZE), PAGE_SIZE)
    peers = {f"llama_cpp_{flag}": LlamaCpp(interpreter, path, count_physical_cores(), flag) for flag in (0, 1)}
    scores = {side: Score() for side in ("truth", "camelid", *peers)}
    for tokens in torch.split(ids, window):
        truth = transformer(tokens[None])[0].log_softmax(-1)
        scores["truth"].add(truth, truth, tokens)
        scores["camelid"].add(run_native(runner, tokens), truth, tokens)
        for side, peer in peers.items():
            scores[side].add(run_peer(peer, tokens, folder), truth, tokens)
    for peer in peers.values():
        peer.close()
    result: dict[str, Any] = {side: score.report() for side, score in scores.items()}
    best = min((result[side] for side in peers), key=lambda report: report["divergence_in_nats"])
    result["num_tokens"] = scores["truth"].num_tokens
    result["divergence_ratio"] = result["camelid"]["divergence_in_nats"] / best["divergence_in_nats"]
    result["perplexity_ratio"] = result["camelid"]["perplexity"] / best["perplexity"]
    print(name, encoding, json.dumps(result), flush=True)
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, action="append", help="which models; all unless given")
    parser.add_argument("--encoding", choices=ENCODINGS, action="append", help="which encodings; all unless given")
    parser.add_argument("--tokens", type=int, default=50_000, help="tokens of text")
    parser.add_argument("--output", type=Path, help="where to write the result as JSON")
    arguments = parser.parse_args()
    interpreter = os.environ.get(INTERPRETER)
    if not interpreter:
        sys.exit(f"set {INTERPRETER} to a Python interpreter that has llama-cpp-python")
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d")}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.model or MODELS:
            for encoding in arguments.encoding or ENCODINGS:
                result[f"{name} {encoding}"] = measure(name, encoding, arguments.tokens, interpreter, Path(folder))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
