"""Decides over stored keys: shuffle_child.py FOLDER NUM_FILES MEMORY_BYTES NUM_WORKERS; prints how many are marked."""

import sys
from pathlib import Path

from camelid.corpus.engine import Engine
from camelid.corpus.shuffle import mark


def main() -> None:
    folder = Path(sys.argv[1])
    num_files, memory_bytes, num_workers = map(int, sys.argv[2:5])
    files = [folder / f"keys-{number}" for number in range(num_files)]
    with Engine(num_workers) as engine:
        num_keys, num_marked = mark(files, folder / "marks", "repeated", memory_bytes, engine)
    print(num_keys, num_marked)  # noqa: T201


if __name__ == "__main__":
    main()
