"""Documents become token shards."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from camelid import artifact
from camelid.artifact import Manifest
from camelid.corpus.document import SPLITS, Document, Split, count_documents, read_documents
from camelid.dataset.mixture import check_mixture
from camelid.dataset.settings import DatasetSettings
from camelid.dataset.shards import KIND, StreamWriter, choose_dtype
from camelid.errors import UserError
from camelid.progress import progress
from camelid.tokenizer.bulk import BulkEncoder
from camelid.tokenizer.load import Tokenizer, load_tokenizer

_BATCH_CHARACTERS = 1 << 22


def build_dataset(settings: DatasetSettings, corpus: Path, tokenizer: Path, directory: Path, *, seed: int) -> Manifest:
    """Publishes the tokens of a corpus; a document is BOS, its text, EOS.

    Memory holds a few megabytes of text at a time, whatever the size of the corpus; one document is held whole.

    Args:
        corpus: a finished corpus.
        tokenizer: a finished tokenizer.
        seed: recorded only; the order of training is made from the seed when the tokens are read.

    Raises:
        UserError: an input is no finished product, there is nothing to train on, or the mixture names sources that the
            corpus does not have.
    """
    inputs = {
        "corpus": artifact.read_manifest(corpus, "corpus").digest,
        "tokenizer": artifact.read_manifest(tokenizer, "tokenizer").digest,
    }
    sources = {split: count_documents(corpus, split) for split in SPLITS}
    if not sources["train"]:
        raise UserError(f"{corpus} holds no training document; look at what its steps dropped")
    check_mixture(settings.mixture, sources["train"])
    loaded = load_tokenizer(tokenizer)
    dtype = choose_dtype(loaded.vocab_size)
    with (
        artifact.publish(directory, kind=KIND, settings=settings, inputs=inputs, seed=seed) as draft,
        progress("tokenize", sum(sum(counts.values()) for counts in sources.values()), "documents") as advance,
    ):
        splits: dict[str, Any] = {}
        for split in SPLITS:
            folder = draft.path / split
            folder.mkdir()
            with ExitStack() as stack:
                writers = {
                    source: stack.enter_context(StreamWriter(folder, source, settings.shard_tokens, dtype))
                    for source in sources[split]
                }
                for documents, tokens in _encode(corpus, split, loaded):
                    for document, ids in zip(documents, tokens, strict=True):
                        writers[document.source].write(document, [loaded.bos_id, *ids, loaded.eos_id])
                    advance(len(documents))
            splits[split] = {
                source: {
                    "num_documents": writer.num_documents,
                    "num_tokens": writer.num_tokens,
                    "num_bytes": writer.num_bytes,
                }
                for source, writer in writers.items()
            }
        draft.facts.update(
            vocab_size=loaded.vocab_size, dtype=dtype.name, shard_tokens=settings.shard_tokens, splits=splits
        )
    return artifact.read_manifest(directory)


def _encode(corpus: Path, split: Split, tokenizer: Tokenizer) -> Iterator[tuple[list[Document], list[list[int]]]]:
    """Documents and their token ids, as many at once as are worth encoding together."""
    encoder = BulkEncoder(tokenizer)
    batch: list[Document] = []
    num_characters = 0
    for document in read_documents(corpus, split):
        batch.append(document)
        num_characters += len(document.text)
        if num_characters >= _BATCH_CHARACTERS:
            yield batch, encoder.encode([item.text for item in batch])
            batch, num_characters = [], 0
    if batch:
        yield batch, encoder.encode([item.text for item in batch])
