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
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from train_cpu import VOCAB_SIZE, Step, make_camelid, make_transformers

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

    def config(self) -> Any:
        from camelid.model.config import ModelSettings

        return ModelSettings(
            dim=self.dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            max_sequence_length=self.sequence_length,
        ).resolve(VOCAB_SIZE)


SHAPES = {"1.3b": Shape(2048, 24, 16, 2048, 8), "7b": Shape(4096, 32, 32, 2048, 2)}
SMOKE_SHAPES = {"tiny": Shape(64, 2, 2, 64, 2)}
WAYS = ("none", "selective", "full", "by_hand")
PARTITIONER, FLOAT8 = "camelid, partitioner with half the memory", "camelid, selective in float8"
CONTENDERS = (*(f"camelid, {way}" for way in WAYS), PARTITIONER, FLOAT8, "transformers compiled")


def work(contender: str, shape: Shape, device: str, num_steps: int, connection: Connection) -> None:
    """Sends the seconds of each step after three that warm up, and the peak of memory; or what went wrong."""
    import torch

    from camelid.errors import UserError

    try:
        step = make_step(contender, shape, device)
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
    except UserError as error:
        connection.send(([], 0, str(error)))


def make_step(contender: str, shape: Shape, device: str) -> Step:
    """A step of one contender, in this process."""
    import torch._functorch.config

    if contender == "transformers compiled":
        return make_transformers(shape, "bfloat16", is_compiled=True, device=device)
    if contender == FLOAT8:
        return make_camelid(shape, "float8", device=device, recompute="selective")
    if contender == PARTITIONER:
        torch._functorch.config.activation_memory_budget = 0.5
        return make_camelid(shape, "bfloat16", device=device, recompute="none")
    return make_camelid(shape, "bfloat16", device=device, recompute=contender.removeprefix("camelid, "))


def planned_bytes(contender: str, shape: Shape) -> int | None:
    """What the plan says of Camelid's memory in bfloat16; nothing of the partitioner's choices."""
    from camelid.planning.memory import estimate_training_memory
    from camelid.training.loss import CHUNK_POSITIONS

    way = contender.removeprefix("camelid, ")
    if way not in WAYS:
        return None
    return estimate_training_memory(
        shape.config(),
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
    flops = training_flops_per_token(shape.config(), shape.sequence_length)
    return {
        "tokens_per_second": {"min": speeds[0], "median": statistics.median(speeds), "max": speeds[-1]},
        "share_of_peak": flops * statistics.median(speeds) / PEAK_FLOPS,
        "peak_bytes": peak_bytes,
        "planned_bytes": planned_bytes(contender, shape),
    }


def tell(shape: str, contender: str, result: dict[str, Any]) -> None:
    """One line as soon as a contender is through."""
    if "failure" in result:
        line = result["failure"]
    else:
        planned = f", planned {result['planned_bytes'] / 1e9:.1f}" if result["planned_bytes"] else ""
        line = (
            f"{result['tokens_per_second']['median']:,.0f} tokens/s, {result['share_of_peak']:.1%} of the peak, "
            f"{result['peak_bytes'] / 1e9:.1f} GB{planned}"
        )
    sys.stderr.write(f"{shape}, {contender}: {line}\n")


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
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": "cpu" if arguments.smoke else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "peak_flops_per_second": PEAK_FLOPS,
        "shapes": {name: {**asdict(shape), "contenders": {}} for name, shape in shapes.items()},
    }
    for name, shape in shapes.items():
        for contender in arguments.contender or CONTENDERS:
            found = measure(contender, shape, device, arguments.steps)
            result["shapes"][name]["contenders"][contender] = found
            tell(name, contender, found)
            if arguments.output:  # at once: what was measured stays where a later contender brings all of it down
                arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
