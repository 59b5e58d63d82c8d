"""State of a run, moved forward one step at a time: model, optimizer and position (paper sections 2.3 and 2.4)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camelid.checkpoint import native
from camelid.dataset.loader import Loader
from camelid.model.config import ModelConfig
from camelid.model.initialize import initialize
from camelid.model.llama import Transformer
from camelid.training.attention import choose_attention
from camelid.training.device import choose_execution, use_huge_pages
from camelid.training.loss import linear_cross_entropy
from camelid.training.optimizer import make_optimizer, optimizer_state, restore_optimizer, set_learning_rate
from camelid.training.schedule import learning_rate
from camelid.training.settings import TrainSettings
from camelid.training.stability import data_step
from camelid.training.validate import HeldOutLoss, Tokens, measure_held_out


@dataclass(frozen=True)
class Data:
    """What the trainer reads: batches by step, and held-out documents (bytes, tokens) by source."""

    loader: Loader
    held_out: Mapping[str, list[tuple[int, Tokens]]]
    tokenizer: Path
    facts: Mapping[str, Any]


class Trainer:
    """State of a run: the model, its optimizer, the number of steps taken, and the data steps that are skipped."""

    def __init__(self, config: ModelConfig, settings: TrainSettings, data: Data, seed: int):
        self.config = config
        self.settings = settings
        self.data = data
        self.seed = seed
        use_huge_pages()
        self.execution = choose_execution(settings)
        torch.set_num_threads(self.execution.num_threads)
        self.model = Transformer(config)
        initialize(self.model, seed)
        self.model.to(self.execution.device)
        if self.execution.is_compiled:
            for layer in self.model.layers:
                layer.compile(dynamic=False)
        self._attend = choose_attention(self.execution, settings.sequence_length)
        self.optimizer = make_optimizer(self.model, settings)
        self.step = 0
        self.skipped: tuple[int, ...] = ()
        self.observe_gradients: Callable[[], None] | None = None
        """Called once the gradient is complete and before it is clipped."""

    @property
    def data_step(self) -> int:
        """The batch that the next step reads."""
        return data_step(self.step, self.skipped)

    @property
    def num_tokens(self) -> int:
        """Tokens trained on so far."""
        return self.step * self.settings.batch_tokens

    def take_step(self) -> tuple[Tensor, Tensor]:
        """One optimizer step.

        Returns:
            Mean loss in nats per token and norm of the gradient before clipping, scalars on the device.
        """
        settings = self.settings
        batch = torch.from_numpy(self.data.loader.batch(self.data_step)).long()  # [batch, T + 1]
        loss = torch.zeros((), device=self.execution.device)
        for rows in torch.split(batch, settings.microbatch_size):
            loss += self._accumulate(rows.to(self.execution.device, non_blocking=True))
        if self.observe_gradients is not None:
            self.observe_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip)
        set_learning_rate(self.optimizer, learning_rate(self.step, settings))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss, norm

    def _accumulate(self, rows: Tensor) -> Tensor:
        inputs, targets = rows[:, :-1], rows[:, 1:].flatten()
        with self.execution.autocast():
            hidden = self.model.hidden_states(inputs, attend=self._attend).flatten(0, 1)
            total = linear_cross_entropy(hidden, self.model.output.weight, targets, self.execution.is_compiled)
        loss = total / self.settings.batch_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def measure_held_out(self) -> dict[str, HeldOutLoss]:
        """Held-out loss of each source, over the same documents every time."""
        return {
            source: measure_held_out(
                self.model,
                documents,
                execution=self.execution,
                sequence_length=self.settings.sequence_length,
                stride=self.settings.sequence_length,
                batch_size=self.settings.microbatch_size,
            )
            for source, documents in self.data.held_out.items()
        }

    def save(self, directory: Path, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        """Publishes the state as a checkpoint."""
        native.save_checkpoint(
            directory,
            config=self.config,
            weights=self.model.weights(),
            optimizer=optimizer_state(self.model, self.optimizer),
            progress=native.Progress(step=self.step, num_tokens=self.num_tokens, skipped=self.skipped),
            tokenizer=self.data.tokenizer,
            settings=settings,
            inputs=inputs,
            seed=self.seed,
            environment=self.execution.describe(),
        )

    def restore(self, directory: Path) -> None:
        """Takes up the state of a checkpoint."""
        self.model.set_weights(native.load_weights(directory, self.config))
        progress = native.read_progress(directory)
        self.step, self.skipped = progress.step, progress.skipped
        restore_optimizer(self.model, self.optimizer, native.load_optimizer(directory), self.step)

    def restart(self) -> None:
        """Goes back to the first weights."""
        initialize(self.model, self.seed)
        self.optimizer.state.clear()
        self.step = 0
