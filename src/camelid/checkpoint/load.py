"""A stored model becomes a torch model; tensors are decoded one by one: memory holds the result and one of them."""

import numpy as np
import torch
from torch import Tensor

from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import decode
from camelid.model.llama import Transformer


def load_transformer(
    model: StoredModel, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Transformer:
    """The model with its weights as numbers of type `dtype`; quantised ones are computed from their blocks.

    Raises:
        UserError: a tensor cannot be read.
    """
    with torch.device("meta"):
        transformer = Transformer(model.config)
    transformer.to(dtype).to_empty(device=device)
    if model.config.is_head_tied:
        # Leaving the meta device makes two tensors of a tied pair.
        transformer.output.weight = transformer.tok_embeddings.weight
    parameters = dict(transformer.named_parameters())
    with torch.no_grad():
        for name, tensor in model.tensors.items():
            parameters[name].copy_(decode_tensor(tensor))
    return transformer.eval()


def decode_tensor(tensor: StoredTensor) -> Tensor:
    """A stored tensor's values, float32 of its shape, in memory of its own."""
    values = decode(tensor.read(), tensor.encoding, tensor.shape)
    return torch.from_numpy(values if values.flags.writeable else np.array(values))
