"""What the machine offers to training: device, type of matrix products, generated code, peak speed."""

import ctypes
import os
import shutil
import time
from dataclasses import dataclass

import torch

from camelid.errors import UserError
from camelid.parallel.place import Place
from camelid.planning.memory import Recompute
from camelid.processor import processor_name
from camelid.training.float8 import refuse_without_float8
from camelid.training.settings import Precision, TrainSettings

_PEAK_MATRIX_DIM = 2048


@dataclass(frozen=True)
class Execution:
    """The settings that say auto, decided for this machine."""

    device: torch.device
    precision: Precision
    is_compiled: bool
    num_threads: int
    recompute: Recompute = "none"
    mesh: str = "one process"

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of matrix products, or for float8 of all that is not multiplied in it."""
        return torch.bfloat16 if self.precision == "float8" else getattr(torch, self.precision)

    def autocast(self) -> torch.autocast:
        """The context of forward passes."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.compute_dtype is torch.bfloat16, cache_enabled=True
        )

    @property
    def weight_dtype(self) -> torch.dtype:
        """Type of weights and moments."""
        return torch.float64 if self.compute_dtype is torch.float64 else torch.float32

    def describe(self) -> dict[str, str | int | bool]:
        """What must be equal for a resumed run to give the same bytes."""
        return {
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else processor_name(),
            "compute_dtype": self.precision,
            "is_compiled": self.is_compiled,
            "num_threads": self.num_threads,
            "mesh": self.mesh,
            "torch": torch.__version__,
        }


def use_huge_pages() -> None:
    """Lets torch ask the system for large pages, which must happen before the first tensor is made.

    A step allocates and frees gigabytes; with small pages a fifth of its time goes into handing them out (measured in
    docs/experiments.md). The results do not change.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def give_back_free_memory() -> None:
    """Gives the system the pages that lie free between the C library's allocations; nothing where it has no such call.

    Tensors that are aligned to pages seldom fit where they lay before, so step by step the heap gets new holes: the
    process grew by 9 MB a step (docs/experiments.md).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def choose_execution(settings: TrainSettings, place: Place = Place()) -> Execution:  # noqa: B008
    """Decides what the settings leave to the machine, for one of several processes.

    Raises:
        UserError: a GPU, float8 or a compiler is asked for and not there, or the processes are more than the GPUs.
    """
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise UserError("train.device is cuda, but torch sees no GPU; set it to auto, or install torch's GPU build")
    device = torch.device(f"cuda:{place.local_rank}" if has_gpu and settings.device != "cpu" else "cpu")
    if device.type == "cuda" and place.num_local_processes > torch.cuda.device_count():
        raise UserError(
            f"{place.num_local_processes} processes were started on this machine, and it has "
            f"{torch.cuda.device_count()} GPUs; start one a GPU, or set train.device to cpu"
        )
    if settings.compile == "yes" and not has_compiler(device):
        raise UserError("train.compile is yes, but there is no C++ compiler (g++ or clang++); install one or set auto")
    if settings.precision == "float8":
        refuse_without_float8(device)
    is_fast_in_bfloat16 = device.type == "cuda" or multiplies_bfloat16()
    suited: Precision = "bfloat16" if is_fast_in_bfloat16 else "float32"
    is_compiled = settings.compile != "no" and has_compiler(device)
    return Execution(
        device=device,
        precision=suited if settings.precision == "auto" else settings.precision,
        is_compiled=is_compiled,
        num_threads=settings.num_threads or max(1, num_cores() // place.num_local_processes),
        recompute=settings.choose_recompute(is_compiled),
        mesh=settings.mesh.describe() if place.num_processes > 1 else "one process",
    )


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512_BF16, AMX); elsewhere it is slower than float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("amx_tile"))


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can generate code: on a CPU it needs a C++ compiler, on a GPU it brings its own."""
    return device.type == "cuda" or any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def measure_peak_flops(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Operations per second of a large square matrix product, the best of several: what utilisation is a share of."""
    a = torch.randn(_PEAK_MATRIX_DIM, _PEAK_MATRIX_DIM, device=device).to(dtype)
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * _PEAK_MATRIX_DIM**3 / best
