"""Files of torch.save, against torch itself; pickles that are programs, and archives that are damaged."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camelid.checkpoint import torch_file
from camelid.checkpoint.torch_file import TorchFileWriter, read_torch_file
from camelid.checkpoint.torch_pickle import PickleError, read_tensors
from camelid.encoding import ENCODINGS
from camelid.errors import UserError

MATRIX = torch.arange(48, dtype=torch.float32).view(6, 8)
TENSORS = {
    "matrix": MATRIX,
    "turned": MATRIX.T,
    "part": MATRIX[1:4, 2:7],
    "column": MATRIX[:, 3:4],
    "half": torch.randn(3, 1, 4).half(),
    "brain": torch.randn(5).bfloat16(),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 3),
}


def as_bytes(tensor: torch.Tensor) -> Any:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(TENSORS, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def test_what_torch_wrote_is_read(path: Path) -> None:
    tensors = read_torch_file(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(tensors[name].read(), as_bytes(tensor), err_msg=name)
    assert not tensors["matrix"].read().flags.owndata


def test_a_state_dictionary_is_read(tmp_path: Path) -> None:
    """With attributes, which torch builds, and in a form that pickle protocol 4 writes."""
    state = torch.nn.Linear(3, 4).state_dict()
    for protocol in (2, 4):
        torch.save(state, tmp_path / "x.pth", pickle_protocol=protocol)
        found = read_torch_file(tmp_path / "x.pth")
        assert {name: tensor.shape for name, tensor in found.items()} == {"weight": (4, 3), "bias": (4,)}


@pytest.mark.parametrize("is_mapped", [True, False])
def test_torch_reads_what_we_write(is_mapped: bool, path: Path, tmp_path: Path) -> None:
    tensors = list(read_torch_file(path).values())
    ours = tmp_path / "ours.pth"
    with TorchFileWriter(ours, tensors) as writer:
        for tensor in tensors:
            writer.add(tensor.read())
    found = torch.load(ours, weights_only=True, mmap=is_mapped)
    assert list(found) == list(TENSORS)
    for name, expected in TENSORS.items():
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected)
        assert found[name].untyped_storage().data_ptr() % 64 == 0 or not is_mapped
    assert zipfile.ZipFile(ours).testzip() is None
    for name, again in read_torch_file(ours).items():
        np.testing.assert_array_equal(again.read(), as_bytes(TENSORS[name]))


def test_large_records_have_64_bit_sizes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_file, "_ZIP64_BYTES", 100)
    tensors = list(read_torch_file(path).values())
    with TorchFileWriter(tmp_path / "ours.pth", tensors) as writer:
        for tensor in tensors:
            writer.add(tensor.read())
    found = torch.load(tmp_path / "ours.pth", weights_only=True, mmap=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert read_torch_file(tmp_path / "ours.pth")["matrix"].read().tobytes() == as_bytes(MATRIX).tobytes()


def test_64_bit_directory_is_read(path: Path) -> None:
    """The form of archives beyond 4 GB, forced upon a small one."""
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\x05\x06")
    count, size, start = struct.unpack_from("<HII", data, end + 10)
    locator = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator += struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    struct.pack_into("<HHII", data, end + 8, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    path.write_bytes(data[:end] + locator + data[end:])
    assert read_torch_file(path).keys() == TENSORS.keys()


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def write_archive(path: Path, pickled: bytes, **records: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        for name, data in records.items():
            archive.writestr(f"x/data/{name}", data)


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_named_and_not_run(protocol: int, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for value, function in (
        (Call(Path.touch, ran), "touch|Path|getattr"),
        (Call(exec, f"open({str(ran)!r}, 'w')"), "exec"),
        (OrderedDict(a=Call(eval, "1")), "eval"),
        (Call(torch.load, str(ran)), "torch.serialization.load|_serialization"),
    ):
        write_archive(tmp_path / "x.pth", pickle.dumps(value, protocol))
        with pytest.raises(UserError, match=rf"x\.pth cannot be read: its pickle (calls .*({function})|has an instr)"):
            read_torch_file(tmp_path / "x.pth")
        assert not ran.exists()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 2], "an instruction APPENDS"),
        (3, "holds no table of tensors"),
        ({"step": 3}, "its entry 'step' is no tensor"),
        ({"model": {"a": 1}}, "its entry 'model' is no tensor"),
        ({3: torch.ones(1)}, "fills what is no table of names"),
        ({"w": torch.ones(3, dtype=torch.float64)}, r"a tensor of torch\.DoubleStorage"),
        ({"w": torch.ones(3, dtype=torch.int64)}, r"a tensor of torch\.LongStorage"),
        ({"w": torch.ones(3).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"w": torch.nn.Linear(2, 2)}, r"torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_other_contents_are_refused(value: Any, reason: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "x.pth")
    with pytest.raises(UserError, match=reason):
        read_torch_file(tmp_path / "x.pth")


def test_older_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"no zip archive, as torch\.save has written since version 1\.6"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "llama")
    with pytest.raises(UserError, match="holds 0 pickles"):
        read_torch_file(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="no zip archive"):
        read_torch_file(path)


def rewrite(path: Path, change: Callable[[zipfile.ZipInfo, bytes], bytes | None], compression: int = 0) -> None:
    """Writes an archive anew, its records changed or left out."""
    with zipfile.ZipFile(path) as archive:
        records = [(record, archive.read(record)) for record in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for record, data in records:
            changed = change(record, data)
            if changed is not None:
                archive.writestr(record.filename, changed)


def test_records_that_do_not_fit(path: Path) -> None:
    whole = path.read_bytes()
    cases: list[tuple[Callable[[zipfile.ZipInfo, bytes], bytes | None], int, str]] = [
        (lambda r, d: None if r.filename.endswith("data/0") else d, 0, "storage of tensor 'matrix' is missing"),
        (
            lambda r, d: d[:-4] if r.filename.endswith("data/0") else d,
            0,
            "'matrix' is of 188 bytes, and should have 192",
        ),
        (lambda r, d: d + b"xx" if r.filename.endswith("data/2") else d, 0, "is of .* bytes, and should have"),
        (lambda r, d: b"big" if r.filename.endswith("byteorder") else d, 0, "big-endian"),
        (lambda _, d: d, zipfile.ZIP_DEFLATED, "compressed or encrypted"),
    ]
    for change, compression, reason in cases:
        path.write_bytes(whole)
        rewrite(path, change, compression)
        with pytest.raises(UserError, match=reason):
            read_torch_file(path)


def test_overlapping_storages_are_refused(path: Path) -> None:
    """Two entries of the directory that lead to one place, which a zip bomb does a thousandfold."""
    data = bytearray(path.read_bytes())
    places = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    entries = {bytes(data[i + 46 : i + 46 + struct.unpack_from("<H", data, i + 28)[0]]): i for i in places}
    first, second = entries[b"theirs/data/0"], entries[b"theirs/data/1"]
    (place,) = struct.unpack_from("<I", data, first + 42)
    struct.pack_into("<I", data, second + 42, place)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"storage .* overlaps with another"):
        read_torch_file(path)


def test_truncated_files_are_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_torch_file(path)


def storage(key: str = "0", size: int = 4, kind: bytes = b"FloatStorage") -> bytes:
    parts = b"X\x07\0\0\0storage" + b"ctorch\n" + kind + b"\n" + b"X\x01\0\0\0" + key.encode() + b"X\x03\0\0\0cpu"
    return b"(" + parts + b"K" + bytes([size]) + b"tQ"


def view(offset: bytes, shape: bytes, strides: bytes) -> bytes:
    head = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return head + storage() + offset + shape + strides + b"\x89)tR"


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "reason"),
    [
        (b"K\x01", b"K\x04\x85", b"K\x01\x85", "of shape 4 runs over the end"),
        (b"K\x00", b"K\x05\x85", b"K\x01\x85", "of shape 5 runs over the end"),
        (b"K\x00", b"K\x05\x85", b"K\x00\x85", "of shape 5 runs over the end"),
        (b"K\x00", b"K\x02K\x02\x86", b"K\x03K\x01\x86", "of shape 2 x 2 runs over the end"),
        (b"K\x00", b"K\x02K\x02\x86", b"K\x02\x85", "a tensor has no shape"),
        (b"J\xff\xff\xff\xff", b"K\x02\x85", b"K\x01\x85", "a tensor has no shape"),
        (b"K\x00", b"J\xff\xff\xff\xff\x85", b"K\x01\x85", "a tensor has no shape"),
        (b"K\x00", b"\x88\x85", b"K\x01\x85", "a tensor has no shape"),
        (b"K\x00", b"X\x01\0\0\0a\x85", b"K\x01\x85", "a tensor has no shape"),
        (b"K\x00", b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x85", b"K\x01\x85", "runs over the end"),
    ],
)
def test_views_beyond_their_storage(offset: bytes, shape: bytes, strides: bytes, reason: str, tmp_path: Path) -> None:
    pickled = b"\x80\x02}X\x01\0\0\0w" + view(offset, shape, strides) + b"s."
    write_archive(tmp_path / "x.pth", pickled, **{"0": bytes(16)})
    with pytest.raises(UserError, match=reason):
        read_torch_file(tmp_path / "x.pth")


def test_a_view_may_stand_still(tmp_path: Path) -> None:
    pickled = b"\x80\x02}X\x01\0\0\0w" + view(b"K\x01", b"K\x02K\x02\x86", b"K\x00K\x01\x86") + b"s."
    write_archive(tmp_path / "x.pth", pickled, **{"0": np.arange(4, dtype="<f4").tobytes()})
    assert read_torch_file(tmp_path / "x.pth")["w"].read().view("<f4").tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02}",
        b"\x80\x02(((.",
        b"\x80\x02}t.",
        b"\x80\x02\x85.",
        b"\x80\x02}q",
        b"\x80\x02h\x07.",
        b"\x80\x02Q.",
        b"\x80\x02NQ.",
        b"\x80\x02NNR.",
        b"\x80\x02NNb.",
        b"\x80\x02N(NNu.",
        b"\x80\x02}(Nu.",
        b"\x80\x02}NNs.",
        b"\x80\x04))\x93.",
        b"\x80\x04))\x86)\x86X\x01\0\0\0a\x93.",
        b"\x80\x02ccollections\nOrderedDict\nN\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nNNNN(tR.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02X\x01\0\0\0\xff.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"I" + b"9" * 10_000 + b"\n.",
        b"\x80\x02" + b"(" * 100_000,
    ],
)  # fmt: skip
def test_senseless_pickles_are_refused(pickled: bytes) -> None:
    with pytest.raises(PickleError):
        read_tensors(pickled)


def test_deeply_nested_pickles_cost_nothing() -> None:
    doubled = b"\x80\x02)" + b"q\x00h\x00\x86" * 200  # a tuple of twice itself, two hundred times over
    for end in (b".", b"}\x86.", b"h\x00\x93.", b"Q.", b")R."):
        with pytest.raises(PickleError):
            read_tensors(doubled + end)


def test_pickles_without_bound_are_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "x.pth", b"}" * ((1 << 20) + 1))
    with pytest.raises(UserError, match=r"its pickle has 1,048,577 bytes"):
        read_torch_file(tmp_path / "x.pth")


def test_nothing_but_what_was_announced_is_written(tmp_path: Path) -> None:
    tensor = read_torch_file_of(torch.ones(3), tmp_path)
    assert tensor.encoding == ENCODINGS["f32"]
    with pytest.raises(AssertionError), TorchFileWriter(tmp_path / "y.pth", [tensor]) as writer:
        writer.add(np.zeros(8, np.uint8))
    with pytest.raises(AssertionError, match="announced"), TorchFileWriter(tmp_path / "z.pth", [tensor]):
        pass


def read_torch_file_of(tensor: torch.Tensor, folder: Path) -> Any:
    torch.save({"w": tensor}, folder / "w.pth")
    return read_torch_file(folder / "w.pth")["w"]


def test_the_same_tensors_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    tensors = list(read_torch_file(path).values())
    contents = []
    for _ in range(2):
        with TorchFileWriter(tmp_path / "x.pth", tensors) as writer:
            for tensor in tensors:
                writer.add(tensor.read())
        contents.append((tmp_path / "x.pth").read_bytes())
    assert contents[0] == contents[1]
    assert io.BytesIO(contents[0]).read(2) == b"PK"
