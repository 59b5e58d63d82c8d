"""What is a spike, what is skipped for it, and how far a training goes back: the rules on plain numbers."""

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid.errors import UserError
from camelid.training.settings import TrainSettings
from camelid.training.stability import SpikeDetector, data_step, is_abandoned, plan_rollback


def _settings(**changes: Any) -> TrainSettings:
    values = {"steps": 5000, "sequence_length": 8, "batch_tokens": 16, "warmup_steps": 10, "spike_window": 64}
    return TrainSettings.model_validate({**values, "calm_steps": 20, **changes})


def _falling_loss(step: int, dice: random.Random) -> float:
    """A curve of the usual form, from 8.3 nats to 2.5, with noise that falls along with it."""
    loss = 2.5 + 5.8 / (1 + step / 40)
    return loss * (1 + dice.gauss(0, 0.02))


def _judge_all(detector: SpikeDetector, losses: list[float]) -> list[int]:
    return [step for step, loss in enumerate(losses) if detector.judge(loss, 1.0)]


@pytest.mark.parametrize("seed", range(5))
def test_a_normal_training_raises_no_alarm(seed: int) -> None:
    dice = random.Random(seed)
    assert _judge_all(SpikeDetector(_settings()), [_falling_loss(step, dice) for step in range(4000)]) == []


def test_a_rise_in_the_warm_up_and_a_loss_that_stands_still_raise_none() -> None:
    rising = [5.0 + 0.05 * step for step in range(64)]
    assert _judge_all(SpikeDetector(_settings()), rising) == []
    assert _judge_all(SpikeDetector(_settings()), [3.0] * 100 + [3.05] + [3.0] * 100) == []


@pytest.mark.parametrize(("step", "loss"), [(200, 5.0), (1000, 3.9), (3000, 3.6)])
def test_a_leap_is_found_and_does_not_change_what_is_usual(step: int, loss: float) -> None:
    dice = random.Random(1)
    losses = [_falling_loss(number, dice) for number in range(3500)]
    losses[step : step + 40] = [loss + 0.01 * number for number in range(40)]
    assert _judge_all(SpikeDetector(_settings()), losses) == list(range(step, step + 40))


def test_what_is_not_finite_is_found_at_once() -> None:
    detector = SpikeDetector(_settings(spike_deviations=0))
    assert "loss is nan" in detector.judge(math.nan, 1.0)
    assert "norm of the gradient is inf" in detector.judge(3.0, math.inf)
    assert detector.judge(300.0, 1.0) == ""


def test_detection_can_be_taken_up() -> None:
    dice = random.Random(2)
    losses = [_falling_loss(step, dice) for step in range(500)]
    whole = SpikeDetector(_settings())
    assert _judge_all(whole, losses) == []
    resumed = SpikeDetector(_settings(), losses[-64:])
    for loss in (2.9, 3.1, 4.5, 3.0):
        assert whole.judge(loss, 1.0) == resumed.judge(loss, 1.0)


@given(st.sets(st.integers(0, 30)), st.integers(0, 60))
def test_data_steps_are_read_in_turn_without_the_skipped(skipped: set[int], step: int) -> None:
    assert data_step(step, skipped) == [number for number in range(100) if number not in skipped][step]


def test_a_first_spike_costs_its_own_data_step() -> None:
    plan = plan_rollback(_settings(), [], (), 131, "why")
    assert plan.skipped == (130,)
    assert plan.latest_step == 110  # 20 calm steps lie between it and step 130, the last one before the spike


def _spike(step: int, skipped: tuple[int, ...]) -> dict[str, Any]:
    return {"kind": "spike", "step": step, "skipped": list(skipped), "rolled_back_to": 0}


def test_a_spike_that_comes_again_costs_more_and_goes_further_back() -> None:
    spikes: list[dict[str, Any]] = []
    skipped: set[int] = set()
    widths, latest = [], []
    for _ in range(7):
        plan = plan_rollback(_settings(), spikes, skipped, 131, "why")
        assert not skipped & set(plan.skipped)
        first_skipped_step = next(step for step in range(200) if data_step(step, skipped) == plan.skipped[0])
        assert plan.latest_step <= first_skipped_step
        skipped |= set(plan.skipped)
        spikes.append(_spike(131, plan.skipped))
        widths.append(len(plan.skipped))
        latest.append(plan.latest_step)
    assert widths == [1, 3, 5, 9, 17, 33, 65]
    assert latest == [110, 110, 110, 110, 110, 110, 98]


def test_a_spike_after_calm_steps_is_a_new_one() -> None:
    spikes = [_spike(131, (130,)), _spike(133, (131, 132, 133))]
    assert len(plan_rollback(_settings(), spikes, (130, 131, 132, 133), 153, "why").skipped) == 5
    assert plan_rollback(_settings(), spikes, (130, 131, 132, 133), 154, "why").skipped == (157,)


def test_the_beginning_is_as_far_back_as_it_goes() -> None:
    plan = plan_rollback(_settings(), [_spike(2, (1,))] * 6, (1,), 2, "why")
    assert plan.latest_step == 0
    assert plan.skipped[0] == 0


def test_too_many_rollbacks_end_the_training() -> None:
    spikes = [_spike(500 * number, (500 * number,)) for number in range(1, 4)]
    with pytest.raises(UserError, match=r"step 2,000: the loss is nan, and .* rolled back 3 times"):
        plan_rollback(_settings(max_rollbacks=3), spikes, (), 2000, "the loss is nan")


def test_checkpoints_of_a_stretch_that_was_taken_back_are_told_from_those_made_again() -> None:
    spike = {"step": 131, "skipped": [130], "rolled_back_to": 100}
    assert is_abandoned(120, (), [spike])
    assert not is_abandoned(100, (), [spike])
    assert not is_abandoned(120, (130,), [spike])
