"""What a draft model gains: python benchmarks/inference_draft.py DATA --folder FOLDER

The model that writes is SmolLM2 unpacked to float32 or to 8 bits, which takes seven times and twice as long to read as
the 4 bits that it came in; that file drafts for it. A smaller model of its own vocabulary is not to be had without a
hub, so the guesses here are better than such a model's would be, and its price is higher: what is measured is the
machinery, and the gain that it leaves of a given price and accept rate. Each text is written with and without guesses
and must be the same.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

from inference_lookup import MODEL, make_prompts, write

from camelid import Llama
from camelid.inference.request import SamplingSettings
from camelid.processor import processor_name

NUM_TOKENS = 100
TARGETS = ("f32", "q8_0")


def measure(target: Path, data: Path) -> dict[str, float]:
    """Speeds and accept rate over one prompt of each kind."""
    plain = Llama.load(target, draft="none", max_sequences=1)
    drafting = Llama.load(target, draft=MODEL, max_sequences=1)
    prompts = dict(make_prompts(plain, data, part=1))
    written, alone, guided = 0, 0.0, 0.0
    for prompt in prompts.values():
        settings = SamplingSettings(temperature=0, max_tokens=NUM_TOKENS)
        tokens, seconds, _ = write(plain, prompt, settings)
        found, seconds_drafting, _ = write(drafting, prompt, settings)
        assert found == tokens, "another text with guesses"
        written, alone, guided = written + len(tokens), alone + seconds, guided + seconds_drafting
    return {
        "tokens": written,
        "tokens_per_second": round(written / alone, 1),
        "with_draft": round(written / guided, 1),
        "times": round(alone / guided, 3),
        "accept_rate": round(drafting.engine.statistics.accept_rate, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Gain of a draft model.")
    parser.add_argument("data", type=Path, help="The folder of data that lies beside the checkout.")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-models"), help="Where models are kept.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    for dtype in TARGETS:
        target = arguments.folder / f"smollm2-unpacked-{dtype}.gguf"
        if not target.exists():
            convert = ["-m", "camelid", "checkpoint", "convert", MODEL, target, "--to", "gguf", "--dtype", dtype]
            subprocess.run([sys.executable, *map(str, convert)], check=True)
        figures[dtype] = measure(target, arguments.data)
        print(dtype, *(f"{name} {value}" for name, value in figures[dtype].items()))
    if arguments.out:
        about = {"processor": processor_name(), "python": platform.python_version(), "draft": MODEL}
        arguments.out.write_text(json.dumps({**about, "targets": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
