"""A page on a finished corpus for people to look at: what was kept, what was dropped and why, and samples of both."""

import html
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from camelid import artifact
from camelid.corpus.build import KIND, TIMINGS_NAME
from camelid.corpus.document import SPLITS, Document, read_document_file
from camelid.corpus.ledger import LEDGER_NAME
from camelid.progress import format_count, format_duration

# Table 1 of the paper: share of the mixture in percent, and gigabytes on disk.
TABLE_1 = {
    "common_crawl": (67.0, 3300),
    "c4": (15.0, 783),
    "github": (4.5, 328),
    "wikipedia": (4.5, 83),
    "books": (4.5, 85),
    "arxiv": (2.5, 92),
    "stack_exchange": (2.0, 78),
}

_SHOWN_CHARACTERS = 600
_MOST_BARS = 24
_NUMBER = re.compile(r"(?:[\d.,]+(?:%| [kMGT]?B)?)?")
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1,h2,h3{line-height:1.2}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}td.n,th.n{text-align:right;white-space:nowrap}
.bars td:nth-child(2){width:20rem}.bar{background:#7a5c99;height:.8rem}.two{display:grid;grid-template-columns:1fr 1fr;
gap:1rem}@media(max-width:50rem){.two{grid-template-columns:1fr}}pre{white-space:pre-wrap;word-break:break-word;
background:#f5f3f7;padding:.6rem;margin:.3rem 0 1rem;max-height:16rem;overflow:auto;font-size:13px}small{color:#666}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1a1d}pre{background:#28262c}small{color:#aaa}}
"""


def write_audit(corpus: Path, page: Path, *, num_samples: int) -> None:
    """Writes one self-contained HTML page.

    Raises:
        UserError: `corpus` is no finished corpus.
    """
    manifest = artifact.read_manifest(corpus, KIND)
    columns = _Columns()
    for document in _documents(corpus):
        columns.add(document)
    timings: dict[str, Any] = json.loads((corpus / TIMINGS_NAME).read_text(encoding="utf-8"))
    kinds = {source["name"]: source["kind"] for source in manifest.settings["sources"]}
    body = [
        f"<h1>Audit of {html.escape(corpus.name)}</h1><p><small>digest {manifest.digest}</small></p>",
        _overview(manifest.facts["sources"], columns),
        _mixture(manifest.facts["sources"], kinds),
        _contamination(manifest.settings, manifest.facts["sources"]),
        *(
            _source(corpus, name, facts, kinds[name], columns, timings.get(name, {}), num_samples)
            for name, facts in manifest.facts["sources"].items()
        ),
    ]
    head = f"<meta charset='utf-8'><title>Audit of {html.escape(corpus.name)}</title><style>{_STYLE}</style>"
    text = f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>\n"
    artifact.write_text_durably(page, text)


def _documents(corpus: Path) -> Iterator[Document]:
    for split in SPLITS:
        for path in sorted(corpus.glob(f"{split}-*.parquet")):
            yield from read_document_file(path)


class _Columns:
    """Sums over the kept documents by source, and a few of them, chosen by their ids."""

    def __init__(self) -> None:
        self.lengths: dict[str, Counter[int]] = defaultdict(Counter)
        self.perplexities: dict[str, Counter[int]] = defaultdict(Counter)
        self.languages: dict[str, Counter[str]] = defaultdict(Counter)
        self.licences: dict[str, Counter[str]] = defaultdict(Counter)
        self._first: dict[str, list[tuple[str, Document]]] = defaultdict(list)

    def add(self, document: Document) -> None:
        """Counts one document."""
        source = document.source
        self.lengths[source][max(len(document.text), 1).bit_length()] += 1
        self.languages[source][document.language or "not told"] += 1
        self.licences[source][document.licence or "not told"] += 1
        if document.perplexity is not None:
            self.perplexities[source][round(4 * math.log2(max(document.perplexity, 1)))] += 1
        first = self._first[source]
        first.append((document.id, document))
        if len(first) > 512:
            self._first[source] = nsmallest(64, first, key=lambda pair: pair[0])

    def samples(self, source: str, number: int) -> list[Document]:
        """Documents that are chosen by nothing but chance, the same each time; 64 at most."""
        return [document for _, document in nsmallest(min(number, 64), self._first[source], key=lambda pair: pair[0])]


def _overview(sources: Mapping[str, Any], columns: _Columns) -> str:
    rows = []
    for name, facts in sources.items():
        documents, num_bytes = _kept(facts)
        dropped = sum(sum(reasons.values()) for reasons in facts["dropped"].values())
        repeated = facts["dropped"].get("exact", {}).get("duplicate", 0)
        rows.append(
            (
                name,
                f"{facts['records_in']:,}",
                format_count(facts["bytes_in"], "bytes"),
                f"{documents:,}",
                format_count(num_bytes, "bytes"),
                f"{dropped:,}",
                f"{repeated / max(documents + repeated, 1):.1%}",
                ", ".join(name for name, _ in columns.licences[name].most_common(3)),
            )
        )
    header = ("source", "records", "read", "documents kept", "text kept", "dropped", "exact duplicates", "licences")
    return "<h2>Sources</h2>" + _table(header, rows)


def _kept(facts: Mapping[str, Any]) -> tuple[int, int]:
    return (
        sum(facts[f"{split}_documents"] for split in SPLITS),
        sum(facts[f"{split}_bytes"] for split in SPLITS),
    )


def _mixture(sources: Mapping[str, Any], kinds: Mapping[str, str]) -> str:
    total = sum(_kept(facts)[1] for facts in sources.values()) or 1
    by_kind: Counter[str] = Counter()
    for name, facts in sources.items():
        by_kind[kinds[name]] += _kept(facts)[1]
    rows = [
        (kind, f"{by_kind[kind] / total:.1%}", f"{TABLE_1[kind][0]:.1f}%" if kind in TABLE_1 else "")
        for kind in [*TABLE_1, *(kind for kind in by_kind if kind not in TABLE_1)]
    ]
    return (
        "<h2>Mixture</h2><p>Share of the text that was kept, beside the share of tokens in the paper's Table 1. The "
        "dataset's mixture decides what training reads.</p>" + _table(("kind", "here", "paper"), rows)
    )


def _contamination(settings: Mapping[str, Any], sources: Mapping[str, Any]) -> str:
    chosen = settings["decontamination"]
    if not chosen["files"]:
        return "<h2>Contamination</h2><p>Not looked for: <code>corpus.decontamination.files</code> is empty.</p>"
    rows = [
        (name, what.removeprefix("contaminated by "), f"{count:,}")
        for name, facts in sources.items()
        for what, count in facts.get("counts", {}).items()
        if what.startswith("contaminated by ")
    ]
    done = "dropped" if chosen["is_dropped"] else "kept"
    sentence = (
        f"<p>Documents that share {chosen['ngram_words']} words in a row with an evaluation set; they were {done}.</p>"
    )
    return (
        "<h2>Contamination</h2>" + sentence + (_table(("source", "set", "documents"), rows) if rows else "<p>None.</p>")
    )


def _source(
    corpus: Path,
    name: str,
    facts: Mapping[str, Any],
    kind: str,
    columns: _Columns,
    timings: Mapping[str, Any],
    num_samples: int,
) -> str:
    counted = facts.get("counts", {})
    seen = {what.removeprefix("language "): count for what, count in counted.items() if what.startswith("language ")}
    others = {what: count for what, count in counted.items() if not what.startswith(("language ", "contaminated by "))}
    parts = [
        f"<h2>{html.escape(name)}</h2>",
        _drops(facts),
        _say_numbers({**others, **facts.get("decided", {})}),
        _times(timings, facts, kind),
        "<h3>Languages</h3>" + _bars(Counter(seen or columns.languages[name]).most_common(_MOST_BARS)),
        "<h3>Length of kept documents, characters</h3>"
        + _bars([(f"below {2**power:,}", count) for power, count in sorted(columns.lengths[name].items())]),
    ]
    if columns.perplexities[name]:
        rows = [
            (f"about {2 ** (place / 4):,.0f}", count) for place, count in sorted(columns.perplexities[name].items())
        ]
        parts.append("<h3>Perplexity of kept documents</h3>" + _bars(rows))
    parts.append(_samples(corpus, name, columns.samples(name, num_samples), num_samples))
    return "".join(parts)


def _drops(facts: Mapping[str, Any]) -> str:
    met = facts["records_in"] + facts["parts_added"]
    parts = facts["parts_added"]
    rows = [("cut", "parts added to the records, each counted below", f"{parts:,}", "")] if parts else []
    rows += [
        (step, reason, f"{count:,}", f"{count / max(met, 1):.2%}")
        for step, reasons in facts["dropped"].items()
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])
    ]
    rows.append(("kept", "", f"{_kept(facts)[0]:,}", f"{_kept(facts)[0] / max(met, 1):.2%}"))
    return "<h3>What became of the records</h3>" + _table(("step", "reason", "number", "share"), rows)


def _say_numbers(numbers: Mapping[str, Any]) -> str:
    if not numbers:
        return ""
    rows = [(what, f"{value:,}" if isinstance(value, int) else json.dumps(value)) for what, value in numbers.items()]
    return "<h3>Counted and decided</h3>" + _table(("what", "value"), rows)


def _times(timings: Mapping[str, Any], facts: Mapping[str, Any], kind: str) -> str:
    rows = []
    total = 0.0
    for step, line in timings.items():
        seconds = line["seconds"]
        total += seconds
        amount = line["characters_in"] or line["characters_out"]
        speed = f"{amount / seconds / 1e6:,.1f}" if seconds > 0 else ""
        rows.append((step, f"{seconds:,.2f}", f"{line['documents_out']:,}", f"{amount:,}", speed))
    header = ("step", "seconds", "documents out", "characters in", "million characters/s")
    text = "<h3>Time by step, one core</h3>" + _table(header, rows)
    kept = _kept(facts)[1]
    if kind in TABLE_1 and kept and total:
        seconds = total / kept * TABLE_1[kind][1] * 1e9
        text += (
            f"<p>At this speed and this share kept, the paper's {TABLE_1[kind][1]:,} GB would take "
            f"{format_count(seconds / 3600, 'core hours')}, {format_duration(seconds / 1000)} on 1000 cores.</p>"
        )
    return text


def _samples(corpus: Path, name: str, kept: Sequence[Document], number: int) -> str:
    left = [
        f"<small>{html.escape(document.url)}</small><pre>{html.escape(document.text[:_SHOWN_CHARACTERS])}</pre>"
        for document in kept
    ]
    right = [
        f"<small>{html.escape(row['step'])}: {html.escape(row['reason'])} {html.escape(row['detail'][:200])}</small>"
        f"<pre>{html.escape(row['excerpt'])}</pre>"
        for row in _dropped(corpus, name, number)
    ]
    return (
        "<h3>Samples</h3><div class='two'><div><h4>Kept</h4>"
        + ("".join(left) or "<p>None.</p>")
        + "</div><div><h4>Dropped</h4>"
        + ("".join(right) or "<p>None with an excerpt.</p>")
        + "</div></div>"
    )


def _dropped(corpus: Path, name: str, number: int) -> Iterable[Mapping[str, Any]]:
    """Some drops of each step and reason that have an excerpt."""
    taken: Counter[tuple[str, str]] = Counter()
    with pq.ParquetFile(corpus / LEDGER_NAME) as file:
        for batch in file.iter_batches(columns=["source", "step", "reason", "detail", "excerpt"]):
            for row in batch.to_pylist():
                key = (row["step"], row["reason"])
                if row["source"] == name and row["excerpt"] and taken[key] < number:
                    taken[key] += 1
                    yield row


def _bars(rows: Sequence[tuple[str, int]]) -> str:
    highest = max((count for _, count in rows), default=1) or 1
    lines = "".join(
        f"<tr><td>{html.escape(what)}</td><td><div class='bar' style='width:{100 * count / highest:.1f}%'></div></td>"
        f"<td class='n'>{count:,}</td></tr>"
        for what, count in rows
    )
    return f"<table class='bars'>{lines}</table>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    is_number = [all(_NUMBER.fullmatch(row[column]) for row in rows) for column in range(len(header))]

    def line(tag: str, cells: Sequence[str]) -> str:
        opened = (f"<{tag} class='n'>" if right else f"<{tag}>" for right in is_number)
        return "".join(f"{start}{html.escape(cell)}</{tag}>" for start, cell in zip(opened, cells, strict=True))

    lines = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f"<table><tr>{line('th', header)}</tr>{lines}</table>"
