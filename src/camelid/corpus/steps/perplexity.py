"""Documents are kept by the perplexity of an n-gram model: the head and the middle of the source's own pages (CCNet).

Perplexity is 10 ^ (-sum of log10 p / (pieces + sentences)) over the text as the model saw it in training, rounded to
tenths. The released code deletes line breaks before it scores, so that words run together; here a paragraph is a
sentence unless the setting says otherwise.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from camelid.corpus.document import Document
from camelid.corpus.folding import Folding, fold_for_model
from camelid.corpus.task import Work
from camelid.corpus.web_settings import PerplexitySettings
from camelid.errors import UserError

NAME = "perplexity"
ARPA_NAME = "model.arpa"
PIECES_NAME = "pieces.model"
_HIGHEST = 1e9

fold_text = Folding(fold_for_model)


@dataclass(frozen=True)
class LanguageModel:
    """An n-gram model and the pieces that it is made of."""

    pieces: Any
    ngrams: Any

    def perplexity(self, text: str, unit: str = "paragraphs") -> float:
        """Of a text as it came, rounded to tenths.

        Args:
            unit: as in `PerplexitySettings`.
        """
        folded = fold_text(text).decode()
        if unit == "page":
            folded = folded.replace("\n", "")
        sentences = [line for line in folded.split("\n") if line.strip()]
        if not sentences:
            return _HIGHEST
        encoded: list[list[str]] = self.pieces.encode(sentences, out_type=str)
        score: float = sum(self.ngrams.score(" ".join(pieces)) for pieces in encoded)
        length = sum(map(len, encoded)) + len(encoded)
        return min(round(math.pow(10.0, min(-score / length, 300.0)), 1), _HIGHEST)


@cache
def load_language_model(folder: Path) -> LanguageModel:
    """The product of `camelid corpus train-lm`, loaded once in a process.

    Raises:
        UserError: a package or a file is missing, or damaged.
    """
    try:
        import kenlm
    except ModuleNotFoundError as error:
        raise UserError(
            "the perplexity filter needs KenLM, which is not installed; run: pip install 'camelid[corpus]'"
        ) from error
    import sentencepiece

    for name in (ARPA_NAME, PIECES_NAME):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no {name}; make it with camelid corpus train-lm, or mend the recipe")
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / PIECES_NAME))
        quiet = kenlm.Config()
        quiet.show_progress = False
        return LanguageModel(pieces, kenlm.Model(str(folder / ARPA_NAME), quiet))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder} cannot be loaded ({error}); make it again with camelid corpus train-lm") from error


def score(settings: PerplexitySettings, documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields all documents, with their perplexity where there is a model of their language."""
    folders = {language: work.task.base / folder for language, folder in settings.models.items()}
    for document in documents:
        folder = folders.get(document.language or "")
        if folder is None:
            yield document
        else:
            found = load_language_model(folder).perplexity(document.text, settings.unit)
            yield replace(document, perplexity=found)


def decide(settings: PerplexitySettings, parts: Sequence[Path]) -> dict[str, Any]:
    """Where head and middle end in each language, measured over all its pages.

    Args:
        parts: files of documents with their perplexities.
    """
    # Tenths are counted, so that memory does not grow with the number of pages.
    counts: dict[str, Counter[float]] = {}
    for part in parts:
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(columns=["language", "perplexity"]):
                for language, found in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    if found is not None:
                        counts.setdefault(language, Counter())[found] += 1
    cutoffs = {
        language: [_percentile(found, percent) for percent in settings.percentiles]
        for language, found in sorted(counts.items())
    }
    return {"perplexity_cutoffs": cutoffs | {language: list(pair) for language, pair in settings.cutoffs.items()}}


def _percentile(counts: Counter[float], percent: float) -> float:
    """The smallest value that at least `percent` of all values do not exceed."""
    wanted = percent / 100 * counts.total()
    ordered = sorted(counts)
    reached = list(accumulate(counts[value] for value in ordered))
    return ordered[min(bisect_left(reached, wanted), len(ordered) - 1)]


def keep(
    settings: PerplexitySettings, decided_in: int, documents: Iterator[Document], work: Work
) -> Iterator[Document]:
    """Yields the documents of the wanted buckets.

    Args:
        decided_in: number of the pass after which the cutoffs were measured.
    """
    cutoffs: dict[str, list[float]] = work.task.read_decision(decided_in)["perplexity_cutoffs"]
    for document in documents:
        if document.perplexity is None or document.language is None:
            work.counts["bucket all"] += 1
            yield document
            continue
        head, middle = cutoffs[document.language]
        bucket = "head" if document.perplexity < head else "middle" if document.perplexity < middle else "tail"
        work.counts[f"bucket {bucket}"] += 1
        if bucket in settings.kept:
            yield document
        else:
            work.drops.add(document, NAME, f"in the {bucket}", document.language, score=document.perplexity)
