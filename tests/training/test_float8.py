"""float8 as a setting: refused where it cannot be, and by emulation the products that the hardware would compute."""

import importlib.util
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.model.initialize import initialize
from camelid.model.llama import Transformer
from camelid.training import float8
from camelid.training.device import choose_execution
from camelid.training.settings import TrainSettings

LARGEST = torch.finfo(torch.float8_e4m3fn).max
CONFIG = ModelConfig(dim=64, num_layers=2, num_heads=4, num_kv_heads=2, ffn_hidden_dim=96, vocab_size=60)


def make_settings(**changes: Any) -> TrainSettings:
    values = {"steps": 4, "sequence_length": 16, "batch_tokens": 64, "warmup_steps": 1, "precision": "float8"}
    return TrainSettings.model_validate({**values, **changes})


def make_models(is_emulated: bool = True) -> tuple[Transformer, Transformer]:
    plain, scaled = Transformer(CONFIG), Transformer(CONFIG)
    for model in (plain, scaled):
        initialize(model, 3)
    float8.use_float8(scaled, is_emulated)
    return plain, scaled


def to_float8(x: torch.Tensor) -> torch.Tensor:
    """The nearest values of a tensor that is scaled as a whole."""
    scale = LARGEST / x.abs().max()
    return (x * scale).to(torch.float8_e4m3fn).float() / scale


def test_a_processor_and_a_missing_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"capability 8\.9"):
        choose_execution(make_settings(device="cpu"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install 'camelid\[float8\]'"):
        choose_execution(make_settings(device="cpu"))


@pytest.mark.parametrize("change", [{"recompute": "by_hand"}, {"mesh": {"tensor": 2}}])
def test_what_it_does_not_go_with_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="float8"):
        make_settings(**change)


def test_layers_multiply_rounded_tensors_and_keep_their_weights() -> None:
    plain, scaled = make_models()
    x = torch.randn(24, CONFIG.dim, generator=torch.Generator().manual_seed(1))
    for name in ("wq", "wo"):
        exact, rounded = getattr(plain.layers[1].attention, name), getattr(scaled.layers[1].attention, name)
        expected = to_float8(x) @ to_float8(exact.weight).T
        torch.testing.assert_close(rounded(x), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(expected, exact(x), rtol=1e-3, atol=1e-3)
    assert list(scaled.weights()) == list(plain.weights())
    assert all(torch.equal(a, b) for a, b in zip(plain.weights().values(), scaled.weights().values(), strict=True))
    assert type(scaled.output) is type(plain.output)


def test_training_learns_as_in_float32() -> None:
    losses = []
    for model in make_models():
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        draw = partial(torch.randint, 0, 60, (8, 1), generator=torch.Generator().manual_seed(2))
        for _ in range(30):
            tokens = (draw() + 7 * torch.arange(17)) % 60
            logits = model.output(model.hidden_states(tokens[:, :-1]))
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        losses.append(loss.item())
    exact, rounded = losses
    assert rounded < 1.5
    assert abs(rounded - exact) < 0.2
    assert rounded != exact
