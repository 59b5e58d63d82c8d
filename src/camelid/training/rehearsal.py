"""One step on a mesh that is not there: torch's fake process group, and tensors that have shapes but no values.

What happens is what happens in training: the same model, mesh, layers and loss. One process is rehearsed, the first.

Shapes: B sequences of a microbatch, T positions.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from camelid.model.config import ModelConfig
from camelid.parallel.data import shard
from camelid.parallel.mesh import Mesh
from camelid.parallel.settings import refuse_unfit
from camelid.parallel.spread import Spread
from camelid.training.attention import flash_attention_cpu
from camelid.training.loss import linear_cross_entropy
from camelid.training.optimizer import make_optimizer
from camelid.training.settings import TrainSettings

_NUM_LAYERS = 2


@dataclass(frozen=True)
class Rehearsal:
    """Bytes that one process holds and sends in a step."""

    weights: int
    """This process's part, float32."""
    gradients: int
    optimizer: int
    gathered: int
    """Weights that are whole at the end of a forward pass, in the type of the matrix products where layers are."""
    activations: int
    """What a microbatch's forward pass leaves for its backward pass."""
    sent: dict[str, int]
    """Bytes that a process sends in a step, by operation; rings are assumed."""

    @property
    def held(self) -> int:
        """All that is held between a forward and a backward pass."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations


def rehearse(config: ModelConfig, settings: TrainSettings) -> Rehearsal:
    """Takes one step over the recipe's mesh, in bfloat16 unless the settings say otherwise.

    Layers are alike: a deep model is rehearsed with two and with three of them, and each of the others holds and sends
    what the third does.

    Raises:
        UserError: the mesh does not fit the model.
    """
    refuse_unfit(settings.mesh, config, settings.sequence_length)
    if config.num_layers <= _NUM_LAYERS + 1:
        return _rehearse_all(config, settings)
    short, longer = (
        _rehearse_all(config.model_copy(update={"num_layers": count}), settings)
        for count in (_NUM_LAYERS, _NUM_LAYERS + 1)
    )
    others = config.num_layers - _NUM_LAYERS

    def extend(first: int, second: int) -> int:
        return first + others * (second - first)

    return Rehearsal(
        weights=extend(short.weights, longer.weights),
        gradients=extend(short.gradients, longer.gradients),
        optimizer=extend(short.optimizer, longer.optimizer),
        gathered=extend(short.gathered, longer.gathered),
        activations=extend(short.activations, longer.activations),
        sent={name: extend(short.sent[name], longer.sent[name]) for name in longer.sent},
    )


def _rehearse_all(config: ModelConfig, settings: TrainSettings) -> Rehearsal:
    compute_dtype = torch.float32 if settings.precision == "float32" else torch.bfloat16
    with _fake_processes(settings.mesh.num_processes):
        mesh = Mesh(settings.mesh, "cpu")
        spread = _Valueless(config, mesh, torch.device("cpu"), torch.float32, flash_attention_cpu)
        is_to_be_compiled = settings.compile != "no"
        spread.keep_activations(settings.choose_recompute(is_to_be_compiled), is_compiled=False)
        with FakeTensorMode(), _Ledger() as ledger:
            spread.finish(compute_dtype)
            return _take_step(spread, settings, compute_dtype, ledger)


class _Valueless(Spread):
    """The model's part without values; weights without memory cannot be given memory here, so they are made anew."""

    def finish(self, compute_dtype: torch.dtype) -> None:
        made: dict[int, nn.Parameter] = {}
        for module in self.model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                fresh = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype))
                setattr(module, name, made.setdefault(id(parameter), fresh))
        self._root = shard(self.model, self.mesh, compute_dtype)


def _take_step(spread: Spread, settings: TrainSettings, compute_dtype: torch.dtype, ledger: "_Ledger") -> Rehearsal:
    model = spread.model
    optimizer = make_optimizer(model, settings)
    rows = torch.zeros(settings.microbatch_size, settings.sequence_length + 1, dtype=torch.long)  # [B, T + 1]
    num_microbatches = settings.sequences_per_process // settings.microbatch_size

    def run_microbatch(is_last: bool) -> tuple[int, int]:
        spread.begin_microbatch(is_last)
        before = ledger.live_bytes()
        with torch.autocast("cpu", dtype=compute_dtype, enabled=compute_dtype is torch.bfloat16):
            loss = spread.sum_loss(rows[:, :-1], rows[:, 1:], partial(linear_cross_entropy, is_compiled=False))
        gathered = _num_bytes(p for p in model.parameters() if not isinstance(p, DTensor))
        kept = ledger.live_bytes() - before - gathered
        loss.backward()  # type: ignore[no-untyped-call]
        return kept, gathered

    # All microbatches but the last are alike.
    if num_microbatches > 1:
        run_microbatch(is_last=False)
        ledger.multiply(num_microbatches - 1)
    kept, gathered = run_microbatch(is_last=True)
    gradients = _num_bytes(parameter.grad for parameter in model.parameters())
    spread.complete_gradient()
    spread.clip(settings.gradient_clip)
    optimizer.step()
    moments = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    spread.forget_gathered()
    return Rehearsal(
        weights=_num_bytes(model.parameters()),
        gradients=gradients,
        optimizer=_num_bytes(moments),
        gathered=gathered,
        activations=kept,
        sent=dict(ledger.sent),
    )


def _num_bytes(tensors: Iterator[Tensor | None]) -> int:
    """Bytes of this process's parts."""
    parts = (t.to_local() if isinstance(t, DTensor) else t for t in tensors if t is not None)
    return sum(part.numel() * part.element_size() for part in parts)


@contextmanager
def _fake_processes(count: int) -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that live, and of those that are sent."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent: Counter[str] = Counter()
        self._storages: Any = WeakIdKeyDictionary(ref_type=weakref.ref)

    def __torch_dispatch__(
        self, function: Any, _types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        name = function._schema.name.partition("::")[2]
        if count := _SENT.get(name):
            self.sent[name.strip("_").removesuffix("_base")] += count(*arguments)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._storages[tensor.untyped_storage()] = None
        return result

    def live_bytes(self) -> int:
        """Bytes of all tensors that were made under this mode and still live."""
        return sum(storage.nbytes() for storage in list(self._storages.keys()))

    def multiply(self, factor: int) -> None:
        """Counts what was sent so far several times."""
        for name in self.sent:
            self.sent[name] *= factor


def _bytes_of(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


# What one process sends to its neighbour in a ring.
_SENT: dict[str, Callable[..., int]] = {
    "_allgather_base_": lambda whole, part, *_: _bytes_of(whole) - _bytes_of(part),
    "_reduce_scatter_base_": lambda part, whole, *_: _bytes_of(whole) - _bytes_of(part),
    "allreduce_": lambda tensors, *_: 2 * sum(map(_bytes_of, tensors)),
    "all_gather_into_tensor": lambda part, size, *_: _bytes_of(part) * (size - 1),
    "reduce_scatter_tensor": lambda whole, _operation, size, *_: _bytes_of(whole) * (size - 1) // size,
    "all_reduce": lambda whole, *_: 2 * _bytes_of(whole),
}
