"""A model that one process holds whole: the same words as `spread.Spread`, with nobody to talk to."""

from collections.abc import Mapping

import torch
from torch import Tensor

from camelid.model.config import ModelConfig
from camelid.model.initialize import initialize
from camelid.model.llama import Attend, Transformer
from camelid.parallel.recompute import apply_recompute
from camelid.parallel.spread import IGNORED, Loss
from camelid.planning.memory import Recompute


class Whole:
    """The model, its loss and its gradient in one process."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype, attend: Attend | None):
        self.model = Transformer(config).to(device, dtype)
        self._attend = attend

    def keep_activations(self, recompute: Recompute, is_compiled: bool) -> None:
        """As `Spread.keep_activations`."""
        apply_recompute(self.model, recompute, is_compiled=is_compiled, attend=self._attend)

    def finish(self, compute_dtype: torch.dtype) -> None:
        """Nothing is left to do."""

    def initialize(self, seed: int) -> None:
        """Gives every weight its first value."""
        initialize(self.model, seed)

    def begin_microbatch(self, is_last: bool) -> None:
        """Gradients add up by themselves."""

    def sum_loss(self, inputs: Tensor, targets: Tensor, loss: Loss, is_masked: bool = False) -> Tensor:
        """Cross-entropy summed over all positions; arguments as in `Spread.sum_loss`."""
        hidden = self.hidden_states(inputs).flatten(0, 1)
        targets = targets.flatten()
        if is_masked:
            is_scored = targets != IGNORED
            hidden, targets = hidden[is_scored], targets[is_scored]
        return loss(hidden, self.model.output.weight, targets)

    def hidden_states(self, inputs: Tensor) -> Tensor:
        """What the head sees: [B, T, D]."""
        return self.model.hidden_states(inputs, attend=self._attend)

    def total(self, value: Tensor, is_of_stream: bool = False) -> Tensor:
        """All there is is here."""
        return value

    def complete_gradient(self) -> None:
        """It is complete."""

    @torch.no_grad()
    def norms(self, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        """The norms of weights, or of what belongs to them, by name."""
        norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors.values()]
        return dict(zip(tensors, torch.stack(norms).tolist(), strict=True))

    def clip(self, largest: float) -> Tensor:
        """Scales the whole gradient down to a norm of `largest` at most; returns the norm before."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest)

    def stored(self, name: str, tensor: Tensor) -> Tensor:
        """A weight, or what belongs to it, as it is."""
        return tensor.detach()

    @torch.no_grad()
    def fill(self, name: str, tensor: Tensor, whole: Tensor) -> None:
        """Copies values into a weight, or into what belongs to it."""
        tensor.copy_(whole)

    def weights(self) -> dict[str, Tensor]:
        """The weights by name."""
        return self.model.weights()

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Takes the values of all weights."""
        self.model.set_weights(weights)

    def forget_gathered(self) -> None:
        """Nothing was gathered."""
