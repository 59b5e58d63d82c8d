"""The runner on a processor's own kernels: a step is one call into C++, and no torch is loaded.

Shapes: N new tokens of all sequences, S sequences, P pages of the longest one, O wanted outputs, E head size,
V vocabulary, D model width.
"""

import ctypes
import math
import threading
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import Encoding, decode
from camelid.errors import UserError
from camelid.inference.kernels.library import (
    KINDS,
    LANES,
    MAX_HEAD_DIM,
    Matrix,
    Pool,
    Shape,
    StepArrays,
    load_kernels,
)
from camelid.inference.step import Step
from camelid.model.config import ModelConfig
from camelid.processor import available_bytes, count_physical_cores

_LAYER_MATRICES = {
    "attention.wq.weight": 0,
    "attention.wk.weight": 1,
    "attention.wv.weight": 2,
    "attention.wo.weight": 3,
    "feed_forward.w1.weight": 4,
    "feed_forward.w3.weight": 5,
    "feed_forward.w2.weight": 6,
}
_MODEL_MATRICES = {"tok_embeddings.weight": 0, "output.weight": 1}
_GAINS = {"norm.weight": 0, "attention_norm.weight": 0, "ffn_norm.weight": 1}
_WHOLE_MODEL = -1

# Encodings whose values a packed kind holds exactly.
_KINDS = {**{kind: kind for kind in KINDS}, "q5_0": "q8_0"}
_REQUANTISED = "q8_0"
_DECODED_VALUES = 1 << 22


class NativeRunner:
    """A model in memory of its own, packed for this processor, with a cache of keys and values.

    Weights keep every value of their file where it is f32, f16, bf16, q8_0, q5_0, q4_1 or q4_0. Others become int8 in
    groups of 32; `requantised` says how many of each encoding.
    """

    is_batch_invariant = True

    def __init__(self, model: StoredModel, num_pages: int, page_size: int, num_threads: int | None = None):
        """Packs the weights of `model`.

        Args:
            num_threads: physical cores unless given.

        Raises:
            UserError: the model or the cache does not fit in memory, its heads are too large, or the kernels cannot be
                compiled.
        """
        self.config = model.config
        self.num_pages = num_pages
        self.page_size = page_size
        self.requantised: Counter[str] = Counter()
        self.num_weights: Counter[str] = Counter()
        """Weights of matrices by the kind that they are packed as."""
        _check_fits(model, num_pages, page_size)
        self._kernels = load_kernels()
        self._pool = Pool(self._kernels, num_threads or count_physical_cores())
        self._lock = threading.Lock()
        self._handle: int | None = self._create_model()
        try:
            for name, tensor in model.tensors.items():
                self._set_tensor(name, tensor)
        except MemoryError as error:
            self.close()
            raise UserError(_say_too_large(model, num_pages, page_size)) from error

    @property
    def num_threads(self) -> int:
        """Threads that compute a step, the caller's among them."""
        return self._pool.num_threads

    @property
    def instruction_set(self) -> str:
        """What the kernels were compiled for."""
        return self._kernels.instruction_set

    def run(self, step: Step) -> NDArray[np.float32]:
        """Logits [O, V] of the tokens that follow the wanted places.

        Raises:
            ValueError: the step names tokens or pages that do not exist, or the runner was closed.
            MemoryError: the step's activations do not fit.
        """
        arrays = [
            np.ascontiguousarray(array, np.int32)
            for array in (step.tokens, step.num_new, step.num_cached, step.page_tables, step.outputs)
        ]
        num_sequences, longest = step.page_tables.shape
        described = StepArrays(
            len(step.tokens), num_sequences, longest, len(step.outputs), *(array.ctypes.data for array in arrays)
        )
        logits = np.empty((len(step.outputs), self.config.vocab_size), np.float32)
        with self._lock:
            if self._handle is None:
                raise ValueError("the runner was closed")
            if len(step.num_new) != num_sequences or len(step.num_cached) != num_sequences:
                raise ValueError(f"a step that cannot be: {num_sequences} page tables for {len(step.num_new)} counts")
            fault = self._kernels.call("model_find_fault", self._handle, ctypes.byref(described))
            if fault:
                raise ValueError(f"a step that cannot be: {fault.decode()}")
            failed = self._kernels.call("model_run", self._handle, ctypes.byref(described), logits.ctypes.data)
        if failed:
            raise MemoryError(f"no memory for a step of {len(step.tokens):,} tokens")
        return logits

    def read_weights(self) -> int:
        """Merely reads what a forward pass reads of the weights, with the same threads; returns the number of bytes."""
        with self._lock:
            assert self._handle is not None
            return int(self._kernels.call("model_read", self._handle))

    def measure_products(self) -> float:
        """Multiplications with their additions per second that the threads reach at best on weights of this kind."""
        return self._pool.measure_products(max(self.num_weights, key=self.num_weights.__getitem__))

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys and values."""
        return cache_bytes(self.config, self.num_pages, self.page_size)

    def close(self) -> None:
        """Gives weights and cache back to the system."""
        with self._lock:
            if self._handle is not None:
                self._kernels.call("model_destroy", self._handle)
                self._handle = None

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self.close()

    def _create_model(self) -> int:
        config = self.config
        shape = Shape(
            **{name: getattr(config, name) for name in ("dim", "num_layers", "num_heads", "num_kv_heads", "head_dim")},
            **{name: getattr(config, name) for name in ("ffn_hidden_dim", "vocab_size")},
            page_size=self.page_size,
            num_pages=self.num_pages,
            norm_epsilon=config.norm_eps,
        )
        frequencies = rotary_frequencies(config)
        return self._kernels.create("model_create", ctypes.byref(shape), frequencies.ctypes.data, self._pool.handle)

    def _set_tensor(self, name: str, tensor: StoredTensor) -> None:
        layer, role = _find_place(name)
        if len(tensor.shape) == 1:
            gain = np.ascontiguousarray(decode(tensor.read(), tensor.encoding, tensor.shape))
            self._kernels.call("model_set_gain", self._handle, layer, role, gain.ctypes.data)
        else:
            self._pack(tensor, layer, role)

    def _pack(self, tensor: StoredTensor, layer: int, role: int) -> None:
        encoding, (num_rows, num_columns) = tensor.encoding, tensor.shape
        kind = _KINDS.get(encoding.name, _REQUANTISED)
        self.num_weights[kind] += num_rows * num_columns
        handle = self._kernels.create(
            "model_make_matrix", self._handle, layer, role, KINDS.index(kind), num_rows, num_columns
        )
        matrix = Matrix(self._pool, handle, kind, (num_rows, num_columns))
        if encoding.name in _KINDS:
            matrix.pack(encoding.name, tensor.read(), 0, num_rows)
        else:
            self.requantised[encoding.name] += 1
            _requantise(tensor, matrix)


def rotary_frequencies(config: ModelConfig) -> NDArray[np.float32]:
    """Turning speed of each pair of channels in radians per position [E / 2]: `model.operations` without torch."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    scaling = config.rope_scaling
    if scaling is not None:
        turns = scaling.original_max_sequence_length * frequencies / (2 * math.pi)
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        kept = ((turns - low) / (high - low)).clip(0.0, 1.0)
        frequencies = frequencies * (kept + (1.0 - kept) / scaling.factor)
    return np.ascontiguousarray(frequencies, np.float32)


def packed_bytes(encoding: Encoding, shape: tuple[int, ...]) -> int:
    """Memory that a packed matrix takes; its rows are filled up to a multiple of 16."""
    num_rows, num_columns = shape
    kind = _KINDS.get(encoding.name, _REQUANTISED)
    bytes_per_group = {"q4_0": 18, "q4_1": 20, "q8_0": 34, "f32": 128, "f16": 64, "bf16": 64}[kind]
    return -(-num_rows // LANES) * LANES * num_columns * bytes_per_group // 32


def cache_bytes(config: ModelConfig, num_pages: int, page_size: int) -> int:
    """Memory of the keys and values, in half precision; a value's channels are filled up to a multiple of 16."""
    channels = config.head_dim + -(-config.head_dim // LANES) * LANES
    return config.num_layers * num_pages * page_size * config.num_kv_heads * channels * 2


def _requantise(tensor: StoredTensor, matrix: Matrix) -> None:
    num_rows, num_columns = tensor.shape
    row_bytes = tensor.encoding.row_bytes(num_columns)
    data = tensor.read().reshape(-1)
    step = max(1, _DECODED_VALUES // num_columns // LANES) * LANES
    for row in range(0, num_rows, step):
        count = min(step, num_rows - row)
        values = decode(data[row * row_bytes :][: count * row_bytes], tensor.encoding, (count, num_columns))
        matrix.pack("f32", values.view(np.uint8), row, count)


def _find_place(name: str) -> tuple[int, int]:
    """Layer and role of a tensor by its name; the layer is -1 for those of the whole model."""
    if not name.startswith("layers."):
        return _WHOLE_MODEL, {**_MODEL_MATRICES, **_GAINS}[name]
    _, layer, rest = name.split(".", 2)
    return int(layer), {**_LAYER_MATRICES, **_GAINS}[rest]


def _check_fits(model: StoredModel, num_pages: int, page_size: int) -> None:
    config = model.config
    if num_pages < 1 or page_size < 1:
        raise UserError(
            f"a cache of {num_pages} pages of {page_size} positions holds nothing; use at least one of each"
        )
    if config.head_dim > MAX_HEAD_DIM:
        raise UserError(
            f"heads of {config.head_dim} channels are more than the kernels' {MAX_HEAD_DIM}; use --runner torch"
        )
    available = available_bytes()
    if available is not None and sum(_memory(model, num_pages, page_size)) > available:
        raise UserError(_say_too_large(model, num_pages, page_size))


def _memory(model: StoredModel, num_pages: int, page_size: int) -> tuple[int, int]:
    """Bytes of the packed weights and of the cache."""
    matrices = (tensor for tensor in model.tensors.values() if len(tensor.shape) == 2)
    weights = sum(packed_bytes(tensor.encoding, tensor.shape) for tensor in matrices)
    return weights, cache_bytes(model.config, num_pages, page_size)


def _say_too_large(model: StoredModel, num_pages: int, page_size: int) -> str:
    weights, cache = (size / 2**30 for size in _memory(model, num_pages, page_size))
    available = available_bytes()
    there_is = "" if available is None else f" and {available / 2**30:.1f} GiB are free"
    return (
        f"{model.path}: the weights take {weights:.1f} GiB and a cache of {num_pages * page_size:,} positions "
        f"{cache:.1f} GiB{there_is}; use a smaller cache or a model of fewer bits"
    )
