"""A product on disk: a folder with `manifest.json`, published whole or not at all.

While it is made, a product lives in `<folder>.partial`. When it is complete its files are hashed, the manifest is
written, and the folder is renamed; from then on it never changes. The manifest names the digests of the products that
it was made from, so any number can be walked back to the raw files.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter

import camelid
from camelid.errors import UserError
from camelid.lock import LockedError, take_lock
from camelid.progress import format_count
from camelid.settings import Settings

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1

_LEFTOVERS = (".partial", ".lock")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors and numpy report a full disk in words only.
_DISK_FULL_TEXT = re.compile(rf"\(os error ({'|'.join(map(str, _DISK_FULL))})\)|\d+ requested and \d+ written")
_LONGEST_SHOWN_VALUE = 60


@dataclass(frozen=True)
class StoredFile:
    """Size and content hash of one file of a product."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    num_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Manifest:
    """What a finished product says of itself."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: str
    digest: str
    """SHA-256 over the names and hashes of `files`: equal content has an equal digest, wherever it was made."""
    settings: dict[str, Any]
    inputs: dict[str, str]
    seed: int
    facts: dict[str, Any]
    files: dict[str, StoredFile]
    logs: dict[str, StoredFile]
    """Files whose bytes depend on the clock (metrics, nested manifests): hashed, but no part of the digest."""
    produced: dict[str, Any]
    """When, by which version and on what machine; no part of the digest."""


@dataclass
class Draft:
    """A product in the making: write files below `path`, put summary numbers into `facts`."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    hashed: dict[str, StoredFile] = field(default_factory=dict)
    """By name, the files that whoever wrote them has hashed and forced to disk already."""


@contextlib.contextmanager
def publish(
    directory: Path,
    *,
    kind: str,
    settings: Settings | Mapping[str, Any],
    inputs: Mapping[str, str],
    seed: int = 0,
    logs: Collection[str] = (),
    is_resumable: bool = False,
) -> Iterator[Draft]:
    """Makes `directory` from what the caller writes into the draft, or leaves nothing behind.

    A resumable product keeps its `.partial` folder when it is interrupted and finds it again; any other starts from an
    empty one. Only one process at a time can make a product.

    Args:
        logs: names of files whose bytes depend on the clock; they stay out of the digest.

    Raises:
        UserError: the product exists already, another process is making it, its folder cannot be written, or the
            disk is full.
    """
    _refuse_existing(directory)
    started = time.time()
    with _sole_maker(directory):
        _refuse_existing(directory)  # another process may have finished it before the lock was ours
        draft = Draft(_open_partial(directory, is_resumable))
        try:
            yield draft
            manifest = _describe(draft, kind, settings, inputs, seed, set(logs), started)
            write_text_durably(draft.path / MANIFEST_NAME, encode_manifest(manifest))
            _sync_tree(draft.path)
            draft.path.rename(directory)
            sync_path(directory.parent)
        except BaseException as error:
            disk_full = _explain_full_disk(error, directory)
            if not is_resumable:
                shutil.rmtree(draft.path, ignore_errors=True)
            if disk_full:
                raise UserError(disk_full) from error
            raise


def partial_path(directory: Path) -> Path:
    """The folder in which `directory` is made."""
    return directory.with_name(directory.name + ".partial")


def read_manifest(directory: Path, kind: str | None = None) -> Manifest:
    """Reads a product's manifest and checks that every file is there with its full length.

    Raises:
        UserError: there is no finished product, it is of another kind, or a file is missing or has another length.
    """
    manifest = _decode_manifest(directory)
    if kind is not None and manifest.kind != kind:
        raise UserError(f"{directory} holds a {manifest.kind}, not a {kind}")
    for name, stored in {**manifest.files, **manifest.logs}.items():
        path = directory / name
        num_bytes = _file_size(path)
        if num_bytes is None:
            raise UserError(
                f"{path} is missing, though {MANIFEST_NAME} lists it; restore it or build {directory} again"
            )
        if num_bytes != stored.num_bytes:
            raise UserError(
                f"{path} holds {num_bytes:,} bytes, but its manifest says {stored.num_bytes:,} with SHA-256 "
                f"{stored.sha256[:12]}; restore it or build {directory} again"
            )
    return manifest


def verify(directory: Path, kind: str | None = None) -> Manifest:
    """Reads every byte of a product and compares it with the manifest.

    Raises:
        UserError: as `read_manifest`, or a file's bytes are not those that were published.
    """
    manifest = read_manifest(directory, kind)
    for name, stored in {**manifest.files, **manifest.logs}.items():
        found = hash_file(directory / name)
        if found != stored.sha256:
            raise UserError(
                f"{directory / name} has SHA-256 {found[:12]}, but its manifest says {stored.sha256[:12]}: "
                f"the file was changed or damaged; restore it or build {directory} again"
            )
    return manifest


def find_difference(
    manifest: Manifest, settings: Settings | Mapping[str, Any], inputs: Mapping[str, str], seed: int | None = None
) -> str:
    """Says in words how a finished product differs from what is asked for now; empty when it does not.

    Args:
        seed: None where the product does not depend on it.
    """
    if seed is not None and manifest.seed != seed:
        return f"the seed was {manifest.seed} and is now {seed}"
    wanted = _plain(settings)
    for path, old, new in _compare(manifest.settings, wanted, ""):
        return f"{path} was {_show(old)} and is now {_show(new)}"
    for name in sorted({*manifest.inputs, *inputs}):
        if name not in manifest.inputs:
            return f"it was made without the input {name!r}"
        if name not in inputs:
            return f"it was made with the input {name!r}, which is no longer one"
        if manifest.inputs[name] != inputs[name]:
            return f"its input {name!r} has changed"
    return ""


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text_durably(path: Path, text: str) -> None:
    """Replaces a file so that a crash leaves either the old text or the new one."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Waits until a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def encode_manifest(manifest: Manifest) -> str:
    """The manifest as JSON text with sorted keys."""
    tree = {"format_version": FORMAT_VERSION, **_to_tree(manifest)}
    return json.dumps(tree, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _to_tree(manifest: Manifest) -> dict[str, Any]:
    tree = dict(vars(manifest))
    for group in ("files", "logs"):
        tree[group] = {name: dict(vars(stored)) for name, stored in tree[group].items()}
    return tree


def _decode_manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST_NAME
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        version = tree.pop("format_version")
        if version == FORMAT_VERSION:
            manifest = _manifest_type().validate_python(tree)
            if unsafe := next((name for name in {**manifest.files, **manifest.logs} if _leaves_folder(name)), None):
                raise ValueError(f"it lists {unsafe!r}, which is no file below its folder")
            return manifest
    except FileNotFoundError as error:
        unfinished = " (it was begun and not finished)" if partial_path(directory).exists() else ""
        raise UserError(f"{directory} holds no finished product{unfinished}; build it first") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({_first_line(error)}); restore it or build {directory} again") from error
    raise UserError(f"{path} is of format {version!r}, and this Camelid reads format {FORMAT_VERSION}; build it again")


@functools.cache
def _manifest_type() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _leaves_folder(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or not path.parts


def _file_size(path: Path) -> int | None:
    """Length in bytes of a regular file, or None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextlib.contextmanager
def _sole_maker(directory: Path) -> Iterator[None]:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(directory.with_name(directory.name + ".lock"))
    except OSError as error:
        reason = f"{(error.strerror or str(error)).lower()}: {error.filename}"
        raise UserError(f"{directory} cannot be made ({reason}); name another folder") from error
    except LockedError as error:
        holder = f" ({error.holder})" if error.holder else ""
        raise UserError(f"another process{holder} is making {directory}; wait for it or name another folder") from error
    with lock:
        yield


def _refuse_existing(directory: Path) -> None:
    if directory.exists():
        raise UserError(f"{directory} exists already; a finished product is never overwritten, name another folder")


def _open_partial(directory: Path, is_resumable: bool) -> Path:
    partial = partial_path(directory)
    if partial.exists() and not is_resumable:
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    # A process that was killed just before the rename left its manifest, which describes itself no longer.
    (partial / MANIFEST_NAME).unlink(missing_ok=True)
    return partial


def _describe(
    draft: Draft,
    kind: str,
    settings: Settings | Mapping[str, Any],
    inputs: Mapping[str, str],
    seed: int,
    logs: set[str],
    started: float,
) -> Manifest:
    _remove_leftovers(draft.path)
    stored: dict[str, StoredFile] = {}
    for path in sorted(draft.path.rglob("*")):
        if path.is_file():
            name = path.relative_to(draft.path).as_posix()
            stored[name] = draft.hashed.get(name) or StoredFile(path.stat().st_size, hash_file(path))
    log_names = {name for name in stored if name in logs or PurePosixPath(name).name == MANIFEST_NAME}
    files = {name: file for name, file in stored.items() if name not in log_names}
    return Manifest(
        kind=kind,
        digest=_digest(files),
        settings=_plain(settings),
        inputs=dict(inputs),
        seed=seed,
        facts=draft.facts,
        files=files,
        logs={name: file for name, file in stored.items() if name in log_names},
        produced={
            "camelid_version": camelid.__version__,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.time() - started, 3),
            **draft.environment,
        },
    )


def _remove_leftovers(partial: Path) -> None:
    """Deletes what a killed process left of products inside this one: their unfinished folders and locks."""
    for path in sorted(partial.rglob("*")):
        if path.name.endswith(_LEFTOVERS) and path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _explain_full_disk(error: BaseException | None, directory: Path) -> str:
    """The sentence for an error that means a full disk, however deep it was wrapped; empty for any other."""
    if isinstance(error, UserError):
        return ""
    while error is not None:
        code = getattr(error, "errno", None)
        if isinstance(error, Exception) and (code in _DISK_FULL or _DISK_FULL_TEXT.search(str(error))):
            partial = partial_path(directory)
            written = sum(_file_size(path) or 0 for path in partial.rglob("*"))
            free = shutil.disk_usage(directory.parent).free
            reason = os.strerror(code if code in _DISK_FULL else errno.ENOSPC).lower()
            return (
                f"{directory} could not be written: {reason} after {format_count(written, 'bytes')} "
                f"({format_count(free, 'bytes')} free); make room or name a folder on another disk, and run it again"
            )
        error = error.__cause__ or error.__context__
    return ""


def _digest(files: Mapping[str, StoredFile]) -> str:
    listing = "".join(f"{stored.sha256}  {name}\n" for name, stored in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _plain(settings: Settings | Mapping[str, Any]) -> dict[str, Any]:
    tree = settings.model_dump(mode="json") if isinstance(settings, Settings) else dict(settings)
    plain: dict[str, Any] = json.loads(json.dumps(tree))
    return plain


_ABSENT = object()


def _compare(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _compare(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list):
        for index, (before, after) in enumerate(zip_longest(old, new, fillvalue=_ABSENT)):
            yield from _compare(before, after, f"{path}.{index}")
    elif old != new:
        yield path, old, new


def _show(value: Any) -> str:
    if value is _ABSENT or value is None:
        return "absent" if value is _ABSENT else "none"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN_VALUE else text[: _LONGEST_SHOWN_VALUE - 3] + "..."


def _sync_tree(directory: Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        sync_path(path)
