"""Small stored models with random weights in any encoding, and steps over them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import ENCODINGS, encode
from camelid.inference.step import Runner, Step
from camelid.model.config import ModelConfig
from camelid.planning.shapes import parameter_shapes
from camelid.tokenizer.load import Tokenizer

Floats = NDArray[np.float32]


def make_tensor(name: str, values: NDArray[np.floating], encoding: str) -> StoredTensor:
    data = encode(values.astype(np.float32), ENCODINGS[encoding])
    data.flags.writeable = False
    return StoredTensor(name, values.shape, ENCODINGS[encoding], lambda: data)


def make_model(config: ModelConfig, encoding: str = "f32", seed: int = 0) -> StoredModel:
    """Random weights, large enough that logits spread; gains are f32 in every file."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        if len(shape) == 1:
            tensors[name] = make_tensor(name, 1 + 0.2 * rng.standard_normal(shape), "f32")
        else:
            scale = 1.0 if name == "tok_embeddings.weight" and not config.is_head_tied else shape[1] ** -0.5
            tensors[name] = make_tensor(name, scale * rng.standard_normal(shape), encoding)
    return StoredModel(Path("small.gguf"), "gguf", config, tensors, _load_no_tokenizer)


def _load_no_tokenizer() -> Tokenizer:
    raise AssertionError("a small model has no tokenizer")


def int32(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


class Sequences:
    """Runs sequences through a runner piece by piece, each with pages of its own in a shuffled order."""

    def __init__(self, runner: Runner, num_sequences: int, max_length: int):
        self._runner = runner
        self._num_cached = np.zeros(num_sequences, np.int32)
        pages_each = -(-max_length // runner.page_size)
        assert num_sequences * pages_each <= runner.num_pages
        order = np.random.default_rng(5).permutation(runner.num_pages).astype(np.int32)
        self._pages = order[: num_sequences * pages_each].reshape(num_sequences, pages_each)

    def run(self, pieces: dict[int, list[int]]) -> dict[int, Floats]:
        """Logits of every new token, by sequence."""
        tokens = [token for piece in pieces.values() for token in piece]
        chosen = list(pieces)
        num_new = int32(*(len(piece) for piece in pieces.values()))
        step = Step(
            int32(*tokens),
            num_new,
            self._num_cached[chosen],
            self._pages[chosen],
            np.arange(len(tokens), dtype=np.int32),
        )
        logits = self._runner.run(step)
        self._num_cached[chosen] += num_new
        return dict(zip(chosen, np.split(logits, np.cumsum(num_new)[:-1]), strict=True))


def run_whole(runner: Runner, tokens: list[int]) -> Floats:
    """Logits [T, V] of one sequence in one step."""
    return Sequences(runner, 1, len(tokens)).run({0: tokens})[0]
