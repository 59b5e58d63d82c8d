"""Trains the model that the perplexity filter asks: SentencePiece unigram pieces, and n-grams of them (CCNet)."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from camelid import artifact
from camelid.artifact import Manifest
from camelid.corpus.model_settings import LanguageModelSettings
from camelid.corpus.ngram import estimate
from camelid.corpus.steps.perplexity import ARPA_NAME, PIECES_NAME, fold_text
from camelid.errors import UserError
from camelid.progress import progress

KIND = "language_model"
_BATCH = 1024
# Part of the result: the trainer adds up in threads.
_NUM_THREADS = 4


def train_language_model(
    settings: LanguageModelSettings, texts: Callable[[], Iterable[str]], directory: Path, inputs: dict[str, str]
) -> Manifest:
    """Publishes the pieces and the n-gram model of some documents.

    Args:
        texts: gives the documents anew each time that it is called.
        inputs: digests of what the texts come from.

    Raises:
        UserError: there is too little text.
    """
    identity = settings.model_dump(mode="json", exclude={"memory_bytes"})
    with artifact.publish(directory, kind=KIND, settings=identity, inputs=inputs) as draft:
        pieces = _train_pieces(settings, lambda: _sentences(settings, texts()))
        (draft.path / PIECES_NAME).write_bytes(pieces.serialized_model_proto())
        facts = estimate(
            _encode(pieces, _sentences(settings, texts())),
            draft.path / ARPA_NAME,
            order=settings.order,
            memory_bytes=settings.memory_bytes,
            folder=draft.path / "sorting",
        )
        draft.facts |= {
            "num_pieces": pieces.get_piece_size(),
            "num_ngrams": facts.num_ngrams,
            "discounts": [list(discounts) for discounts in facts.discounts],
            "orders_with_fallback_discounts": facts.fallback_orders,
        }
    return artifact.read_manifest(directory)


def _sentences(settings: LanguageModelSettings, texts: Iterable[str]) -> Iterator[str]:
    """Folded paragraphs of the beginnings of documents."""
    for number, text in enumerate(texts):
        if number == settings.max_documents:
            return
        for line in fold_text(text[: settings.max_document_characters]).decode().split("\n"):
            if line.strip():
                yield line


def _train_pieces(settings: LanguageModelSettings, sentences: Callable[[], Iterator[str]]) -> Any:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_take(sentences(), settings.max_piece_characters),
            model_writer=model,
            model_type="unigram",
            vocab_size=settings.vocab_size,
            # The vocabulary shrinks to what a small text gives.
            hard_vocab_limit=False,
            character_coverage=0.9995,
            num_threads=_NUM_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"the text is too small to find pieces in it ({error}); give more documents") from error
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _take(sentences: Iterator[str], max_characters: int) -> Iterator[str]:
    left = max_characters
    for sentence in sentences:
        yield sentence
        left -= len(sentence)
        if left <= 0:
            return


def _encode(pieces: Any, sentences: Iterator[str]) -> Iterator[list[str]]:
    with progress("n-grams", None, "sentences") as advance:
        batch: list[str] = []
        for sentence in sentences:
            batch.append(sentence)
            if len(batch) == _BATCH:
                yield from pieces.encode(batch, out_type=str)
                advance(len(batch))
                batch = []
        yield from pieces.encode(batch, out_type=str)
        advance(len(batch))
