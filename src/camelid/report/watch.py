"""A page of a run that follows it: written again at intervals, and loaded again by the browser that shows it."""

import time
from pathlib import Path

from camelid.artifact import write_text_durably
from camelid.errors import UserError
from camelid.progress import say
from camelid.report.page import render_run
from camelid.report.run import read_run

# The files of a run that is under way are moved and cut while they are read, which passes.
_MOST_FAILURES = 3


def watch_run(folder: Path, target: Path, interval_seconds: int) -> None:
    """Writes the page until the run has come to its end or Ctrl-C is pressed; the last page loads itself no more.

    Raises:
        UserError: the run cannot be read, several times in a row.
    """
    num_failures = num_idle = 0
    try:
        while True:
            try:
                run = read_run(folder)
                num_failures = 0
            except UserError:
                num_failures += 1
                if num_failures == _MOST_FAILURES:
                    raise
            else:
                # Between two stages of the chain nothing is under way either, for a moment.
                num_idle = num_idle + 1 if run.is_idle else 0
                is_over = not run.missing or num_idle == 2
                write_text_durably(target, render_run(run, reload_seconds=0 if is_over else interval_seconds))
                if is_over:
                    say(f"{folder} has come to its end; {target} is the last page")
                    return
            time.sleep(interval_seconds)
    except KeyboardInterrupt:
        write_text_durably(target, render_run(read_run(folder)))
        say(f"{target} is written a last time and loads itself no more")
