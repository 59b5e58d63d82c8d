"""The order of events in a trace: what is under way while a layer computes, and how often gradients are summed."""

from itertools import pairwise

import pytest
from mesh_runs import BATCH_SEQUENCES, trace_step
from process_pool import ProcessPool

from camelid.parallel.settings import MeshSettings

_NUM_LAYERS = 4
_NUM_GROUPS = _NUM_LAYERS + 1  # what is outside of the layers is one more

Events = list[tuple[str, float, float]]


def _trace(pool: ProcessPool, mesh: MeshSettings, microbatch_sequences: int = 0) -> Events:
    events: Events = pool.run(
        mesh.num_processes,
        trace_step,
        mesh=mesh,
        num_layers=_NUM_LAYERS,
        microbatch_sequences=microbatch_sequences,
    )[0]
    return events


def _starts(events: Events, name: str) -> list[float]:
    return [start for event, start, _ in events if event == name]


def _gathering_starts(events: Events, layer: int) -> list[float]:
    """When the weights of a layer set out, forward and backward: the network's event, not the call for it."""
    calls = _starts(events, f"FSDP::all_gather (layers.{layer})")
    under_way = _starts(events, "gloo:all_gather")
    return [min(start for start in under_way if start > call) for call in calls]


def test_weights_are_gathered_while_the_layer_before_computes(pool: ProcessPool) -> None:
    events = _trace(pool, MeshSettings(shard=2))
    for layer, following in pairwise(range(_NUM_LAYERS)):
        [is_computed] = _starts(events, f"FSDP::post_forward (layers.{layer})")
        [is_differentiated] = _starts(events, f"FSDP::post_backward_accumulate (layers.{following})")
        assert _gathering_starts(events, following)[0] < is_computed
        assert _gathering_starts(events, layer)[1] < is_differentiated


def test_nothing_is_gathered_ahead_unless_it_is_wanted(pool: ProcessPool) -> None:
    events = _trace(pool, MeshSettings(shard=2, num_prefetched_layers=0))
    for layer, following in pairwise(range(_NUM_LAYERS)):
        [is_computed] = _starts(events, f"FSDP::post_forward (layers.{layer})")
        assert _gathering_starts(events, following)[0] > is_computed


@pytest.mark.parametrize("is_reduced_each_microbatch", [False, True])
def test_gradients_are_summed_as_often_as_is_said(pool: ProcessPool, is_reduced_each_microbatch: bool) -> None:
    mesh = MeshSettings(replicate=2, shard=2, is_reduced_each_microbatch=is_reduced_each_microbatch)
    num_microbatches = BATCH_SEQUENCES // mesh.num_data_ranks
    whole, parts = _trace(pool, mesh), _trace(pool, mesh, microbatch_sequences=1)
    scatterings = [len(_starts(events, "c10d::_reduce_scatter_base_")) for events in (whole, parts)]
    assert scatterings == [_NUM_GROUPS, _NUM_GROUPS * (num_microbatches if is_reduced_each_microbatch else 1)]
    between_replicas = [len(_starts(events, "c10d::allreduce_")) for events in (whole, parts)]
    assert between_replicas[0] == between_replicas[1] >= _NUM_GROUPS
