"""AdamW as the paper sets it (section 2.3), and its state by parameter name."""

from collections.abc import Mapping

import torch
from torch import Tensor

from camelid.errors import UserError
from camelid.model.llama import Transformer
from camelid.training.settings import TrainSettings

_MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(model: Transformer, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW in one fused pass over the weights; matrices decay, gains only where the settings say so."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {
            "params": [p for p in parameters if p.dim() == 1],
            "weight_decay": settings.weight_decay if settings.is_gain_decayed else 0.0,
        },
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_state(model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Both moments of every weight, as `exp_avg.<name>` and `exp_avg_sq.<name>`."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        for moment in _MOMENTS
    }


def restore_optimizer(
    model: Transformer, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor], num_steps: int
) -> None:
    """Puts back what `optimizer_state` returned after `num_steps` steps.

    Raises:
        UserError: a moment is missing or of another shape than its weight.
    """
    for name, parameter in model.named_parameters():
        state = {"step": torch.tensor(float(num_steps), device=parameter.device)}
        for moment in _MOMENTS:
            stored = moments.get(f"{moment}.{name}")
            if stored is None or stored.shape != parameter.shape:
                raise UserError(
                    f"the checkpoint's optimizer state has no {moment}.{name} of shape {tuple(parameter.shape)}; "
                    "it belongs to another model, go on from this model's own checkpoint"
                )
            state[moment] = stored.to(parameter.device, copy=True)
        optimizer.state[parameter] = state
