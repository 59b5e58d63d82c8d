"""What a killed training may have left in torch's folder of generated code."""

import contextlib
import struct
import sys
from pathlib import Path

_MAGIC = b"\x7fELF"
_HEADER = struct.Struct("<4s36xQ10xHH2x")  # magic, start of the section table, size and number of its entries


def remove_unfinished_libraries(folder: Path | None = None) -> None:
    """Removes the libraries that were being written when a training was killed: torch would load them as they are.

    A library that another process is writing at this moment stays, for torch holds its lock meanwhile.

    Args:
        folder: of generated code; torch's own unless given.
    """
    if sys.platform != "linux":
        return
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from torch.utils._filelock import FileLock

    folder = folder or Path(cache_dir())
    for library in folder.glob("*/*.so"):
        if _is_whole(library):
            continue
        key = library.name.partition(".")[0]
        (folder / "locks").mkdir(exist_ok=True)
        with contextlib.suppress(TimeoutError), FileLock(str(folder / "locks" / f"{key}.lock"), timeout=0):
            if not _is_whole(library):
                library.unlink(missing_ok=True)


def _is_whole(library: Path) -> bool:
    """Whether a file holds all that its header says, the table of sections at its end."""
    try:
        with library.open("rb") as file:
            header, size = file.read(_HEADER.size), file.seek(0, 2)
    except FileNotFoundError:
        return True
    if len(header) < _HEADER.size:
        return False
    magic, start, entry_size, num_entries = _HEADER.unpack(header)
    return bool(magic == _MAGIC and start + entry_size * num_entries <= size)
