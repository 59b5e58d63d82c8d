"""The tokenizer of a run: learnt from the training documents, measured on the held-out ones."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from camelid import artifact
from camelid.artifact import Manifest
from camelid.errors import UserError
from camelid.progress import progress
from camelid.tokenizer.load import MODEL_NAME, Tokenizer, load_tokenizer
from camelid.tokenizer.quality import measure_quality
from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer
from camelid.tokenizer.settings import TokenizerSettings
from camelid.tokenizer.train import train_tokenizer

QUALITY_NAME = "quality.json"
OWN_NAME = "camelid"


def build_tokenizer(
    settings: TokenizerSettings,
    directory: Path,
    *,
    train_texts: Callable[[], Iterable[str]],
    held_out: Callable[[], Iterable[tuple[str, str]]],
    inputs: Mapping[str, str],
    seed: int,
    compare: Mapping[str, Path] | None = None,
) -> Manifest:
    """Publishes `tokenizer.model` and `quality.json`.

    Args:
        train_texts: the texts to learn from.
        held_out: pairs of source and text to measure on, none of them learnt from.
        inputs: digests of what the texts come from.
        compare: other tokenizers to measure on the same texts, by name. They appear in `quality.json` alone, which is
            no part of the product's digest: who is compared with does not change what was made.

    Raises:
        UserError: a tokenizer to compare with cannot be loaded, or the text cannot bear the vocabulary.
    """
    others = _load_others(compare or {})
    with artifact.publish(
        directory, kind="tokenizer", settings=settings, inputs=inputs, seed=seed, logs=(QUALITY_NAME,)
    ) as draft:
        model = train_tokenizer(_count_bytes(train_texts()), settings, seed=seed)
        (draft.path / MODEL_NAME).write_bytes(model)
        tokenizer = SentencePieceTokenizer(model)
        rows = measure_quality({OWN_NAME: tokenizer, **others}, held_out())
        (draft.path / QUALITY_NAME).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        own = [row for row in rows if row["tokenizer"] == OWN_NAME]
        draft.facts.update(
            vocab_size=tokenizer.vocab_size,
            bytes_per_token={row["source"]: row["bytes_per_token"] for row in own},
        )
    return artifact.read_manifest(directory)


def _load_others(paths: Mapping[str, Path]) -> dict[str, Tokenizer]:
    if OWN_NAME in paths:
        raise UserError(
            f"a tokenizer to compare with cannot be called {OWN_NAME!r}, the name of the one that is made here; "
            f"rename the folder of {paths[OWN_NAME]}"
        )
    return {name: load_tokenizer(path) for name, path in paths.items()}


def _count_bytes(texts: Iterable[str]) -> Iterator[str]:
    """The texts, with progress shown; the rest of the training cannot say how far it has come."""
    with progress("reading text for the tokenizer", None, "bytes") as advance:
        for text in texts:
            advance(len(text.encode()))
            yield text
