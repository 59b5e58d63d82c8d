"""A recipe that goes through the whole chain in seconds, on text that is made here."""

import random
from pathlib import Path

RECIPE = """
name = "tiny"
seed = 3

[corpus]
held_out_share = 0.2
min_characters = 20
num_workers = 1

[[corpus.sources]]
kind = "folder"
name = "notes"
path = "text"

[tokenizer]
vocab_size = 320

[model]
dim = 32
num_layers = 2
num_heads = 2
ffn_hidden_dim = 64
max_sequence_length = 32

[train]
steps = 8
sequence_length = 32
batch_tokens = 128
warmup_steps = 2
learning_rate = 1e-2
precision = "float32"
compile = "no"
num_threads = 1
held_out_interval = 4
held_out_tokens = 200
sample_interval = 4
sample_tokens = 8
checkpoint_interval = 2

[evaluation]
sample_tokens = 8
"""

_WORDS = ("llama", "wool", "grass", "hill", "river", "snow", "stone", "cloud", "sleeps", "sees", "hears", "the", "over")


def write_tiny_recipe(folder: Path) -> Path:
    """Writes texts and a recipe that reads them; the same ones every time."""
    text = folder / "text"
    text.mkdir(parents=True)
    rng = random.Random(1)
    for number in range(30):
        sentences = [" ".join(rng.choices(_WORDS, k=8)).capitalize() + "." for _ in range(30)]
        (text / f"note-{number:02d}.txt").write_text("\n".join(sentences) + f"\n{number}\n", encoding="utf-8")
    path = folder / "tiny.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path
