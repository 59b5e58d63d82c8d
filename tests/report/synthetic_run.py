"""A run's folder with invented but likely numbers, written the way the stages write theirs."""

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camelid.artifact import partial_path, publish
from camelid.metrics import MetricsWriter

SOURCES = ("stdlib", "novels", "wikipedia")
HOSTILE = "</pre><script>alert('owned')</script><img src=x onerror=alert(1)>\x00\ud800 &amp; \"'"
CODE = (
    'def read_header(self, stream):\n    """Return the header of *stream*."""\n    line = stream.readline(65537)\n'
    "    if len(line) > 65536:\n        raise LineTooLong('header line')\n    return line.rstrip(b'\\r\\n')\n"
)
_WORDS = (
    "self",
    "return",
    "None",
    "if",
    "not",
    "name",
    "=",
    "(",
    ")",
    ":",
    "\n    ",
    "import",
    "value",
    "def",
    ",",
    ".",
)


def make_run(run: Path, num_steps: int = 40) -> Path:
    """Writes all five products of a run."""
    digests: dict[str, str] = {}
    digests["corpus"] = _make_corpus(run / "corpus")
    digests["tokenizer"] = _make_tokenizer(run / "tokenizer", digests)
    digests["dataset"] = _make_dataset(run / "dataset", digests)
    digests["train"] = _make_train(run / "train", digests, num_steps)
    _make_evaluation(run / "evaluation", digests)
    return run


def make_unfinished_run(run: Path, num_steps: int = 40) -> Path:
    """Writes a run whose training has come to half of its steps, and nothing after it."""
    digests = {"corpus": _make_corpus(run / "corpus")}
    digests["tokenizer"] = _make_tokenizer(run / "tokenizer", digests)
    digests["dataset"] = _make_dataset(run / "dataset", digests)
    train = partial_path(run / "train")
    train.mkdir()
    _write_metrics(train, num_steps, num_done=num_steps // 2)
    with publish(
        train / "checkpoints" / f"step-{num_steps // 2:06d}",
        kind="checkpoint",
        settings=_settings(num_steps),
        inputs={},
    ) as draft:
        (draft.path / "weights").write_bytes(b"w")
    return run


def _settings(num_steps: int) -> dict[str, Any]:
    model = {"dim": 256, "num_layers": 6, "num_heads": 4, "num_kv_heads": 4, "vocab_size": 4096, "rope_scaling": None}
    return {
        "steps": num_steps,
        "sequence_length": 256,
        "batch_tokens": 16384,
        "learning_rate": 0.003,
        "gradient_clip": 1.0,
        "precision": "auto",
        "sample_prompts": ["def ", "import "],
        "model": model,
    }


def _make_corpus(directory: Path) -> str:
    sources = {
        "stdlib": {
            "records_in": 612,
            "parts_added": 0,
            "bytes_in": 11_204_511,
            "train_documents": 571,
            "train_bytes": 10_307_114,
            "held_out_documents": 30,
            "held_out_bytes": 512_033,
            "dropped": {"exact": {"duplicate": 6}, "clean": {"empty": 4, "not UTF-8": 1}},
        },
        "novels": {
            "records_in": 72,
            "parts_added": 3,
            "bytes_in": 48_120_774,
            "train_documents": 70,
            "train_bytes": 45_001_030,
            "held_out_documents": 4,
            "held_out_bytes": 2_420_118,
            "dropped": {"exact": {"duplicate": 1}, "clean": {}},
        },
        "wikipedia": {
            "records_in": 206,
            "parts_added": 0,
            "bytes_in": 4_910_332,
            "train_documents": 98,
            "train_bytes": 4_120_876,
            "held_out_documents": 6,
            "held_out_bytes": 240_411,
            "dropped": {"exact": {"duplicate": 2}, "redirects": {"redirect": 100}},
        },
    }
    inputs = {"source:stdlib": "ab" * 32}
    with publish(
        directory,
        kind="corpus",
        settings={"held_out_share": 0.05, "sources": [{"kind": "folder", "name": "stdlib"}]},
        inputs=inputs,
    ) as draft:
        (draft.path / "train-00000.parquet").write_bytes(b"c" * 4096)
        draft.facts["sources"] = sources
    return _digest(directory)


def _make_tokenizer(directory: Path, digests: Mapping[str, str]) -> str:
    rows = [
        {
            "tokenizer": name,
            "source": source,
            "num_bytes": 500_000 + 1000 * place,
            "num_tokens": round((500_000 + 1000 * place) / (rate + 0.2 * place)),
            "bytes_per_token": rate + 0.2 * place,
            "share_byte_fallback": 0.0004 * (place + 1),
        }
        for place, source in enumerate(SOURCES)
        for name, rate in (("this run", 3.871), ("llama", 3.104))
    ]
    with publish(directory, kind="tokenizer", settings={"vocab_size": 4096}, inputs=_pick(digests, "corpus")) as draft:
        (draft.path / "tokenizer.model").write_bytes(b"t" * 600)
        (draft.path / "quality.json").write_text(json.dumps(rows), encoding="utf-8")
    return _digest(directory)


def _make_dataset(directory: Path, digests: Mapping[str, str]) -> str:
    with publish(directory, kind="dataset", settings={}, inputs=_pick(digests, "corpus", "tokenizer")) as draft:
        (draft.path / "train.tokens").write_bytes(b"d" * 8192)
    return _digest(directory)


def _make_train(directory: Path, digests: Mapping[str, str], num_steps: int) -> str:
    logs = ("metrics.jsonl", "samples.jsonl")
    inputs = _pick(digests, "dataset", "tokenizer")
    with publish(directory, kind="train", settings=_settings(num_steps), inputs=inputs, seed=7, logs=logs) as draft:
        _write_metrics(draft.path, num_steps, num_steps)
        (draft.path / "weights").write_bytes(b"w")
        num_tokens = 16384 * num_steps
        draft.facts.update(
            num_parameters=6_294_784,
            num_tokens=num_tokens,
            mixture=[
                {
                    "source": "stdlib",
                    "share": 0.5,
                    "tokens": num_tokens // 2,
                    "unique_tokens": 2_700_001,
                    "epochs": 2.3125,
                    "warning": "",
                },
                {
                    "source": "novels",
                    "share": 0.375,
                    "tokens": num_tokens * 3 // 8,
                    "unique_tokens": 11_000_000,
                    "epochs": 0.375,
                    "warning": "",
                },
                {
                    "source": "wikipedia",
                    "share": 0.125,
                    "tokens": num_tokens // 8,
                    "unique_tokens": 1_000_000,
                    "epochs": 1.25,
                    "warning": "wikipedia is small",
                },
            ],
        )
        draft.environment.update(
            cpu="Imaginary CPU @ 2.60GHz", num_threads=2, peak_flops_per_second=6.6e11, peak_bytes=1_734_000_000
        )
    return _digest(directory)


def _write_metrics(train: Path, num_steps: int, num_done: int) -> None:
    dice = random.Random(0)
    held_out_interval, sample_interval = max(1, num_steps // 12), max(1, num_steps // 8)
    with MetricsWriter(train / "metrics.jsonl") as metrics, MetricsWriter(train / "samples.jsonl") as samples:
        for step in range(1, num_done + 1):
            progress = step / num_steps
            loss = 1.85 + 6.4 * math.exp(-9 * progress**0.55) + dice.gauss(0, 0.05)
            speed = 9800 * (1 + dice.gauss(0, 0.015)) * (0.7 if dice.random() < 0.02 else 1)
            metrics.write(
                "train",
                step,
                loss=loss,
                learning_rate=0.003 * min(step / (0.05 * num_steps), 0.55 + 0.45 * math.cos(math.pi * progress)),
                grad_norm=0.35 + 3 * math.exp(-20 * progress) + abs(dice.gauss(0, 0.06)),
                num_tokens=16384 * step,
                tokens_per_second=speed,
                flops_per_second=speed * 4.1e7,
                utilisation=speed * 4.1e7 / 6.6e11,
                seconds=16384 / speed,
            )
            if step % held_out_interval == 0 or step == num_steps:
                for place, source in enumerate(SOURCES):
                    nats = loss + 0.12 + 0.25 * place
                    metrics.write("held_out", step, source=source, nats_per_token=nats, bits_per_byte=nats * 0.72)
            if step % sample_interval == 0 or step == num_steps:
                for prompt in ("def ", "import "):
                    samples.write("sample", step, prompt=prompt, text=_babble(dice, progress))


def _babble(dice: random.Random, progress: float) -> str:
    return CODE[4:] if progress > 0.8 else "".join(f"{dice.choice(_WORDS)} " for _ in range(60))


def _make_evaluation(directory: Path, digests: Mapping[str, str]) -> None:
    results = {
        "num_bytes": 3_172_562,
        "bits_per_byte": 1.4237,
        "sources": {
            source: {
                "num_bytes": 1_000_000 + place,
                "num_tokens": 271_828 + place,
                "nats_per_token": 2.718 + place,
                "bits_per_byte": 1.3819 + 0.1 * place,
            }
            for place, source in enumerate(SOURCES)
        },
        "compressors": [
            {"name": "gzip -9", "with_training_text": False, "bits_per_byte": 2.1234},
            {"name": "gzip -9", "with_training_text": True, "bits_per_byte": 2.1198},
            {"name": "xz -9", "with_training_text": False, "bits_per_byte": 1.8743},
            {"name": "xz -9", "with_training_text": True, "bits_per_byte": 1.5246},
        ],
        "samples": [
            {"prompt": "def ", "text": CODE[4:], "temperature": 0.7},
            {"prompt": "", "text": HOSTILE, "temperature": 0.7},
        ],
    }
    inputs = _pick(digests, "corpus", "dataset", "train")
    with publish(directory, kind="evaluation", settings={"temperature": 0.7}, inputs=inputs) as draft:
        # Escapes: a lone surrogate cannot be written as UTF-8.
        (draft.path / "results.json").write_text(json.dumps(results), encoding="utf-8")


def _pick(digests: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: digests[name] for name in names}


def _digest(directory: Path) -> str:
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    return str(manifest["digest"])
