"""Whole runs on real text: one's own text (novels, WikiText, TinyStories), and the demo of the installed wheel."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from camelid.corpus.document import read_documents

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "train.steps=12",
    "train.warmup_steps=2",
    "train.batch_tokens=2048",
    "train.compile=no",
    "train.num_threads=1",
    "train.held_out_tokens=2000",
    "evaluation.max_tokens=3000",
    "evaluation.max_compressor_bytes=1000000",
    "evaluation.sample_tokens=16",
)


def run(command: list[str], settings: tuple[str, ...], folder: Path, **environment: str) -> str:
    """Runs a command in a folder and returns its standard output."""
    words = [*command, *(word for setting in settings for word in ("--set", setting))]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_results(run_folder: Path) -> Any:
    return json.loads((run_folder / "evaluation" / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_own_text_of_novels_wikitext_and_tinystories(shared_data: Path, tmp_path: Path) -> None:
    settings = (
        f"corpus.sources.0.path={shared_data / 'text'}",
        "corpus.sources.0.separator=<|endoftext|>",
        'corpus.sources.0.suffixes=[".txt", ".raw"]',
        *SMALL,
    )
    command = [sys.executable, "-m", "camelid", "run", "own-text", "--out", "mine"]
    page = run(command, settings, tmp_path, PYTHONPATH=str(ROOT / "src"))
    assert (tmp_path / page.strip()).is_file()
    documents = [d for split in ("train", "held_out") for d in read_documents(tmp_path / "mine" / "corpus", split)]
    of_file = {name: [d for d in documents if name in d.path] for name in ("novels", "wikitext", "tinystories")}
    assert len({d.path for d in of_file["novels"]}) == 75
    assert len(of_file["tinystories"]) > 2000
    assert of_file["wikitext"]
    assert not [d for d in documents if "<|endoftext|>" in d.text or "\r" in d.text or "\ufeff" in d.text]
    results = read_results(tmp_path / "mine")
    # Untrained, the model would need log2(4096) bits for a token of some 3.8 bytes: 3.2 bits per byte.
    assert 1 < results["bits_per_byte"] < 3.2
    assert results["samples"][0]["text"]


@pytest.mark.slow
def test_wheel_outside_the_checkout_runs_the_demo(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "dist").iterdir()
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=120)
    # The folder stands before the editable installation of the checkout on the path.
    where = run([sys.executable, "-c", "import camelid; print(camelid.__file__)"], (), tmp_path, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site)
    page = run([str(site / "bin" / "camelid"), "run", "demo"], SMALL, tmp_path, PYTHONPATH=str(site))
    assert "</html>" in (tmp_path / page.strip()).read_text(encoding="utf-8")
    results = read_results(tmp_path / "runs" / "demo")
    assert len(results["samples"]) == 3
    assert results["sources"]["python"]["num_bytes"] > 0
