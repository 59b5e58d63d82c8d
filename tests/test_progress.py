"""Progress and the numbers that people read."""

import math
import os
import pty
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid import progress as progress_module
from camelid.progress import format_count, format_duration, progress

SCALES = {"": 1e0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21, "Y": 1e24}


@pytest.mark.parametrize(
    ("count", "unit", "expected"),
    [
        (0, "", "0"),
        (0.25, "", "0.25"),
        (999, "documents", "999 documents"),
        (98_304, "tokens", "98.3 k tokens"),
        (999_999, "", "1 M"),
        (1_250_000_000, "bytes", "1.25 GB"),
        (12, "bytes", "12 B"),
        (6.9e22, "FLOP", "69 Z FLOP"),
        (-12_345, "", "-12.3 k"),
        (math.inf, "", "inf Y"),
    ],
)
def test_counts(count: float, unit: str, expected: str) -> None:
    assert format_count(count, unit) == expected


@given(st.floats(1e-3, 9e26))
def test_a_count_reads_back_within_half_a_percent_and_has_no_exponent(count: float) -> None:
    number, _, prefix = format_count(count).partition(" ")
    assert re.fullmatch(r"\d{1,3}(\.\d+)?", number), number
    assert math.isclose(float(number) * SCALES[prefix], count, rel_tol=0.0051)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (18_600, "5 h 10 min"),
        (72 * 3600, "3 days"),
        (9_800 * 365 * 86_400, "9,800 years"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


def test_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "_SECONDS_BETWEEN_LINES", 0.0)
    with progress("tokenize", 2000, "tokens") as advance:
        for count in (500, 500, 1000):
            advance(count)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"tokenize: {done} tokens of 2 k tokens" for done in ("500", "1 k", "2 k", "2 k")
    ]
    assert [line.endswith(" left") for line in lines] == [False, True, False, False]


def test_forecast_is_made_from_the_last_stretch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 30.0, 45.0, 45.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress("train", 1400, "tokens", done=400) as advance:
        advance(100)  # of a slow start
        advance(300)
    assert capsys.readouterr().err.splitlines() == [
        "train: 500 tokens of 1.4 k tokens, 3.33 tokens/s",
        "train: 800 tokens of 1.4 k tokens, 20 tokens/s, 30 s left",
        "train: 800 tokens of 1.4 k tokens, 8.89 tokens/s",
    ]


def test_short_work_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("read", None, "bytes") as advance:
        for _ in range(100):
            advance(10_000)
    assert re.fullmatch(r"read: 1 MB, [\d.]+ \w*B/s\n", capsys.readouterr().err)


def test_a_bar_on_a_terminal() -> None:
    code = "from camelid.progress import progress\nwith progress('train', 4, 'steps') as advance:\n    advance(4)\n"
    terminal, their_end = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], stderr=their_end, stdout=subprocess.PIPE, text=True)
    os.close(their_end)
    shown = b""
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:  # Linux ends a terminal whose other side closed with EIO
        pass
    os.close(terminal)
    assert child.communicate(timeout=30)[0] == ""
    assert child.returncode == 0
    assert b"train" in shown
    assert "━".encode() in shown
