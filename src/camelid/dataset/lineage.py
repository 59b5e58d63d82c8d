"""From a training step back to the documents that it read, and so to files and addresses."""

from typing import TypedDict

import numpy as np

from camelid.dataset.loader import Loader
from camelid.dataset.shards import Dataset, TokenStream


class DocumentPart(TypedDict):
    """The part of a document that lies in a sample."""

    id: str
    url: str
    path: str
    """The raw file, as the corpus names it."""
    offset: int
    """Number of the record in the raw file."""
    part: int
    """Which piece of a long record, from 0."""
    first_token: int
    """First token of the part, counted from the document's BOS."""
    num_tokens: int
    """Tokens of the part."""


class SampleLineage(TypedDict):
    """One row of a batch."""

    sample: int
    """Row in the batch."""
    source: str
    epoch: int
    first_token: int
    """Place of the sample in the source's stream of tokens."""
    num_tokens: int
    """Tokens of the sample, one more than the sequence length."""
    documents: list[DocumentPart]


def trace(dataset: Dataset, step: int, *, sequence_length: int, batch_size: int, seed: int) -> list[SampleLineage]:
    """Says what a step reads, sample by sample.

    Raises:
        UserError: as `Loader`.
    """
    return trace_rows(Loader(dataset, sequence_length, batch_size, seed), step)


def trace_rows(loader: Loader, step: int) -> list[SampleLineage]:
    """Says what the rows of a loader read at a step."""
    rows: list[SampleLineage] = []
    located = np.stack(loader.locate(step), axis=1).tolist()
    for number, (source, sample, epoch) in zip(loader.rows, located, strict=True):
        name = loader.order.sources[source]
        start, num_tokens = sample * loader.sequence_length, loader.sequence_length + 1
        documents = _trace_range(loader.dataset.stream("train", name), start, start + num_tokens)
        rows.append(
            SampleLineage(
                sample=number,
                source=name,
                epoch=epoch,
                first_token=start,
                num_tokens=num_tokens,
                documents=documents,
            )
        )
    return rows


def _trace_range(stream: TokenStream, start: int, stop: int) -> list[DocumentPart]:
    offsets = stream.offsets()
    first = int(np.searchsorted(offsets, np.uint64(start), side="right")) - 1
    last = int(np.searchsorted(offsets, np.uint64(stop), side="left"))
    parts: list[DocumentPart] = []
    for index in range(first, last):
        begin = max(start, int(offsets[index]))
        row = stream.read_row(index)
        parts.append(
            DocumentPart(
                id=row["id"],
                url=row["url"],
                path=row["path"],
                offset=row["offset"],
                part=row["part"],
                first_token=begin - int(offsets[index]),
                num_tokens=min(stop, int(offsets[index + 1])) - begin,
            )
        )
    return parts
