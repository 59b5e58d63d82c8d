"""First values of the weights. The paper does not publish its own; these are GPT-2's, which the field uses."""

import math

import torch
from torch import nn

from camelid.model.llama import Transformer

STANDARD_DEVIATION = 0.02


@torch.no_grad()
def initialize(model: Transformer, seed: int) -> None:
    """Gives every weight a value that depends on `seed` and its name alone, on any device and mesh.

    Matrices: normal with standard deviation 0.02; those that write into the residual stream are smaller by
    sqrt(2 x layers) (Radford et al. 2019). Gains: one.
    """
    residual = STANDARD_DEVIATION / math.sqrt(2 * model.config.num_layers)
    for position, (name, parameter) in enumerate(sorted(model.named_parameters())):
        if parameter.dim() == 1:
            nn.init.ones_(parameter)
            continue
        generator = torch.Generator().manual_seed((seed << 20) + position)
        deviation = residual if name.endswith(("wo.weight", "w2.weight")) else STANDARD_DEVIATION
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
