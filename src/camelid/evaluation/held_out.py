"""The evaluation of a run: bits per byte on text that the model never saw, beside gzip and xz, and samples."""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from camelid import artifact
from camelid.artifact import Manifest
from camelid.corpus.document import read_documents
from camelid.dataset.shards import Dataset
from camelid.evaluation.compression import measure_compression
from camelid.evaluation.settings import EvaluationSettings
from camelid.inference.llama import Llama
from camelid.training.device import choose_execution
from camelid.training.settings import TrainSettings
from camelid.training.validate import HeldOutLoss, choose_documents, measure_held_out, score_with

RESULTS_NAME = "results.json"


def build_evaluation(
    settings: EvaluationSettings,
    train: TrainSettings,
    directory: Path,
    *,
    model: Path,
    corpus: Path,
    dataset: Dataset,
    inputs: Mapping[str, str],
    seed: int,
) -> Manifest:
    """Publishes `results.json`: held-out loss by source, compressors on the same text, and continuations of prompts.

    The model runs with the device, precision and sequence length that it was trained with.
    """
    with artifact.publish(directory, kind="evaluation", settings=settings, inputs=inputs, seed=seed) as draft:
        execution = choose_execution(train)
        llama = Llama.load(model, execution.device.type, runner="torch")
        losses: dict[str, HeldOutLoss] = {}
        texts: list[bytes] = []
        for source in dataset.held_out_sources:
            chosen = choose_documents(dataset.read_held_out(source), settings.max_tokens)
            losses[source] = measure_held_out(
                score_with(llama.model),
                chosen,
                execution=execution,
                sequence_length=train.sequence_length,
                stride=max(1, round(train.sequence_length * (1 - settings.context_share))),
                batch_size=train.microbatch_size,
            )
            documents = (d.text.encode() for d in read_documents(corpus, "held_out") if d.source == source)
            texts += [text for text, _ in zip(documents, chosen, strict=False)]
        training_text = _training_text(corpus, settings.max_compressor_bytes)
        results = {
            **_tabulate(losses),
            "compressors": [asdict(row) for row in measure_compression(b"".join(texts), training_text)],
            "samples": [
                {
                    "prompt": prompt,
                    "text": _continue(llama, prompt, settings, seed),
                    "temperature": settings.temperature,
                }
                for prompt in settings.prompts
            ],
        }
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        (draft.path / RESULTS_NAME).write_text(text, encoding="utf-8")
        draft.facts.update(bits_per_byte=results["bits_per_byte"], num_bytes=results["num_bytes"])
    return artifact.read_manifest(directory)


def _tabulate(losses: Mapping[str, HeldOutLoss]) -> dict[str, Any]:
    num_bytes = sum(loss.num_bytes for loss in losses.values())
    names = ("num_bytes", "num_tokens", "nats_per_token", "bits_per_byte")
    return {
        "num_bytes": num_bytes,
        "bits_per_byte": sum(loss.bits_per_byte * loss.num_bytes for loss in losses.values()) / num_bytes,
        "sources": {source: {name: getattr(loss, name) for name in names} for source, loss in losses.items()},
    }


def _continue(llama: Llama, prompt: str, settings: EvaluationSettings, seed: int) -> str:
    return llama.generate(prompt, max_tokens=settings.sample_tokens, temperature=settings.temperature, seed=seed)


def _training_text(corpus: Path, max_bytes: int) -> bytes:
    """The last `max_bytes` of the training documents joined."""
    kept: deque[bytes] = deque()
    num_bytes = 0
    for document in read_documents(corpus, "train"):
        kept.append(document.text.encode())
        num_bytes += len(kept[-1])
        while num_bytes - len(kept[0]) >= max_bytes:
            num_bytes -= len(kept.popleft())
    return b"".join(kept)[-max_bytes:]
