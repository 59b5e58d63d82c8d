"""The layer differentiated by hand over two processes: equal to one, and it computes while values travel."""

import multiprocessing
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from parity_configs import CONFIGS
from torch import Tensor, nn

from camelid.model.config import ModelConfig
from camelid.model.llama import Layer
from camelid.model.operations import causal_attention, rotary_frequencies, rotary_table
from camelid.parallel.layer_backward import HandWritten
from camelid.parallel.tensor import divided_dim, part_of
from camelid.training.attention import flash_attention_cpu

_NUM_PROCESSES = 2
_TIMEOUT = timedelta(seconds=60)
_NAMES = ("as_many_kv_heads", "grouped", "head_size_48")
_LENGTH = 22
_WIDE = ModelConfig(dim=256, num_layers=1, num_heads=4, num_kv_heads=4, ffn_hidden_dim=704, vocab_size=64)


def _make(config: ModelConfig, batch_size: int, length: int) -> tuple[Layer, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(7)
    layer = Layer(config, 0).double()
    x, gradient = torch.randn(2, batch_size, length, config.dim, dtype=torch.float64)
    cos, sin = rotary_table(rotary_frequencies(config), torch.arange(length))
    return layer, x.requires_grad_(), cos, sin, gradient


def _cut(layer: Layer, group: dist.ProcessGroup) -> None:
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear):
            part = part_of(module.weight.detach(), divided_dim(f"{name}.weight"), group.size(), group.rank())
            module.weight = nn.Parameter(part.clone())


def _run_part(
    config: ModelConfig, batch_size: int, length: int, group: dist.ProcessGroup
) -> tuple[list[Any], list[Any]]:
    """This process's output and gradients, and the same parts of what autograd gives for the whole."""
    layer, x, cos, sin, gradient = _make(config, batch_size, length)
    output = layer(x, cos, sin, lambda _, *qkv: causal_attention(*qkv))
    whole = [output, *torch.autograd.grad(output, [x, *layer.parameters()], gradient)]
    size, rank = group.size(), group.rank()
    dims = [divided_dim(f"layers.0.{name}") for name, _ in layer.named_parameters()]
    wanted = [part_of(t, dim, size, rank) for t, dim in zip(whole, [1, 1, *dims], strict=True)]
    _cut(layer, group)
    own = part_of(x.detach(), 1, size, rank).clone().requires_grad_()
    output = HandWritten(flash_attention_cpu, is_compiled=False, group=group)(layer, own, cos, sin)
    found = [output, *torch.autograd.grad(output, [own, *layer.parameters()], part_of(gradient, 1, size, rank))]
    for gain in (tensor for tensor, dim in zip(found[2:], dims, strict=True) if dim is None):
        dist.all_reduce(gain, group=group)
    return [t.detach().numpy() for t in found], [t.detach().numpy() for t in wanted]


def _trace(group: dist.ProcessGroup) -> list[tuple[str, float, float]]:
    """Name, start and end of what a backward pass does, in microseconds."""
    layer, x, cos, sin, gradient = _make(_WIDE, 2, 256)
    _cut(layer, group)
    own = part_of(x.detach(), 1, group.size(), group.rank()).clone().requires_grad_()
    output = HandWritten(flash_attention_cpu, is_compiled=False, group=group)(layer, own, cos, sin)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.autograd.grad(output, [own, *layer.parameters()], part_of(gradient, 1, group.size(), group.rank()))
    events: Any = profiler.events()
    return [(event.name, event.time_range.start, event.time_range.end) for event in events]


def _work(rank: int, store: str, connection: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=_NUM_PROCESSES, timeout=_TIMEOUT
    )
    assert dist.group.WORLD is not None
    try:
        pairs = {name: _run_part(CONFIGS[name], 2, _LENGTH, dist.group.WORLD) for name in _NAMES}
        connection.send((pairs, _trace(dist.group.WORLD)))
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two processes found."""
    store = str(tmp_path_factory.mktemp("processes") / "store")
    context = multiprocessing.get_context("spawn")
    connections, processes = [], []
    for rank in range(_NUM_PROCESSES):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(rank, store, theirs), daemon=True)
        process.start()
        theirs.close()
        connections.append(ours)
        processes.append(process)
    found = [connection.recv() for connection in connections]
    for process in processes:
        process.join()
    return found


@pytest.mark.parametrize("name", _NAMES)
def test_two_processes_equal_one(name: str, outcomes: list[Any]) -> None:
    for pairs, _ in outcomes:
        found, wanted = pairs[name]
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_backward_pass_computes_while_values_travel(outcomes: list[Any]) -> None:
    for _, events in outcomes:
        names = [name for name, *_ in sorted(events, key=lambda event: event[1])]
        for place in (i for i, name in enumerate(names) if "_reduce_scatter_" in name):
            # Three weights at least are differentiated before the norm needs what was scattered.
            assert names[place : names.index("aten::rsqrt", place)].count("aten::mm") >= 3
        # All gathers of the feed-forward layer have begun before SwiGLU is computed again.
        assert sum("_allgather_" in name for name in names[: names.index("aten::sigmoid")]) == 3
        travelling = [(start, end) for name, start, end in events if name.startswith("gloo:")]
        products = [(start, end) for name, start, end in events if name == "aten::mm"]
        assert any(start < to and begin < end for start, end in travelling for begin, to in products)
