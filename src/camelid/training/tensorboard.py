"""The metrics as TensorBoard reads them too: one event file, records of TFRecord that hold the message `Event`.

A record is u64 length, u32 check of the length, the message, u32 check of the message; a check is CRC-32C, rotated by
15 bits and shifted by a constant. Of the message only these fields are written (event.proto of TensorFlow): 1 wall_time
(double), 2 step (int64), 3 file_version (string), 5 summary (of 1 value: 1 tag, 2 simple_value), 7 session_log (1
status).
"""

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from camelid.metrics import MetricsWriter

EVENTS_NAME = "tensorboard/events.out.tfevents.camelid"

_POLYNOMIAL = 0x82F63B78
_START = 1
_DOUBLE, _LENGTH_DELIMITED, _FLOAT, _VARINT = 1, 2, 5, 0


class Curves:
    """Metrics written as JSON lines and, where it is wanted, as events."""

    def __init__(self, metrics: MetricsWriter, events: "EventWriter | None"):
        self._metrics = metrics
        self._events = events

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Appends one record; each number in it is a curve, called by the kind and by what else the record names."""
        self._metrics.write(kind, step, **values)
        if self._events is not None:
            path = "/".join([kind, *(value for value in values.values() if isinstance(value, str))])
            numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
            self._events.write(step, {f"{path}/{name}": float(value) for name, value in numbers.items()})

    def rewind(self, step: int) -> None:
        """Takes back the records of later steps."""
        self._metrics.rewind(step)
        if self._events is not None:
            self._events.start(step)


class EventWriter:
    """Appends numbers to an event file; what a killed process left of a record is cut off.

    Args:
        step: of the checkpoint that the run goes on from; TensorBoard forgets what came later.
    """

    def __init__(self, path: Path, step: int):
        path.parent.mkdir(exist_ok=True)
        is_new = not path.exists()
        if not is_new:
            data = path.read_bytes()
            end = max(_record_ends(data), default=0)
            is_new = end == 0
            with path.open("r+b") as file:
                file.truncate(end)
        self._file = path.open("ab")
        if is_new:
            self._append(_text(3, "brain.Event:2"))
        self.start(step)

    def start(self, step: int) -> None:
        """Says that the steps after this one are taken from now on, whatever came before."""
        self._append(_number(2, step + 1) + _message(7, _number(1, _START)))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends numbers by the names of their curves."""
        summary = b"".join(_message(1, _text(1, tag) + _float(2, value)) for tag, value in values.items())
        self._append(_number(2, step) + _message(5, summary))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _append(self, event: bytes) -> None:
        data = struct.pack("<Bd", 1 << 3 | _DOUBLE, time.time()) + event
        length = struct.pack("<Q", len(data))
        self._file.write(length + _check(length) + data + _check(data))
        self._file.flush()


def _record_ends(data: bytes) -> Iterator[int]:
    position = 0
    while position + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        position += 16 + length
        if position > len(data):
            return
        yield position


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3 | _VARINT]) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return struct.pack("<Bf", field << 3 | _FLOAT, value)


def _message(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | _LENGTH_DELIMITED]) + _varint(len(data)) + data


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _make_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _make_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _check(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
