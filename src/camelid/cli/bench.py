"""`camelid bench`: how fast a model reads prompts and writes on this machine."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from camelid.cli.options import DeviceOption, RunnerOption, ThreadsOption

if TYPE_CHECKING:
    from camelid.inference.speed import BatchSpeed, Limits


def bench(
    model: Annotated[str, typer.Argument(help="A model: a file or folder of any format, a name, or a hub id.")],
    batch: Annotated[
        list[int],
        typer.Option(min=1, help="Requests side by side; can be given several times; 1, 4 and 16 unless given."),
    ] = [],  # noqa: B006
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of all prompts together.")] = 512,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens that each request writes.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count; the median is reported.")] = 3,
    runner: RunnerOption = "auto",
    threads: ThreadsOption = 0,
    device: DeviceOption = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Measure how fast a model reads and writes here. Shares are of what the same threads reach at best."""
    import json
    import time
    from dataclasses import asdict

    from camelid import Llama, __version__
    from camelid.inference.runners.native import NativeRunner
    from camelid.inference.speed import measure_limits, measure_speeds, peak_memory_bytes

    batch_sizes = tuple(batch) or (1, 4, 16)
    start = time.perf_counter()
    llama = Llama.load(
        model,
        device,
        runner=runner,  # type: ignore[arg-type]
        num_threads=threads,
        cache_tokens=_count_cache_tokens(batch_sizes, prompt_tokens, tokens),
        max_sequences=max(batch_sizes),
        max_step_tokens=max(prompt_tokens, *batch_sizes),
        draft="none",
    )
    load_seconds = time.perf_counter() - start
    chosen = llama.engine.runner
    limits = measure_limits(chosen) if isinstance(chosen, NativeRunner) else None
    work = {"num_prompt_tokens": prompt_tokens, "num_new_tokens": tokens, "num_rounds": rounds}
    speeds = list(measure_speeds(llama.engine, batch_sizes, **work, limits=limits))
    report = {
        "camelid": __version__,
        "model": model,
        **_describe(chosen),
        "load_seconds": load_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "limits": asdict(limits) if limits else None,
        "batches": [asdict(speed) for speed in speeds],
    }
    if as_json:
        typer.echo(json.dumps(report, indent=1))
    else:
        _print_table(report, speeds, limits)


def _count_cache_tokens(batch_sizes: tuple[int, ...], prompt_tokens: int, tokens: int) -> int:
    """Positions that the largest batch fills, each request's last page in full."""
    from camelid.inference.llama import PAGE_SIZE

    pages = max(size * -(-(prompt_tokens // size + tokens) // PAGE_SIZE) for size in batch_sizes)
    return pages * PAGE_SIZE


def _describe(runner: Any) -> dict[str, Any]:
    """What computes."""
    from camelid.inference.runners.native import NativeRunner
    from camelid.processor import processor_name

    if isinstance(runner, NativeRunner):
        return {
            "runner": "native",
            "processor": processor_name(),
            "instruction_set": runner.instruction_set,
            "num_threads": runner.num_threads,
            "weights": max(runner.num_weights, key=runner.num_weights.__getitem__),
        }
    import torch

    return {
        "runner": "torch",
        "processor": torch.cuda.get_device_name(runner.device) if runner.device.type == "cuda" else processor_name(),
        "instruction_set": f"torch {torch.__version__}",
        "num_threads": torch.get_num_threads(),
        "weights": "the file's",
    }


def _print_table(report: dict[str, Any], speeds: "list[BatchSpeed]", limits: "Limits | None") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    threads = "1 thread" if report["num_threads"] == 1 else f"{report['num_threads']} threads"
    console.print(
        f"{report['model']} ({report['weights']}) on {report['processor']}, {report['instruction_set']}, {threads}; "
        f"loaded in {report['load_seconds']:.2f} s"
    )
    console.print(
        "Tokens a second; products and reading as shares of what these threads reach at best:", soft_wrap=True
    )
    shares_of = ("products", "reading") if limits else ()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("requests", "prompt/s", "first token", "written/s", "each", *shares_of):
        table.add_column(heading, justify="right")
    for speed in speeds:
        shares = [] if limits is None else [f"{speed.share_of_products:.0%}", f"{speed.share_of_reading:.0%}"]
        table.add_row(
            str(speed.num_requests),
            f"{speed.prompt_tokens_per_second:,.0f}",
            f"{speed.seconds_to_first_token:.3f} s",
            f"{speed.decode_tokens_per_second:,.1f}",
            f"{speed.decode_tokens_per_second / speed.num_requests:,.1f}",
            *shares,
        )
    console.print(table)
    memory = f"At most {report['peak_memory_bytes'] / 1e6:,.0f} MB of memory"
    if limits:
        memory += (
            f"; weights {limits.weight_bytes / 1e6:,.0f} MB, cache {limits.cache_bytes / 1e6:,.0f} MB. These threads "
            f"read the weights at {limits.read_bytes_per_second / 1e9:.1f} GB/s and multiply "
            f"{limits.products_per_second / 1e9:,.0f} billion pairs a second at best"
        )
    console.print(memory + ".", soft_wrap=True)
