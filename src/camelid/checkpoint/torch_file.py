"""One file of torch.save: a zip archive, uncompressed, of a pickle that names tensors and of records with their bytes.

Read without torch and without running the pickle; the records are mapped. Written one tensor at a time. Only the zip
form is read, which torch has written since version 1.6.
"""

import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from camelid.checkpoint.bounded import MAX_TABLE_BYTES, map_file, show
from camelid.checkpoint.expected import say_shape
from camelid.checkpoint.stored import StoredTensor
from camelid.checkpoint.torch_pickle import PickleError, SavedTensor, read_tensors, write_tensors
from camelid.errors import UserError

Bytes = NDArray[np.uint8]

# A tensor takes some 200 bytes of a pickle, and a byte of a hostile one up to 100 of memory.
_MAX_PICKLE_BYTES = 1 << 20
_ALIGNMENT = 64
_ZIP64_BYTES = (1 << 31) - 1  # from here on zipfile writes 64-bit sizes
_END = struct.Struct("<4s4H2IH")  # signature, disks and counts, directory's size and place, length of a comment
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_EXTRA = struct.Struct("<2H")
_ZIP64_EXTRA, _PADDING_EXTRA = 1, 0x4246
_IS_ENCRYPTED = 1


class _DamagedError(ValueError):
    """What is wrong with an archive, in words."""


@dataclass(frozen=True)
class _Record:
    start: int
    num_bytes: int


def read_torch_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by its names.

    Raises:
        UserError: it is no file of torch.save, damaged, or its pickle asks for more than tensors of float32, float16 or
            bfloat16.
    """
    data = map_file(path)
    try:
        records = _read_directory(data)
        pickled = [name for name in records if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise _DamagedError(f"it holds {len(pickled)} pickles, and a file of torch.save holds one")
        folder = pickled[0].removesuffix("data.pkl")
        if _view(data, records.get(folder + "byteorder", _Record(0, 0))).tobytes() not in (b"", b"little"):
            raise _DamagedError("its numbers are big-endian")
        table = _view(data, records[pickled[0]])
        if table.size > _MAX_PICKLE_BYTES:
            raise _DamagedError(f"its pickle has {table.size:,} bytes, and {_MAX_PICKLE_BYTES:,} are allowed")
        saved = read_tensors(table.tobytes())
        places = _find_storages(saved, records, folder + "data/")
        return {name: _make_tensor(name, tensor, data, places[tensor.storage]) for name, tensor in saved.items()}
    except (_DamagedError, PickleError) as error:
        raise UserError(f"{path} cannot be read: {error}; get it again from where you trust it") from error


def _view(data: Bytes, record: _Record) -> Bytes:
    return data[record.start : record.start + record.num_bytes]


def _read_directory(data: Bytes) -> dict[str, _Record]:
    """Place and size of every record, by name."""
    count, size, start = _find_directory(data)
    if start + size > data.size or size > MAX_TABLE_BYTES or count * _ENTRY.size > size:
        raise _DamagedError("the directory of its zip archive is damaged")
    directory = data[start : start + size].tobytes()
    records: dict[str, _Record] = {}
    place = 0
    for _ in range(count):
        if place + _ENTRY.size > size:
            raise _DamagedError("the directory of its zip archive ends too early")
        fields = _ENTRY.unpack_from(directory, place)
        name_bytes, extra_bytes, comment_bytes = fields[10:13]
        place += _ENTRY.size
        name = directory[place : place + name_bytes].decode(errors="replace")
        extra = directory[place + name_bytes : place + name_bytes + extra_bytes]
        place += name_bytes + extra_bytes + comment_bytes
        if fields[0] != b"PK\x01\x02" or name in records:
            raise _DamagedError(f"the directory of its zip archive is damaged at {show(name)}")
        if fields[3] & _IS_ENCRYPTED or fields[4] != zipfile.ZIP_STORED:
            raise _DamagedError(f"its record {show(name)} is compressed or encrypted, as torch.save never does")
        num_bytes, header = _widen(extra, fields[9], fields[8], fields[16])
        records[name] = _Record(_find_data(data, header, num_bytes, name), num_bytes)
    return records


def _find_directory(data: Bytes) -> tuple[int, int, int]:
    """Number of entries, size and place of the archive's directory."""
    tail_start = max(0, data.size - (1 << 16) - _END.size)
    tail = data[tail_start:].tobytes()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or place + _END.size > len(tail):
        raise _DamagedError("it is no zip archive, as torch.save has written since version 1.6, or was cut off")
    fields = _END.unpack_from(tail, place)
    count, size, start = fields[4:7]
    locator = place - _END64_LOCATOR.size
    if locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07":
        end64 = _END64_LOCATOR.unpack_from(tail, locator)[2]
        if end64 + _END64.size > data.size:
            raise _DamagedError("the directory of its zip archive is damaged")
        fields = _END64.unpack(data[end64 : end64 + _END64.size].tobytes())
        if fields[0] != b"PK\x06\x06":
            raise _DamagedError("the directory of its zip archive is damaged")
        count, size, start = fields[7:10]
    return count, size, start


def _widen(extra: bytes, size: int, stored_size: int, header: int) -> tuple[int, int]:
    """Size and place of a record; what does not fit in 32 bits stands, in this order, in an extra field."""
    values = [size, stored_size, header]
    place = 0
    while place + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, place)
        field = extra[place + _EXTRA.size : place + _EXTRA.size + length]
        place += _EXTRA.size + length
        if kind == _ZIP64_EXTRA:
            for index, value in enumerate(values):
                if value == 0xFFFFFFFF and len(field) >= 8:
                    values[index] = int.from_bytes(field[:8], "little")
                    field = field[8:]
    if values[0] != values[1]:
        raise _DamagedError("a record has two sizes")
    return values[0], values[2]


def _find_data(data: Bytes, header: int, num_bytes: int, name: str) -> int:
    """Where the bytes of a record begin, behind its local header."""
    if header + _LOCAL.size > data.size:
        raise _DamagedError(f"its record {show(name)} lies beyond its end")
    fields = _LOCAL.unpack(data[header : header + _LOCAL.size].tobytes())
    start: int = header + _LOCAL.size + fields[9] + fields[10]
    if fields[0] != b"PK\x03\x04" or start + num_bytes > data.size:
        raise _DamagedError(f"its record {show(name)} is damaged or runs over its end")
    return start


def _find_storages(saved: dict[str, SavedTensor], records: dict[str, _Record], folder: str) -> dict[str, _Record]:
    """The record of every storage that a tensor uses; they must not overlap."""
    places = {}
    for name, tensor in saved.items():
        record = records.get(folder + tensor.storage)
        if record is None or record.num_bytes != tensor.num_elements * tensor.encoding.block_bytes:
            what = "missing" if record is None else f"of {record.num_bytes:,} bytes"
            raise _DamagedError(
                f"the storage of tensor {show(name)} is {what}, and should have "
                f"{tensor.num_elements * tensor.encoding.block_bytes:,} bytes"
            )
        places[tensor.storage] = record
    end = 0
    for storage, record in sorted(places.items(), key=lambda item: item[1].start):
        if record.start < end:
            raise _DamagedError(f"its storage {show(storage)} overlaps with another")
        end = record.start + record.num_bytes
    return places


def _make_tensor(name: str, saved: SavedTensor, data: Bytes, record: _Record) -> StoredTensor:
    width, shape, num_elements = saved.encoding.block_bytes, saved.shape, prod(saved.shape)
    last = saved.offset + sum((size - 1) * stride for size, stride in zip(shape, saved.strides, strict=True))
    if num_elements > saved.num_elements or (num_elements and last >= saved.num_elements):
        raise _DamagedError(f"tensor {show(name)} of shape {say_shape(shape)} runs over the end of its storage")
    storage = _view(data, record)
    is_contiguous = all(
        size == 1 or stride == row_stride
        for size, stride, row_stride in zip(shape, saved.strides, _row_strides(shape), strict=True)
    )
    if is_contiguous or not num_elements:
        elements = storage[saved.offset * width : (saved.offset + num_elements) * width]
        return StoredTensor(name, shape, saved.encoding, lambda: elements)
    steps = tuple(stride * width for stride in saved.strides)
    bytes_of_elements = np.lib.stride_tricks.as_strided(
        storage[saved.offset * width :], (*shape, width), (*steps, 1), writeable=False
    )
    return StoredTensor(name, shape, saved.encoding, lambda: bytes_of_elements.reshape(-1))


def _row_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


class TorchFileWriter:
    """A file that torch.load reads, memory-mapped too; tensors are added one by one in the order announced.

    Args:
        tensors: names, shapes and plain encodings; they are not read.
    """

    def __init__(self, path: Path, tensors: Sequence[StoredTensor]):
        self._waiting = list(enumerate(tensors))[::-1]
        self._folder = path.stem
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        saved = [
            (
                tensor.name,
                SavedTensor(
                    str(index), tensor.encoding, prod(tensor.shape), 0, tensor.shape, _row_strides(tensor.shape)
                ),
            )
            for index, tensor in self._waiting[::-1]
        ]
        self._add("data.pkl", np.frombuffer(write_tensors(saved), np.uint8))
        self._add("byteorder", np.frombuffer(b"little", np.uint8))
        self._add("version", np.frombuffer(b"3\n", np.uint8))

    def add(self, data: Bytes) -> None:
        """Writes the bytes of the next tensor."""
        index, tensor = self._waiting.pop()
        assert data.nbytes == tensor.encoding.num_bytes(tensor.shape), tensor.name
        self._add(f"data/{index}", data)

    def _add(self, name: str, data: Bytes) -> None:
        record = zipfile.ZipInfo(f"{self._folder}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
        is_large = data.nbytes > _ZIP64_BYTES
        assert self._archive.fp is not None
        start = self._archive.fp.tell() + _LOCAL.size + len(record.filename) + _EXTRA.size + 20 * is_large
        padding = -start % _ALIGNMENT
        record.extra = _EXTRA.pack(_PADDING_EXTRA, padding) + b"Z" * padding
        with self._archive.open(record, "w", force_zip64=is_large) as file:
            file.write(data.data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            assert not self._waiting, "tensors were announced and not written"
        self._archive.close()
