"""Curves: smoothing against its definition, drawings that need no more than the page."""

import random
import statistics
from xml.etree import ElementTree

import matplotlib
import pytest

from camelid.report.plots import MAX_POINTS, Chart, Curve, Level, draw_chart, smooth
from camelid.report.samples import spread


def test_smooth_is_the_mean_around_each_value() -> None:
    dice = random.Random(1)
    values = [dice.gauss(0, 1) for _ in range(30)]
    smoothed = smooth(values, 5)
    assert smoothed[0] == values[0]
    assert smoothed[1] == pytest.approx(statistics.fmean(values[:3]))
    assert smoothed[2:28] == pytest.approx([statistics.fmean(values[i - 2 : i + 3]) for i in range(2, 28)])
    assert smoothed[28:] == pytest.approx([statistics.fmean(values[26:]), statistics.fmean(values[27:])])
    assert smooth(values, 1) == pytest.approx(values)
    assert smooth([], 5) == []


def test_spread_keeps_the_last() -> None:
    assert spread([1, 2, 3], 3) == [1, 2, 3]
    assert spread(list(range(101)), 5) == [0, 25, 50, 75, 100]
    assert spread([1, 2, 3], 1) == [3]


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    last = 10 * MAX_POINTS + 1
    steps = list(range(last + 1))
    long = draw_chart(Chart("Loss", "", [Curve("a", steps, [1.0] * len(steps), "accent", "points")]))
    short = draw_chart(Chart("Loss", "", [Curve("a", [0, last], [1.0, 1.0], "accent", "points")]))
    assert MAX_POINTS / 2 < long.count("<use") - short.count("<use") < MAX_POINTS
    assert long.split("<use")[-1] == short.split("<use")[-1]


def test_drawing_is_well_formed_and_deaf_to_the_persons_own_matplotlib_settings() -> None:
    chart = Chart("Loss <b>", "caption", [Curve("a & b", [1, 2], [3.0, 0.00025], "accent")], [Level("x", 2.0)])
    drawn = draw_chart(chart, is_wide=True)
    ElementTree.fromstring(drawn)
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "red", "font.size": 30, "svg.hashsalt": "x"}):
        assert draw_chart(chart, is_wide=True) == drawn


def test_small_numbers_on_the_axis_keep_their_digits() -> None:
    chart = Chart("Learning rate", "", [Curve("a", [0, 1], [0.0, 0.0004], "accent")])
    assert ">0.0001<" in draw_chart(chart)
