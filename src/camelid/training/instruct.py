"""Fine-tuning on instructions (the paper's LLaMA-I, section 4): the same trainer and loop, from weights that are there.

Shapes: B rows, T positions, H query heads, K key/value heads, E head size.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camelid import artifact
from camelid.artifact import Manifest
from camelid.checkpoint import folder
from camelid.checkpoint.load import load_transformer
from camelid.checkpoint.stored import StoredModel
from camelid.errors import UserError
from camelid.model.operations import causal_attention
from camelid.parallel.settings import MeshSettings
from camelid.tokenizer.chat import find_template
from camelid.tokenizer.load import load_tokenizer
from camelid.training.chats import IGNORED, Chat, ChatLoader, pack, read_chats, split_held_out, tokenize_chat
from camelid.training.loop import train
from camelid.training.settings import InstructSettings, TrainSettings
from camelid.training.trainer import Data, Trainer
from camelid.training.validate import HeldOutLoss

SOURCE = "chats"
"""What the held-out loss is called in the metrics; it is of answers alone."""


class DocumentAttention:
    """Causal attention within documents that lie side by side in a row; generated code goes on after it."""

    def __init__(self) -> None:
        self._lengths: list[list[int]] = []

    def set_positions(self, positions: Tensor) -> None:
        """Says where documents begin: at each position 0 of [B, T]."""
        length = positions.shape[1]
        self._lengths = []
        for row in positions.tolist():
            starts = [place for place, position in enumerate(row) if position == 0]
            self._lengths.append([end - start for start, end in zip(starts, [*starts[1:], length], strict=True)])

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, _layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, T, H, E] from queries [B, T, H, E] and keys, values [B, T, K, E]."""
        rows = []
        for row, lengths in enumerate(self._lengths):
            parts = zip(*(torch.split(x[row : row + 1], lengths, dim=1) for x in (queries, keys, values)), strict=True)
            rows.append(torch.cat([causal_attention(*part) for part in parts], dim=1))
        return torch.cat(rows)


class ChatTrainer(Trainer):
    """A trainer whose rows are packed chats and whose first weights are those of a model.

    The loss of a step is the mean over its answers' tokens.
    """

    def __init__(self, start: Mapping[str, Tensor], held_out: Sequence[Chat], *arguments: Any):
        super().__init__(*arguments)
        self._start = start
        self._held_out = pack(held_out, self.settings.sequence_length)
        self._num_held_out_bytes = sum(chat.num_answer_bytes for chat in held_out)
        self._documents = DocumentAttention()
        self._num_targets = (-1, 0)
        self.spread.set_weights(start)

    def restart(self) -> None:
        """Goes back to the weights of the model that it began with."""
        super().restart()
        self.spread.set_weights(self._start)

    def _accumulate(self, rows: Tensor) -> Tensor:
        with self.execution.autocast():
            total = self._sum_loss(rows)
        loss = total / self._count_targets()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _sum_loss(self, rows: Tensor) -> Tensor:
        """Summed cross-entropy of the answers in rows [B, 3, T]."""
        inputs, targets, positions = rows.unbind(1)
        self._documents.set_positions(positions)
        hidden = self.model.hidden_states(inputs, attend=self._documents, positions=positions)
        is_learnt = targets != IGNORED
        # The number of answers' tokens is another one each time, which generated code would be made again for.
        return partial(self._loss, is_compiled=False)(hidden[is_learnt], self.model.output.weight, targets[is_learnt])

    def _count_targets(self) -> int:
        """Tokens of answers in the whole batch of this step."""
        step = self.data_step
        if self._num_targets[0] != step:
            self._num_targets = step, int((self.data.loader.batch(step)[:, 1] != IGNORED).sum())
        return self._num_targets[1]

    @torch.no_grad()
    def measure_held_out(self) -> dict[str, HeldOutLoss]:
        """Loss of the answers in the chats that are held out."""
        rows = torch.from_numpy(self._held_out).to(self.execution.device)
        with self.execution.autocast(), torch.compiler.set_stance("force_eager"):
            nats = sum(float(self._sum_loss(part)) for part in torch.split(rows, self.settings.microbatch_size))
        num_tokens = int((rows[:, 1] != IGNORED).sum())
        return {SOURCE: HeldOutLoss(self._num_held_out_bytes, num_tokens, nats)}


def train_on_chats(
    settings: InstructSettings, training: TrainSettings, model: StoredModel, base: Path, directory: Path, *, seed: int
) -> Manifest:
    """Fine-tunes a model on files of chats and publishes `directory / "train"`.

    Args:
        base: where the relative paths of the settings start.

    Raises:
        UserError: the settings ask for what chats cannot have, a file is no file of chats, or as `loop.train`.
    """
    _refuse_unable(training)
    if training.recompute == "auto":
        # Attention chat by chat interrupts generated code, which computing again the cheap takes to be in one piece.
        training = training.model_copy(update={"recompute": "none"})
    if training.sequence_length > model.config.max_sequence_length:
        raise UserError(
            f"train.sequence_length {training.sequence_length:,} is beyond the {model.config.max_sequence_length:,} "
            f"positions of {model.path}; lower it"
        )
    _prepare_tokenizer(settings, model, directory / "tokenizer")
    tokenizer = load_tokenizer(directory / "tokenizer")
    files = [base / name for name in settings.chats]
    chats = [tokenize_chat(tokenizer, chat, settings.template) for file in files for chat in read_chats(file)]
    learnt, held_out = split_held_out(chats, settings.held_out_share)
    held_out = [chat.cut(training.sequence_length + 1) for chat in held_out]
    held_out = [chat for chat in held_out if chat.is_answer[1:].any()]
    if not held_out:
        raise UserError(
            f"instruct.held_out_share {settings.held_out_share} of {len(chats):,} chats leaves none to measure on; "
            "raise it, or add chats"
        )
    loader: Any = ChatLoader(learnt, training.sequence_length, training.batch_sequences, seed)
    start = load_transformer(model).weights()
    tokenizer_file = next(path for name in folder.TOKENIZER_NAMES if (path := directory / "tokenizer" / name).is_file())
    return train(
        model.config,
        training,
        Data(
            loader,
            {},
            tokenizer_file,
            {"num_chats": loader.num_chats, "num_held_out_chats": len(held_out)},
            has_lineage=False,
        ),
        directory / "train",
        seed=seed,
        inputs={
            "model": _digest(start),
            "template": hashlib.sha256(find_template(tokenizer, settings.template).encode()).hexdigest(),
            **{f"chats {name}": artifact.hash_file(file) for name, file in zip(settings.chats, files, strict=True)},
        },
        make_trainer=partial(ChatTrainer, start, held_out),
    )


def _refuse_unable(training: TrainSettings) -> None:
    for name, is_refused, way_out in (
        ("train.mesh", training.mesh != MeshSettings(), "chats are learnt by one process; leave it out"),
        ("train.recompute", training.recompute == "by_hand", "rows of several chats are unknown to it; set auto"),
        ("train.norm_interval", training.norm_interval > 0, "rows of chats are unknown to it; leave it out"),
    ):
        if is_refused:
            raise UserError(f"{name} cannot be used with [instruct]: {way_out}")


def _prepare_tokenizer(settings: InstructSettings, model: StoredModel, path: Path) -> None:
    """Puts the model's tokenizer where checkpoints take it from, with the template that its chats are written with."""
    path.mkdir(parents=True, exist_ok=True)
    folder.add_companions(model, path, is_json_wanted=False)
    if settings.template is not None:
        (path / "chat_template.jinja").write_text(_template_text(settings.template), encoding="utf-8")


def _template_text(template: str) -> str:
    from camelid.tokenizer.chat_template import NAMED_TEMPLATES

    return NAMED_TEMPLATES.get(template, template)


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
