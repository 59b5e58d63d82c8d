"""The processor and the memory of this machine: its name, what compiled code depends on, cores, free bytes."""

import os
import platform
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CPU_INFO = Path("/proc/cpuinfo")
_MEMORY_INFO = Path("/proc/meminfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def count_physical_cores() -> int:
    """Cores that this process may run on, at most as many as its quota of time fills; a core of two threads is one."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS
        return os.cpu_count() or 1
    cores = {_read(_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu) for cpu in allowed}
    quota, _, period = _read(_QUOTA).partition(" ")
    limit = -(-int(quota) // int(period)) if quota.isdecimal() and period.isdecimal() else len(cores)
    return max(1, min(len(cores), limit))


def processor_name() -> str:
    """The processor's name as the system tells it."""
    for line in _read(_CPU_INFO).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe_processor() -> str:
    """What compiled code depends on: architecture, model and features of the processor."""
    wanted = ("model name", "flags", "Features", "CPU part", "CPU implementer")
    lines = _read(_CPU_INFO).partition("\n\n")[0].splitlines()
    found = [line for line in lines if line.startswith(wanted)]
    return "\n".join([platform.system(), platform.machine(), platform.processor(), *found])


def available_bytes() -> int | None:
    """Memory that can be had without swapping, or None where the system does not say."""
    for line in _read(_MEMORY_INFO).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
