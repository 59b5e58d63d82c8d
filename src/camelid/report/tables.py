"""What the model read: corpus, mixture and tokenizer as tables."""

from typing import Any

from camelid.metrics import Record
from camelid.progress import format_count
from camelid.report.markup import Html, element, note, section, table
from camelid.report.plots import series_colour
from camelid.report.run import Run


def describe_data(run: Run) -> Html:
    """The section on corpus, mixture and tokenizer; each part says so where it is not there yet."""
    corpus = run.facts("corpus").get("sources", {})
    return section(
        "data",
        "What it read",
        element("h3", "Corpus"),
        _corpus_table(run, corpus) if corpus else note("The corpus is not there yet."),
        _dropped_table(run, corpus),
        element("h3", "Mixture"),
        *(_mixture(run) if run.mixture else [note("The mixture is not there yet: the training states it at its end.")]),
        element("h3", "Tokenizer"),
        *(_tokenizer(run) if run.tokenizer_quality else [note("The tokenizer is not there yet.")]),
    )


def show_source(run: Run, name: str) -> Html:
    """A source's name beside its colour."""
    return element("span", name, class_="source", style=f"--colour: {_colour(run, name)}")


def _corpus_table(run: Run, corpus: dict[str, dict[str, Any]]) -> Html:
    is_cut = any(source["parts_added"] for source in corpus.values())
    rows = [
        (
            show_source(run, name),
            f"{source['records_in']:,}",
            format_count(source["bytes_in"], "bytes"),
            *([f"{source['parts_added']:,}"] if is_cut else []),
            f"{_num_dropped(source):,}",
            f"{source['train_documents']:,}",
            format_count(source["train_bytes"], "bytes"),
            f"{source['held_out_documents']:,}",
            format_count(source["held_out_bytes"], "bytes"),
        )
        for name, source in corpus.items()
    ]
    added = ["added by cutting"] if is_cut else []
    headers = ("source", "records in", "bytes in", *added, "dropped", "to train on", "bytes", "held out", "bytes")
    return table(headers, rows)


def _dropped_table(run: Run, corpus: dict[str, dict[str, Any]]) -> Html:
    rows = [
        (
            show_source(run, name),
            step,
            reason,
            f"{count:,}",
            f"{count / (source['records_in'] + source['parts_added']):.1%}",
        )
        for name, source in corpus.items()
        for step, reasons in source["dropped"].items()
        for reason, count in reasons.items()
        if count
    ]
    if not rows:
        return note("No document was dropped.") if corpus else Html()
    return table(("source", "dropped by", "because", "documents", "share"), rows, num_text_columns=3)


def _mixture(run: Run) -> list[Html]:
    whole = sum(row["share"] for row in run.mixture) or 1
    parts = [
        element("span", style=f"flex-grow: {row['share'] / whole:.6f}; background: {_colour(run, row['source'])}")
        for row in run.mixture
    ]
    rows = [
        (
            show_source(run, row["source"]),
            f"{row['share']:.1%}",
            format_count(row["tokens"]),
            format_count(row["unique_tokens"]),
            f"{row['epochs']:.2f}",
        )
        for row in run.mixture
    ]
    warnings = " ".join(f"{row['warning']}." for row in run.mixture if row["warning"])
    return [
        element("div", *parts, class_="mixture", aria_hidden="true"),
        table(("source", "share of the training", "tokens read", "tokens there", "epochs"), rows),
        note("Epochs are how often the training reads a source from end to end. ", warnings),
    ]


def _tokenizer(run: Run) -> list[Html]:
    best: dict[str, float] = {}
    for row in run.tokenizer_quality:
        best[row["source"]] = max(best.get(row["source"], 0.0), row["bytes_per_token"])
    is_comparison = len(run.tokenizer_quality) > len(best)
    rows = [
        _quality_row(row, is_comparison and row["bytes_per_token"] == best[row["source"]])
        for row in run.tokenizer_quality
    ]
    headers = ("tokenizer", "text", "bytes", "tokens", "bytes per token", "tokens for one byte")
    return [
        table(headers, rows, num_text_columns=2),
        note(
            "More bytes per token: a shorter sequence for the same text. ",
            "The best of each text is in bold. " if is_comparison else "",
            "What the vocabulary lacks, line breaks among it, is written byte by byte: the last column.",
        ),
    ]


def _quality_row(row: Record, is_best: bool) -> tuple[str, ...]:
    bytes_per_token = f"{row['bytes_per_token']:.3f}"
    return (
        row["tokenizer"],
        row["source"],
        f"{row['num_bytes']:,}",
        f"{row['num_tokens']:,}",
        element("b", bytes_per_token) if is_best else bytes_per_token,
        f"{row['share_byte_fallback']:.2%}",
    )


def _num_dropped(source: dict[str, Any]) -> int:
    return sum(count for reasons in source["dropped"].values() for count in reasons.values())


def _colour(run: Run, name: str) -> str:
    return f"var(--{series_colour(run.sources.index(name))})"
