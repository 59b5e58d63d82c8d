"""Which documents of a batch made a loss leap: those whose own loss stands out, seen with the weights from before.

Shapes: B rows, T positions, V vocabulary.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from camelid.dataset.lineage import DocumentPart, SampleLineage, trace_rows
from camelid.dataset.loader import Loader
from camelid.model.llama import Transformer
from camelid.training.stability import limit_of
from camelid.training.trainer import Trainer

# A few tokens can be rare without being bad: a shorter part of a document is not judged.
_LEAST_TOKENS = 8
_COMPARED_STEPS = 4
_DEVIATIONS = 6.0
_LEAST_RISE_NATS = 1.0


class Suspect(DocumentPart):
    """A part of a document that the model finds far less likely than it finds other text."""

    data_step: int
    sample: int
    """Row in the batch."""
    source: str
    nats_per_token: float


def find_suspects(trainer: Trainer, model: Transformer, data_steps: Iterable[int]) -> list[Suspect]:
    """The parts of documents in some batches that stand out, beside the batches that come before them.

    Args:
        model: the trainer's model in one piece. Nothing is found where it finds everything equally likely.
    """
    if not trainer.data.has_lineage:
        return []
    steps = sorted(data_steps)
    reader = _Reader(trainer, model)
    passed_over = {*steps, *trainer.skipped}
    before = [step for step in range(max(0, steps[0] - 2 * _COMPARED_STEPS), steps[0]) if step not in passed_over]
    compared = before[-_COMPARED_STEPS:] or [max(passed_over) + 1]
    usual = [suspect["nats_per_token"] for step in compared for suspect in reader.measure_parts(step)]
    finite = [nats for nats in usual if math.isfinite(nats)]
    if not finite:
        return []
    limit = limit_of(finite, _DEVIATIONS, _LEAST_RISE_NATS)
    parts = (part for step in steps for part in reader.measure_parts(step))
    return [part for part in parts if not part["nats_per_token"] <= limit]


def _split_by_document(losses: NDArray[np.float32], row: SampleLineage, data_step: int) -> Iterator[Suspect]:
    """Mean losses of the documents in one row; `losses` [T] are of the row's tokens from the second on."""
    begin = 0
    for document in row["documents"]:
        end = begin + document["num_tokens"]
        own = losses[max(0, begin - 1) : end - 1]
        begin = end
        if len(own) >= _LEAST_TOKENS:
            yield {
                "data_step": data_step,
                "sample": row["sample"],
                "source": row["source"],
                **document,
                "nats_per_token": float(own.mean()),
            }


class _Reader:
    """Reads whole batches, also where several processes share them, with one model."""

    def __init__(self, trainer: Trainer, model: Transformer):
        own = trainer.data.loader
        is_alone = trainer.processes.place.num_processes == 1
        order = (own.dataset, own.sequence_length, own.batch_size, trainer.seed)
        self._loader = own if is_alone else Loader(*order)
        self._model = model
        self._device = next(model.parameters()).device
        self._autocast = trainer.execution.autocast

    def measure_parts(self, data_step: int) -> Iterator[Suspect]:
        """Mean loss of each part of a document in a batch."""
        batch = self._loader.batch(data_step)  # [B, T + 1]
        for tokens, row in zip(batch, trace_rows(self._loader, data_step), strict=True):
            yield from _split_by_document(self._token_losses(tokens), row, data_step)

    @torch.no_grad()
    def _token_losses(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """The loss [T] of each token [T + 1] after the first."""
        row = torch.from_numpy(tokens).to(self._device).unsqueeze(0)
        # One row at a time is a shape of its own, which generated code would be made again for.
        with torch.compiler.set_stance("force_eager"), self._autocast():
            logits = self._model(row[:, :-1])[0]  # [T, V]
        return F.cross_entropy(logits.float(), row[0, 1:], reduction="none").cpu().numpy()
