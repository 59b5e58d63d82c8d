"""Members of archives as streams: nothing is written to disk, links are not followed, and no header fills memory."""

import contextlib
import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import zstandard

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2")
READ_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, tarfile.TarError, OSError)
"""What a damaged archive or compressed file raises while it is read."""

CHUNK_BYTES = 1 << 16
_HEADER_BYTES = 1 << 20
_ZSTD_BYTES = 1 << 10  # four bytes may stand for 128 KiB
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an archive; it can be read until the next one is asked for."""

    name: str
    """As the archive has it: a label, never a path to write to."""
    num_bytes: int
    """What the archive claims."""
    stream: IO[bytes]


class _Header(tarfile.TarInfo):
    """A tar header whose extensions (long names, pax records) are read only while they are small."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in _EXTENSIONS and self.size > _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


class _ZstdStream(io.RawIOBase):
    """All frames of a Zstandard file; one that ends inside a frame is damaged, which the library does not tell."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame: Any = None
        self._packed = b""
        self._unpacked = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            self._packed = self._packed or self._file.read(_ZSTD_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the file ends inside a frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._unpacked = self._frame.decompress(self._packed)
            self._packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        number = min(len(buffer), len(self._unpacked))
        buffer[:number], self._unpacked = self._unpacked[:number], self._unpacked[number:]
        return number


def open_zst(file: IO[bytes]) -> IO[bytes]:
    """What a Zstandard file holds.

    Raises:
        EOFError, zstandard.ZstdError: while it is read, where it is cut or damaged.
    """
    return cast(IO[bytes], io.BufferedReader(_ZstdStream(file), CHUNK_BYTES))


def iterate_tar(source: Path | bytes) -> Iterator[Member]:
    """The regular files of a tar archive, plain or compressed, in its order; bytes are those of a plain one.

    Raises:
        EOFError, OSError, tarfile.TarError, zlib.error, zstandard.ZstdError: it is damaged; the members that were
            yielded before are whole.
    """
    with contextlib.ExitStack() as stack:
        file: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(source.open("rb"))
        name = ".tar" if isinstance(source, bytes) else source.name
        if name.endswith(".zst"):
            file = open_zst(file)
        mode = "r|" if name.endswith((".tar", ".zst")) else "r|*"
        try:
            archive = stack.enter_context(
                tarfile.open(fileobj=file, mode=mode, tarinfo=_Header, errors="replace")  # type: ignore[call-overload]
            )
        except TypeError as error:  # what tarfile makes of a gzip header that is cut
            raise EOFError("the file ends inside its header") from error
        for entry in archive:
            stream = archive.extractfile(entry) if entry.isfile() else None
            if stream is not None:
                yield Member(entry.name, entry.size, stream)
            # tarfile keeps every header it has met; an archive of millions of members would fill memory.
            archive.members.clear()


def read_at_most(stream: IO[bytes], max_bytes: int) -> bytes | None:
    """All bytes of a stream, or None where there are more than `max_bytes`."""
    data = stream.read(max_bytes + 1)
    return None if len(data) > max_bytes else data


def iterate_chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a stream, a little at a time, so that what stands before a damaged place comes through."""
    read = cast(Callable[[int], bytes], getattr(stream, "read1", stream.read))
    while chunk := read(CHUNK_BYTES):
        yield chunk
