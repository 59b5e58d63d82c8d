"""A product on disk: a folder with `manifest.json`, published whole or not at all.

While it is made, a product lives in `<folder>.partial`. When it is complete its files are hashed, the manifest is
written, and the folder is renamed; from then on it never changes. The manifest names the digests of the products that
it was made from, so any number can be walked back to the raw files.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import camelid
from camelid.errors import UserError
from camelid.settings import Settings

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """Size and content hash of one file of a product."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a finished product says of itself."""

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
        UserError: the product exists already, another process is making it, or the disk is full.
    """
    if directory.exists():
        raise UserError(f"{directory} exists already; a finished product is never overwritten, name another folder")
    partial = partial_path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    with _locked(directory):
        if partial.exists() and not is_resumable:
            shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        draft = Draft(partial)
        try:
            yield draft
            manifest = _describe(draft, kind, settings, inputs, seed, set(logs), started)
            write_text_durably(partial / MANIFEST_NAME, encode_manifest(manifest))
            _sync_tree(partial)
            partial.rename(directory)
            _sync_path(directory.parent)
        except BaseException:
            if not is_resumable:
                shutil.rmtree(partial, ignore_errors=True)
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
        if not path.is_file():
            raise UserError(
                f"{path} is missing, though {MANIFEST_NAME} lists it; restore it or build {directory} again"
            )
        num_bytes = path.stat().st_size
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


def find_difference(manifest: Manifest, settings: Settings | Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Says in words how a finished product differs from what is asked for now; empty when it does not."""
    wanted = _plain(settings)
    for path, old, new in _compare(manifest.settings, wanted, ""):
        return f"{path} was {old} and is now {new}"
    for name in sorted({*manifest.inputs, *inputs}):
        if manifest.inputs.get(name) != inputs.get(name):
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
        if version != FORMAT_VERSION:
            raise UserError(f"{path} is of format {version}; this Camelid reads format {FORMAT_VERSION}")
        for group in ("files", "logs"):
            tree[group] = {name: StoredFile(**stored) for name, stored in tree[group].items()}
        return Manifest(**tree)
    except FileNotFoundError as error:
        unfinished = " (it was begun and not finished)" if partial_path(directory).exists() else ""
        raise UserError(f"{directory} holds no finished product{unfinished}; build it first") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it or build {directory} again") from error


def _describe(
    draft: Draft,
    kind: str,
    settings: Settings | Mapping[str, Any],
    inputs: Mapping[str, str],
    seed: int,
    logs: set[str],
    started: float,
) -> Manifest:
    stored: dict[str, StoredFile] = {}
    for path in sorted(draft.path.rglob("*")):
        if path.is_file():
            stored[path.relative_to(draft.path).as_posix()] = StoredFile(path.stat().st_size, hash_file(path))
    is_log: Callable[[str], bool] = lambda name: name in logs or Path(name).name == MANIFEST_NAME  # noqa: E731
    files = {name: file for name, file in stored.items() if not is_log(name)}
    return Manifest(
        kind=kind,
        digest=_digest(files),
        settings=_plain(settings),
        inputs=dict(inputs),
        seed=seed,
        facts=draft.facts,
        files=files,
        logs={name: file for name, file in stored.items() if is_log(name)},
        produced={
            "camelid_version": camelid.__version__,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.time() - started, 3),
            **draft.environment,
        },
    )


def _digest(files: Mapping[str, StoredFile]) -> str:
    listing = "".join(f"{stored.sha256}  {name}\n" for name, stored in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _plain(settings: Settings | Mapping[str, Any]) -> dict[str, Any]:
    tree = settings.model_dump(mode="json") if isinstance(settings, Settings) else dict(settings)
    plain: dict[str, Any] = json.loads(json.dumps(tree))
    return plain


def _compare(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _compare(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, json.dumps(old), json.dumps(new)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    path = directory.with_name(directory.name + ".lock")
    with path.open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is making {directory}; wait for it or name another folder") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _sync_tree(directory: Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        _sync_path(path)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
