"""Ways of keeping less for the backward pass, side by side on a CPU: python benchmarks/train_step.py --shape 15m

Each way trains the same shape on random tokens in a fresh process of its own; the processes take turns, a step at a
time, and a matrix product is timed between them, so that ratios are formed turn by turn. Memory is told in three ways:
the most that the process ever held, the most that a step allocates, and what a forward pass leaves for the backward
pass (both by torch's allocator), both beside what `planning/memory.py` says.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from train_cpu import SHAPES, VOCAB_SIZE, Precision, Shape, Turn, make_trainer, measure_peak, spread

BASELINE = "none, compiled"
WAYS = ("none", "selective", "full", "by_hand")
CONTENDERS = (
    *(f"{way}, {kind}" for way in WAYS for kind in ("compiled", "eager")),
    "partitioner with half the memory, compiled",
)


def count_allocations(trainer: Any, shape: Shape) -> dict[str, int]:
    """Bytes that a forward pass leaves behind, and the most that a whole step holds beyond what was there before."""
    import torch

    tokens = torch.randint(0, VOCAB_SIZE, (shape.batch_size, shape.sequence_length))

    def trace(function: Any) -> tuple[int, int]:
        with torch.profiler.profile(profile_memory=True) as profiler:
            result = function()
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            most = max(most, held)
        del result
        return held, most

    def forward() -> Any:
        with trainer.execution.autocast():
            return trainer.model.hidden_states(tokens, attend=trainer.spread._attend)

    return {"kept_bytes": trace(forward)[0], "step_bytes": trace(trainer.take_step)[1]}


def work(contender: str, shape: Shape, precision: Precision, num_threads: int, connection: Connection) -> None:
    """Makes one way ready, answers each message with the `Turn` that a step took, and at last with its memory."""
    import torch
    import torch._functorch.config

    torch.set_num_threads(num_threads)
    way, _, kind = contender.rpartition(", ")
    if way not in WAYS:
        way = "none"
        torch._functorch.config.activation_memory_budget = 0.5
    trainer = make_trainer(
        shape, precision, recompute=way, compile="yes" if kind == "compiled" else "no", num_threads=num_threads
    )
    trainer.take_step()
    connection.send(trainer.take_step()[0].item())
    while connection.recv():
        start, processor_start = time.perf_counter(), time.process_time()
        trainer.take_step()
        connection.send(Turn(time.perf_counter() - start, time.process_time() - processor_start))
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    connection.send({"peak_bytes": peak_bytes, **count_allocations(trainer, shape)})


def planned_bytes(contender: str, shape: Shape, precision: Precision) -> dict[str, int]:
    """What the plan says that a forward pass keeps and that a step takes; nothing of the partitioner's choices."""
    from camelid.planning.memory import estimate_training_memory, kept_bytes_per_token, kept_weight_bytes
    from camelid.training.loss import CHUNK_POSITIONS

    way: Any
    way, _, kind = contender.rpartition(", ")
    if way not in WAYS:
        return {}
    config, num_tokens = shape.config(), shape.batch_size * shape.sequence_length
    compute_bytes, is_compiled = 2 if precision == "bfloat16" else 4, kind == "compiled"
    step = estimate_training_memory(
        config,
        microbatch_tokens=num_tokens,
        compute_bytes=compute_bytes,
        loss_chunk_positions=CHUNK_POSITIONS,
        recompute=way,
        is_compiled=is_compiled,
    )
    kept = kept_bytes_per_token(config, compute_bytes, way, is_compiled) * num_tokens
    return {
        "planned_kept_bytes": kept + kept_weight_bytes(config, compute_bytes, way),
        "planned_step_bytes": step.total - step.weights - step.optimizer,
    }


def compare(
    names: Sequence[str], shape: Shape, precision: Precision, num_turns: int, num_threads: int
) -> dict[str, Any]:
    """Lets the ways take turns."""
    from camelid.planning.shapes import training_flops_per_token

    context = multiprocessing.get_context("spawn")
    connections: dict[str, Any] = {}
    losses = {}
    for name in names:
        connections[name], theirs = context.Pipe()
        context.Process(target=work, args=(name, shape, precision, num_threads, theirs), daemon=True).start()
        losses[name] = connections[name].recv()
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    peaks = []
    for _ in range(num_turns):
        peaks.append(measure_peak(precision, num_threads))
        for name, connection in connections.items():
            connection.send(True)
            turns[name].append(connection.recv())
    memory = {}
    for name, connection in connections.items():
        connection.send(False)
        memory[name] = {**connection.recv(), **planned_bytes(name, shape, precision)}
    tokens = shape.batch_size * shape.sequence_length
    flops = training_flops_per_token(shape.config(), shape.sequence_length)
    base = turns[BASELINE]
    return {
        **asdict(shape),
        "peak_flops_per_second": spread(peaks),
        "ways": {
            name: {
                "loss_of_second_step": losses[name],
                "tokens_per_second": spread([tokens / turn.seconds for turn in taken]),
                "times_baseline": statistics.median(b.seconds / t.seconds for b, t in zip(base, taken, strict=True)),
                "times_baseline_by_processor_time": statistics.median(
                    b.processor_seconds / t.processor_seconds for b, t in zip(base, taken, strict=True)
                ),
                "share_of_peak": statistics.median(
                    flops * tokens / turn.seconds / peak for turn, peak in zip(taken, peaks, strict=True)
                ),
                **memory[name],
            }
            for name, taken in turns.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="15m", help="which shape")
    parser.add_argument("--ways", choices=CONTENDERS, action="append", help="which ways; all unless given")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="type of the products")
    parser.add_argument("--turns", type=int, default=5, help="turns of each way")
    parser.add_argument("--threads", type=int, default=2, help="processor threads of each way")
    parser.add_argument("--batch", type=int, help="sequences of a step; the shape's own unless given")
    parser.add_argument("--output", type=Path, help="where to write the result as JSON")
    arguments = parser.parse_args()
    import torch

    from camelid.processor import processor_name

    shape = SHAPES[arguments.shape]
    if arguments.batch:
        shape = Shape(shape.preset, shape.sequence_length, arguments.batch)
    names = [name for name in CONTENDERS if name == BASELINE or not arguments.ways or name in arguments.ways]
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": processor_name(),
        "num_threads": arguments.threads,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "precision": arguments.precision,
        **compare(names, shape, arguments.precision, arguments.turns, arguments.threads),
    }
    text = json.dumps(result, indent=1)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
