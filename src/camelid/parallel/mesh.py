"""The grid of processes: which part of a batch, a sequence and a matrix each of them holds, and whom it talks to."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from camelid.parallel.settings import MeshSettings, refuse_wrong_count


class Mesh:
    """The processes as replicate x shard x context x tensor, the last axis running fastest.

    Neighbours on the tensor axis, which talk most, so are neighbours on a machine. Weights are sharded over shard and
    context together, for the processes of a context axis hold different positions and the same weights.

    Raises:
        UserError: the processes are not as many as the mesh wants.
    """

    def __init__(self, settings: MeshSettings, device_type: str):
        refuse_wrong_count(settings, dist.get_world_size())
        self.settings = settings
        grid = (settings.replicate, settings.shard, settings.context, settings.tensor)
        ranks = torch.arange(settings.num_processes)
        self.grid = DeviceMesh(
            device_type, ranks.view(grid), mesh_dim_names=("replicate", "shard", "context", "tensor")
        )
        self.storage = DeviceMesh(
            device_type,
            ranks.view(settings.replicate, settings.shard * settings.context, settings.tensor),
            mesh_dim_names=("replicate", "shard", "tensor"),
        )
        """The same processes as the weights see them."""

    @property
    def sharding(self) -> DeviceMesh:
        """What `fully_shard` takes: one axis, or two where there are replicas."""
        return self.storage["replicate", "shard"] if self.settings.replicate > 1 else self.storage["shard"]

    @property
    def context_rank(self) -> int:
        """Which part of a sequence this process holds."""
        return self.grid.get_local_rank("context")

    @property
    def tensor_rank(self) -> int:
        """Which part of a matrix this process holds."""
        return self.grid.get_local_rank("tensor")

    @property
    def context_group(self) -> dist.ProcessGroup:
        """The processes that hold the other parts of the same sequences."""
        return self.grid.get_group("context")

    @property
    def tensor_group(self) -> dist.ProcessGroup:
        """The processes that hold the other parts of the same matrices."""
        return self.grid.get_group("tensor")

    def sum_over(self, value: torch.Tensor, *axes: str) -> torch.Tensor:
        """Adds `value` up in place over axes of `storage`."""
        for axis in axes:
            if self.storage.get_group(axis).size() > 1:
                dist.all_reduce(value, group=self.storage.get_group(axis))
        return value
