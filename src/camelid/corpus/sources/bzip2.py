"""bzip2 files stream by stream, as multistream dumps are made of many; damage costs the stream that it is in."""

import bz2
import io
import os
import re
from collections.abc import Generator, Iterator
from typing import IO, NamedTuple

from camelid.corpus.sources.archive import CHUNK_BYTES

STREAM = re.compile(rb"BZh[1-9]1AY&SY")
"""How a stream that holds anything begins."""
_START_BYTES = 10
_END_BITS = 80  # a mark of six bytes and the check sum of the stream
# A stream of multistream dumps holds a hundred pages: a megabyte or two.
_MAX_PACKED_BYTES = 8 << 20
_MAX_BYTES = 64 << 20
_PIECE_BYTES = 1 << 20


class Piece(NamedTuple):
    """Some unpacked bytes of a stream."""

    place: int
    """Where the stream begins in the file."""
    data: bytes
    problem: str = ""
    """What is wrong after these bytes."""


def iterate_streams(file: IO[bytes], start: int) -> Iterator[Piece]:
    """The bytes of the stream that begins at `start` and of all after it, in their order.

    Each stream begins with a piece of no bytes: whoever wants none of it stops there, before it is unpacked.
    """
    size = file.seek(0, os.SEEK_END)
    place = start
    while place < size:
        yield Piece(place, b"")
        limit = min(size, place + _MAX_PACKED_BYTES)
        end = _find_stream(file, place + 1, limit)
        whole = None if end == limit < size else _unpack(file, place, end)
        if whole is None:
            place = yield from _read_stream(file, place, size)
        else:
            yield from (Piece(place, data) for data in whole)
            place = end


def _unpack(file: IO[bytes], place: int, end: int) -> list[bytes] | None:
    """A whole stream by a decoder that takes four fifths of the time of Python's.

    Returns:
        None where it is not installed, is not content, or where much comes out of little: the other one tells what is
        wrong, and where.
    """
    try:
        import indexed_bzip2
    except ModuleNotFoundError:
        return None
    file.seek(place)
    pieces: list[bytes] = []
    try:
        with indexed_bzip2.IndexedBzip2File(io.BytesIO(file.read(end - place))) as reader:
            while data := reader.read(_PIECE_BYTES):
                pieces.append(data)
                if len(pieces) * _PIECE_BYTES > _MAX_BYTES:
                    return None
            # It says nothing of bytes after the end. The last block that it names is the mark of the end.
            end_bits = max(reader.block_offsets(), default=0) + _END_BITS
    except (RuntimeError, ValueError, OSError):
        return None
    return pieces if -(-end_bits // 8) == end - place else None


def _read_stream(file: IO[bytes], place: int, size: int) -> Generator[Piece, None, int]:
    """The bytes of one stream as far as they can be read; returns where the next begins."""
    file.seek(place)
    decompressor = bz2.BZ2Decompressor()
    while data := file.read(CHUNK_BYTES):
        try:
            unpacked = decompressor.decompress(data)
        except OSError as error:
            end = _find_stream(file, file.tell() - len(data) + 1, size)
            told = f"the stream after it begins at byte {end:,}" if end < size else "nothing after it can be read"
            yield Piece(place, b"", f"{error}; {told}")
            return end
        yield Piece(place, unpacked)
        if decompressor.eof:
            return file.tell() - len(decompressor.unused_data)
    yield Piece(place, b"", "the file ends inside a stream")
    return size


def _find_stream(file: IO[bytes], start: int, end: int) -> int:
    """Where the first stream begins that begins between two places, `end` for nowhere."""
    file.seek(start)
    position = start
    rest = b""
    while position < end and (data := file.read(CHUNK_BYTES)):
        match = STREAM.search(rest + data)
        if match:
            return min(end, position - len(rest) + match.start())
        position += len(data)
        rest = (rest + data)[1 - _START_BYTES :]
    return end
