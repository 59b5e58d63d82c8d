"""Whole builds with one worker and with two, in turn: corpus_workers.py DATA --megabytes 1000 --out x.json

DATA is the folder of sample data. Its WET files are repeated, with lines planted so that a third of each copy of a page
stays after deduplication, a file at a time and from disk. Seconds are by the clock, which wants a quiet machine;
processor seconds of all processes stand beside them and say what the work itself took. Starting the workers counts.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from camelid.corpus.build import build_corpus
from camelid.corpus.settings import CorpusSettings


def plant_files(data: Path, folder: Path, num_bytes: float) -> int:
    """Writes planted copies of the sample's WET files, so that builds have many tasks, and returns their bytes."""
    # Here, because workers import this file too.
    from corpus_chain import plant_archives

    written = 0
    for path in plant_archives(data, folder):
        written += path.stat().st_size
        if written >= num_bytes:
            break
    return written


def measure_build(folder: Path, num_workers: int) -> tuple[str, float, float]:
    """Digest of one build, seconds by the clock, and processor seconds of all its processes."""
    source = {"kind": "common_crawl", "name": "web", "path": "raw"}
    settings = CorpusSettings.model_validate({"sources": [source], "num_workers": num_workers})
    before, start = _processor_seconds(), time.perf_counter()
    digest = build_corpus(settings, folder / "out", seed=0, base=folder).digest
    seconds, processor_seconds = time.perf_counter() - start, _processor_seconds() - before
    shutil.rmtree(folder / "out")
    return digest, seconds, processor_seconds


def _processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Prints seconds by turn, writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--megabytes", type=float, default=1000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": platform.processor() or platform.machine()}
    turns: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        result["megabytes"] = plant_files(options.data, folder / "raw", options.megabytes * 1e6) / 1e6
        for _ in range(options.turns):
            turn: dict[str, Any] = {"load": os.getloadavg()[0]}
            found = {num_workers: measure_build(folder, num_workers) for num_workers in (1, 2)}
            for num_workers, (_, seconds, processor_seconds) in found.items():
                turn[f"{num_workers} workers"] = {"seconds": seconds, "processor_seconds": processor_seconds}
            turn |= {"ratio": found[1][1] / found[2][1], "same": found[1][0] == found[2][0]}
            turns.append(turn)
            print(json.dumps(turn), flush=True)
    options.out.write_text(json.dumps({**result, "turns": turns}, indent=1) + "\n")


if __name__ == "__main__":
    main()
