"""What a layer keeps of its forward pass, and what its backward pass computes again (paper section 2.4)."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from camelid.model.llama import Attend, Layer, Transformer
from camelid.parallel.layer_backward import DifferentiableAttention, HandWritten
from camelid.planning.memory import Recompute

_aten = torch.ops.aten
DEAR_OPERATIONS = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten._scaled_mm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]
"""What `selective` keeps: products of matrices and attention."""


def apply_recompute(
    model: Transformer,
    way: Recompute,
    *,
    is_compiled: bool,
    attend: Attend | None = None,
    group: ProcessGroup | None = None,
) -> None:
    """Lets every layer keep its activations in one of the ways, and run as generated code where that is wanted.

    Args:
        attend: the attention of training. A layer by hand needs a `DifferentiableAttention`; where it is called with
            another one, a cache for example, it runs as it is written.
        group: for layers by hand, the processes of the tensor axis.
    """
    if way == "selective" and is_compiled:
        # torch says at every start that in-place operations would go wrong; a layer has none.
        logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)
    for layer in model.layers:
        assert isinstance(layer, Layer)
        if way == "by_hand":
            assert isinstance(attend, DifferentiableAttention)
            layer.forward = partial(_run_by_hand, layer, HandWritten(attend, is_compiled, group))  # type: ignore[method-assign]
            continue
        if way != "none":
            layer.forward = partial(_run_again, layer.forward, way == "selective")  # type: ignore[method-assign]
        if is_compiled:
            layer.compile(dynamic=False)


def _run_by_hand(layer: Layer, way: HandWritten, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
    return way(layer, x, cos, sin) if attend is way.attention else Layer.forward(layer, x, cos, sin, attend)


def _run_again(
    forward: Callable[..., Tensor], is_selective: bool, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend
) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(x, cos, sin, attend)
    extra: dict[str, Any] = {}
    if is_selective:
        extra["context_fn"] = partial(create_selective_checkpoint_contexts, DEAR_OPERATIONS)
    output: Tensor = checkpoint(forward, x, cos, sin, attend, use_reentrant=False, preserve_rng_state=False, **extra)
    return output
