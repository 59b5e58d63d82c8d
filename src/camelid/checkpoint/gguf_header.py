"""A GGUF file's header: metadata and table of tensors, believed only as far as the file's length bears them out.

Nothing is allocated for a count before the file is known to be long enough for it, so a header of any content costs a
small multiple of the file's size. The weights are mapped and not read. The format: ggml's docs/gguf.md, version 3;
version 2 differs in nothing but that big-endian files did not exist yet.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camelid.checkpoint.bounded import open_mapping, show
from camelid.encoding import ENCODINGS, Encoding
from camelid.errors import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
ENCODING_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "q2_k": 10,
    "q3_k": 11,
    "q4_k": 12,
    "q5_k": 13,
    "q6_k": 14,
    "iq4_nl": 20,
    "iq4_xs": 23,
    "bf16": 30,
}
"""Number of each encoding in the table of tensors."""

_ENCODINGS = {number: ENCODINGS[name] for name, number in ENCODING_TYPES.items()}
_MAX_DIMENSIONS = 4
_MAX_DEPTH = 4
_PART = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")

_UINT32 = struct.Struct("<I")
_UINT64 = struct.Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS = {
    number: struct.Struct(f"<{code}")
    for number, code in (
        (0, "B"),
        (1, "b"),
        (2, "H"),
        (3, "h"),
        (4, "I"),
        (5, "i"),
        (6, "f"),
        (_BOOL, "B"),
        (10, "Q"),
        (11, "q"),
        (12, "d"),
    )
}
_SMALLEST = {**{number: layout.size for number, layout in _NUMBERS.items()}, _STRING: 8, _ARRAY: 12}
"""Fewest bytes that a value of each type takes."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One line of the table of tensors."""

    shape: tuple[int, ...]
    """As everywhere in Camelid, rows first; the file has it the other way round."""
    encoding: Encoding
    start: int
    """First byte, counted from the beginning of the file."""
    num_bytes: int


@dataclass(frozen=True)
class GgufFile:
    """A file whose header has been read and whose table fits it."""

    path: Path
    metadata: dict[str, Any]
    """Numbers and text as Python has them, arrays of numbers as numpy arrays, other arrays as lists."""
    tensors: dict[str, TensorInfo]
    """By the file's own names, in its order."""
    data: NDArray[np.uint8]
    """The whole file, mapped and read-only."""

    def view(self, info: TensorInfo) -> NDArray[np.uint8]:
        """The bytes of one tensor."""
        return self.data[info.start : info.start + info.num_bytes]


def part_path(path: Path, number: int) -> Path:
    """Where another part of a model in parts lies; the path itself where its name does not say that it is a part."""
    named = _PART.fullmatch(path.name)
    return path.with_name(f"{named['name']}-{number:05d}-of-{named['count']}.gguf") if named else path


def open_file(path: Path) -> GgufFile:
    """Reads a file's header and maps its weights.

    Raises:
        UserError: there is no such file, it is no GGUF file, of a version or byte order that is not read, damaged, or a
            tensor is of a type that Camelid does not know.
    """
    cursor = _Cursor(path)
    num_tensors, metadata = _read_metadata(cursor)
    tensors = _read_table(cursor, num_tensors, _alignment(cursor, metadata))
    return GgufFile(path, metadata, tensors, np.frombuffer(cursor.mapped, np.uint8))


def read_metadata(path: Path) -> dict[str, Any]:
    """Reads a file's metadata alone, whatever its tensors are; of a file in parts only what this part holds.

    Raises:
        UserError: as `open_file`, except for what concerns tensors.
    """
    return _read_metadata(_Cursor(path))[1]


class _Cursor:
    """A place in a mapped file that moves on as values are read, and never beyond its end."""

    def __init__(self, path: Path):
        self.path = path
        mapped = open_mapping(path)
        if mapped is None:
            raise UserError(f"{path} is empty; get the file again")
        self.mapped = mapped
        self.size = len(mapped)
        self.place = 0

    def damaged(self, reason: str) -> UserError:
        """The sentence for a file that contradicts itself."""
        return UserError(f"{self.path} is damaged: {reason}; get the file again or convert the model anew")

    def expect(self, count: int, smallest: int, what: str) -> int:
        """Returns `count`, if what is left of the file can hold so many values of at least `smallest` bytes."""
        if count * smallest > self.size - self.place:
            raise self.damaged(f"at byte {self.place:,} it announces {count:,} {what}, for which it is too short")
        return count

    def number(self, layout: struct.Struct) -> Any:
        if self.place + layout.size > self.size:
            raise self.damaged(f"it ends inside its header, at byte {self.size:,}")
        (value,) = layout.unpack_from(self.mapped, self.place)
        self.place += layout.size
        return value

    def count(self, smallest: int, what: str) -> int:
        """A 64-bit count of what follows."""
        return self.expect(self.number(_UINT64), smallest, what)

    def text(self) -> str:
        return self.texts(1)[0]

    def texts(self, count: int) -> list[str]:
        # Vocabularies have hundreds of thousands of strings: the loop is as bare as it can be.
        mapped, size, place, unpack = self.mapped, self.size, self.place, _UINT64.unpack_from
        found = []
        try:
            for _ in range(count):
                start = place + 8
                place = start + unpack(mapped, place)[0]
                if place > size:
                    raise self.damaged(f"the text at byte {start - 8:,} runs over its end")
                found.append(mapped[start:place].decode())
        except struct.error as error:
            raise self.damaged(f"it ends inside its header, at byte {size:,}") from error
        except UnicodeDecodeError as error:
            raise self.damaged(f"the text at byte {start:,} is not UTF-8") from error
        self.place = place
        return found

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array(depth)
        if kind not in _NUMBERS:
            raise self.damaged(f"at byte {self.place:,} stands a value of type {kind:,}, which GGUF does not have")
        number = self.number(_NUMBERS[kind])
        if kind == _BOOL:
            if number > 1:
                raise self.damaged(f"the truth value at byte {self.place - 1:,} is {number}")
            return bool(number)
        return number

    def array(self, depth: int) -> Any:
        if depth == _MAX_DEPTH:
            raise self.damaged(f"at byte {self.place:,} arrays are nested more than {_MAX_DEPTH} deep")
        kind = self.number(_UINT32)
        count = self.count(_SMALLEST.get(kind, 1), "values")
        if kind == _STRING:
            return self.texts(count)
        if kind == _ARRAY or kind not in _NUMBERS:
            return [self.value(kind, depth + 1) for _ in range(count)]
        layout = _NUMBERS[kind]
        numbers = np.frombuffer(self.mapped, layout.format, count, self.place)
        self.place += numbers.nbytes
        if kind == _BOOL:
            if count and numbers.max() > 1:
                raise self.damaged(f"a truth value of the array before byte {self.place:,} is {numbers.max()}")
            return numbers != 0
        return numbers.copy()


def _read_metadata(cursor: _Cursor) -> tuple[int, dict[str, Any]]:
    """The number of tensors, and the metadata; the table of tensors comes next."""
    path = cursor.path
    if cursor.mapped[:4] != MAGIC:
        raise UserError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}; name another file")
    cursor.place = len(MAGIC)
    version = cursor.number(_UINT32)
    if version not in VERSIONS:
        # A small number whose bytes stand in the other order.
        if version & 0xFFFF == 0 and version:
            raise UserError(f"{path} is a big-endian GGUF file; convert the model to a little-endian one")
        raise UserError(f"{path} is of GGUF version {version:,}, and Camelid reads 2 and 3; convert the model anew")
    num_tensors = cursor.number(_UINT64)
    num_pairs = cursor.number(_UINT64)
    cursor.expect(num_pairs, 13, "metadata values")
    metadata: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = cursor.text()
        if key in metadata:
            raise cursor.damaged(f"its metadata has {show(key)} twice")
        metadata[key] = cursor.value(cursor.number(_UINT32))
    return cursor.expect(num_tensors, 32, "tensors"), metadata


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.damaged("general.alignment is no power of two")
    return alignment


def _read_table(cursor: _Cursor, num_tensors: int, alignment: int) -> dict[str, TensorInfo]:
    entries: dict[str, tuple[tuple[int, ...], Encoding, int]] = {}
    for _ in range(num_tensors):
        name = cursor.text()
        if name in entries:
            raise cursor.damaged(f"it has the tensor {show(name)} twice")
        entries[name] = _read_entry(cursor, name)
    data_start = -(-cursor.place // alignment) * alignment
    tensors = {name: _place(cursor, name, entry, data_start, alignment) for name, entry in entries.items()}
    end, last = 0, ""
    for name, info in sorted(tensors.items(), key=lambda item: item[1].start):
        if info.start < end:
            raise cursor.damaged(f"the tensors {show(last)} and {show(name)} overlap")
        end, last = info.start + info.num_bytes, name
    return tensors


def _read_entry(cursor: _Cursor, name: str) -> tuple[tuple[int, ...], Encoding, int]:
    """Shape, encoding, and offset from where the weights begin."""
    num_dimensions = cursor.number(_UINT32)
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise cursor.damaged(f"the tensor {show(name)} has {num_dimensions:,} dimensions")
    shape = tuple(cursor.number(_UINT64) for _ in range(num_dimensions))[::-1]
    number = cursor.number(_UINT32)
    if number not in _ENCODINGS:
        raise UserError(
            f"{cursor.path}: the tensor {show(name)} is of ggml type {number:,}, which Camelid does not read; take a "
            f"file of {', '.join(ENCODING_TYPES)}"
        )
    return shape, _ENCODINGS[number], cursor.number(_UINT64)


def _place(
    cursor: _Cursor, name: str, entry: tuple[tuple[int, ...], Encoding, int], data_start: int, alignment: int
) -> TensorInfo:
    shape, encoding, offset = entry
    try:
        num_bytes = encoding.num_bytes(shape)
    except ValueError as error:
        raise cursor.damaged(f"the tensor {show(name)}: {error}") from error
    if not num_bytes:
        raise cursor.damaged(f"the tensor {show(name)} is empty")
    if offset % alignment:
        raise cursor.damaged(f"the tensor {show(name)} does not begin at a multiple of {alignment} bytes")
    if data_start + offset + num_bytes > cursor.size:
        raise cursor.damaged(
            f"the tensor {show(name)} would end at byte {data_start + offset + num_bytes:,} of {cursor.size:,}"
        )
    return TensorInfo(shape, encoding, data_start + offset, num_bytes)
