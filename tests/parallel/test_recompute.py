"""Ways of keeping less: the same gradients, and the bytes that the plan says."""

import gc
import typing

import pytest
import torch
from parity_configs import CONFIGS

from camelid.model.config import ModelConfig
from camelid.model.initialize import initialize
from camelid.model.llama import Transformer
from camelid.parallel.recompute import apply_recompute
from camelid.planning.memory import Recompute, kept_bytes_per_token, kept_weight_bytes
from camelid.training.attention import causal_attention_cpu, flash_attention_cpu

WAYS: tuple[Recompute, ...] = typing.get_args(Recompute)
_SHAPE = (2, 64)


def make_model(
    config: ModelConfig, way: Recompute, dtype: torch.dtype = torch.float32, is_compiled: bool = False
) -> Transformer:
    """A model whose layers keep their activations in one way."""
    model = Transformer(config).to(dtype)
    initialize(model, 1)
    attend = causal_attention_cpu if is_compiled else flash_attention_cpu
    apply_recompute(model, way, is_compiled=is_compiled, attend=attend)
    return model


def run(model: Transformer, is_compiled: bool = False) -> torch.Tensor:
    """Hidden states of some tokens."""
    tokens = torch.arange(_SHAPE[0] * _SHAPE[1]).view(_SHAPE) * 7 % model.config.vocab_size
    return model.hidden_states(tokens, attend=causal_attention_cpu if is_compiled else flash_attention_cpu)


def count_kept_bytes(model: Transformer, dtype: torch.dtype | None = None, is_compiled: bool = False) -> int:
    """What a forward pass allocates and does not free, as the allocator tells the profiler."""

    def run_in_its_type() -> torch.Tensor:
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            return run(model, is_compiled)

    run_in_its_type().sum().backward()  # type: ignore[no-untyped-call]
    # Garbage of earlier tests that is collected meanwhile would count as freed here.
    gc.collect()
    gc.disable()
    try:
        with torch.profiler.profile(profile_memory=True) as profiler:
            hidden = run_in_its_type()
    finally:
        gc.enable()
    kept = sum(event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")
    del hidden
    return int(kept)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["grouped", "tied"])
def test_gradients_are_those_of_the_model_as_it_is_written(name: str, way: Recompute) -> None:
    plain = Transformer(CONFIGS[name]).double()
    initialize(plain, 1)
    model = make_model(CONFIGS[name], way, torch.float64)
    expected, found = run(plain), run(model)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    for hidden in (expected, found):
        hidden.square().sum().backward()  # type: ignore[no-untyped-call]
    for theirs, ours in zip(plain.parameters(), model.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)


def test_another_attention_runs_the_layer_as_it_is_written() -> None:
    seen = []

    def attend(layer: int, *qkv: torch.Tensor) -> torch.Tensor:
        seen.append(layer)
        return flash_attention_cpu(layer, *qkv)

    model = make_model(CONFIGS["grouped"], "by_hand", torch.float64)
    tokens = torch.arange(12).view(1, 12)
    found = model.hidden_states(tokens, attend=attend)
    assert seen == [0, 1, 2]
    torch.testing.assert_close(found, model.hidden_states(tokens, attend=flash_attention_cpu), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["as_many_kv_heads", "grouped"])
def test_keeps_the_planned_bytes(name: str, way: Recompute) -> None:
    planned = kept_bytes_per_token(CONFIGS[name], 4, way, is_compiled=False) * _SHAPE[0] * _SHAPE[1]
    assert count_kept_bytes(make_model(CONFIGS[name], way)) == pytest.approx(planned, rel=0.05)


@pytest.mark.parametrize("way", WAYS)
def test_keeps_the_planned_bytes_in_bfloat16(way: Recompute) -> None:
    planned = kept_bytes_per_token(CONFIGS["grouped"], 2, way, is_compiled=False) * _SHAPE[0] * _SHAPE[1]
    planned += kept_weight_bytes(CONFIGS["grouped"], 2, way)
    model = make_model(CONFIGS["grouped"], way)
    assert count_kept_bytes(model, torch.bfloat16) == pytest.approx(planned, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", WAYS)
def test_generated_code_keeps_the_planned_bytes(way: Recompute, dtype: torch.dtype) -> None:
    config = CONFIGS["as_many_kv_heads"]
    planned = kept_bytes_per_token(config, dtype.itemsize, way, is_compiled=True) * _SHAPE[0] * _SHAPE[1]
    planned += kept_weight_bytes(config, dtype.itemsize, way)
    autocast = torch.bfloat16 if dtype is torch.bfloat16 else None
    found = count_kept_bytes(make_model(config, way, is_compiled=True), autocast, is_compiled=True)
    if way == "full":  # generated code puts the state of random numbers by, layer for layer, though none are drawn
        found -= config.num_layers * torch.get_rng_state().numel()
    assert found == pytest.approx(planned, rel=0.05)
