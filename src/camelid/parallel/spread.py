"""A model spread over a mesh: divided over the tensor axis, sharded over the others, and known by its whole weights.

Shapes: B batch, T positions, D model width.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from camelid.model.config import ModelConfig
from camelid.model.initialize import first_values
from camelid.model.llama import Attend, Transformer
from camelid.parallel.context import RingAttention, own_positions
from camelid.parallel.data import set_last_microbatch, shard, sharded_dim
from camelid.parallel.mesh import Mesh
from camelid.parallel.recompute import apply_recompute
from camelid.parallel.tensor import divide, divided_dim, gather_positions, part_of
from camelid.parallel.vocabulary import divided_cross_entropy
from camelid.planning.memory import Recompute

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden states [N, D], head [V, D], targets [N]) -> summed cross-entropy."""

IGNORED = -1
"""The target of a position that no loss is computed of."""


@dataclass(frozen=True)
class _Layout:
    """How a weight lies on the mesh."""

    shape: torch.Size
    divided: int | None
    sharded: int


class Spread:
    """The model's part in this process, and what all processes do together.

    The model comes without memory; between the constructor and `finish` its layers may be wrapped or compiled.
    """

    def __init__(
        self, config: ModelConfig, mesh: Mesh, device: torch.device, dtype: torch.dtype, attend: Attend | None
    ):
        self.mesh = mesh
        self._device = device
        with torch.device("meta"):
            self.model = Transformer(config).to(dtype)
        self._layouts = {
            name: _Layout(
                parameter.shape,
                divided_dim(name) if mesh.settings.tensor > 1 else None,
                sharded_dim(name, mesh.settings.tensor),
            )
            for name, parameter in self.model.named_parameters()
        }
        if mesh.settings.tensor > 1:
            divide(self.model, mesh.tensor_group)
        self._attend = RingAttention(mesh.context_group) if mesh.settings.context > 1 else attend

    def keep_activations(self, recompute: Recompute, is_compiled: bool) -> None:
        """Lets the layers keep their activations in one way, and run as generated code where that is wanted."""
        group = self.mesh.tensor_group if self.mesh.settings.tensor > 1 else None
        apply_recompute(self.model, recompute, is_compiled=is_compiled, attend=self._attend, group=group)

    def finish(self, compute_dtype: torch.dtype) -> None:
        """Shards the model and gives this process's part its memory, but no values."""
        self._root = shard(self.model, self.mesh, compute_dtype)
        self.model.to_empty(device=self._device)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Gives every weight the value that one process would give it."""
        self.forget_gathered()
        shapes = {name: layout.shape for name, layout in self._layouts.items()}
        parameters = dict(self.model.named_parameters())
        for name, whole in first_values(self.model.config, shapes, seed):
            self.fill(name, parameters[name], whole)

    def begin_microbatch(self, is_last: bool) -> None:
        """Says whether the next backward pass is the last one before `clip`."""
        set_last_microbatch(self._root, is_last, self.mesh.settings.is_reduced_each_microbatch)

    def sum_loss(self, inputs: Tensor, targets: Tensor, loss: Loss, is_masked: bool = False) -> Tensor:
        """Cross-entropy summed over the positions that this process holds; neighbours on the tensor axis hold the same.

        Args:
            inputs, targets: [B, T] ids of this process's part of the batch, whole sequences.
            loss: what computes it where the vocabulary is whole.
            is_masked: whether some targets are IGNORED.
        """
        settings = self.mesh.settings
        hidden = self.hidden_states(inputs)
        if settings.context > 1:
            targets = targets[:, self._own_positions(targets)]
        if settings.tensor > 1:
            hidden = gather_positions(hidden, self.mesh.tensor_group)
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        if is_masked:
            is_scored = targets != IGNORED
            hidden, targets = hidden[is_scored], targets[is_scored]
        head = self.model.output.weight
        if settings.tensor == 1:
            return loss(hidden, head, targets)
        rows = -(-self.model.config.vocab_size // settings.tensor)
        return divided_cross_entropy(hidden, head, targets, self.mesh.tensor_rank * rows, self.mesh.tensor_group)

    def hidden_states(self, inputs: Tensor) -> Tensor:
        """What the head sees, of the positions that this process holds: [B, their number, D]."""
        positions = None
        if self.mesh.settings.context > 1:
            positions = self._own_positions(inputs)
            inputs = inputs[:, positions]
        return self.model.hidden_states(inputs, attend=self._attend, positions=positions)

    def _own_positions(self, tokens: Tensor) -> Tensor:
        return own_positions(tokens.shape[1], self.mesh.settings.context, self.mesh.context_rank, tokens.device)

    def total(self, value: Tensor, is_of_stream: bool = False) -> Tensor:
        """The sum of what each process has for the positions that it holds.

        Args:
            is_of_stream: whether it belongs to the residual stream, of which neighbours on the tensor axis hold
                different positions.
        """
        return self.mesh.sum_over(value, "shard", "replicate", *(["tensor"] if is_of_stream else []))

    @torch.no_grad()
    def complete_gradient(self) -> None:
        """Adds up what the backward passes have left apart; once a step, before the gradient is read."""
        whole, _ = self._gradients()
        if self.mesh.settings.tensor > 1:
            # Each process has seen its own positions; the sum is taken in one piece.
            together = self.mesh.sum_over(torch.cat([gradient.flatten() for gradient in whole]), "tensor")
            pieces = torch.split(together, [gradient.numel() for gradient in whole])
            torch._foreach_copy_(whole, [p.view_as(g) for p, g in zip(pieces, whole, strict=True)])

    @torch.no_grad()
    def norms(self, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        """The norms of weights, or of what belongs to them, by name and as wholes; the same in every process."""
        squares = torch.zeros(len(tensors), dtype=torch.float64, device=self._device)
        for index, (name, tensor) in enumerate(tensors.items()):
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            if self._layouts[name].divided is not None or self.mesh.tensor_rank == 0:
                squares[index] = torch.linalg.vector_norm(local, dtype=torch.float64).square()
        norms = self.mesh.sum_over(squares, "shard", "tensor").sqrt()
        return dict(zip(tensors, norms.tolist(), strict=True))

    @torch.no_grad()
    def clip(self, largest: float) -> Tensor:
        """Scales the whole gradient down to a norm of `largest` at most.

        Returns:
            Norm before, the same in every process; a weight counts once, however many processes hold it.
        """
        whole, divided = self._gradients()
        counted = [*divided, *(whole if self.mesh.tensor_rank == 0 else [])]
        norms = torch.stack(torch._foreach_norm(counted)) if counted else torch.zeros(1, device=self._device)
        squares = self.mesh.sum_over(norms.double().square().sum(), "shard", "tensor")
        norm = squares.sqrt().to(norms.dtype)
        torch._foreach_mul_([*whole, *divided], (largest / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def _gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """This process's parts of the gradients of undivided and of divided weights, as far as they are not empty."""
        whole: list[Tensor] = []
        divided: list[Tensor] = []
        for name, parameter in self.model.named_parameters():
            assert isinstance(parameter.grad, DTensor)
            gradient = parameter.grad.to_local()
            if gradient.numel():
                (whole if self._layouts[name].divided is None else divided).append(gradient)
        return whole, divided

    def stored(self, name: str, tensor: Tensor) -> DTensor:
        """A weight, or what belongs to it, as a whole that lies on all of the mesh; it shares this process's memory."""
        layout = self._layouts[name]
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        placements: list[Placement] = [Replicate(), Shard(layout.sharded), Replicate()]
        if layout.divided is not None:
            placements[2] = Shard(layout.divided)
        stride = torch.empty(layout.shape, device="meta").stride()
        return DTensor.from_local(
            local.detach(), self.mesh.storage, placements, run_check=False, shape=layout.shape, stride=stride
        )

    @torch.no_grad()
    def fill(self, name: str, tensor: Tensor, whole: Tensor) -> None:
        """Copies this process's part of a whole tensor into a weight, or into what belongs to it."""
        layout, settings = self._layouts[name], self.mesh.settings
        part = part_of(whole, layout.divided, settings.tensor, self.mesh.tensor_rank)
        num_shards = settings.shard * settings.context
        part = part_of(part, layout.sharded, num_shards, self.mesh.storage.get_local_rank("shard"))
        (tensor.to_local() if isinstance(tensor, DTensor) else tensor).copy_(part)

    def weights(self) -> dict[str, Tensor]:
        """The weights by name as wholes that lie on all of the mesh."""
        self.forget_gathered()
        return {name: self.stored(name, parameter) for name, parameter in self.model.named_parameters()}

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Takes this process's parts of whole weights."""
        self.forget_gathered()
        for name, parameter in self.model.named_parameters():
            self.fill(name, parameter, weights[name])

    def forget_gathered(self) -> None:
        """Drops gathered weights that a forward pass without a backward pass has left: they would grow stale."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def gather(tensors: Mapping[str, Tensor], is_kept: bool) -> Iterator[tuple[str, Tensor]]:
    """The whole tensors in the processor's memory, one after the other; every process takes part, some keep them."""
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if is_kept:
            yield name, whole.cpu()
