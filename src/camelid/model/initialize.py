"""First values of the weights. The paper does not publish its own; these are GPT-2's, which the field uses."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from camelid.model.config import ModelConfig
from camelid.model.llama import Transformer

STANDARD_DEVIATION = 0.02


@torch.no_grad()
def initialize(model: Transformer, seed: int) -> None:
    """Gives every weight its value of `first_values`."""
    parameters = dict(model.named_parameters())
    for name, value in first_values(model.config, {name: p.shape for name, p in parameters.items()}, seed):
        parameters[name].copy_(value)


def first_values(config: ModelConfig, shapes: Mapping[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Values that depend on `seed`, shape and name alone, whatever device or mesh they are for, one after the other.

    Matrices: normal with standard deviation 0.02; those that write into the residual stream are smaller by
    sqrt(2 x layers) (Radford et al. 2019). Gains: one.
    """
    residual = STANDARD_DEVIATION / math.sqrt(2 * config.num_layers)
    for position, (name, shape) in enumerate(sorted(shapes.items())):
        if len(shape) == 1:
            yield name, torch.ones(shape)
            continue
        generator = torch.Generator().manual_seed((seed << 20) + position)
        deviation = residual if name.endswith(("wo.weight", "w2.weight")) else STANDARD_DEVIATION
        yield name, torch.randn(shape, generator=generator) * deviation
