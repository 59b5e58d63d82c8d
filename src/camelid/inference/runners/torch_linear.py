"""Linear layers for the torch runner whose weights stay in the blocks that their file holds.

A block is `BLOCK` neighbouring weights of a row with their scale. The weights are computed anew at each use, in the
type of the activations: it saves memory and reading, and costs arithmetic.

Shapes: F features out, B blocks of a row, W = 32 weights of a block.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camelid.checkpoint.load import decode_tensor
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.model.llama import Transformer

BLOCK = 32


class BlockLinear(nn.Module):
    """Weights as 4- or 8-bit numbers with a scale, and for q4_1 a minimum, for each block: the layouts of GGUF.

    Args:
        tensor: a matrix in one of `ENCODINGS`.
    """

    ENCODINGS = ("q8_0", "q4_0", "q4_1")

    scales: Tensor
    minima: Tensor | None
    numbers: Tensor

    def __init__(self, tensor: StoredTensor, device: torch.device):
        super().__init__()
        self.out_features, self.in_features = tensor.shape
        self._is_int8 = tensor.encoding.name == "q8_0"
        blocks = torch.from_numpy(np.array(tensor.read())).view(self.out_features, -1, tensor.encoding.block_bytes)
        scales, minima, numbers = blocks[..., :2], blocks[..., 2:4], blocks[..., 2:]
        if tensor.encoding.name == "q4_1":
            numbers = blocks[..., 4:]
            self.register_buffer("minima", _view(minima, torch.float16).to(device))  # [F, B, 1]
        else:
            self.minima = None
        self.register_buffer("scales", _view(scales, torch.float16).to(device))  # [F, B, 1]
        self.register_buffer("numbers", _view(numbers, torch.int8 if self._is_int8 else torch.uint8).to(device))

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The weights as numbers [out, in]."""
        if self._is_int8:
            numbers = self.numbers.float()  # [F, B, W]
        else:
            # The first half of a block lies in the low four bits, the second in the high ones.
            numbers = torch.cat((self.numbers & 15, self.numbers >> 4), dim=-1).float()
            if self.minima is None:
                numbers = numbers - 8
        numbers = numbers * self.scales.float()
        if self.minima is not None:
            numbers = numbers + self.minima.float()
        return numbers.flatten(1).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(x.dtype))


def load_block_transformer(model: StoredModel, device: torch.device, dtype: torch.dtype) -> Transformer:
    """The model with its quantised matrices as `BlockLinear`, and the embedding and all others as numbers.

    Raises:
        UserError: a tensor cannot be read.
    """
    with torch.device("meta"):
        transformer = Transformer(model.config)
    for name, tensor in model.tensors.items():
        path, _, _ = name.rpartition(".")
        module = transformer.get_submodule(path)
        if isinstance(module, nn.Linear) and tensor.encoding.name in BlockLinear.ENCODINGS:
            parent, _, child = path.rpartition(".")
            setattr(transformer.get_submodule(parent), child, BlockLinear(tensor, device))
        else:
            values = decode_tensor(tensor).to(device, dtype)
            module.weight = nn.Parameter(values, requires_grad=False)
    if model.config.is_head_tied:
        transformer.output.weight = transformer.tok_embeddings.weight
    return transformer.eval()


def _view(data: Tensor, dtype: torch.dtype) -> Tensor:
    return data.contiguous().view(dtype)
