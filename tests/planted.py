"""A data set of predictable text, a copy of it in which some documents were overwritten, and a training on either."""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from small_dataset import make_dataset

from camelid import artifact
from camelid.dataset.loader import Loader
from camelid.dataset.shards import Dataset, open_dataset
from camelid.model.config import ModelConfig
from camelid.training.settings import TrainSettings
from camelid.training.trainer import Data
from camelid.training.validate import choose_documents

CONFIG = ModelConfig(dim=32, num_layers=2, num_heads=2, num_kv_heads=2, ffn_hidden_dim=64, vocab_size=330)
LENGTH, BATCH, SEED = 32, 4, 5

_WORDS = ("llama", "climbs", "steep", "mountain", "path", "snow", "clouds", "gather", "over", "quiet", "lakes")


def make_texts(count: int) -> list[str]:
    """Texts of some 200 tokens each."""
    dice = random.Random(7)
    return [" ".join(dice.choices(_WORDS, k=60)) + f" {number}" for number in range(count)]


def make_clean_dataset(root: Path) -> Dataset:
    """160 documents, of which a training of 300 steps reads most samples once or twice."""
    return make_dataset(root, {"notes": make_texts(160)})


def overwrite_documents(dataset: Dataset, copy: Path, documents: tuple[int, ...]) -> Dataset:
    """Publishes a copy in which the tokens of some documents, BOS and EOS apart, are random ones."""
    manifest = dataset.manifest
    offsets = dataset.stream("train", "notes").offsets().tolist()
    with artifact.publish(copy, kind="dataset", settings=manifest.settings, inputs=manifest.inputs) as draft:
        shutil.copytree(dataset.path, draft.path, dirs_exist_ok=True)
        (draft.path / artifact.MANIFEST_NAME).unlink()
        draft.facts.update(manifest.facts)
        shard = np.memmap(draft.path / "train" / "notes-00000.bin", dtype="<u2", mode="r+")
        for document in documents:
            begin, end = offsets[document] + 1, offsets[document + 1] - 1
            shard[begin:end] = np.random.default_rng(document).integers(3, dataset.vocab_size, end - begin)
        shard.flush()
    return open_dataset(copy)


def data_of(dataset: Dataset) -> Data:
    """What a trainer reads of a dataset."""
    held_out = {source: choose_documents(dataset.read_held_out(source), 2000) for source in dataset.held_out_sources}
    tokenizer = dataset.path.parent / "tokenizer" / "tokenizer.model"
    return Data(Loader(dataset, LENGTH, BATCH, SEED), held_out, tokenizer, {})


def settings_of(**changes: Any) -> TrainSettings:
    """Some hundred quick steps, with a short memory for spikes."""
    values = {"steps": 300, "sequence_length": LENGTH, "batch_tokens": LENGTH * BATCH, "warmup_steps": 10}
    fixed = {"precision": "float32", "compile": "no", "num_threads": 1, "device": "cpu", "learning_rate": 3e-3}
    intervals = {"held_out_interval": 100, "sample_interval": 1000, "checkpoint_interval": 20}
    stability = {"spike_window": 40, "calm_steps": 8}
    return TrainSettings.model_validate({**values, **fixed, **intervals, **stability, **changes})
