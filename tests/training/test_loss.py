"""The fused output layer and loss against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from camelid.training import loss as loss_module
from camelid.training.loss import linear_cross_entropy


def _make(num_positions: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(num_positions, 24, generator=generator, dtype=torch.float64)
    weight = torch.randn(101, 24, generator=generator, dtype=torch.float64)
    return hidden, weight, torch.randint(0, 101, (num_positions,), generator=generator)


@pytest.mark.parametrize("num_positions", [1, 7, 8, 9, 30])
def test_value_and_gradients_equal_torch_s(num_positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_POSITIONS", 8)
    hidden, weight, targets = _make(num_positions)
    ours = [tensor.float().requires_grad_() for tensor in (hidden, weight)]
    (3 * linear_cross_entropy(ours[0], ours[1], targets)).backward()  # type: ignore[no-untyped-call]
    wanted = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    expected = F.cross_entropy(F.linear(*wanted), targets, reduction="sum")
    (3 * expected).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(linear_cross_entropy(ours[0], ours[1], targets).double(), expected, rtol=1e-5, atol=1e-4)
    for ours_leaf, leaf in zip(ours, wanted, strict=True):
        assert ours_leaf.grad is not None
        assert leaf.grad is not None
        torch.testing.assert_close(ours_leaf.grad.double(), leaf.grad, rtol=1e-4, atol=1e-4)


def test_float64_stays_float64() -> None:
    hidden, weight, targets = (tensor.requires_grad_(tensor.is_floating_point()) for tensor in _make(30))
    found = linear_cross_entropy(hidden, weight, targets)
    expected = F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(found, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_bfloat16_is_as_near_as_its_rounding_allows() -> None:
    hidden, weight, targets = _make(300)
    expected = F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_cross_entropy(hidden.float(), weight.float(), targets)
    assert found.item() == pytest.approx(expected.item(), rel=2e-3)


def test_no_gradient_is_computed_when_none_is_wanted() -> None:
    hidden, weight, targets = _make(9)
    with torch.no_grad():
        assert not linear_cross_entropy(hidden.float(), weight.float(), targets).requires_grad
