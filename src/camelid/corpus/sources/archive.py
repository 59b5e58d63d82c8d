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
            file = zstandard.ZstdDecompressor().stream_reader(file)
        mode = "r|" if name.endswith((".tar", ".zst")) else "r|*"
        archive = stack.enter_context(
            tarfile.open(fileobj=file, mode=mode, tarinfo=_Header, errors="replace")  # type: ignore[call-overload]
        )
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
