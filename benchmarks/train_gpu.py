"""Training on one GPU beside a compiled transformers model: python benchmarks/train_gpu.py --output results.json

Shapes of 1.3 and 7 billion parameters, sequences of 2048 tokens, bfloat16 products, float32 weights. Every contender
runs in a fresh process and tells tokens per second, the share of the GPU's peak that they are (6 N + attention), and
the most memory that was allocated, for Camelid beside what `planning/memory.py` says. A contender that runs out of
memory is named as such. `--smoke` runs the same on a CPU with tiny shapes.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

VOCAB_SIZE = 32000
PEAK_FLOPS = 989e12
"""An H100's or H200's dense bfloat16 products per second, by the maker's data sheet."""


@dataclass(frozen=True)
class Shape:
    """A model and a microbatch; a step is one microbatch."""

    dim: int
    num_layers: int
    num_heads: int
    sequence_length: int
    batch_size: int


SHAPES = {"1.3b": Shape(2048, 24, 16, 2048, 8), "7b": Shape(4096, 32, 32, 2048, 2)}
SMOKE_SHAPES = {"tiny": Shape(64, 2, 2, 64, 2)}
WAYS = ("none", "selective", "full", "by_hand")
CONTENDERS = (*(f"camelid, {way}" for way in WAYS), "transformers compiled")


def make_config(shape: Shape) -> Any:
    """The shape as Camelid's configuration."""
    from camelid.model.config import ModelSettings

    return ModelSettings(
        dim=shape.dim,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        max_sequence_length=shape.sequence_length,
    ).resolve(VOCAB_SIZE)


def make_camelid(shape: Shape, device: str, way: str) -> Callable[[], float]:
    """A step of Camelid's trainer on random tokens."""
    import numpy as np

    from camelid.training.settings import TrainSettings
    from camelid.training.trainer import Data, Trainer

    rng = np.random.default_rng(1)

    class RandomTokens:
        def batch(self, _step: int) -> Any:
            return rng.integers(0, VOCAB_SIZE, (shape.batch_size, shape.sequence_length + 1))

    settings = TrainSettings.model_validate(
        {
            "steps": 1_000_000,
            "sequence_length": shape.sequence_length,
            "batch_tokens": shape.batch_size * shape.sequence_length,
            "device": device,
            "precision": "bfloat16",
            "recompute": way,
        }
    )
    loader: Any = RandomTokens()
    trainer = Trainer(make_config(shape), settings, Data(loader, {}, Path(), {}), seed=1)
    return lambda: float(trainer.take_step()[0].item())


def make_transformers(shape: Shape, device: str) -> Callable[[], float]:
    """A step of the same shape in transformers, compiled as a whole, with its own loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    ours = make_config(shape)
    config = LlamaConfig(
        hidden_size=ours.dim,
        num_hidden_layers=ours.num_layers,
        num_attention_heads=ours.num_heads,
        num_key_value_heads=ours.num_kv_heads,
        intermediate_size=ours.ffn_hidden_dim,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=shape.sequence_length,
    )
    with torch.device(device):
        model: Any = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward: Any = torch.compile(model)

    def step() -> float:
        tokens = torch.randint(0, VOCAB_SIZE, (shape.batch_size, shape.sequence_length), device=device)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = forward(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def work(contender: str, shape: Shape, device: str, num_steps: int, connection: Connection) -> None:
    """Sends the seconds of each step after three that warm up, and the peak of memory; or what went wrong."""
    import torch

    try:
        name, _, way = contender.partition(", ")
        step = make_camelid(shape, device, way) if name == "camelid" else make_transformers(shape, device)
        for _ in range(3):
            step()
        seconds = []
        for _ in range(num_steps):
            start = time.perf_counter()
            step()  # reads the loss, so the GPU has finished
            seconds.append(time.perf_counter() - start)
        is_gpu = device == "cuda"
        process_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        connection.send((seconds, torch.cuda.max_memory_allocated() if is_gpu else process_bytes, ""))
    except torch.OutOfMemoryError as error:
        connection.send(([], 0, f"out of memory: {str(error).splitlines()[0]}"))


def planned_bytes(contender: str, shape: Shape) -> int | None:
    """What the plan says of Camelid's memory."""
    from camelid.planning.memory import estimate_training_memory
    from camelid.training.loss import CHUNK_POSITIONS

    name, _, way = contender.partition(", ")
    if name != "camelid":
        return None
    return estimate_training_memory(
        make_config(shape),
        microbatch_tokens=shape.batch_size * shape.sequence_length,
        compute_bytes=2,
        loss_chunk_positions=CHUNK_POSITIONS,
        recompute=way,  # type: ignore[arg-type]
    ).total


def measure(contender: str, shape: Shape, device: str, num_steps: int) -> dict[str, Any]:
    """One contender's figures."""
    from camelid.planning.shapes import training_flops_per_token

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(contender, shape, device, num_steps, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        seconds, peak_bytes, failure = ours.recv()
    except EOFError:
        seconds, peak_bytes, failure = [], 0, "the process died; its traceback is above"
    process.join()
    if failure:
        return {"failure": failure}
    tokens = shape.batch_size * shape.sequence_length
    speeds = sorted(tokens / value for value in seconds)
    flops = training_flops_per_token(make_config(shape), shape.sequence_length)
    return {
        "tokens_per_second": {"min": speeds[0], "median": statistics.median(speeds), "max": speeds[-1]},
        "share_of_peak": flops * statistics.median(speeds) / PEAK_FLOPS,
        "peak_bytes": peak_bytes,
        "planned_bytes": planned_bytes(contender, shape),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on the CPU, to see that all of it runs")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="which shapes; all unless given")
    parser.add_argument("--contender", choices=CONTENDERS, action="append", help="which contenders; all unless given")
    parser.add_argument("--steps", type=int, default=10, help="steps that are measured")
    parser.add_argument("--output", type=Path, help="where to write the result as JSON")
    arguments = parser.parse_args()
    import torch

    if not arguments.smoke and not torch.cuda.is_available():
        parser.error("torch sees no GPU; run it on one, or add --smoke for tiny shapes on the CPU")
    device = "cpu" if arguments.smoke else "cuda"
    shapes = SMOKE_SHAPES if arguments.smoke else {name: SHAPES[name] for name in arguments.shape or SHAPES}
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "device": "cpu" if arguments.smoke else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "peak_flops_per_second": PEAK_FLOPS,
        "shapes": {
            name: {
                **asdict(shape),
                "contenders": {
                    contender: measure(contender, shape, device, arguments.steps)
                    for contender in arguments.contender or CONTENDERS
                },
            }
            for name, shape in shapes.items()
        },
    }
    text = json.dumps(result, indent=1)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
