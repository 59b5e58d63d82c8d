"""One line chart as inline SVG whose colours are CSS variables, so that it follows the page into the dark."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Literal

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from camelid.progress import format_count
from camelid.report.markup import Html, element, note

MAX_POINTS = 600
COLOURS = ("accent", "ink", "muted", "line", *(f"series-{number}" for number in range(1, 8)))
"""CSS variables of the page that a curve can be drawn in."""
# matplotlib knows no CSS: it draws in stand-ins, which are replaced in what it has written.
_STAND_INS = {name: f"#fe01{number:02x}" for number, name in enumerate(COLOURS)}
_CLEANED = tuple(
    (re.compile(pattern, re.DOTALL), replacement)
    for pattern, replacement in (
        (r"<!--.*?-->", ""),
        (r'<g id="[^"]*"', "<g"),
        (r"font: ([\d.]+px) [^;\"]*", r"font-size: \1"),
        (r"font-family: [^;\"]*;?", ""),
        (r"xlink:href=", "href="),
        (r"\s+", " "),
        (r"> <", "><"),
        (r"<g/>", ""),
    )
)
_TAG = re.compile(r"<[^>]*>")
_DECIMALS = re.compile(r"(\d\.\d\d)\d+")
_TICK_STEPS = (1, 2, 2.5, 5, 10)
_WIDE = (920, 330)
_NARROW = (440, 270)


@dataclass(frozen=True)
class Curve:
    """Points that belong together."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    colour: str
    style: Literal["line", "faint", "points"] = "line"


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    label: str
    value: float
    colour: str = "muted"


@dataclass(frozen=True)
class Chart:
    """Curves over training steps, with what is said about them."""

    title: str
    caption: str
    curves: Sequence[Curve]
    levels: Sequence[Level] = ()
    is_log: bool = False
    starts_at_zero: bool = False
    format_value: Callable[[float], str] = "{:g}".format


def series_colour(index: int) -> str:
    """The colour of the source at `index`; they come round again after seven."""
    return f"series-{index % 7 + 1}"


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean of the `window` values around each one; near the start, where a loss falls fast, of fewer on each side.

    Args:
        values: finite numbers.
        window: an odd number.
    """
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for i in range(len(values)):
        half = min(window // 2, i)
        end = min(len(values), i + half + 1)
        means.append((sums[end] - sums[i - half]) / (end - i + half))
    return means


def draw_chart(chart: Chart, is_wide: bool = False) -> Html:
    """A figure with title, legend and caption; a wide one has a second drawing for narrow screens."""
    drawings = [_draw(chart, _NARROW, "narrow" if is_wide else "")]
    if is_wide:
        drawings.append(_draw(chart, _WIDE, "wide"))
    entries: list[tuple[str, str, str]] = [(curve.label, curve.colour, curve.style) for curve in chart.curves]
    entries += [(level.label, level.colour, "level") for level in chart.levels]
    legend = [
        element("li", element("i", class_=style, style=f"--colour: var(--{colour})"), label)
        for label, colour, style in entries
    ]
    return element(
        "figure",
        element("h3", chart.title),
        element("ul", *legend, class_="legend") if len(legend) > 1 else Html(),
        *drawings,
        element("figcaption", note(chart.caption)) if chart.caption else Html(),
        class_="full" if is_wide else "",
    )


def _draw(chart: Chart, size: tuple[int, int], class_: str) -> Html:
    salt = f"{chart.title} {size}"
    # "default" first: a person's own matplotlibrc must not change the page.
    with matplotlib.style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": salt}]):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        _style_axes(axes, chart)
        for curve in chart.curves:
            _draw_curve(axes, curve)
        for level in chart.levels:
            axes.axhline(level.value, color=_STAND_INS[level.colour], linewidth=1.3, linestyle=(0, (4, 3)), zorder=1)
        _limit(axes, chart)
        written = StringIO()
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _to_inline(written.getvalue(), chart, class_)


def _draw_curve(axes: Axes, curve: Curve) -> None:
    steps, values = _thin(curve.steps), _thin(curve.values)
    colour = _STAND_INS[curve.colour]
    if curve.style == "faint":
        axes.plot(steps, values, color=colour, alpha=0.35, linewidth=0.9, zorder=2)
    elif curve.style == "line":
        axes.plot(steps, values, color=colour, linewidth=2, zorder=3)
    else:
        axes.plot(steps, values, color=colour, linewidth=1.3, marker="o", markersize=4.5, zorder=4)


def _thin(values: Sequence[float]) -> list[float]:
    """Every so-manieth value and the last one: more points than pixels are not seen."""
    stride = max(1, math.ceil(len(values) / MAX_POINTS))
    return [*values[:-1:stride], *values[-1:]]


def _style_axes(axes: Axes, chart: Chart) -> None:
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_STAND_INS["muted"])
    axes.spines["bottom"].set_linewidth(0.8)
    axes.grid(axis="y", color=_STAND_INS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="both", color=_STAND_INS["muted"], labelcolor=_STAND_INS["muted"], labelsize=11)
    axes.set_xlabel("step", color=_STAND_INS["muted"], fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=_TICK_STEPS, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: format_count(step)))
    if chart.is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=_TICK_STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: chart.format_value(value)))


def _limit(axes: Axes, chart: Chart) -> None:
    last = max((curve.steps[-1] for curve in chart.curves if curve.steps), default=1)
    axes.set_xlim(0, last * 1.02)
    if chart.starts_at_zero:
        axes.set_ylim(bottom=0)


def _to_inline(svg: str, chart: Chart, class_: str) -> Html:
    """What matplotlib wrote, without what an HTML page does not need or would share with other drawings."""
    view_box = re.search(r'viewBox="([^"]*)"', svg)
    assert view_box, "matplotlib writes a viewBox"
    body = svg[svg.index("<g ") : svg.rindex("</svg>")]
    for pattern, replacement in _CLEANED:
        body = pattern.sub(replacement, body)
    body = _TAG.sub(lambda tag: _DECIMALS.sub(r"\1", tag[0]), body)
    for name, stand_in in _STAND_INS.items():
        body = body.replace(stand_in, f"var(--{name})")
    title = element("title", f"{chart.title}: {', '.join(curve.label for curve in chart.curves)}")
    return element("svg", title, Html(body), viewBox=view_box[1], class_=class_, role="img")
