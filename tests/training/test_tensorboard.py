"""Event files against a decoder that knows nothing of the writer, and against their life with kills and rollbacks."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from camelid.metrics import MetricsWriter
from camelid.training.tensorboard import Curves, EventWriter, crc32c


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksums_are_the_published_ones(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


def _unmask(stored: int) -> int:
    rotated = (stored - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def _records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        assert _unmask(struct.unpack("<I", data[8:12])[0]) == crc32c(data[:8])
        assert _unmask(struct.unpack("<I", data[12 + length : 16 + length])[0]) == crc32c(body)
        yield body
        data = data[16 + length :]


def _fields(message: bytes) -> Iterator[tuple[int, object]]:
    """Number and value of each field of a protocol buffer."""
    while message:
        field, wire = message[0] >> 3, message[0] & 7
        message = message[1:]
        if wire == 1:
            yield field, struct.unpack("<d", message[:8])[0]
            message = message[8:]
        elif wire == 5:
            yield field, struct.unpack("<f", message[:4])[0]
            message = message[4:]
        else:
            number = shift = 0
            while True:
                byte, message = message[0], message[1:]
                number |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            if wire == 0:
                yield field, number
            else:
                assert wire == 2
                yield field, message[:number]
                message = message[number:]


def _read(path: Path) -> dict[str, dict[int, float]]:
    """Curves by tag, as TensorBoard shows them: a start of a session takes back the later steps."""
    curves: dict[str, dict[int, float]] = {}
    for number, record in enumerate(_records(path)):
        event = dict(_fields(record))
        step = event.get(2, 0)
        assert isinstance(step, int)
        if number == 0:
            assert event[3] == b"brain.Event:2"
        if 7 in event:
            for points in curves.values():
                for later in [point for point in points if point >= step]:
                    del points[later]
        summary = event.get(5, b"")
        assert isinstance(summary, bytes)
        for _, value in _fields(summary):
            assert isinstance(value, bytes)
            parts = dict(_fields(value))
            tag, simple = parts[1], parts[2]
            assert isinstance(tag, bytes)
            assert isinstance(simple, float)
            curves.setdefault(tag.decode(), {})[step] = simple
    return curves


def test_curves_come_back_through_kills_and_rollbacks(tmp_path: Path) -> None:
    path, lines = tmp_path / "tensorboard" / "events.out.tfevents.x", tmp_path / "metrics.jsonl"
    with MetricsWriter(lines) as metrics, EventWriter(path, 0) as events:
        curves = Curves(metrics, events)
        for step in range(1, 301):
            curves.write("train", step, loss=1 / step, num_tokens=step * 10**7)
        curves.write("held_out", 300, source="Bücher", bits_per_byte=1.5)
        curves.rewind(200)
        curves.write("train", 201, loss=7.0, num_tokens=5)
    path.write_bytes(path.read_bytes()[:-3])  # killed within the record
    with MetricsWriter(lines, 200) as metrics, EventWriter(path, 200) as events:
        Curves(metrics, events).write("train", 201, loss=8.0, num_tokens=6)
    found = _read(path)
    assert found["train/loss"] == pytest.approx({**{step: 1 / step for step in range(1, 201)}, 201: 8.0})
    assert found["held_out/Bücher/bits_per_byte"] == {}
    assert [json.loads(line)["step"] for line in lines.read_text("utf-8").splitlines()] == list(range(1, 202))


def test_a_file_that_was_killed_in_its_first_record_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "tensorboard" / "events.out.tfevents.x"
    for size in range(0, 40, 3):
        with EventWriter(path, 0):
            pass
        path.write_bytes(path.read_bytes()[:size])
        with EventWriter(path, 0) as events:
            events.write(1, {"a": 2.0})
        assert _read(path) == {"a": {1: 2.0}}
