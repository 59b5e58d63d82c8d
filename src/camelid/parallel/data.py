"""Data parallelism with sharded weights (Zhao et al. 2023, in its second form in torch): fully_shard layer by layer."""

from typing import cast

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard

from camelid.model.llama import Transformer
from camelid.parallel.mesh import Mesh
from camelid.parallel.tensor import divided_dim


def shard(model: Transformer, mesh: Mesh, compute_dtype: torch.dtype) -> FSDPModule:
    """Shards each layer, and the embedding, last norm and head together, over the mesh's shard and context axes.

    Gradients are added up, not averaged. Layers are gathered in `compute_dtype`; embedding, last norm and head in
    the type of their weights.
    """
    placements = {
        parameter: Shard(sharded_dim(name, mesh.settings.tensor)) for name, parameter in model.named_parameters()
    }
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    is_narrow = compute_dtype is torch.bfloat16
    layer_policy = (
        MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if is_narrow else policy
    )
    layers: list[FSDPModule] = []
    for layer in model.layers:
        fully_shard(
            layer,
            mesh=mesh.sharding,
            reshard_after_forward=mesh.settings.is_resharded_after_forward,
            shard_placement_fn=placements.get,
            mp_policy=layer_policy,
        )
        layers.append(cast(FSDPModule, layer))
    # They are read outside of the model's forward pass too, by the loss, so they stay until the backward pass is over.
    fully_shard(
        model, mesh=mesh.sharding, reshard_after_forward=False, shard_placement_fn=placements.get, mp_policy=policy
    )
    register_fsdp_forward_method(model, "hidden_states")
    root = cast(FSDPModule, model)
    _prefetch(root, layers, mesh.settings.num_prefetched_layers)
    # A GPU overlaps by streams; without them, only a gathering that is not waited for leaves time to compute.
    root._set_unshard_async_op(mesh.storage.device_type == "cpu")
    for module in (root, *layers):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    return root


def sharded_dim(name: str, num_tensor_parts: int) -> int:
    """The dimension along which `fully_shard` cuts a weight: never the one that the tensor axis cuts."""
    is_divided_by_rows = num_tensor_parts > 1 and divided_dim(name) == 0
    return 1 if is_divided_by_rows else 0


def set_last_microbatch(root: FSDPModule, is_last: bool, is_reduced_each_time: bool) -> None:
    """Says whether the next backward pass completes the gradient; sums over the mesh that can wait do so."""
    root.set_is_last_backward(is_last)
    root.set_requires_gradient_sync(is_last or is_reduced_each_time)
    root.set_requires_all_reduce(is_last)


def _prefetch(root: FSDPModule, layers: list[FSDPModule], count: int) -> None:
    if not count:
        return
    root.set_modules_to_forward_prefetch(layers[:count])
    for index, layer in enumerate(layers):
        layer.set_modules_to_forward_prefetch(layers[index + 1 : index + 1 + count])
        layer.set_modules_to_backward_prefetch(layers[max(0, index - count) : index][::-1])
