"""Documents are kept that a linear classifier takes for pages that Wikipedia would cite (LLaMA, section 2.1)."""

from collections.abc import Iterator
from dataclasses import replace

from camelid.corpus.document import Document
from camelid.corpus.steps.language import load_fasttext
from camelid.corpus.task import Work
from camelid.corpus.web_settings import ReferenceSettings

NAME = "references"
MODEL_NAME = "references.bin"
REFERENCE_LABEL = "__label__reference"
RANDOM_LABEL = "__label__random"


def classify(settings: ReferenceSettings, documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields the documents whose probability of being a reference reaches the threshold, with it."""
    model = load_fasttext(work.task.base / settings.model / MODEL_NAME)
    for document in documents:
        predictions = model.f.predict(join_lines(document.text) + "\n", -1, 0.0, "strict")
        found = next((float(score) for score, label in predictions if label == REFERENCE_LABEL), 0.0)
        score = round(min(found, 1.0), 4)
        if score < settings.min_score:
            work.drops.add(document, NAME, "unlike a reference", score=score)
        else:
            yield replace(document, reference_score=score)


def join_lines(text: str) -> str:
    """A text as one line, as the classifier reads it in training and after."""
    # A word that looks like a label would be one.
    return text.replace("\0", " ").replace("\n", " ").replace("__label__", "__label ")
