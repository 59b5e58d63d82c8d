"""What a mesh cannot divide is refused in one sentence, before a process is started."""

from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine
from tiny import write_tiny_recipe

from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.parallel.settings import MeshSettings, refuse_unfit, refuse_wrong_count

_SHAPE = {"dim": 96, "num_layers": 1, "num_heads": 6, "num_kv_heads": 2, "ffn_hidden_dim": 160, "vocab_size": 199}


@pytest.mark.parametrize(
    ("mesh", "length", "changes", "words"),
    [
        ({"tensor": 4}, 64, {}, ("6 query heads", "tensor 4")),
        ({"tensor": 3}, 64, {}, ("2 key/value heads", "tensor 3")),
        ({"tensor": 2}, 63, {}, ("sequence_length 63", "context 1 x tensor 2", "multiple of 2")),
        ({"context": 3}, 64, {}, ("sequence_length 64", "context 3", "multiple of 6")),
        ({"context": 2}, 66, {}, ("sequence_length 66", "multiple of 4")),
        ({"context": 2, "tensor": 6}, 66, {"num_kv_heads": 6}, ("sequence_length 66", "multiple of 12")),
        ({"tensor": 6}, 60, {"num_kv_heads": 6, "vocab_size": 8}, ("vocabulary of 8", "tensor 6")),
        ({"tensor": 6}, 60, {"num_kv_heads": 6, "ffn_hidden_dim": 9}, ("feed-forward width of 9", "tensor 6")),
        ({"tensor": 2, "shard": 5}, 64, {}, ("width 96", "shard 5")),
    ],
)
def test_unfit_mesh(mesh: dict[str, int], length: int, changes: dict[str, int], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        refuse_unfit(MeshSettings(**mesh), ModelConfig(**{**_SHAPE, **changes}), length)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "mesh", [{}, {"shard": 7}, {"tensor": 2}, {"context": 2}, {"replicate": 3, "context": 4, "tensor": 2}]
)
def test_fitting_mesh(mesh: dict[str, int]) -> None:
    refuse_unfit(MeshSettings(**mesh), ModelConfig(**_SHAPE), 64)


def test_wrong_number_of_processes() -> None:
    with pytest.raises(
        UserError, match=r"shard 2 x tensor 4\) takes 8 processes and the training has 6; .*--processes 8"
    ):
        refuse_wrong_count(MeshSettings(shard=2, tensor=4), 6)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--processes", 2), ("(one process) takes 1 process and", "has 2;", "shard 2")),
        (("--set", "train.mesh.shard=2"), ("(shard 2) takes 2 processes", "has 1;")),
        (("--set", "train.mesh.shard=3", "--processes", 3), ("batch of 4 sequences", "shard 3")),
        (
            ("--set", "train.mesh.shard=2", "--set", "train.microbatch_sequences=4", "--processes", 2),
            ("microbatch_sequences 4", "2 sequences of a process"),
        ),
        (("--set", "train.mesh.tensor=4", "--processes", 4), ("2 query heads", "tensor 4")),
        (("--set", "train.mesh.shrad=2"), ("shrad", "shard")),
    ],
)
def test_refused_by_the_command(
    camelid: CommandLine, tmp_path: Path, words: tuple[Any, ...], parts: tuple[str, ...]
) -> None:
    sentence = camelid.refuse("train", write_tiny_recipe(tmp_path), "--out", tmp_path / "run", *words)
    for part in parts:
        assert part in sentence
    assert not (tmp_path / "run").exists()
