"""The learning rate against the paper's description: warm-up, cosine, 10 % at the end."""

import pytest

from camelid.training.schedule import learning_rate
from camelid.training.settings import TrainSettings

_SETTINGS = TrainSettings(steps=1000, warmup_steps=100, learning_rate=3e-4, sequence_length=8, batch_tokens=16)


def test_rises_linearly_to_the_peak() -> None:
    assert learning_rate(0, _SETTINGS) == pytest.approx(3e-6)
    assert learning_rate(49, _SETTINGS) == pytest.approx(1.5e-4)
    assert learning_rate(99, _SETTINGS) == pytest.approx(3e-4)


def test_falls_along_a_cosine_to_a_tenth() -> None:
    assert learning_rate(100, _SETTINGS) == pytest.approx(3e-4)
    middle = (learning_rate(549, _SETTINGS) + learning_rate(550, _SETTINGS)) / 2
    assert middle == pytest.approx((3e-4 + 3e-5) / 2)
    assert learning_rate(999, _SETTINGS) == pytest.approx(3e-5)


def test_never_rises_after_the_warm_up() -> None:
    rates = [learning_rate(step, _SETTINGS) for step in range(100, 1000)]
    assert rates == sorted(rates, reverse=True)
