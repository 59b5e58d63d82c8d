"""Training speed on a CPU beside a transformers and torch loop: python benchmarks/train_cpu.py

The type of the matrix products is the same for all. bfloat16 is what training uses where the processor multiplies it in
hardware; on any other processor it is slower than float32, which is what training uses there.

Each contender lives in a process of its own and waits while the others work. They take turns, a few steps at a time, so
that a machine whose speed drifts slows all of them alike; ratios are formed turn by turn and their median is quoted.
All train the same LLaMA shape on the same random tokens with fused AdamW and clipping.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

VOCAB_SIZE = 32000
STEPS_OF_A_TURN = 2


class Trained(Protocol):
    """A model and batch that all contenders train."""

    @property
    def sequence_length(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    def config(self) -> Any:
        """The model as Camelid's configuration."""


@dataclass(frozen=True)
class Shape:
    """A preset and batch."""

    preset: str
    sequence_length: int
    batch_size: int

    def config(self) -> Any:
        from camelid.model.config import ModelSettings

        return ModelSettings(preset=self.preset).resolve(VOCAB_SIZE)


SHAPES = {"15m": Shape("15m", 256, 8), "110m": Shape("110m", 1024, 2)}


class Turn(NamedTuple):
    """What the steps of one turn took; the processor's time hardly depends on what else the machine is doing."""

    seconds: float
    processor_seconds: float


Precision = Literal["float32", "bfloat16", "float8"]
CONTENDERS = ("camelid", "transformers eager", "transformers compiled")
Step = Callable[[], Any]


def make_camelid(shape: Trained, precision: Precision, **changes: Any) -> Step:
    """A step of Camelid's trainer, with changes of its settings."""
    trainer = make_trainer(shape, precision, **changes)
    return lambda: trainer.take_step()[0].item()


def make_trainer(shape: Trained, precision: Precision, **changes: Any) -> Any:
    """A trainer on random tokens, with changes of its settings."""
    import numpy as np

    from camelid.training.settings import TrainSettings
    from camelid.training.trainer import Data, Trainer

    rng = np.random.default_rng(1)

    class RandomTokens:
        def batch(self, _step: int) -> Any:
            return rng.integers(0, VOCAB_SIZE, (shape.batch_size, shape.sequence_length + 1))

    settings = TrainSettings(
        steps=1_000_000,
        sequence_length=shape.sequence_length,
        batch_tokens=shape.batch_size * shape.sequence_length,
        precision=precision,
        **changes,
    )
    loader: Any = RandomTokens()
    return Trainer(shape.config(), settings, Data(loader, {}, Path(), {}), seed=1)


def make_transformers(shape: Trained, precision: Precision, is_compiled: bool, device: str = "cpu") -> Step:
    """A step of the same shape in transformers, with its own loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    ours = shape.config()
    config = LlamaConfig(
        hidden_size=ours.dim,
        num_hidden_layers=ours.num_layers,
        num_attention_heads=ours.num_heads,
        num_key_value_heads=ours.num_kv_heads,
        intermediate_size=ours.ffn_hidden_dim,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=ours.max_sequence_length,
        tie_word_embeddings=ours.is_head_tied,
    )
    with torch.device(device):
        model: Any = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(model) if is_compiled else model

    def step() -> float:
        tokens = torch.randint(0, VOCAB_SIZE, (shape.batch_size, shape.sequence_length), device=device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            loss = forward(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def work(contender: str, shape: Shape, precision: Precision, num_threads: int, connection: Connection) -> None:
    """Makes one contender ready, answers each message with the `Turn` that it took, and at last with its memory."""
    import torch

    torch.set_num_threads(num_threads)
    if contender == "camelid":
        step = make_camelid(shape, precision)
    else:
        step = make_transformers(shape, precision, is_compiled=contender.endswith("compiled"))
    torch.set_num_threads(num_threads)
    for _ in range(2):
        step()
    connection.send("ready")
    while connection.recv():
        start, processor_start = time.perf_counter(), time.process_time()
        for _ in range(STEPS_OF_A_TURN):
            step()
        connection.send(Turn(time.perf_counter() - start, time.process_time() - processor_start))
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measure_peak(precision: Precision, num_threads: int) -> float:
    """FLOP/s of a large matrix product at this moment."""
    import torch

    from camelid.training.device import measure_peak_flops

    torch.set_num_threads(num_threads)
    return measure_peak_flops(torch.device("cpu"), getattr(torch, precision))


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def compare_with_camelid(speeds: dict[str, list[float]]) -> dict[str, float]:
    """Median over the turns of Camelid's speed as a multiple of each other's."""
    return {
        name: statistics.median(a / b for a, b in zip(speeds["camelid"], values, strict=True))
        for name, values in speeds.items()
        if name != "camelid"
    }


def compare(shape: Shape, precision: Precision, num_turns: int, num_threads: int) -> dict[str, Any]:
    """Lets the contenders and a matrix product take turns; spreads, and medians of ratios formed turn by turn."""
    from camelid.planning.shapes import training_flops_per_token

    context = multiprocessing.get_context("spawn")
    connections, processes = {}, []
    for contender in CONTENDERS:
        connections[contender], theirs = context.Pipe()
        process = context.Process(target=work, args=(contender, shape, precision, num_threads, theirs), daemon=True)
        process.start()
        processes.append(process)
        connections[contender].recv()
    tokens = STEPS_OF_A_TURN * shape.batch_size * shape.sequence_length
    turns: dict[str, list[Turn]] = {contender: [] for contender in CONTENDERS}
    peaks = []
    for _ in range(num_turns):
        peaks.append(measure_peak(precision, num_threads))
        for contender, connection in connections.items():
            connection.send(True)
            turns[contender].append(connection.recv())
    peak_bytes = {}
    for contender, connection in connections.items():
        connection.send(False)
        peak_bytes[contender] = connection.recv()
    for process in processes:
        process.join()
    flops = training_flops_per_token(shape.config(), shape.sequence_length)
    speeds = {name: [tokens / turn.seconds for turn in taken] for name, taken in turns.items()}
    processor_speeds = {name: [tokens / turn.processor_seconds for turn in taken] for name, taken in turns.items()}
    return {
        **asdict(shape),
        "tokens_per_second": {name: spread(values) for name, values in speeds.items()},
        "ratio_of_camelid_to": compare_with_camelid(speeds),
        "tokens_per_processor_second": {name: spread(values) for name, values in processor_speeds.items()},
        "ratio_per_processor_second": compare_with_camelid(processor_speeds),
        "peak_bytes": peak_bytes,
        "peak_flops_per_second": spread(peaks),
        "share_of_peak": {
            name: statistics.median(flops * speed / peak for speed, peak in zip(values, peaks, strict=True))
            for name, values in speeds.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="which shapes; all unless given")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="type of matrix products; what suits this processor unless given",
    )
    parser.add_argument("--turns", type=int, default=9, help="turns of each contender")
    parser.add_argument("--threads", type=int, default=2, help="processor threads of each contender")
    parser.add_argument("--output", type=Path, help="where to write the result as JSON")
    arguments = parser.parse_args()
    import torch
    import transformers

    from camelid.processor import processor_name
    from camelid.training.device import multiplies_bfloat16

    suited: Precision = "bfloat16" if multiplies_bfloat16() else "float32"
    precision: Precision = arguments.precision or suited

    result = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": processor_name(),
        "num_threads": arguments.threads,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "python": platform.python_version(),
        "precision": precision,
        "multiplies_bfloat16_in_hardware": multiplies_bfloat16(),
        "shapes": {
            name: compare(SHAPES[name], precision, arguments.turns, arguments.threads)
            for name in arguments.shape or SHAPES
        },
    }
    text = json.dumps(result, indent=1)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
