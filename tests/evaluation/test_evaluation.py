"""The figures of an evaluation against their definitions."""

import gzip
import json
import lzma
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from camelid import Llama
from camelid.corpus.document import read_documents
from camelid.dataset.shards import open_dataset
from camelid.evaluation.compression import measure_compression
from camelid.training.device import choose_execution
from camelid.training.settings import TrainSettings
from camelid.training.validate import measure_held_out, score_with

_SETTINGS = TrainSettings(
    steps=4, warmup_steps=1, sequence_length=32, batch_tokens=128, precision="float32", compile="no", device="cpu"
)


def test_compressors_are_those_of_the_command_line() -> None:
    held_out, training = b"a llama in the snow, " * 40 + bytes(range(256)), b"a llama in the grass, " * 300
    found = {(row.name, row.with_training_text): row.bits_per_byte for row in measure_compression(held_out, training)}
    alone = 8 * len(lzma.compress(held_out, preset=9)) / len(held_out)
    added = len(lzma.compress(training + held_out, preset=9)) - len(lzma.compress(training, preset=9))
    assert found["xz -9", False] == alone
    assert found["xz -9", True] == 8 * added / len(held_out)
    assert found["gzip -9", False] == 8 * len(gzip.compress(held_out, 9, mtime=0)) / len(held_out)
    assert found["gzip -9", True] < found["gzip -9", False]


def test_results_of_a_run_hang_together(tiny_run: Path) -> None:
    results = json.loads((tiny_run / "evaluation" / "results.json").read_text(encoding="utf-8"))
    texts = [document.text for document in read_documents(tiny_run / "corpus", "held_out")]
    assert results["num_bytes"] == sum(len(text.encode()) for text in texts)
    notes = results["sources"]["notes"]
    nats = notes["nats_per_token"] * notes["num_tokens"]
    assert notes["bits_per_byte"] == pytest.approx(nats / math.log(2) / results["num_bytes"])
    assert results["bits_per_byte"] == pytest.approx(notes["bits_per_byte"])


@pytest.mark.parametrize("stride", [32, 16, 5, 1])
@torch.no_grad()
def test_windowed_loss_equals_one_computed_token_by_token(tiny_run: Path, stride: int) -> None:
    llama = Llama.load(tiny_run)
    held_out = list(open_dataset(tiny_run / "dataset").read_held_out("notes"))
    long = np.asarray(held_out[0][1])[:100]
    documents = [(400, long), (7, long[:9]), (100, long[:33])]
    nats = 0.0
    for _, tokens in documents:
        end = 0
        for target in range(1, len(tokens)):
            if target > end:
                end = 32 if end == 0 else end + stride
            window = torch.tensor(tokens[max(0, min(end, len(tokens) - 1) - 32) : target].astype(np.int64))
            nats += F.cross_entropy(llama.model(window[None])[0, -1], torch.tensor(int(tokens[target]))).item()
    for batch_size in (1, 4):
        loss = measure_held_out(
            score_with(llama.model),
            documents,
            execution=choose_execution(_SETTINGS),
            sequence_length=32,
            stride=stride,
            batch_size=batch_size,
        )
        assert loss.num_tokens == 99 + 8 + 32
        assert loss.num_bytes == 507
        assert loss.nats == pytest.approx(nats, rel=1e-4)
