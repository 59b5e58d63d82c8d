"""How the training went: the charts over its steps."""

import math
import statistics

from camelid.metrics import Record
from camelid.progress import format_count, format_duration
from camelid.report.markup import Html, element, note, section
from camelid.report.plots import Chart, Curve, Level, draw_chart, series_colour, smooth
from camelid.report.run import Run
from camelid.report.sentences import format_share

_LOG_FROM_RATIO = 3
_SHOWN_SPIKES = 8


def describe_training(run: Run) -> Html:
    """The section of charts, or what is known where there are no numbers yet."""
    if not run.steps:
        return section("training", "How it learned", note("The training has written no numbers yet."))
    small = (_learning_rate, _gradient_norm, _speed, _utilisation)
    charts = [draw_chart(_loss(run), is_wide=True)]
    if run.held_out:
        charts.append(draw_chart(_bits_per_byte(run), is_wide=True))
    if run.benchmarks:
        charts.append(draw_chart(_benchmarks(run), is_wide=True))
    charts += [draw_chart(make(run)) for make in small]
    return section("training", "How it learned", _introduction(run), element("div", *charts, class_="charts"))


def _introduction(run: Run) -> Html:
    last = run.steps[-1]
    tokens_per_step = last["num_tokens"] / last["step"]
    return element(
        "p",
        f"{last['step']:,} steps of {tokens_per_step:,.0f} tokens each, {format_duration(run.training_seconds)} "
        f"of computing. The last step's loss was {last['loss']:.3f} nats per token.{_say_spikes(run)}",
    )


def _say_spikes(run: Run) -> str:
    if not run.spikes:
        return ""
    steps = ", ".join(f"{spike['step']:,}" for spike in run.spikes[:_SHOWN_SPIKES])
    more = f" and {len(run.spikes) - _SHOWN_SPIKES} more" if len(run.spikes) > _SHOWN_SPIKES else ""
    return f" The loss leapt at step {steps}{more}; that was rolled back and the data that led to it were skipped."


def _loss(run: Run) -> Chart:
    finite = [record for record in run.steps if math.isfinite(record["loss"])]
    curves = [*_each_and_mean(finite, "loss", "training, "), *_held_out_curves(run, "nats_per_token")]
    shown = [value for curve in curves for value in curve.values]
    is_log = bool(shown) and min(shown) > 0 and max(shown) / min(shown) >= _LOG_FROM_RATIO
    num_lost = len(run.steps) - len(finite)
    lost = f" In {num_lost:,} of {len(run.steps):,} steps the loss was not a finite number." if num_lost else ""
    scale = " The vertical axis is logarithmic." if is_log else ""
    return Chart("Loss, nats per token", f"Lower is better.{scale}{lost}", curves, is_log=is_log)


def _bits_per_byte(run: Run) -> Chart:
    colours = ("ink", "muted")
    rows = [row for row in run.results.get("compressors", []) if not row["with_training_text"]]
    levels = [Level(row["name"], row["bits_per_byte"], colours[i % 2]) for i, row in enumerate(rows)]
    beside = (
        " The compressors' lines are from the evaluation, which may read more of the held-out text, with more context."
        if levels
        else ""
    )
    caption = f"Measured during training on text that the model never trains on.{beside}"
    return Chart("Held-out bits per byte", caption, _held_out_curves(run, "bits_per_byte"), levels)


def _benchmarks(run: Run) -> Chart:
    curves = []
    for index, name in enumerate(dict.fromkeys(record["name"] for record in run.benchmarks)):
        records = [r for r in run.benchmarks if r["name"] == name and math.isfinite(r["score"])]
        if records:
            curves.append(
                Curve(name, _column(records, "step"), _column(records, "score"), series_colour(index), "points")
            )
    return Chart("Benchmarks", "Scores of the unfinished model.", curves)


def _held_out_curves(run: Run, name: str) -> list[Curve]:
    curves = []
    for index, source in enumerate(run.sources):
        records = [r for r in run.held_out if r["source"] == source and math.isfinite(r[name])]
        if records:
            label = f"held out, {source}"
            curves.append(
                Curve(label, _column(records, "step"), _column(records, name), series_colour(index), "points")
            )
    return curves


def _learning_rate(run: Run) -> Chart:
    curve = Curve("learning rate", _column(run.steps, "step"), _column(run.steps, "learning_rate"), "accent")
    caption = f"Peak {max(curve.values):.3g}."
    return Chart("Learning rate", caption, [curve], starts_at_zero=True)


def _gradient_norm(run: Run) -> Chart:
    norms = [record for record in run.steps if math.isfinite(record["grad_norm"]) and record["grad_norm"] > 0]
    curves = _each_and_mean(norms, "grad_norm")
    values = curves[0].values
    levels = []
    caption = "Before clipping."
    clip = run.train_settings.get("gradient_clip")
    if clip:
        share = sum(value > clip for value in values) / max(1, len(values))
        levels.append(Level(f"clipped above {clip:g}", clip))
        caption = f"Before clipping; {share:.0%} of the steps were clipped."
    is_log = bool(values) and max(values) / min(values) >= _LOG_FROM_RATIO
    return Chart("Gradient norm", caption, curves, levels, is_log=is_log)


def _speed(run: Run) -> Chart:
    speed = format_count(statistics.median(_column(run.steps, "tokens_per_second")), "tokens/s")
    flops = format_count(statistics.median(_column(run.steps, "flops_per_second")), "FLOP/s")
    curves = _each_and_mean(run.steps, "tokens_per_second")
    caption = f"Median {speed}, {flops}."
    return Chart("Tokens per second", caption, curves, starts_at_zero=True, format_value=format_count)


def _utilisation(run: Run) -> Chart:
    curves = _each_and_mean(run.steps, "utilisation")
    peak = run.measured("peak_flops_per_second")
    of = f" of {format_count(peak, 'FLOP/s')}, the speed of a large matrix product on this machine" if peak else ""
    above = (
        " Where it is above 100%, the machine was busier while that was measured." if max(curves[0].values) > 1 else ""
    )
    caption = f"Median {format_share(statistics.median(curves[0].values))}{of}.{above}"
    return Chart("Utilisation", caption, curves, starts_at_zero=True, format_value=format_share)


def _each_and_mean(records: list[Record], name: str, prefix: str = "") -> list[Curve]:
    steps, values = _column(records, "step"), _column(records, name)
    window = 2 * (len(values) // 100) + 1
    if window == 1:
        return [Curve(f"{prefix}each step", steps, values, "accent")]
    each = Curve(f"{prefix}each step", steps, values, "accent", "faint")
    return [each, Curve(f"{prefix}mean of {window:,} steps", steps, smooth(values, window), "accent")]


def _column(records: list[Record], name: str) -> list[float]:
    return [record[name] for record in records]
