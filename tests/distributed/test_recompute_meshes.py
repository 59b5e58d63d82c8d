"""Layers that keep less, on a mesh: what one process computes that keeps everything."""

import pytest
from mesh_runs import make_config, make_settings, train
from process_pool import ProcessPool

from camelid.parallel.settings import MeshSettings


@pytest.mark.parametrize("way", ["selective", "full", "by_hand"])
def test_float64_over_shards_and_parts_of_matrices(pool: ProcessPool, way: str) -> None:
    config = make_config(num_heads=4, num_kv_heads=2)
    [alone] = pool.run(1, train, config=config, settings=make_settings(MeshSettings()))
    mesh = MeshSettings(shard=2, tensor=2)
    found = pool.run(mesh.num_processes, train, config=config, settings=make_settings(mesh, recompute=way))[0]
    assert found.losses == pytest.approx(alone.losses, rel=1e-10)
    assert found.norms == pytest.approx(alone.norms, rel=1e-9)
    for name, tensor in alone.weights.items():
        assert (found.weights[name] - tensor).abs().max() <= 1e-8 * tensor.abs().max(), name
