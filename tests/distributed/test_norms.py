"""The norms of layers that are spread over a mesh are those of one process."""

from typing import Any

import pytest
from mesh_runs import make_config, make_settings, measure
from process_pool import ProcessPool

from camelid.parallel.settings import MeshSettings

_NUM_STEPS = 3


def _check(pool: ProcessPool, mesh: MeshSettings, **changes: Any) -> None:
    config = make_config(**changes)
    [(expected, losses)] = pool.run(
        1, measure, config=config, settings=make_settings(MeshSettings()), num_steps=_NUM_STEPS
    )
    found = pool.run(mesh.num_processes, measure, config=config, settings=make_settings(mesh), num_steps=_NUM_STEPS)
    layers = ["tok_embeddings", "layers.0", "layers.1", "norm", *([] if config.is_head_tied else ["output"])]
    assert [[record["layer"] for record in step] for step in expected] == [layers] * _NUM_STEPS
    for records, own_losses in found:  # every process knows them
        assert own_losses == pytest.approx(losses, rel=1e-10)  # the training went on undisturbed
        for step, other in zip(records, expected, strict=True):
            for record, wanted in zip(step, other, strict=True):
                assert record.pop("layer") == wanted["layer"]
                assert record == pytest.approx({name: wanted[name] for name in wanted if name != "layer"}, rel=1e-9)


def test_on_a_mesh_of_shards_and_tensors(pool: ProcessPool) -> None:
    _check(pool, MeshSettings(shard=2, tensor=2))


def test_with_a_context_axis_and_a_tied_head(pool: ProcessPool) -> None:
    _check(pool, MeshSettings(context=2), is_head_tied=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [{"shard": 2}, {"tensor": 2}, {"tensor": 4}, {"replicate": 2, "shard": 2}, {"context": 2, "tensor": 2}],
    ids=str,
)
def test_on_more_meshes(pool: ProcessPool, mesh: dict[str, int]) -> None:
    _check(pool, MeshSettings(**mesh), num_kv_heads=4)
