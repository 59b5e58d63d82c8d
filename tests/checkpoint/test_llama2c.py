"""llama2.c files: layout, both kinds of head, gzip, and files that are not what their header says."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from camelid.checkpoint import llama2c
from camelid.errors import UserError

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB, LENGTH = 16, 24, 2, 4, 2, 32, 10
KV_DIM = DIM // HEADS * KV_HEADS
SHAPES = [
    ("tok_embeddings", (VOCAB, DIM)),
    ("attention_norm", (LAYERS, DIM)),
    ("wq", (LAYERS, DIM, DIM)),
    ("wk", (LAYERS, KV_DIM, DIM)),
    ("wv", (LAYERS, KV_DIM, DIM)),
    ("wo", (LAYERS, DIM, DIM)),
    ("ffn_norm", (LAYERS, DIM)),
    ("w1", (LAYERS, HIDDEN, DIM)),
    ("w2", (LAYERS, DIM, HIDDEN)),
    ("w3", (LAYERS, HIDDEN, DIM)),
    ("norm", (DIM,)),
    ("cos and sin", (2, LENGTH, DIM // HEADS // 2)),
]


def make_file(is_tied: bool) -> tuple[bytes, dict[str, NDArray[np.float32]]]:
    rng = np.random.default_rng(3)
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES}
    if not is_tied:
        arrays["output"] = rng.standard_normal((VOCAB, DIM), np.float32)
    header = struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB if is_tied else -VOCAB, LENGTH)
    return header + b"".join(array.tobytes() for array in arrays.values()), arrays


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("is_tied", [False, True])
def test_every_tensor_is_found(is_tied: bool, is_packed: bool, tmp_path: Path) -> None:
    data, arrays = make_file(is_tied)
    path = tmp_path / ("model.bin.gz" if is_packed else "model.bin")
    path.write_bytes(gzip.compress(data) if is_packed else data)
    model = llama2c.read(path)
    assert model.config.is_head_tied == is_tied
    assert (model.config.num_kv_heads, model.config.max_sequence_length, model.config.norm_eps) == (2, 10, 1e-5)
    for name, tensor in model.tensors.items():
        found = tensor.read().view("<f4").reshape(tensor.shape)
        kind = name.removesuffix(".weight").rpartition(".")[-1]
        expected = arrays[kind][int(name.split(".")[1])] if name.startswith("layers.") else arrays[kind]
        if kind in ("wq", "wk"):
            # Channel 2i of a head in the file is channel i of ours, 2i + 1 is i + E/2.
            heads = expected.reshape(-1, DIM // HEADS, DIM)
            expected = np.concatenate((heads[:, 0::2], heads[:, 1::2]), axis=1).reshape(expected.shape)
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert len(model.tensors) == 2 + 9 * LAYERS + (not is_tied)


def header(**changes: int) -> Callable[[bytes], bytes]:
    names = ("dim", "hidden", "layers", "heads", "kv_heads", "vocab", "length")
    values = dict(zip(names, (DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB, LENGTH), strict=True)) | changes
    return lambda data: struct.pack("<7i", *values.values()) + data[28:]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "too short"),
    "no header": (lambda data: data[:27], "too short"),
    "cut": (lambda data: data[:-4], r"holds [\d,]+ bytes, and its header asks for [\d,]+"),
    "longer": (lambda data: data + b"x", "and its header asks for"),
    "more layers": (header(layers=3), "and its header asks for"),
    "absurd layers": (header(layers=2**31 - 1), "it would have 2,147,483,647 layers"),
    "negative layers": (header(layers=-1), "num_layers must be greater than 0"),
    "no heads": (header(heads=0), "num_heads must be greater than 0"),
    "uneven heads": (header(heads=5), "dim 16 does not divide into 5 heads"),
    "no words": (header(vocab=0), "vocab_size must be greater than 0"),
    "huge": (header(dim=2**30, heads=1, kv_heads=1, vocab=2**30), "and its header asks for"),
    "later format": (lambda data: struct.pack("<Ii", 0x616B3432, 1) + data, "later llama2.c format"),
}


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_refused(name: str, is_packed: bool, tmp_path: Path) -> None:
    damage, reason = DAMAGES[name]
    data = damage(make_file(is_tied=True)[0])
    path = tmp_path / "model.bin"
    path.write_bytes(gzip.compress(data) if is_packed else data)
    if is_packed:
        reason += "|unpacks to more|holds only|and its header asks|too short"
    with pytest.raises(UserError, match=rf"model\.bin.*({reason})"):
        llama2c.read(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda packed: packed[:-9], "it was cut off"),
        (lambda packed: packed[:100] + b"\xff" * 50 + packed[150:], "is damaged"),
        (lambda packed: packed[:10], "it was cut off"),
        (lambda packed: packed[:3] + b"\xff" + packed[4:], "is damaged"),
    ],
)
def test_damaged_gzip_is_refused(damage: Callable[[bytes], bytes], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin.gz"
    path.write_bytes(damage(gzip.compress(make_file(is_tied=True)[0])))
    with pytest.raises(UserError, match=reason):
        llama2c.read(path)


def test_what_unpacks_without_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.bin.gz"
    zeros = bytes(1 << 24)
    path.write_bytes(gzip.compress(make_file(is_tied=True)[0][:28] + zeros))
    with pytest.raises(UserError, match=r"unpacks to more than the [\d,]+ bytes that it asks for"):
        llama2c.read(path)
    path.write_bytes(gzip.compress(struct.pack("<7i", 64, 64, 1, 1, 1, 1 << 16, 8) + zeros))
    with pytest.raises(UserError, match=r"asks for [\d,]+ bytes, and holds only"):
        llama2c.read(path)


def test_no_room_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "model.bin.gz"
    path.write_bytes(gzip.compress(make_file(is_tied=True)[0]))
    monkeypatch.setattr(llama2c, "_unpack_into", refuse)
    with pytest.raises(UserError, match=r"cannot be unpacked into .*: No space left on device; make room"):
        llama2c.read(path)
