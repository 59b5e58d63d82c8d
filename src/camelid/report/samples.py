"""What the model writes: at the end, and on the way there."""

from camelid.metrics import Record
from camelid.report.markup import Html, element, note, section
from camelid.report.run import Run


def show_samples(run: Run, num_steps: int) -> Html:
    """The continuations of the finished model, then samples of at most `num_steps` steps of the training."""
    final = run.results.get("samples", [])
    parts = []
    if final:
        parts.append(element("div", *(_show(sample, _temperature(sample)) for sample in final), class_="samples"))
    if run.samples:
        parts.append(element("h3", "On the way"))
        parts += _show_progress(run.samples, num_steps)
    if not parts:
        parts.append(note("The model has written nothing yet."))
    else:
        parts.insert(0, note("The beginning that was given is ", element("span", "marked", class_="prompt"), "."))
    return section("samples", "What it writes", *parts)


def _show_progress(samples: list[Record], num_steps: int) -> list[Html]:
    steps = sorted({sample["step"] for sample in samples})
    chosen = spread(steps, num_steps)
    shown = [
        element(
            "div",
            element("h4", f"Step {step:,}"),
            element("div", *(_show(sample, "") for sample in samples if sample["step"] == step), class_="samples"),
            class_="moment",
        )
        for step in chosen
    ]
    if len(chosen) < len(steps):
        shown.append(note(f"{len(chosen)} of {len(steps)} samplings are shown; samples.jsonl holds all."))
    return shown


def spread(items: list[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spread, the last one always among them."""
    if len(items) <= count:
        return items
    if count == 1:
        return items[-1:]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _show(sample: Record, remark: str) -> Html:
    prompt = element("span", sample["prompt"], class_="prompt") if sample["prompt"] else Html()
    # A browser drops the first line break of a <pre>; the one written here is that one.
    text = element("pre", Html("\n"), prompt, sample["text"])
    return element("figure", text, element("figcaption", note(remark)) if remark else Html())


def _temperature(sample: Record) -> str:
    return f"Temperature {sample['temperature']:g}." if "temperature" in sample else ""
