"""Which steps the documents of each kind of source pass through, and what is decided over all of them in between.

A pass is what is done to a document without looking at others. Between two passes something is decided from hashes or
numbers of all documents of a source, and the next pass acts on it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from camelid.corpus.document import Document
from camelid.corpus.engine import Engine
from camelid.corpus.settings import CorpusSettings, Source
from camelid.corpus.source_settings import BooksSource, FilesSource
from camelid.corpus.steps import c4, decontaminate, exact, language, overlap, paragraphs, perplexity, references
from camelid.corpus.steps.clean import clean
from camelid.corpus.steps.cut import cut
from camelid.corpus.steps.pages import drop_short_pages
from camelid.corpus.task import Task, Work
from camelid.corpus.web_settings import C4Rules, C4Source, CommonCrawlSource, LanguageSettings, PerplexitySettings

Step = Callable[[Iterator[Document], Work], Iterator[Document]]


@dataclass(frozen=True)
class Pass:
    """Steps that are done in one go, by name, and what is decided when all tasks are through."""

    steps: tuple[tuple[str, Step], ...] = ()
    decide: Callable[[Sequence[Task], Path, Engine], dict[str, Any]] | None = None
    """Takes the tasks of the source, the folder that they share, and the engine; what it returns goes to the manifest
    and to the next pass."""


def passes_of(source: Source) -> tuple[Pass, ...]:
    """The passes of a source; the last one ends with the steps that all sources share."""
    *first, last = _own_passes(source)
    return (*first, Pass((*last.steps, *_FINISHING)))


def models_of(settings: CorpusSettings) -> set[str]:
    """The files and folders beside the sources that steps read, relative to the recipe's folder."""
    found = set(settings.decontamination.files)
    found |= {chosen.model for chosen in _language_settings(settings) if chosen.model is not None}
    for source in settings.sources:
        if isinstance(source, CommonCrawlSource):
            found |= set(source.perplexity.models.values()) if source.perplexity else set()
            found |= {source.references.model} if source.references else set()
        elif isinstance(source, C4Source) and source.rules is not None and source.rules.bad_words:
            found.add(source.rules.bad_words)
    return found


def uses_installed_language_model(settings: CorpusSettings) -> bool:
    """Whether a step asks the language model that lies in an installed package."""
    return any(chosen.model is None for chosen in _language_settings(settings))


def _language_settings(settings: CorpusSettings) -> Iterator[LanguageSettings]:
    for source in settings.sources:
        chosen: LanguageSettings | None = None
        if isinstance(source, CommonCrawlSource):
            chosen = source.language
        elif isinstance(source, C4Source) and source.rules is not None:
            chosen = source.rules.language
        if chosen is not None:
            yield chosen


def _own_passes(source: Source) -> tuple[Pass, ...]:
    if isinstance(source, CommonCrawlSource):
        return _common_crawl(source)
    if isinstance(source, C4Source) and source.rules is not None:
        return _c4(source.rules)
    if isinstance(source, BooksSource) and source.max_overlap < 1:
        return (
            Pass(((overlap.NAME, partial(overlap.collect, source)),), partial(_decide_overlap, source)),
            Pass(((f"{overlap.NAME}, removal", overlap.remove),)),
        )
    return (Pass(),)


def _common_crawl(source: CommonCrawlSource) -> tuple[Pass, ...]:
    """CCNet in its order, then the classifier of the LLaMA paper."""
    passes: list[Pass] = []
    steps: list[tuple[str, Step]] = [("pages", partial(drop_short_pages, source.min_page_characters))]
    if source.paragraphs is not None:
        steps.append((paragraphs.NAME, partial(paragraphs.collect, source.paragraphs)))
        passes.append(Pass(tuple(steps), paragraphs.decide))
        steps = [("paragraphs, removal", paragraphs.remove)]
    if source.language is not None:
        steps.append((language.NAME, partial(language.identify, source.language)))
    if source.perplexity is not None:
        number = len(passes)
        steps.append((perplexity.NAME, partial(perplexity.score, source.perplexity)))
        passes.append(Pass(tuple(steps), partial(_decide_perplexity, source.perplexity, number)))
        steps = [("buckets", partial(perplexity.keep, source.perplexity, number))]
    if source.references is not None:
        steps.append((references.NAME, partial(references.classify, source.references)))
    return (*passes, Pass(tuple(steps)))


def _decide_overlap(settings: BooksSource, tasks: Sequence[Task], _folder: Path, engine: Engine) -> dict[str, Any]:
    return overlap.decide(settings, tasks, [part_path(task, 0) for task in tasks], engine)


def _c4(rules: C4Rules) -> tuple[Pass, ...]:
    """The released generator's order."""
    steps: list[tuple[str, Step]] = [(f"{c4.NAME}, removal", partial(c4.remove_repeated, rules))]
    if rules.language is not None:
        steps.append((language.NAME, partial(language.identify, rules.language)))
    steps.append((f"{c4.NAME}, bad words", partial(c4.drop_bad_words, rules)))
    return Pass(((c4.NAME, partial(c4.apply_page_rules, rules)),), partial(c4.decide, rules)), Pass(tuple(steps))


def _decide_perplexity(
    settings: PerplexitySettings, number: int, tasks: Sequence[Task], _folder: Path, _engine: Engine
) -> dict[str, Any]:
    return perplexity.decide(settings, [part_path(task, number) for task in tasks])


def _cut(documents: Iterator[Document], work: Work) -> Iterator[Document]:
    for document in cut(documents, work.settings):
        work.books.parts_added += document.part > 0
        yield document


def _clean(documents: Iterator[Document], work: Work) -> Iterator[Document]:
    source = work.task.source
    own = source.min_characters if isinstance(source, FilesSource) else None
    return clean(documents, work.settings, own or work.settings.min_characters, work.drops)


def _decontaminate(documents: Iterator[Document], work: Work) -> Iterator[Document]:
    return decontaminate.find_overlap(work.settings.decontamination, documents, work)


_FINISHING: tuple[tuple[str, Step], ...] = (
    (decontaminate.NAME, _decontaminate),
    ("cut", _cut),
    ("clean", _clean),
    (exact.NAME, exact.write_contents),
)


def part_path(task: Task, number: int) -> Path:
    """Where the documents of a task lie after a pass."""
    return task.folder / f"pass-{number}.parquet"


def last_part(task: Task) -> Path:
    """Where the documents of a task lie after all passes."""
    return part_path(task, len(passes_of(task.source)) - 1)


def summary_path(task: Task, number: int) -> Path:
    """Where a task says what it did in a pass; it is there when the pass is done."""
    return task.folder / f"pass-{number}.json"


def read_summaries(task: Task) -> Iterator[dict[str, Any]]:
    """What a task said after each of its passes."""
    for number in range(len(passes_of(task.source))):
        yield json.loads(summary_path(task, number).read_text(encoding="utf-8"))
