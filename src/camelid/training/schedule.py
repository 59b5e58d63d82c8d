"""Learning rate over the steps (paper section 2.3)."""

import math

from camelid.training.settings import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Rises linearly over the warm-up, then follows half a cosine down to its final share at the last step.

    Args:
        step: the optimizer step about to be taken, from 0.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps - 1, 1)
    share = settings.final_learning_rate_share
    return settings.learning_rate * (share + (1 - share) * 0.5 * (1 + math.cos(math.pi * progress)))
