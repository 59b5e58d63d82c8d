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


def find_suspects(trainer: Trainer, data_steps: Iterable[int]) -> list[Suspect]:
    """The parts of documents in some batches that stand out, beside the batches that come before them.

    The weights are those that the trainer has now. Nothing is found where they find everything equally likely.
    """
    steps = sorted(data_steps)
    passed_over = {*steps, *trainer.skipped}
    before = [step for step in range(max(0, steps[0] - 2 * _COMPARED_STEPS), steps[0]) if step not in passed_over]
    compared = before[-_COMPARED_STEPS:] or [max(passed_over) + 1]
    usual = [suspect["nats_per_token"] for step in compared for suspect in _measure_parts(trainer, step)]
    finite = [nats for nats in usual if math.isfinite(nats)]
    if not finite:
        return []
    limit = limit_of(finite, _DEVIATIONS, _LEAST_RISE_NATS)
    parts = (part for step in steps for part in _measure_parts(trainer, step))
    return [part for part in parts if not part["nats_per_token"] <= limit]


def _measure_parts(trainer: Trainer, data_step: int) -> Iterator[Suspect]:
    batch = trainer.data.loader.batch(data_step)  # [B, T + 1]
    for tokens, row in zip(batch, trace_rows(trainer.data.loader, data_step), strict=True):
        yield from _split_by_document(_token_losses(trainer, tokens), row, data_step)


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


@torch.no_grad()
def _token_losses(trainer: Trainer, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """The loss [T] of each token [T + 1] after the first."""
    row = torch.from_numpy(tokens).to(trainer.execution.device).unsqueeze(0)
    # One row at a time is a shape of its own, which generated code would be made again for.
    with torch.compiler.set_stance("force_eager"), trainer.execution.autocast():
        logits = trainer.model(row[:, :-1])[0]  # [T, V]
    return F.cross_entropy(logits.float(), row[0, 1:], reduction="none").cpu().numpy()
