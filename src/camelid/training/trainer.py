"""State of a run, moved forward one step at a time: model, optimizer and position (paper sections 2.3 and 2.4)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camelid.checkpoint import native
from camelid.checkpoint.sharded import ShardedSaver, load_state, restore_random_state
from camelid.dataset.loader import Loader
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.model.llama import Transformer
from camelid.parallel.mesh import Mesh
from camelid.parallel.place import Place
from camelid.parallel.processes import Processes
from camelid.parallel.settings import MeshSettings, refuse_unfit, refuse_wrong_count
from camelid.parallel.spread import Spread, gather
from camelid.parallel.tensor import overlap_in_generated_code
from camelid.parallel.watch import COMPUTING, READING
from camelid.parallel.whole import Whole
from camelid.training.attention import choose_attention
from camelid.training.device import Execution, choose_execution, use_huge_pages
from camelid.training.float8 import use_float8
from camelid.training.generated_code import remove_unfinished_libraries
from camelid.training.loss import linear_cross_entropy
from camelid.training.optimizer import make_optimizer, make_optimizer_state, optimizer_state, set_learning_rate
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
    has_lineage: bool = True
    """Whether a step can be followed to the documents that it read."""


class Trainer:
    """State of a run: the model, its optimizer, the number of steps taken, and the data steps that are skipped."""

    def __init__(
        self,
        config: ModelConfig,
        settings: TrainSettings,
        data: Data,
        seed: int,
        processes: Processes = Processes(Place(), None),  # noqa: B008
    ):
        self.config = config
        self.settings = settings
        self.data = data
        self.seed = seed
        self.processes = processes
        use_huge_pages()
        self.execution = choose_execution(settings, processes.place)
        torch.set_num_threads(self.execution.num_threads)
        if self.execution.is_compiled:
            remove_unfinished_libraries()
        self.spread = self._spread()
        self.model = self.spread.model
        if self.execution.precision == "float8":
            use_float8(self.model)
        self.spread.keep_activations(self.execution.recompute, self.execution.is_compiled)
        self.spread.finish(self.execution.compute_dtype)
        self.spread.initialize(seed)
        self._loss = partial(linear_cross_entropy, is_compiled=self.execution.is_compiled)
        self.optimizer = make_optimizer(self.model, settings)
        self._saver = ShardedSaver() if processes.place.num_processes > 1 else None
        self.step = 0
        self.skipped: tuple[int, ...] = ()
        self.observe_gradients: Callable[[], None] | None = None
        """Called once the gradient is complete and before it is clipped."""

    def _spread(self) -> Whole | Spread:
        execution, mesh = self.execution, self.settings.mesh
        attend = choose_attention(execution, self.settings.sequence_length)
        if self.processes.place.num_processes == 1:
            refuse_wrong_count(mesh, 1)
            return Whole(self.config, execution.device, execution.weight_dtype, attend)
        refuse_unfit(mesh, self.config, self.settings.sequence_length)
        _refuse_unable(execution, mesh)
        grid = Mesh(mesh, execution.device.type)
        if mesh.is_tensor_async:
            overlap_in_generated_code(grid.tensor_group)
        return Spread(self.config, grid, execution.device, execution.weight_dtype, attend)

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
        self.processes.now(self.step + 1, READING)
        batch = torch.from_numpy(self.data.loader.batch(self.data_step)).long()  # [this process's rows, T + 1]
        self.processes.now(self.step + 1, COMPUTING)
        loss = torch.zeros((), device=self.execution.device, dtype=self.execution.weight_dtype)
        microbatches = torch.split(batch, settings.microbatch_size)
        for index, rows in enumerate(microbatches):
            self.spread.begin_microbatch(index == len(microbatches) - 1)
            loss += self._accumulate(rows.to(self.execution.device, non_blocking=True))
        self.spread.complete_gradient()
        if self.observe_gradients is not None:
            self.observe_gradients()
        norm = self.spread.clip(settings.gradient_clip)
        set_learning_rate(self.optimizer, learning_rate(self.step, settings))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return self.spread.total(loss), norm

    def _accumulate(self, rows: Tensor) -> Tensor:
        with self.execution.autocast():
            total = self.spread.sum_loss(rows[:, :-1], rows[:, 1:], self._loss)
        loss = total / self.settings.batch_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def measure_held_out(self) -> dict[str, HeldOutLoss]:
        """Held-out loss of each source, over the same documents every time."""
        losses = {}
        for source, documents in self.data.held_out.items():
            own = measure_held_out(
                partial(self.spread.sum_loss, loss=self._loss, is_masked=True),
                documents,
                execution=self.execution,
                sequence_length=self.settings.sequence_length,
                stride=self.settings.sequence_length,
                batch_size=self.settings.microbatch_size,
                share=self.settings.mesh.data_share(self.processes.place.rank),
            )
            nats = torch.tensor(own.nats, dtype=torch.float64, device=self.execution.device)
            losses[source] = replace(own, nats=self.spread.total(nats).item())
        self.spread.forget_gathered()
        return losses

    def weights(self) -> dict[str, Tensor]:
        """The weights by name, whole tensors or DTensors on the mesh; they share the model's memory."""
        return self.spread.weights()

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's moments by name, as the weights."""
        return optimizer_state(self.spread, self.optimizer)

    def whole_model(self) -> Transformer | None:
        """The model in one piece, in the first process; None in the others, which must ask too."""
        if isinstance(self.spread, Whole):
            return self.model
        weights = dict(gather(self.weights(), self.processes.is_first))
        if not self.processes.is_first:
            return None
        model = Transformer(self.config).to(self.execution.weight_dtype)
        model.set_weights(weights)
        return model

    def save(self, directory: Path, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        """Publishes the state as a checkpoint; several processes write theirs in the background (`finish_saving`)."""
        about = native.About(
            config=self.config,
            progress=native.Progress(step=self.step, num_tokens=self.num_tokens, skipped=self.skipped),
            tokenizer=self.data.tokenizer,
            settings=settings,
            inputs=inputs,
            seed=self.seed,
            environment=self.execution.describe(),
        )
        if self._saver is None:
            native.save_checkpoint(directory, about, self.weights(), self.moments())
        else:
            self._saver.save(directory, about, self.weights(), self.moments())

    def finish_saving(self) -> None:
        """Returns when the last checkpoint is published."""
        if self._saver is not None:
            self._saver.wait()

    def restore(self, directory: Path) -> None:
        """Takes up the state of a checkpoint, whatever mesh wrote it."""
        progress = native.read_progress(directory)
        make_optimizer_state(self.spread, self.optimizer, progress.step)
        load_state(directory, self.weights(), self.moments())
        place = self.processes.place
        restore_random_state(directory, place.rank, place.num_processes)
        self.step, self.skipped = progress.step, progress.skipped

    def restart(self) -> None:
        """Goes back to the first weights."""
        self.spread.initialize(self.seed)
        self.optimizer.state.clear()
        self.step = 0


def _refuse_unable(execution: Execution, mesh: MeshSettings) -> None:
    is_gpu = execution.device.type == "cuda"
    if mesh.is_tensor_async and not (is_gpu and execution.is_compiled):
        raise UserError(
            "train.mesh.is_tensor_async takes GPUs and generated code (train.compile), and this training has not both; "
            "leave it false"
        )
    if mesh.context > 1 and is_gpu and execution.compute_dtype is not torch.bfloat16:
        raise UserError(
            f"train.mesh.context {mesh.context} on GPUs takes bfloat16, whose attention tells its log-sums; set "
            "train.precision to bfloat16"
        )
