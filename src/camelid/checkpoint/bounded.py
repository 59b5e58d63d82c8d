"""Files that strangers wrote: mapped instead of loaded, and JSON whose size and keys are bounded."""

import json
import math
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from camelid.errors import UserError

MAX_CONFIG_BYTES = 1 << 20
MAX_TABLE_BYTES = 4 << 20
"""A table of tensors takes about 150 bytes for each; the largest LLaMA model has 1,136."""

_ABSENT = object()


def map_file(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file, read-only, in memory only while they are looked at.

    Raises:
        UserError: it cannot be opened.
    """
    mapped = open_mapping(path)
    return np.zeros(0, np.uint8) if mapped is None else np.frombuffer(mapped, np.uint8)


def open_mapping(path: Path) -> mmap.mmap | None:
    """A file as the system maps it, read-only; None where it is empty, for the system maps no empty file.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                return None
            # A shared mapping: a private one would count as memory of the process.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; get the model again, with all of its files") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def map_open_file(file: IO[bytes]) -> NDArray[np.uint8]:
    """The bytes of an open file, as `map_file`; it may be closed or unlinked afterwards."""
    if file.seek(0, os.SEEK_END) == 0:
        return np.zeros(0, np.uint8)  # the system maps no empty file
    # A shared mapping: a private one would count as memory of the process.
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: it is missing, too large or no JSON object.
    """
    data = map_file(path)
    if data.size > max_bytes:
        raise UserError(f"{path} has {data.size:,} bytes, which is too many for what it is ({max_bytes:,} at most)")
    return parse_json(data.tobytes(), str(path))


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """The object in a JSON text; `where` names it in messages.

    Raises:
        UserError: it is no JSON object, or holds a key twice.
    """
    try:
        tree = json.loads(data, object_pairs_hook=_refuse_duplicates)
    except RecursionError as error:
        raise UserError(f"{where} is no JSON that Camelid reads: it is nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{where} is damaged ({error}); get it again") from error
    if not isinstance(tree, dict):
        raise UserError(f"{where} is damaged (it is no JSON object); get it again")
    return tree


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        seen: set[str] = set()
        duplicate = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {duplicate!r} comes twice")
    return tree


@dataclass(frozen=True)
class Fields:
    """A JSON object whose values are asked for by type; each method raises UserError naming file and key."""

    tree: dict[str, Any]
    where: str

    def whole(self, name: str, default: Any = _ABSENT) -> Any:
        """A whole number above 0."""
        return self._get(name, default, "a whole number above 0", lambda value: _is_whole(value) and value > 0)

    def number(self, name: str, default: Any = _ABSENT) -> Any:
        """A finite number above 0, as a float."""
        return self._get(name, default, "a number above 0", _is_positive, float)

    def flag(self, name: str, default: Any = _ABSENT) -> Any:
        """True or false."""
        return self._get(name, default, "true or false", lambda value: isinstance(value, bool))

    def text(self, name: str, default: Any = _ABSENT) -> Any:
        """Text."""
        return self._get(name, default, "text", lambda value: isinstance(value, str))

    def table(self, name: str, default: Any = _ABSENT) -> Any:
        """An object, as `Fields`."""
        found = self._get(name, default, "a table", lambda value: isinstance(value, dict))
        return Fields(found, f"{self.where}: {name}") if isinstance(found, dict) else found

    def _get(self, name: str, default: Any, expected: str, accept: Any, convert: Any = None) -> Any:
        value = self.tree.get(name)
        if value is None:  # null means "not given" in all of these files
            if default is _ABSENT:
                raise UserError(f"{self.where}: {name} is missing; get the file again")
            return default
        if not accept(value):
            raise UserError(f"{self.where}: {name} must be {expected}, not {show(value)}")
        return convert(value) if convert else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    except OverflowError:  # an integer beyond the range of a float
        return False


def show(value: Any) -> str:
    """A foreign value, short enough for a message."""
    text = ascii(value) if isinstance(value, str | bool | int | float) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
