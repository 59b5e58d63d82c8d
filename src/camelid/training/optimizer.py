"""AdamW as the paper sets it (section 2.3), and its state by parameter name."""

import torch
from torch import Tensor

from camelid.model.llama import Transformer
from camelid.parallel.spread import Spread
from camelid.parallel.whole import Whole
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


def optimizer_state(model: Whole | Spread, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Both moments of every weight, as `exp_avg.<name>` and `exp_avg_sq.<name>`; they share the optimizer's memory."""
    return {
        f"{moment}.{name}": model.stored(name, optimizer.state[parameter][moment])
        for name, parameter in model.model.named_parameters()
        for moment in _MOMENTS
    }


def make_optimizer_state(model: Whole | Spread, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    """Gives the optimizer moments of zero after `num_steps` steps, to be filled in through `optimizer_state`."""
    for parameter in model.model.parameters():
        moments = {moment: torch.zeros_like(parameter) for moment in _MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(float(num_steps), device=parameter.device), **moments}
