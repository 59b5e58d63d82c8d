"""How far long work has come: a bar on a terminal, plain lines elsewhere; always on standard error."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

Advance = Callable[[int], None]

_SECONDS_BETWEEN_LINES = 10.0
_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


@contextlib.contextmanager
def progress(label: str, total: int | None, unit: str, done: int = 0) -> Iterator[Advance]:
    """Shows rate and remaining time of one piece of work.

    Args:
        total: units of work, or None where it is not known.
        unit: what is counted, "documents" or "tokens" for example; "bytes" is shown in kB, MB, GB.
        done: units that an earlier process did, which say nothing of the rate of this one.

    Yields:
        A function that is told how many units were done since its last call.
    """
    with _bar(label, total, unit, done) if sys.stderr.isatty() else _lines(label, total, unit, done) as advance:
        yield advance


def say(text: str) -> None:
    """A line about long work, on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def format_duration(seconds: float) -> str:
    """Seconds as `41 s`, `3 min 20 s`, `5 h 10 min`, `12 days` or `9,800 years`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 72:
        return f"{hours} h {minutes} min"
    days = hours // 24
    return f"{days} days" if days < 730 else f"{days // 365:,} years"


def format_count(count: float, unit: str = "") -> str:
    """A number of three digits with a decimal prefix: `1.25 GB`, `98.3 k tokens`."""
    number = float(f"{count:.3g}")  # rounded first: 999,999 is 1 M and not 1000 k
    prefixes = iter(_PREFIXES)
    prefix = next(prefixes)
    while abs(number) >= 1000 and (larger := next(prefixes, None)) is not None:
        number, prefix = number / 1000, larger
    if unit == "bytes":
        return f"{number:.3g} {prefix}B"
    return " ".join(part for part in (f"{number:.3g}", prefix, unit) if part)


@contextlib.contextmanager
def _bar(label: str, total: int | None, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="")

        def advance(count: int) -> None:
            speed = bar.tasks[task].speed
            bar.update(task, advance=count, rate=f"{format_count(speed, unit)}/s" if speed else "")

        yield advance


@contextlib.contextmanager
def _lines(label: str, total: int | None, unit: str, done: int) -> Iterator[Advance]:
    first = last = _Point(time.monotonic(), done)

    def write_line(since: _Point, now: _Point, is_forecast: bool) -> None:
        rate = (now.done - since.done) / max(now.seconds - since.seconds, 1e-9)
        of = f" of {format_count(total, unit)}" if total else ""
        left = f", {format_duration((total - now.done) / rate)} left" if is_forecast and total and rate else ""
        sys.stderr.write(f"{label}: {format_count(now.done, unit)}{of}, {format_count(rate, unit)}/s{left}\n")
        sys.stderr.flush()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = _Point(time.monotonic(), done)
        if now.seconds - last.seconds >= _SECONDS_BETWEEN_LINES:
            # The first stretch holds what is done once, making code for example: a forecast would be far off.
            write_line(last, now, is_forecast=last is not first and now.done < (total or 0))
            last = now

    yield advance
    write_line(first, _Point(time.monotonic(), done), is_forecast=False)


class _Point(NamedTuple):
    seconds: float
    done: int
