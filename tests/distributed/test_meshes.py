"""Every mesh computes what one process computes."""

from itertools import product
from typing import Any

import pytest
import torch
from mesh_runs import Result, make_config, make_settings, train
from process_pool import ProcessPool

from camelid.model.config import ModelConfig
from camelid.parallel.settings import MeshSettings

_QUICK = [
    {"shard": 2},
    {"replicate": 2, "shard": 2},
    {"tensor": 2},
    {"context": 2},
    {"shard": 2, "tensor": 2},
    {"context": 2, "tensor": 2},
]
_AXES = ("replicate", "shard", "context", "tensor")
_ALL = [
    dict(zip(_AXES, lengths, strict=True))
    for lengths in product((1, 2, 4, 8), repeat=4)
    if lengths[0] * lengths[1] * lengths[2] * lengths[3] in (2, 4, 8)
]


def _name(mesh: dict[str, int]) -> str:
    return MeshSettings(**mesh).describe().replace(" ", "")


def _config_for(mesh: MeshSettings, **changes: Any) -> ModelConfig:
    heads = {"num_heads": max(4, mesh.tensor), "num_kv_heads": max(2, mesh.tensor)}
    return make_config(**{**heads, **changes})


_alone: dict[str, Result] = {}


def _train_alone(pool: ProcessPool, config: ModelConfig, **settings: Any) -> Result:
    key = f"{config!r}{settings!r}"
    if key not in _alone:
        [_alone[key]] = pool.run(1, train, config=config, settings=make_settings(MeshSettings(), **settings))
    return _alone[key]


def _train_together(pool: ProcessPool, config: ModelConfig, mesh: MeshSettings, **settings: Any) -> Result:
    result: Result = pool.run(mesh.num_processes, train, config=config, settings=make_settings(mesh, **settings))[0]
    return result


def _check_float64(found: Result, expected: Result) -> None:
    assert expected.losses[-1] < 0.8 * expected.losses[0]
    assert found.losses == pytest.approx(expected.losses, rel=1e-10)
    assert found.norms == pytest.approx(expected.norms, rel=1e-9)
    assert found.held_out == pytest.approx(expected.held_out, rel=1e-9)
    for kind in ("weights", "moments"):
        ours, theirs = getattr(found, kind), getattr(expected, kind)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert ours[name].shape == tensor.shape
            assert (ours[name] - tensor).abs().max() <= 1e-8 * tensor.abs().max(), name


@pytest.mark.parametrize("mesh", _QUICK, ids=_name)
def test_float64_on_six_meshes(pool: ProcessPool, mesh: dict[str, int]) -> None:
    spread = MeshSettings(**mesh)
    config = _config_for(spread)
    _check_float64(_train_together(pool, config, spread), _train_alone(pool, config))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", _ALL, ids=_name)
def test_float64_on_every_mesh(pool: ProcessPool, mesh: dict[str, int]) -> None:
    spread = MeshSettings(**mesh)
    config = _config_for(spread)
    _check_float64(_train_together(pool, config, spread), _train_alone(pool, config))


@pytest.mark.parametrize("mesh", [{"replicate": 2, "shard": 2}, {"context": 2, "tensor": 2}], ids=_name)
def test_float32(pool: ProcessPool, mesh: dict[str, int]) -> None:
    spread = MeshSettings(**mesh)
    config = _config_for(spread)
    found = _train_together(pool, config, spread, precision="float32")
    assert found.losses == pytest.approx(_train_alone(pool, config, precision="float32").losses, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", _ALL, ids=_name)
def test_float32_on_every_mesh(pool: ProcessPool, mesh: dict[str, int]) -> None:
    test_float32(pool, mesh)


def test_shards_of_two_give_the_same_bits(pool: ProcessPool) -> None:
    """Two gradients have one sum, whoever adds them. The norm's last bit may differ, so nothing is clipped here."""
    config = make_config()
    alone = _train_alone(pool, config, precision="float32", gradient_clip=1e3, microbatch_sequences=4)
    found = _train_together(pool, config, MeshSettings(shard=2), precision="float32", gradient_clip=1e3)
    assert found.losses == alone.losses
    for kind in ("weights", "moments"):
        for name, tensor in getattr(alone, kind).items():
            assert torch.equal(getattr(found, kind)[name], tensor), name


@pytest.mark.parametrize("is_reduced_each_microbatch", [False, True])
def test_microbatches(pool: ProcessPool, is_reduced_each_microbatch: bool) -> None:
    config = make_config()
    mesh = MeshSettings(
        replicate=2,
        shard=2,
        is_reduced_each_microbatch=is_reduced_each_microbatch,
        is_resharded_after_forward=is_reduced_each_microbatch,
        num_prefetched_layers=2 * is_reduced_each_microbatch,
    )
    _check_float64(_train_together(pool, config, mesh, microbatch_sequences=1), _train_alone(pool, config))


def test_tied_head(pool: ProcessPool) -> None:
    config = make_config(is_head_tied=True)
    for mesh in (MeshSettings(shard=2, tensor=2), MeshSettings(context=2)):
        _check_float64(_train_together(pool, config, mesh), _train_alone(pool, config))


def test_bfloat16_stays_close(pool: ProcessPool) -> None:
    config = make_config()
    alone = _train_alone(pool, config, precision="bfloat16")
    found = _train_together(pool, config, MeshSettings(context=2, tensor=2), precision="bfloat16")
    assert found.losses == pytest.approx(alone.losses, rel=0.01)
    assert found.losses != alone.losses


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"shard": 2}, {"tensor": 2}], ids=_name)
def test_generated_code_on_a_mesh(pool: ProcessPool, mesh: dict[str, int]) -> None:
    """Each layer as generated code on two processes, against one process that runs it eagerly."""
    config = make_config()
    alone = _train_alone(pool, config, precision="float32")
    found = _train_together(pool, config, MeshSettings(**mesh), precision="float32", compile="yes")
    assert found.losses == pytest.approx(alone.losses, rel=1e-5)
    assert found.losses != alone.losses  # other code has other last bits
    assert found.held_out == pytest.approx(alone.held_out, rel=1e-5)
