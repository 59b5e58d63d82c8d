"""`camelid doctor`: what this machine can do, what is missing, and the command that gets it."""

from collections.abc import Iterator
from dataclasses import dataclass

import typer

_EXTRAS_OF_DEVELOPERS = {"dev", "docs"}


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    subject: str
    state: str
    is_good: bool = True
    advice: str = ""


def doctor() -> None:
    """Say what this machine can do and what is missing. The command that gets it stands beside it."""
    from rich.console import Console
    from rich.table import Table

    findings = list(_examine())
    table = Table("", "what", "found", "to do", box=None)
    for finding in findings:
        table.add_row("ok" if finding.is_good else "--", finding.subject, finding.state, finding.advice)
    Console(width=140, markup=False).print(table)
    if not all(finding.is_good for finding in findings):
        typer.echo("What is marked -- is optional; the last column says how to get it.")


def _examine() -> Iterator[Finding]:
    import platform
    import shutil

    import torch

    from camelid.processor import processor_name
    from camelid.progress import format_count
    from camelid.training.device import has_compiler, measure_peak_flops, multiplies_bfloat16, num_cores

    yield Finding("python", platform.python_version())
    yield Finding("torch", torch.__version__)
    yield Finding("processor", f"{processor_name()}, {num_cores()} cores")
    cpu = torch.device("cpu")
    yield Finding("float32 products", f"{format_count(measure_peak_flops(cpu, torch.float32), 'FLOP')}/s")
    if multiplies_bfloat16():
        peak = format_count(measure_peak_flops(cpu, torch.bfloat16), "FLOP")
        yield Finding("bfloat16 products", f"{peak}/s in hardware; training uses them")
    else:
        yield Finding("bfloat16 products", "not in hardware; training uses float32")
    yield Finding(
        "C++ compiler",
        "found; training runs as generated code" if has_compiler(cpu) else "none; training runs about 1.3 times slower",
        is_good=has_compiler(cpu),
        advice="" if has_compiler(cpu) else "install g++ (Debian and Ubuntu: apt install g++)",
    )
    if torch.cuda.is_available():
        yield Finding("GPU", torch.cuda.get_device_name())
    else:
        yield Finding("GPU", "none that this build of torch sees", is_good=False, advice="only needed for large models")
    yield from _examine_extras()
    disk = shutil.disk_usage(".")
    yield Finding("disk here", f"{format_count(disk.free, 'bytes')} free", is_good=disk.free > 2e9)
    memory = _available_memory()
    if memory is not None:
        yield Finding("memory", f"{format_count(memory, 'bytes')} available")


def _examine_extras() -> Iterator[Finding]:
    """What `pip install camelid[...]` adds for users, and what of it is not there."""
    import importlib.metadata
    import re

    try:
        requirements = importlib.metadata.requires("camelid") or []
    except importlib.metadata.PackageNotFoundError:
        return
    needed: dict[str, list[str]] = {}
    for requirement in requirements:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if extra and extra[1] not in _EXTRAS_OF_DEVELOPERS:
            needed.setdefault(extra[1], []).append(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
    for name, packages in needed.items():
        missing = [package for package in packages if not _is_installed(package)]
        yield Finding(
            f"extra {name}",
            f"missing: {', '.join(missing)}" if missing else "complete",
            is_good=not missing,
            advice=f"pip install 'camelid[{name}]'" if missing else "",
        )


def _is_installed(name: str) -> bool:
    import importlib.metadata

    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def _available_memory() -> int | None:
    from pathlib import Path

    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    lines = dict(line.split(":", 1) for line in info.read_text(encoding="utf-8").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
