"""The top of the page: what this is in one sentence, the key numbers, and who wins."""

import statistics

from camelid.progress import format_count, format_duration
from camelid.report.markup import Html, element, note, section, table
from camelid.report.run import Run
from camelid.report.sentences import compressor_name, format_share, join_names, judge, rank_compressors
from camelid.report.tables import show_source


def describe_run(run: Run) -> Html:
    """One sentence: size, tokens, data, time, machine, as far as they are known."""
    parts = ["A LLaMA model"]
    if num_parameters := run.measured("num_parameters"):
        parts.append(f"of {format_count(num_parameters, 'parameters')}")
    if run.steps:
        verb = "trained" if "train" in run.manifests else "trained so far"
        parts.append(f"{verb} on {format_count(run.steps[-1]['num_tokens'], 'tokens')}")
        if run.sources:
            parts.append(f"of {join_names(run.sources)}")
        parts.append(f"in {format_duration(run.training_seconds)}")
        if machine := _machine(run):
            parts.append(f"on {machine}")
    else:
        parts.append("that is not trained yet")
    return element("p", " ".join(parts) + ".", class_="lead")


def describe_status(run: Run) -> Html:
    """A banner that says what is not there yet; nothing for a finished run."""
    if not run.missing:
        return Html()
    sentences = []
    bar = Html()
    if "train" in run.begun:
        step = run.steps[-1]["step"] if run.steps else 0
        total = run.train_settings.get("steps")
        of = f" of {total:,} ({step / total:.0%})" if total else ""
        sentences.append(f"The training is not finished: it has come to step {step:,}{of}.")
        if total:
            bar = element("progress", value=str(step), max=str(total), aria_label="training")
    others = [stage for stage in run.begun if stage != "train"]
    if others:
        sentences.append(f"Begun and not finished: {join_names(others)}.")
    waiting = [stage for stage in run.missing if stage not in run.begun]
    if waiting:
        sentences.append(f"Not there yet: {join_names(waiting)}.")
    return element("div", element("p", " ".join(sentences)), bar, class_="status", role="status")


def show_cards(run: Run) -> Html:
    """The key numbers."""
    cards = [*_quality_cards(run), *_training_cards(run), *_data_cards(run)]
    return element("dl", *cards, class_="cards") if cards else Html()


def compare_compressors(run: Run) -> Html:
    """Held-out bits per byte beside general compressors, with a verdict that names winner and losers."""
    title = "Against general compressors"
    if not run.results:
        return section("compression", title, note("The evaluation is not there yet."))
    ranking = rank_compressors(run.results)
    longest = ranking[-1][1] or 1
    size = format_count(run.results["num_bytes"], "bytes")
    bars = (_bar(label, value, longest, "own" if is_own else "") for label, value, is_own in ranking)
    return section(
        "compression",
        title,
        element("p", judge(run.results["bits_per_byte"], run.results["compressors"])),
        element("dl", *bars, class_="bars"),
        note(
            f"Bits that each needs per byte of the same held-out text ({size}); lower is better. A language model and "
            "an arithmetic coder make a compressor. Neither the model's weights nor the training text that a "
            "compressor was given first are counted."
        ),
        _source_table(run),
    )


def _quality_cards(run: Run) -> list[Html]:
    if not run.results:
        return []
    rows = run.results["compressors"]
    informed = sorted((row for row in rows if row["with_training_text"]), key=lambda row: row["bits_per_byte"])
    shown = [*(row for row in rows if not row["with_training_text"]), *informed[:1]]
    beside = " · ".join(f"{compressor_name(row)} {row['bits_per_byte']:.2f}" for row in shown)
    return [_card("Held-out bits per byte", f"{run.results['bits_per_byte']:.3f}", beside, "first")]


def _training_cards(run: Run) -> list[Html]:
    cards = []
    if num_parameters := run.measured("num_parameters"):
        model = run.train_settings.get("model", {})
        shape = f"{model['num_layers']} layers, width {model['dim']}" if {"num_layers", "dim"} <= model.keys() else ""
        cards.append(_card("Parameters", format_count(num_parameters), shape))
    if run.steps:
        last = run.steps[-1]
        speed = statistics.median(record["tokens_per_second"] for record in run.steps)
        utilisation = statistics.median(record["utilisation"] for record in run.steps)
        cards += [
            _card("Tokens trained on", format_count(last["num_tokens"]), _epochs(run)),
            _card("Training time", format_duration(run.training_seconds), f"{last['step']:,} steps"),
            _card("Tokens per second", format_count(speed), f"{format_share(utilisation)} of the matrix-product peak"),
        ]
    if peak_bytes := run.measured("peak_bytes"):
        cards.append(_card("Peak memory", format_count(peak_bytes, "bytes"), "of the training process"))
    return cards


def _data_cards(run: Run) -> list[Html]:
    sources = run.facts("corpus").get("sources", {}).values()
    if not sources:
        return []
    kept = sum(source["train_bytes"] + source["held_out_bytes"] for source in sources)
    documents = sum(source["train_documents"] + source["held_out_documents"] for source in sources)
    return [_card("Text", format_count(kept, "bytes"), f"{documents:,} documents")]


def _epochs(run: Run) -> str:
    epochs = [row["epochs"] for row in run.mixture]
    if not epochs:
        return ""
    low, high = min(epochs), max(epochs)
    return f"{low:.2f} epochs" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f} epochs"


def _card(label: str, value: str, remark: str, class_: str = "") -> Html:
    small = element("dd", remark, class_="remark") if remark else Html()
    return element("div", element("dt", label), element("dd", value), small, class_=class_)


def _bar(label: str, value: float, longest: float, class_: str) -> Html:
    filled = element("span", style=f"width: {100 * value / longest:.2f}%")
    return element("div", element("dt", label), element("dd", filled, element("b", f"{value:.3f}")), class_=class_)


def _source_table(run: Run) -> Html:
    rows = [
        (
            show_source(run, name),
            f"{row['num_bytes']:,}",
            f"{row['num_tokens']:,}",
            f"{row['nats_per_token']:.3f}",
            f"{row['bits_per_byte']:.3f}",
        )
        for name, row in run.results["sources"].items()
    ]
    return table(("held-out source", "bytes", "tokens", "nats per token", "bits per byte"), rows)


def _machine(run: Run) -> str:
    manifest = run.manifests.get("train")
    if manifest is None:
        return ""
    name = str(manifest.produced.get("cpu") or manifest.produced.get("device") or "")
    threads = manifest.produced.get("num_threads")
    return f"{threads} {'thread' if threads == 1 else 'threads'} of {name}" if name and threads else name
