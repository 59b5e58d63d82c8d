"""How well a vocabulary fits: bytes per token by source, for one or several tokenizers side by side."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypedDict

from camelid.tokenizer.load import Tokenizer

_TEXTS_AT_ONCE = 64


class QualityRow(TypedDict):
    """One tokenizer on the text of one source, BOS and EOS not counted."""

    tokenizer: str
    source: str
    num_bytes: int
    """UTF-8 bytes of the text."""
    num_tokens: int
    bytes_per_token: float
    share_byte_fallback: float
    """Share of the tokens that stand for a single byte, line breaks written as bytes included."""


def measure_quality(tokenizers: Mapping[str, Tokenizer], texts: Iterable[tuple[str, str]]) -> list[QualityRow]:
    """Measures tokenizers on the same texts, in one pass.

    Args:
        tokenizers: by the name that the rows carry.
        texts: pairs of source and text.

    Returns:
        A row per source and tokenizer, in the order of the sources' first texts; sources without text have none.
    """
    num_bytes: Counter[str] = Counter()
    num_tokens: Counter[tuple[str, str]] = Counter()
    num_byte_tokens: Counter[tuple[str, str]] = Counter()
    for batch in _batches(texts):
        for source, text in batch:
            num_bytes[source] += len(text.encode())
        for name, tokenizer in tokenizers.items():
            encoded = tokenizer.encode_batch(text for _, text in batch)
            for (source, _), ids in zip(batch, encoded, strict=True):
                num_tokens[source, name] += len(ids)
                num_byte_tokens[source, name] += sum(token in tokenizer.byte_ids for token in ids)
    return [
        QualityRow(
            tokenizer=name,
            source=source,
            num_bytes=num_bytes[source],
            num_tokens=num_tokens[source, name],
            bytes_per_token=num_bytes[source] / num_tokens[source, name],
            share_byte_fallback=num_byte_tokens[source, name] / num_tokens[source, name],
        )
        for source in num_bytes
        if num_bytes[source]
        for name in tokenizers
    ]


def _batches(texts: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, _TEXTS_AT_ONCE)):
        yield batch
