"""Items kept apart in partitions beyond what memory holds: a temporary file with an index of compressed blocks."""

import json
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import zstandard

from camelid.errors import UserError

_BUFFERED_BYTES = 32 << 20


class Spill:
    """Lists that are written once and then read one after another; a single list stays in memory.

    The file is made where Python makes temporary files (TMPDIR) and is gone when the process is.
    """

    def __init__(self, num_partitions: int) -> None:
        self.num_partitions = num_partitions
        self._file = tempfile.TemporaryFile() if num_partitions > 1 else None  # noqa: SIM115 (closed by __exit__)
        self._lists: list[list[Any]] = [[] for _ in range(num_partitions)]
        self._pending: list[list[bytes]] = [[] for _ in range(num_partitions)]
        self._num_pending = 0
        self._blocks: list[list[tuple[int, int]]] = [[] for _ in range(num_partitions)]

    def __enter__(self) -> "Spill":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, partition: int, item: tuple[str | int | None, ...]) -> None:
        """Puts a row of texts and numbers at the end of a partition."""
        if self._file is None:
            self._lists[partition].append(item)
            return
        line = json.dumps(item).encode()
        self._pending[partition].append(line)
        self._num_pending += len(line)
        if self._num_pending >= _BUFFERED_BYTES:
            self._flush()

    def read(self, partition: int) -> list[Any]:
        """The items of a partition in the order they were put there."""
        if self._file is None:
            return self._lists[partition]
        self._flush()
        return list(self._read_blocks(partition))

    def _flush(self) -> None:
        assert self._file is not None
        compressor = zstandard.ZstdCompressor(level=1)
        self._file.seek(0, 2)
        for partition, lines in enumerate(self._pending):
            if lines:
                block = compressor.compress(b"\n".join(lines))
                self._blocks[partition].append((self._file.tell(), len(block)))
                try:
                    self._file.write(block)
                except OSError as error:
                    told = f"temporary files do not fit into {tempfile.gettempdir()} ({error.strerror})"
                    raise UserError(f"{told}; make room there, or set TMPDIR to a folder with room") from error
                lines.clear()
        self._num_pending = 0

    def _read_blocks(self, partition: int) -> Iterator[Any]:
        assert self._file is not None
        decompressor = zstandard.ZstdDecompressor()
        for start, num_bytes in self._blocks[partition]:
            self._file.seek(start)
            for line in decompressor.decompress(self._file.read(num_bytes)).split(b"\n"):
                yield json.loads(line)
