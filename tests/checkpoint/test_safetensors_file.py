"""safetensors files against the safetensors package, and refused when they are not sound."""

import json
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from camelid.checkpoint.bounded import MAX_TABLE_BYTES
from camelid.checkpoint.safetensors_file import read_safetensors, write_safetensors
from camelid.errors import UserError

TENSORS = {
    "matrix": torch.arange(12, dtype=torch.float32).view(3, 4),
    "half": torch.arange(5, dtype=torch.float16),
    "brain": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(3.0),
}


def as_bytes(tensor: torch.Tensor) -> Any:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.zeros(0, np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    return tmp_path / "theirs.safetensors"


def test_what_the_package_wrote_is_read(path: Path) -> None:
    tensors, metadata = read_safetensors(path)
    assert metadata == {"format": "pt"}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(tensors[name].read(), as_bytes(tensor))


def test_nothing_is_copied(path: Path) -> None:
    owner: Any = read_safetensors(path)[0]["matrix"].read()
    assert not owner.flags.writeable
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner.obj, mmap.mmap)


def test_the_package_reads_what_we_write(path: Path, tmp_path: Path) -> None:
    tensors, _ = read_safetensors(path)
    ours = tmp_path / "ours.safetensors"
    write_safetensors(ours, list(tensors.values()), {"format": "pt"})
    found = load_file(ours)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(ours, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert ours.stat().st_size == path.stat().st_size


def write_file(path: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **changes}


UNSOUND: dict[str, tuple[Any, bytes, str]] = {
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12), "'b' shares bytes with another"),
    "same place": ({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8), "shares bytes with another"),
    "gap": ({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12), "'b' leaves 4 bytes before it unused"),
    "too short": ({"a": entry(0, 8)}, bytes(7), "'a' needs 8 bytes, and has 7"),
    "too long": ({"a": entry(0, 8)}, bytes(9), "take 8 bytes, and it holds 9"),
    "shape": ({"a": entry(0, 8, shape=[3])}, bytes(8), "'a' needs 12 bytes, and has 8"),
    "huge shape": ({"a": entry(0, 8, shape=[2**62, 2**62])}, bytes(8), "needs .* bytes, and has 8"),
    "negative shape": ({"a": entry(0, 8, shape=[-2])}, bytes(8), "no shape or no place"),
    "shape of truths": ({"a": entry(0, 4, shape=[True])}, bytes(4), "no shape or no place"),
    "many dimensions": ({"a": entry(0, 4, shape=[1] * 9)}, bytes(4), "no shape or no place"),
    "backwards": ({"a": entry(0, 8, data_offsets=[8, 0])}, bytes(8), "leaves 8 bytes"),
    "one offset": ({"a": entry(0, 8, data_offsets=[0])}, bytes(8), "no shape or no place"),
    "not a table": ({"a": 3}, b"", "no shape or no place"),
    "type": ({"a": entry(0, 8, dtype="I64", shape=[1])}, bytes(8), "'a' is of type 'I64', and Camelid reads F32, F16"),
    "unknown type": ({"a": entry(0, 8, dtype=["F32"])}, bytes(8), "is of type a list"),
    "metadata": ({"__metadata__": 3, "a": entry(0, 8)}, bytes(8), "__metadata__ is no table"),
    "twice": (b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{}}', bytes(4), "key 'a' comes twice"),
    "no JSON": (b"{", b"", "is damaged"),
    "no object": (b"[]", b"", "no JSON object"),
    "not UTF-8": (b'{"\xff":1}', b"", "is damaged"),
    "deep": (b'{"a":' + b"[" * 100_000, b"", "nested too deeply"),
    "huge number": (b'{"a":' + b"1" * 10_000 + b"}", b"", "is damaged"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_files_are_refused(name: str, tmp_path: Path) -> None:
    header, data, reason = UNSOUND[name]
    path = tmp_path / "x.safetensors"
    write_file(path, header, data)
    with pytest.raises(UserError, match=rf"x\.safetensors.*{reason}"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda _: b"", "ends within its header"),
        (lambda data: data[:5], "ends within its header"),
        (lambda data: data[:40], "ends within its header"),
        (lambda data: data[:-1], "needs 16 bytes|needs 12 bytes|take|has"),
        (lambda data: b"\xff" * 8 + data[8:], "ends within its header"),
        (lambda data: (MAX_TABLE_BYTES + 1).to_bytes(8, "little") + bytes(MAX_TABLE_BYTES + 9), "header of 4,194,305"),
    ],
)
def test_damaged_files_are_refused(damage: Callable[[bytes], bytes], reason: str, path: Path) -> None:
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=reason):
        read_safetensors(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.safetensors is missing"):
        read_safetensors(tmp_path / "no.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        read_safetensors(tmp_path)
