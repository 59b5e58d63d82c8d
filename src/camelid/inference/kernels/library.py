"""The kernels' C interface as Python objects: a pool of threads, packed matrices, a model.

Shapes: N tokens, R rows of a matrix (outputs), K columns (inputs), O wanted outputs, V vocabulary.
"""

import ctypes
import functools
import weakref
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from camelid.inference.kernels.build import build_library

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

KINDS = ("q4_0", "q4_1", "q8_0", "f32", "f16", "bf16")
"""How packed matrices hold their weights, in the order of the C++ enumeration."""
SOURCES = ("q4_0", "q4_1", "q8_0", "f32", "f16", "bf16", "q5_0")
"""How the bytes of a file that are packed hold them, in the order of the C++ enumeration."""
MAX_HEAD_DIM = 256
LANES = 16
"""Rows of a panel: parts of a matrix are packed from multiples of it on."""

_pointer, _int, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "instruction_set": (ctypes.c_char_p, ()),
    "pool_create": (_pointer, (_int,)),
    "pool_destroy": (None, (_pointer,)),
    "arena_create": (_pointer, ()),
    "arena_destroy": (None, (_pointer,)),
    "matrix_create": (_pointer, (_int, _int, _int, _pointer)),
    "matrix_destroy": (None, (_pointer,)),
    "matrix_bytes": (_size, (_pointer,)),
    "matrix_pack": (None, (_pointer, _pointer, _int, _pointer, _int, _int)),
    "matrix_decode_row": (None, (_pointer, _int, _pointer)),
    "matrix_multiply": (_int, (_pointer, _pointer, _pointer, _int, _pointer)),
    "model_create": (_pointer, (_pointer, _pointer, _pointer)),
    "model_destroy": (None, (_pointer,)),
    "model_make_matrix": (_pointer, (_pointer, _int, _int, _int, _int, _int)),
    "model_set_gain": (None, (_pointer, _int, _int, _pointer)),
    "model_find_fault": (ctypes.c_char_p, (_pointer, _pointer)),
    "model_read": (_size, (_pointer,)),
    "measure_products": (ctypes.c_double, (_pointer, _int, _int)),
    "model_run": (_int, (_pointer, _pointer, _pointer)),
}


class Shape(ctypes.Structure):
    """A model's shape; the fields of the C++ structure."""

    _fields_ = [
        *((name, _int) for name in ("dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "ffn_hidden_dim")),
        *((name, _int) for name in ("vocab_size", "page_size", "num_pages")),
        ("norm_epsilon", ctypes.c_float),
    ]


class StepArrays(ctypes.Structure):
    """A step's sizes and addresses; the fields of the C++ structure."""

    _fields_ = [
        *((name, _int) for name in ("num_tokens", "num_sequences", "num_pages", "num_outputs")),
        *((name, _pointer) for name in ("tokens", "num_new", "num_cached", "page_tables", "outputs")),
    ]


class Kernels:
    """The loaded library."""

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, f"camelid_{name}")
            function.restype, function.argtypes = result, arguments

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls `camelid_<name>`; other Python threads run meanwhile."""
        return getattr(self._library, f"camelid_{name}")(*arguments)

    def create(self, name: str, *arguments: Any) -> int:
        """Calls a function that makes an object.

        Raises:
            MemoryError: there is no memory for it.
        """
        handle = self.call(name, *arguments)
        if not handle:
            raise MemoryError(f"no memory for {name}{arguments}")
        return int(handle)

    @property
    def instruction_set(self) -> str:
        """What the kernels were compiled for."""
        name: bytes = self.call("instruction_set")
        return name.decode()


@functools.cache
def load_kernels(flags: tuple[str, ...] | None = None) -> Kernels:
    """Builds the library if need be and loads it; errors as `build_library`."""
    return Kernels(build_library(flags))


class Pool:
    """Threads that run kernels; the caller is the first of them. It must outlive all that was made with it."""

    def __init__(self, kernels: Kernels, num_threads: int):
        self.kernels = kernels
        self.num_threads = num_threads
        self.handle = kernels.create("pool_create", num_threads)
        weakref.finalize(self, kernels.call, "pool_destroy", self.handle)

    def measure_products(self, kind: str, num_rounds: int = 2000) -> float:
        """Multiplications with their additions per second that all threads reach together, without reading memory."""
        return float(self.kernels.call("measure_products", self.handle, KINDS.index(kind), num_rounds))


class Matrix:
    """The packed weights of a linear layer, in memory that somebody else owns."""

    def __init__(self, pool: Pool, handle: int, kind: str, shape: tuple[int, int]):
        self._pool = pool
        self._handle = handle
        self.kind = kind
        self.shape = shape

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return int(self._pool.kernels.call("matrix_bytes", self._handle))

    def pack(self, source: str, rows: Bytes, first_row: int, num_rows: int) -> Self:
        """Packs `num_rows` rows, flat and in row order, from `first_row` on, a multiple of 16."""
        assert first_row % LANES == 0
        assert first_row + num_rows <= self.shape[0]
        rows = np.ascontiguousarray(rows)
        self._pool.kernels.call(
            "matrix_pack", self._handle, self._pool.handle, SOURCES.index(source), rows.ctypes.data, first_row, num_rows
        )
        return self

    def decode_row(self, row: int) -> Floats:
        """The weights of one row [K]."""
        values = np.empty(self.shape[1], np.float32)
        self._pool.kernels.call("matrix_decode_row", self._handle, row, values.ctypes.data)
        return values

    def multiply(self, values: Floats) -> Floats:
        """Results [N, R] for values [N, K]."""
        values = np.ascontiguousarray(values, np.float32)
        assert values.shape[1] == self.shape[1]
        results = np.empty((len(values), self.shape[0]), np.float32)
        failed = self._pool.kernels.call(
            "matrix_multiply", self._handle, self._pool.handle, values.ctypes.data, len(values), results.ctypes.data
        )
        if failed:
            raise MemoryError(f"no memory for {len(values):,} rows of activations")
        return results


def make_matrix(pool: Pool, kind: str, num_rows: int, num_columns: int) -> Matrix:
    """A matrix that stands alone, with memory of its own."""
    kernels = pool.kernels
    arena = kernels.create("arena_create")
    handle = kernels.create("matrix_create", KINDS.index(kind), num_rows, num_columns, arena)
    matrix = Matrix(pool, handle, kind, (num_rows, num_columns))
    weakref.finalize(matrix, _destroy_matrix, kernels, handle, arena)
    return matrix


def _destroy_matrix(kernels: Kernels, handle: int, arena: int) -> None:
    kernels.call("matrix_destroy", handle)
    kernels.call("arena_destroy", arena)
