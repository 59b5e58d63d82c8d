"""Headers of GGUF files: every kind of value, and every way in which a file can contradict itself."""

import contextlib
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFEndian, GGUFWriter
from gguf_files import CONFIG, entry, general_metadata, pair, random_weights, raw_gguf, text, write_gguf

from camelid.checkpoint.gguf_header import open_file, part_path, read_metadata
from camelid.errors import UserError

FLOATS = bytes(128)
HUGE = (1 << 63) - 1


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return path


def array(kind: int, count: int, data: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + data


def test_every_type_of_value_is_read(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "all.gguf", "llama")
    scalars: dict[str, Any] = {
        "uint8": 255, "int8": -128, "uint16": 65535, "int16": -5, "uint32": 1 << 31, "int32": -7, "float32": 0.25,
        "uint64": 1 << 63, "int64": -(1 << 62), "float64": 1e300, "bool": True, "string": "wool 🦙",
    }  # fmt: skip
    for name, value in scalars.items():
        getattr(writer, f"add_{name}")(name, value)
    arrays: dict[str, list[Any]] = {
        "texts": ["a", "▁", "long " * 100], "ints": [1, -2, 3], "floats": [0.5, -0.25], "flags": [True, False],
        "nested": [["a", "b"], ["c"]],
    }  # fmt: skip
    for name, items in arrays.items():
        writer.add_array(name, items)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_ti_data_to_file, writer.close):
        step()
    found = read_metadata(tmp_path / "all.gguf")
    assert found.pop("general.architecture") == "llama"
    for name, value in scalars.items():
        assert found[name] == value
        assert type(found[name]) is type(value)
    for name, items in arrays.items():
        value = found[name]
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == items
    assert (found["ints"].dtype, found["floats"].dtype, found["flags"].dtype) == (np.int32, np.float32, np.bool_)
    assert found.keys() == {*scalars, *arrays}


@pytest.mark.parametrize("version", [2, 3])
def test_tensors_are_views_of_the_file(tmp_path: Path, version: int) -> None:
    data = np.arange(96, dtype=np.float32).tobytes()
    table = [entry("b", (8, 4), offset=0), entry("a", (2, 16), offset=256)]
    file = open_file(write(tmp_path, raw_gguf(entries=table, data=data, version=version)))
    assert {name: info.shape for name, info in file.tensors.items()} == {"b": (4, 8), "a": (16, 2)}
    view = file.view(file.tensors["a"])
    assert view.view(np.float32).tolist() == list(range(64, 96))
    assert np.shares_memory(view, file.data)
    assert not file.data.flags.writeable


DAMAGED = [
    (b"", "is empty"),
    (b"GGUF", "it ends inside its header, at byte 4"),
    (b"GGML" + bytes(60), "is no GGUF file"),
    (raw_gguf(version=1), "of GGUF version 1, and Camelid reads 2 and 3"),
    (raw_gguf(version=4), "of GGUF version 4"),
    (raw_gguf(num_pairs=HUGE), "announces 9,223,372,036,854,775,807 metadata values"),
    (raw_gguf(num_entries=HUGE), "announces 9,223,372,036,854,775,807 tensors"),
    (raw_gguf([pair("a", 8, struct.pack("<Q", HUGE))]), "the text at byte .* runs over its end"),
    (raw_gguf([struct.pack("<Q", HUGE) + bytes(16)], num_pairs=1), "the text at byte 24 runs over its end"),
    (raw_gguf([pair(b"\xff", 0, b"\0")]), "is not UTF-8"),
    (raw_gguf([pair("a", 8, text(b"\xc3"))]), "is not UTF-8"),
    (raw_gguf([pair("a", 13, bytes(8))]), "a value of type 13, which GGUF does not have"),
    (raw_gguf([pair("a", 7, b"\2")]), "the truth value at byte .* is 2"),
    (raw_gguf([pair("a", 9, array(7, 2, b"\1\3"))]), "a truth value of the array"),
    (raw_gguf([pair("a", 9, array(8, HUGE, b""))]), "announces 9,223,372,036,854,775,807 values"),
    (raw_gguf([pair("a", 9, array(8, 3, text("x")))]), "announces 3 values, for which it is too short"),
    (raw_gguf([pair("a", 9, array(10, 1 << 60, b""))]), "announces"),
    (raw_gguf([pair("a", 9, array(99, 1, bytes(8)))]), "type 99"),
    (raw_gguf([pair("a", 9, array(9, 1, array(9, 1, array(9, 1, array(9, 1, array(0, 1, b"\0"))))))]), "nested"),
    (raw_gguf([pair("a", 0, b"\0"), pair("a", 0, b"\0")]), "has 'a' twice"),
    (raw_gguf([pair("general.alignment", 4, struct.pack("<I", 24))]), "alignment is no power of two"),
    (raw_gguf([pair("general.alignment", 4, struct.pack("<I", 0))]), "alignment is no power of two"),
    (raw_gguf([pair("general.alignment", 8, text("x"))]), "alignment is no power of two"),
    (raw_gguf(entries=[entry("a", ())], data=FLOATS), "has 0 dimensions"),
    (raw_gguf(entries=[entry("a", (1, 1, 1, 1, 32))], data=FLOATS), "has 5 dimensions"),
    (raw_gguf(entries=[entry("a", (32, 0))], data=FLOATS), "'a' is empty"),
    (raw_gguf(entries=[entry("a", kind=16)], data=FLOATS), "of ggml type 16, which Camelid does not read"),
    (raw_gguf(entries=[entry("a", (33,), kind=8)], data=FLOATS), "33 values does not divide into q8_0's 32"),
    (raw_gguf(entries=[entry("a", offset=8)], data=FLOATS), "does not begin at a multiple of 32"),
    (raw_gguf(entries=[entry("a", offset=32)], data=FLOATS), "would end at byte"),
    (raw_gguf(entries=[entry("a", (HUGE, HUGE))], data=FLOATS), "would end at byte"),
    (raw_gguf(entries=[entry("a", offset=HUGE & ~31)], data=FLOATS), "would end at byte"),
    (raw_gguf(entries=[entry("a"), entry("a", offset=128)], data=2 * FLOATS), "the tensor 'a' twice"),
    (raw_gguf(entries=[entry("a"), entry("b", offset=96)], data=2 * FLOATS), "the tensors 'a' and 'b' overlap"),
]


@pytest.mark.parametrize(("data", "message"), DAMAGED, ids=[message for _, message in DAMAGED])
def test_contradictions_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path, data)
    with pytest.raises(UserError, match=message) as caught:
        open_file(path)
    assert str(path) in str(caught.value)
    tracemalloc.start()
    with contextlib.suppress(UserError):
        open_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000


def test_big_endian_files_are_told_apart_from_damaged_ones(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "big.gguf", "llama", endianess=GGUFEndian.BIG)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_ti_data_to_file, writer.close):
        step()
    with pytest.raises(UserError, match="is a big-endian GGUF file"):
        open_file(tmp_path / "big.gguf")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "whole.gguf", random_weights(CONFIG), general_metadata(CONFIG), "q8_0")
    whole = path.read_bytes()
    last = max(info.start + info.num_bytes for info in open_file(path).tensors.values())
    start = min(info.start for info in open_file(path).tensors.values())
    for length in (*range(0, start, 7), *range(start, last, 4999), last - 1):
        cut = write(tmp_path, whole[:length])
        with pytest.raises(UserError, match=r"is empty|is damaged|is no GGUF file"):
            open_file(cut)
    open_file(write(tmp_path, whole[:last]))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "Is a directory"), (tmp_path / "none.gguf", "is missing")):
        with pytest.raises(UserError, match=message):
            open_file(path)


def test_names_of_parts() -> None:
    assert part_path(Path("a/x-00003-of-00004.gguf"), 1) == Path("a/x-00001-of-00004.gguf")
    assert part_path(Path("a/x.gguf"), 1) == Path("a/x.gguf")
