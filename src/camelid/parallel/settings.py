"""How a model is spread over processes. No torch here: recipes and planners read it."""

import math

from pydantic import Field

from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.settings import Settings


class MeshSettings(Settings):
    """The grid of processes, replicate x shard x context x tensor; one process unless something is set."""

    replicate: int = Field(1, gt=0)
    """Copies of the sharded model, each of which reads its own part of the batch."""
    shard: int = Field(1, gt=0)
    """Processes that share weights, gradients and moments of a copy, and read different sequences."""
    context: int = Field(1, gt=0)
    """Processes that share the positions of a sequence and pass keys and values around."""
    tensor: int = Field(1, gt=0)
    """Processes that share each matrix, its heads or columns, and between the matrices the positions."""
    is_resharded_after_forward: bool = True
    """Whether a layer's gathered weights are dropped after its forward pass and gathered again for the backward one."""
    num_prefetched_layers: int = Field(1, ge=0)
    """Layers whose weights are gathered ahead of the one that computes."""
    is_reduced_each_microbatch: bool = False
    """Whether gradients are summed over the shards after each microbatch: less memory and more communication."""
    is_tensor_async: bool = False
    """Whether generated code overlaps the tensor axis' communication with its matrix products, on GPUs alone."""

    @property
    def num_processes(self) -> int:
        """Processes that the mesh needs."""
        return self.replicate * self.shard * self.context * self.tensor

    @property
    def num_data_ranks(self) -> int:
        """Parts that a batch is cut into."""
        return self.replicate * self.shard

    def data_share(self, rank: int) -> tuple[int, int]:
        """Which part of the batch a process reads, and of how many; neighbours on context and tensor read the same."""
        return rank // (self.context * self.tensor), self.num_data_ranks

    def describe(self) -> str:
        """The axes that are longer than one, `shard 2 x tensor 4` for example."""
        axes = ("replicate", "shard", "context", "tensor")
        return " x ".join(f"{axis} {getattr(self, axis)}" for axis in axes if getattr(self, axis) > 1) or "one process"


def refuse_wrong_count(settings: MeshSettings, num_processes: int) -> None:
    """Compares a mesh with the processes that there are.

    Raises:
        UserError: they are more or fewer.
    """
    if settings.num_processes != num_processes:
        wanted = f"{settings.num_processes:,} process" + "es" * (settings.num_processes > 1)
        raise UserError(
            f"train.mesh ({settings.describe()}) takes {wanted} and the training has {num_processes:,}; start "
            f"camelid train with --processes {settings.num_processes} or torchrun, or change the mesh, for example "
            f"to shard {num_processes} alone"
        )


def refuse_unfit(mesh: MeshSettings, config: ModelConfig, sequence_length: int) -> None:
    """Compares a mesh with the model and sequence that are to be spread over it.

    Raises:
        UserError: something does not divide.
    """
    for count, name in ((config.num_heads, "query heads"), (config.num_kv_heads, "key/value heads")):
        if count % mesh.tensor:
            raise UserError(
                f"the model's {count} {name} do not divide by train.mesh.tensor {mesh.tensor}; choose a tensor axis "
                "that divides them"
            )
    # A process of the context axis holds a piece from the sequence's beginning and its counterpart from the end.
    multiple = mesh.context * math.lcm(2, mesh.tensor) if mesh.context > 1 else mesh.tensor
    if sequence_length % multiple:
        raise UserError(
            f"train.sequence_length {sequence_length:,} does not divide by train.mesh.context {mesh.context} x tensor "
            f"{mesh.tensor}; choose a multiple of {multiple}"
        )
    for count, name in ((config.vocab_size, "vocabulary of"), (config.ffn_hidden_dim, "feed-forward width of")):
        if (mesh.tensor - 1) * -(-count // mesh.tensor) >= count:
            raise UserError(
                f"the model's {name} {count} leaves nothing for the last of train.mesh.tensor {mesh.tensor} processes; "
                "choose a shorter tensor axis"
            )
    if mesh.tensor > 1 and config.dim % (mesh.shard * mesh.context):
        raise UserError(
            f"the model's width {config.dim:,} does not divide by train.mesh.shard {mesh.shard} x context "
            f"{mesh.context}, which a mesh with a tensor axis needs; choose axes that divide it"
        )
