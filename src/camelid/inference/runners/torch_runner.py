"""The runner on torch: `model/llama.py` with attention over pages, on a processor or a GPU.

Pieces of equal length are attended to together. On a GPU, a step in which every sequence has one new token is recorded
once for each size, rounded up, and replayed from then on.

Shapes: N new tokens of all sequences, S sequences of a group, T new tokens of each, P pages, L = P x page size
positions, H query heads, K key/value heads, E head size, D model width, O wanted outputs, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camelid.checkpoint.load import load_transformer
from camelid.checkpoint.stored import StoredModel
from camelid.errors import UserError
from camelid.inference.runners.torch_linear import load_block_transformer
from camelid.inference.step import Step
from camelid.model.llama import Transformer
from camelid.model.operations import cached_attention, rotary_frequencies, rotary_table


@dataclass
class _Group:
    """Sequences of a step that have equally many new tokens."""

    rows: Tensor
    """[S, T] places of their tokens in the step."""
    page_tables: Tensor
    """[S, P]"""
    visible: Tensor
    """[S, 1, T, L] whether a token sees a position."""


@dataclass
class _Inputs:
    tokens: Tensor
    """[N]"""
    positions: Tensor
    """[N]"""
    places: Tensor
    """[N] where keys and values go, counted over all pages."""
    outputs: Tensor
    """[O]"""
    groups: list[_Group]

    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        groups = (tensor for group in self.groups for tensor in (group.rows, group.page_tables, group.visible))
        return [self.tokens, self.positions, self.places, self.outputs, *groups]


class TorchRunner:
    """A transformer with a cache of keys and values in pages, in the type of its weights.

    Logits depend in their last bits on what else is in a step: `is_batch_invariant` says so.
    """

    is_batch_invariant = False

    def __init__(self, model: Transformer, num_pages: int, page_size: int = 16, is_padded: bool | None = None):
        """Makes the cache.

        Args:
            model: used as it is, so that it may go on training between two steps.
            is_padded: whether steps of single tokens are filled up to the sizes that graphs are recorded for; unless
                given, where there are graphs.

        Raises:
            UserError: the cache does not fit in the device's memory.
        """
        self.model = model
        self.config = config = model.config
        self.num_pages = num_pages
        self.page_size = page_size
        embedding = model.tok_embeddings.weight
        self.device = embedding.device
        self._has_graphs = self.device.type == "cuda"
        self._is_padded = self._has_graphs if is_padded is None else is_padded
        self._graphs: dict[tuple[int, int], _Graph] = {}
        # The last page takes what padding writes. Zeros, for what is masked must still be finite.
        shape = (config.num_layers, 2, num_pages + 1, page_size, config.num_kv_heads, config.head_dim)
        try:
            self._cache = torch.zeros(shape, device=self.device, dtype=embedding.dtype)
        except RuntimeError as error:
            raise UserError(
                f"a cache of {num_pages * page_size:,} positions does not fit in the memory of {self.device}; use a "
                "smaller one"
            ) from error
        self._frequencies = rotary_frequencies(config, self.device)

    @classmethod
    def load(
        cls,
        model: StoredModel,
        num_pages: int,
        page_size: int = 16,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        keeps_blocks: bool | None = None,
        num_threads: int = 0,
    ) -> "TorchRunner":
        """Reads a model's weights.

        Args:
            dtype: of the weights that are not kept in blocks, of activations and of the cache; bfloat16 on a GPU and
                float32 elsewhere unless given.
            keeps_blocks: whether quantised matrices stay as they are stored, which saves memory; on a GPU unless given.
            num_threads: of torch in this process; 0 leaves them as they are.

        Raises:
            UserError: a tensor cannot be read, the device is not there, or its memory is too small.
        """
        if num_threads:
            torch.set_num_threads(num_threads)
        place = torch.device(device)
        is_gpu = place.type == "cuda"
        dtype = dtype or (torch.bfloat16 if is_gpu else torch.float32)
        try:
            if is_gpu if keeps_blocks is None else keeps_blocks:
                transformer = load_block_transformer(model, place, dtype)
            else:
                transformer = load_transformer(model, place, dtype)
        except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
            raise UserError(f"{model.path} cannot be loaded to {device}: {str(error).splitlines()[0]}") from error
        return cls(transformer, num_pages, page_size)

    @torch.inference_mode()
    def run(self, step: Step) -> NDArray[np.float32]:
        """Logits [O, V] of the tokens that follow the wanted places."""
        is_decoding = len(step.tokens) == len(step.num_new) == len(step.outputs)
        logits = self._run_padded(step) if is_decoding and self._is_padded else self._compute(self._prepare(step))
        return logits.float().cpu().numpy()

    def _compute(self, inputs: _Inputs) -> Tensor:
        cos, sin = rotary_table(self._frequencies, inputs.positions)  # [N, E / 2]
        attend = partial(self._attend, inputs)
        x = self.model.tok_embeddings(inputs.tokens).unsqueeze(0)  # [1, N, D]
        for layer in self.model.layers:
            x = layer(x, cos, sin, attend)
        return self.model.output(self.model.norm(x[0, inputs.outputs]))  # type: ignore[no-any-return]  # [O, V]

    def _attend(self, inputs: _Inputs, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Writes keys and values [1, N, K, E] to their pages, then attends: queries and result are [1, N, H, E]."""
        attended = torch.empty_like(queries)
        cache = self._cache[layer]  # [2, pages, page size, K, E]
        flat = cache.flatten(1, 2)
        flat[0, inputs.places] = keys[0].to(flat.dtype)
        flat[1, inputs.places] = values[0].to(flat.dtype)
        for group in inputs.groups:
            cached = cache[:, group.page_tables].flatten(2, 3).to(queries.dtype)  # [2, S, L, K, E]
            attended[0, group.rows] = cached_attention(queries[0, group.rows], cached[0], cached[1], group.visible)
        return attended

    def _prepare(self, step: Step, width: int = 0) -> _Inputs:
        """A step for the device; page tables are cut to what is used, or filled up to `width` pages."""
        starts = np.cumsum(step.num_new) - step.num_new
        positions = np.arange(len(step.tokens)) + np.repeat(step.num_cached - starts, step.num_new)
        owners = np.repeat(np.arange(len(step.num_new)), step.num_new)
        pages = step.page_tables[owners, positions // self.page_size].astype(np.int64)
        groups = []
        for length in np.unique(step.num_new):
            members = np.flatnonzero(step.num_new == length)
            rows = starts[members, None] + np.arange(length)  # [S, T]
            num_pages = width or -(-int((step.num_cached[members] + length).max()) // self.page_size)
            tables = np.full((len(members), num_pages), self.num_pages)
            given = step.page_tables[members, :num_pages]
            tables[:, : given.shape[1]] = np.where(given < 0, self.num_pages, given)
            visible = np.arange(num_pages * self.page_size) <= positions[rows][:, None, :, None]
            groups.append(_Group(self._send(rows), self._send(tables), self._send(visible)))
        return _Inputs(
            tokens=self._send(step.tokens),
            positions=self._send(positions),
            places=self._send(pages * self.page_size + positions % self.page_size),
            outputs=self._send(step.outputs),
            groups=groups,
        )

    def _send(self, array: NDArray[np.generic]) -> Tensor:
        # A copy: the step's arrays are written again while the device may still read.
        tensor = torch.from_numpy(np.array(array))
        return (tensor if tensor.dtype == torch.bool else tensor.long()).to(self.device)

    def _run_padded(self, step: Step) -> Tensor:
        """A step of single tokens, filled up with sequences of one token in the spare page."""
        num_sequences = len(step.tokens)
        size = _round_up(num_sequences)
        width = _round_up(int(step.num_cached.max()) // self.page_size + 1)
        spare = np.full((size - num_sequences, step.page_tables.shape[1]), self.num_pages, np.int32)
        padding = np.zeros(size - num_sequences, np.int32)
        padded = Step(
            tokens=np.concatenate((step.tokens, padding)),
            num_new=np.ones(size, np.int32),
            num_cached=np.concatenate((step.num_cached, padding)),
            page_tables=np.concatenate((step.page_tables, spare)),
            outputs=np.arange(size, dtype=np.int32),
        )
        inputs = self._prepare(padded, width)
        if not self._has_graphs:
            return self._compute(inputs)[:num_sequences]
        graph = self._graphs.get((size, width))
        if graph is None:
            graph = self._graphs[size, width] = _Graph(self._compute, inputs)
        return graph.replay(inputs)[:num_sequences]


class _Graph:
    """A computation on a GPU, recorded once: replaying it costs one launch instead of hundreds."""

    def __init__(self, compute: Callable[[_Inputs], Tensor], inputs: _Inputs):
        self._inputs = inputs
        # What is recorded must have run before, on a stream of its own, for libraries set themselves up then.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = compute(inputs)

    def replay(self, inputs: _Inputs) -> Tensor:
        """The result for inputs of the recorded sizes; the next replay overwrites it."""
        for own, given in zip(self._inputs.tensors(), inputs.tensors(), strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._result


def _round_up(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()
