"""Damage of every kind to checkpoints of every format: one sentence or a sound model, and no memory without bound."""

import gzip
import json
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from tiny_checkpoints import write_huggingface

from camelid.checkpoint import hf_safetensors, llama2c, meta_pth, native
from camelid.checkpoint.bounded import MAX_TABLE_BYTES
from camelid.checkpoint.convert import convert
from camelid.checkpoint.safetensors_file import read_safetensors
from camelid.checkpoint.stored import StoredModel
from camelid.checkpoint.torch_file import read_torch_file
from camelid.checkpoint.torch_pickle import PickleError, read_tensors
from camelid.errors import UserError
from camelid.planning.shapes import parameter_shapes

MAX_GROWTH = 3
"""Bytes of memory for each byte of a model's files."""
MAX_TABLE_GROWTH = 40
"""The same for a table of JSON that is as wasteful as can be."""
SPARE_BYTES = 1 << 20

fuzzed = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
fuzzed_long = settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck))

# Places are shares of the length, so that examples stay meaningful for files of any length.
PLACES = st.floats(0, 1, exclude_max=True)
Damage = Callable[[bytes], bytes]


def overwrite(data: bytes, place: float, new: bytes) -> bytes:
    start = int(place * len(data))
    return data[:start] + new + data[start + len(new) :]


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """Bytes overwritten, inserted, taken out, repeated or cut off, up to four times; most near start and end."""
    steps: list[Damage] = []
    for _ in range(draw(st.integers(1, 4))):
        place = draw(PLACES.map(lambda x: x**6) | PLACES.map(lambda x: 1 - (1 - x) ** 6) | PLACES) % 1.0
        new = draw(
            st.binary(min_size=1, max_size=9)
            | st.sampled_from([b"\xff" * 8, bytes(8), b"\xff\xff\xff\x7f", b"-1", b"9" * 20, b"null", b"[]", b"{}"])
        )
        length = draw(st.integers(1, 64))
        kind = draw(st.sampled_from(["overwrite", "insert", "remove", "repeat", "cut"]))
        steps.append(_step(kind, place, new, length))

    def damage(data: bytes) -> bytes:
        for step in steps:
            data = step(data)
        return data

    return damage


def _step(kind: str, place: float, new: bytes, length: int) -> Damage:
    def step(data: bytes) -> bytes:
        start = int(place * len(data))
        if kind == "overwrite":
            return overwrite(data, place, new)
        if kind == "insert":
            return data[:start] + new + data[start:]
        if kind == "remove":
            return data[:start] + data[start + length :]
        if kind == "repeat":
            return data[: start + length] + data[start:]
        return data[:start]

    return step


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def check(open_model: Callable[[], StoredModel], num_bytes: int) -> None:
    """Opens a damaged model and reads all of it; nothing but a UserError of one line may come."""
    message = ""
    tracemalloc.start()
    try:
        model = open_model()
        assert {name: tensor.shape for name, tensor in model.tensors.items()} == parameter_shapes(model.config)
        for tensor in model.tensors.values():
            data = tensor.read()
            assert data.dtype == np.uint8
            assert data.shape == (tensor.encoding.num_bytes(tensor.shape),)
    except UserError as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert "\n" not in message
    assert message.encode() is not None
    assert peak < MAX_GROWTH * num_bytes + SPARE_BYTES


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model in every format."""
    folder = tmp_path_factory.mktemp("models")
    model = hf_safetensors.read(write_huggingface("llama-2", folder / "hf", max_shard_size="400KB"))
    convert(model, folder / "native", "native")
    convert(model, folder / "meta", "meta", num_shards=2)
    write_llama2c(folder / "llama2c.bin")
    (folder / "llama2c.bin.gz").write_bytes(gzip.compress((folder / "llama2c.bin").read_bytes()))
    return {path.name: path for path in folder.iterdir()}


def write_llama2c(path: Path) -> None:
    num_values = 32 * 8 + 2 * 8 + 4 * 64 + 3 * 12 * 8 + 8 + 4 * 4
    weights = np.random.default_rng(0).standard_normal(num_values, np.float32)
    path.write_bytes(struct.pack("<7i", 8, 12, 1, 2, 2, 32, 4) + weights.tobytes())


READERS: dict[str, Callable[[Path], StoredModel]] = {
    "hf": hf_safetensors.read,
    "native": native.read,
    "meta": meta_pth.read,
    "llama2c.bin": llama2c.read,
    "llama2c.bin.gz": llama2c.read,
}
FILES = {
    "hf": ("config.json", "model.safetensors.index.json", "model-00001-of-00003.safetensors"),
    "native": ("config.json", "model.safetensors"),
    "meta": ("params.json", "consolidated.00.pth", "consolidated.01.pth", "manifest.json"),
    "llama2c.bin": ("",),
    "llama2c.bin.gz": ("",),
}
CASES = [(kind, file) for kind, files in FILES.items() for file in files]


def check_damaged(models: dict[str, Path], tmp_path: Path, kind: str, file: str, damage: Damage) -> None:
    copy = tmp_path / f"{kind}-{file}"
    if models[kind].is_dir() and not copy.exists():
        shutil.copytree(models[kind], copy)
    (copy / file).write_bytes(damage((models[kind] / file).read_bytes()))
    num_bytes = sum(path.stat().st_size for path in (copy.iterdir() if copy.is_dir() else [copy]))
    check(lambda: READERS[kind](copy), num_bytes)


def test_the_models_are_sound(models: dict[str, Path], tmp_path: Path) -> None:
    for kind, file in CASES:
        READERS[kind](models[kind])
        check_damaged(models, tmp_path, kind, file, lambda data: data)


@pytest.mark.parametrize(("kind", "file"), CASES)
@fuzzed
@given(damage=damages())
def test_damaged_bytes(models: dict[str, Path], tmp_path: Path, kind: str, file: str, damage: Damage) -> None:
    check_damaged(models, tmp_path, kind, file, damage)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "file"), CASES)
@fuzzed_long
@given(damage=damages())
def test_damaged_bytes_for_long(models: dict[str, Path], tmp_path: Path, kind: str, file: str, damage: Damage) -> None:
    check_damaged(models, tmp_path, kind, file, damage)


JSON_CASES = [case for case in CASES if case[1].endswith(".json")]


@pytest.mark.parametrize(("kind", "file"), JSON_CASES)
@fuzzed
@given(data=st.data())
def test_other_values_in_json(
    models: dict[str, Path], tmp_path: Path, kind: str, file: str, data: st.DataObject
) -> None:
    tree = json.loads((models[kind] / file).read_text())
    inner = tree["weight_map"] if "weight_map" in tree and data.draw(st.booleans()) else tree
    inner[data.draw(st.sampled_from(sorted(inner)) | st.text(max_size=6))] = data.draw(JSON_VALUES)
    check_damaged(models, tmp_path, kind, file, lambda _: json.dumps(tree).encode())


@st.composite
def safetensors_headers(draw: st.DrawFn) -> bytes:
    """Tables that are nearly right: offsets and shapes that just do or do not fit."""
    entries: dict[str, Any] = {}
    end = 0
    for index in range(draw(st.integers(0, 4))):
        size = draw(st.integers(0, 6))
        dtype, width = draw(st.sampled_from([("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8)]))
        begin = end + draw(st.sampled_from([0, 0, 0, 0, 0, 1, -2]))
        end = begin + size * width + draw(st.sampled_from([0, 0, 0, 0, 0, 0, 2, -1]))
        shape = draw(st.sampled_from([[size], [size, 1], [1, size], [size, draw(st.integers(0, 2))]]))
        entries[f"t{index}"] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(max(0, end + draw(st.sampled_from([0, 0, 0, 1, -1]))))


@fuzzed
@given(data=safetensors_headers())
def test_the_package_refuses_and_accepts_the_same(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "x.safetensors"
    path.write_bytes(data)
    try:
        with safe_open(path, "np") as file:
            theirs = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        theirs = None
    refusal = ""
    ours = None
    try:
        ours = {name: list(tensor.shape) for name, tensor in read_safetensors(path)[0].items()}
    except UserError as error:
        refusal = str(error)
    assert ours == theirs or "is of type 'I64'" in refusal


PICKLE_PARTS = st.sampled_from(
    [*(bytes([code]) for code in b"})(NtusbRQ]e0.\x85\x86\x87\x88\x93\x94"), b"q\x00", b"h\x00", b"K\x05",
     b"J\xff\xff\xff\xff", b"X\x01\0\0\0a", b"X\x07\0\0\0storage", b"ctorch\nFloatStorage\n",
     b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"cposix\nsystem\n",
     b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8b\xff\xff\xff\x7f"]
)  # fmt: skip


@fuzzed
@given(parts=st.lists(PICKLE_PARTS, max_size=60))
def test_pickles_of_any_instructions(parts: list[bytes]) -> None:
    message = ""
    try:
        read_tensors(b"\x80\x02" + b"".join(parts) + b".")
    except PickleError as error:
        message = str(error)
    assert "\n" not in message


def measure(read: Callable[[Path], Any], path: Path) -> int:
    """Most bytes that were allocated until the file was refused."""
    tracemalloc.start()
    with pytest.raises(UserError):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"0,", b'"",', b"1.5,", b"[[[[]]]],"])
def test_large_headers_take_memory_in_proportion(unit: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    text = b'{"a":[' + unit * ((1 << 18) // len(unit)) + b"0]}"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert measure(read_safetensors, path) < MAX_TABLE_GROWTH * path.stat().st_size


@pytest.mark.parametrize("unit", [b"}", b")\x85", b"(", b"h\x00", b"X\0\0\0\0", b"}q\x01", b"ctorch\nFloatStorage\n"])
def test_large_pickles_take_memory_in_proportion(unit: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"}q\x00" + unit * ((1 << 16) // len(unit)))
    assert measure(read_torch_file, path) < 2.5 * MAX_TABLE_GROWTH * path.stat().st_size


def test_files_of_any_length_are_not_read_whole(tmp_path: Path) -> None:
    """Sparse files of 8 GB, whose headers ask for all of it."""
    size = 8 << 30
    cases: tuple[tuple[str, bytes, Callable[[Path], Any]], ...] = (
        ("x.safetensors", (size - 8).to_bytes(8, "little"), read_safetensors),
        ("x.pth", b"PK\x03\x04", read_torch_file),
        ("x.bin", struct.pack("<7i", 1 << 15, 1 << 15, 1, 1, 1, 1 << 15, 1), llama2c.read),
    )
    for name, head, read in cases:
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(head)
            file.truncate(size)
        assert measure(read, path) < MAX_TABLE_BYTES
    for name, reader in (("config.json", hf_safetensors), ("params.json", meta_pth), ("config.json", native)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
        assert measure(reader.read, tmp_path) < MAX_TABLE_BYTES
