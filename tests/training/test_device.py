"""What the machine offers: memory that lies free between allocations goes back to the system."""

import sys
from pathlib import Path

import pytest
import torch

from camelid.training.device import give_back_free_memory


def resident_bytes() -> int:
    """Anonymous memory of this process that the system holds."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what it holds")
def test_holes_between_tensors_are_given_back() -> None:
    size = 100_000  # bytes; larger ones the C library maps one by one, and unmaps
    tensors = [torch.zeros(size, dtype=torch.uint8) for _ in range(1000)]
    tensors = tensors[::2]  # the last one stays, and keeps the end of the heap in place
    tensors.append(torch.zeros(8, dtype=torch.uint8))
    before = resident_bytes()
    give_back_free_memory()
    assert resident_bytes() < before - 30_000_000
    assert all(not tensor.any() for tensor in tensors)
