"""General compressors on the held-out text: what a language model has to beat to have learned anything."""

import gzip
import lzma
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip -9": lambda data: gzip.compress(data, 9, mtime=0),
    "xz -9": lambda data: lzma.compress(data, preset=9),
}


@dataclass(frozen=True)
class Compression:
    """Bits per byte of one compressor on the held-out text."""

    name: str
    with_training_text: bool
    bits_per_byte: float


def measure_compression(held_out: bytes, training: bytes) -> list[Compression]:
    """Compresses the held-out text alone, and counts what it adds when the training text stands before it.

    Args:
        held_out: all held-out documents joined.
        training: training text; gzip looks back 32 KiB only, xz -9 64 MiB.
    """
    cases = [
        (compress, data) for compress in _COMPRESSORS.values() for data in (held_out, training, training + held_out)
    ]
    # Both modules let other threads run while they compress.
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(lambda case: len(case[0](case[1])), cases))
    rows = []
    for name, (alone, before, together) in zip(_COMPRESSORS, zip(*[iter(sizes)] * 3, strict=True), strict=True):
        rows += [
            Compression(name, False, 8 * alone / len(held_out)),
            Compression(name, True, 8 * (together - before) / len(held_out)),
        ]
    return rows
