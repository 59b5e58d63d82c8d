"""Matrix products of the layers in float8, by torchao: numbers are scaled as they come, each tensor by one factor."""

import importlib.util

import torch
from torch import nn

from camelid.errors import UserError
from camelid.model.llama import Transformer

_WIDTH = 16
_CAPABILITY = (8, 9)


def refuse_without_float8(device: torch.device) -> None:
    """Raises UserError where torchao is missing or the device does not multiply float8."""
    if importlib.util.find_spec("torchao") is None:
        raise UserError("train.precision is float8, which takes torchao; `pip install 'camelid[float8]'`")
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _CAPABILITY:
        raise UserError(
            "train.precision is float8, which takes a GPU of NVIDIA's capability 8.9 or later (Ada, Hopper); set it to "
            "bfloat16"
        )


def use_float8(model: Transformer, is_emulated: bool = False) -> None:
    """Lets the linear layers of all blocks multiply in float8; embedding, head and norms stay as they are.

    Weights keep their names and their float32 values. Layers whose widths are no multiples of 16, which the hardware
    asks for, stay too.

    Args:
        is_emulated: computes what the hardware would, in float32: for tests.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def is_wanted(module: nn.Module, _name: str) -> bool:
        return isinstance(module, nn.Linear) and not (module.in_features % _WIDTH or module.out_features % _WIDTH)

    config = Float8LinearConfig(emulate=is_emulated)
    for layer in model.layers:
        convert_to_float8_training(layer, module_filter_fn=is_wanted, config=config)
