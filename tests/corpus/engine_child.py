"""Keeps two workers busy, each of which says so once: engine_child.py starting|working"""

import os
import sys
import time

from camelid.corpus.engine import Engine


def hold(seconds: float) -> None:
    os.write(1, b"here\n")
    time.sleep(seconds)


def main() -> None:
    with Engine(2) as engine:
        list(engine.run(hold if sys.argv[1] == "working" else time.sleep, [60.0] * 4))


if __name__ == "__main__":
    main()
elif sys.argv[1] == "starting":
    hold(1.0)
