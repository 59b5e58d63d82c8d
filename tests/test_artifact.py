"""A product is published whole or not at all, and never changes unnoticed."""

import contextlib
import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid.artifact import MANIFEST_NAME, find_difference, partial_path, publish, read_manifest, verify
from camelid.errors import UserError
from camelid.lock import take_lock
from camelid.settings import Settings

FILES = {"a.txt": b"first", "deep/b.bin": bytes(range(256)) * 40, "deep.txt": b"third"}


class Mill(Settings):
    stones: int = 2
    grain: tuple[str, ...] = ("rye", "oats")
    wind: float | None = None


def build(directory: Path, files: dict[str, bytes] = FILES, **options: Any) -> str:
    """Publishes `files`; returns the digest."""
    with publish(directory, kind="flour", settings=Mill(), inputs={"field": "f" * 64}, **options) as draft:
        for name, content in files.items():
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            (draft.path / name).write_bytes(content)
        draft.facts["num_files"] = len(files)
        draft.environment["cpu"] = "any"
    return read_manifest(directory, "flour").digest


def test_what_was_written_is_published_with_its_hashes(tmp_path: Path) -> None:
    digest = build(tmp_path / "flour", seed=7)
    manifest = verify(tmp_path / "flour", "flour")
    assert {name: stored.sha256 for name, stored in manifest.files.items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()
    }
    listing = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(FILES.items()))
    assert manifest.digest == digest == hashlib.sha256(listing.encode()).hexdigest()
    assert manifest.settings == {"stones": 2, "grain": ["rye", "oats"], "wind": None}
    assert (manifest.seed, manifest.inputs, manifest.facts) == (7, {"field": "f" * 64}, {"num_files": 3})
    assert manifest.produced["cpu"] == "any"
    assert os.listdir(tmp_path) == ["flour"]  # noqa: PTH208, neither .partial nor .lock is left


def test_the_shell_finds_the_same_digest(tmp_path: Path) -> None:
    digest = build(tmp_path / "x", {"b.bin": b"1", "a.bin": b"2", "B.bin": b"3"})
    command = "sha256sum *.bin | LC_ALL=C sort -k2 | sha256sum"  # as docs/formats.md says
    shown = subprocess.run(command, shell=True, cwd=tmp_path / "x", capture_output=True, text=True, check=True).stdout
    assert shown.split()[0] == digest


def test_digest_tells_content_and_nothing_else(tmp_path: Path) -> None:
    digest = build(tmp_path / "flour")
    assert build(tmp_path / "elsewhere" / "other") == digest
    for name, clock in (("x", b"10:00"), ("y", b"11:00")):
        assert build(tmp_path / name, {**FILES, "log.jsonl": clock}, logs=["log.jsonl"]) == digest
    assert build(tmp_path / "z", {**FILES, "a.txt": b"First"}) != digest
    assert build(tmp_path / "renamed", {"c.txt" if name == "a.txt" else name: c for name, c in FILES.items()}) != digest


def test_manifests_of_inner_products_are_logs(tmp_path: Path) -> None:
    def build_nested(directory: Path) -> str:
        with publish(directory, kind="flour", settings={}, inputs={}) as draft:
            build(draft.path / "inner")
        return verify(directory).digest

    assert build_nested(tmp_path / "first") == build_nested(tmp_path / "second")
    assert list(read_manifest(tmp_path / "first").logs) == [f"inner/{MANIFEST_NAME}"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with publish(tmp_path / "x", kind="flour", settings={}, inputs={}) as draft:
            (draft.path / "file").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_resumable_product_finds_its_draft_again(tmp_path: Path) -> None:
    def attempt(fails: bool) -> None:
        with publish(tmp_path / "x", kind="flour", settings={}, inputs={}, is_resumable=True) as draft:
            (draft.path / f"{fails}").touch()
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(fails=True)
    assert not (tmp_path / "x").exists()
    with pytest.raises(UserError, match="begun and not finished"):
        read_manifest(tmp_path / "x")
    attempt(fails=False)
    assert set(verify(tmp_path / "x").files) == {"True", "False"}


def test_a_finished_product_is_never_overwritten(tmp_path: Path) -> None:
    digest = build(tmp_path / "x")
    with pytest.raises(UserError, match="exists already; a finished product is never overwritten"):
        build(tmp_path / "x", {"other": b""})
    assert verify(tmp_path / "x").digest == digest


def test_two_processes_do_not_make_one_product(tmp_path: Path) -> None:
    with take_lock(tmp_path / "x.lock"), pytest.raises(UserError, match=f"process {os.getpid()}.* is making .*/x; "):
        build(tmp_path / "x")
    build(tmp_path / "x")


def test_a_product_that_another_process_finished_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_lock_late(path: Path) -> contextlib.AbstractContextManager[object]:
        monkeypatch.undo()
        build(tmp_path / "x")  # the other process, between our first look and our lock
        return take_lock(path)

    monkeypatch.setattr("camelid.artifact.take_lock", take_lock_late)
    with pytest.raises(UserError, match="exists already"):
        build(tmp_path / "x", {"other": b""})
    assert set(verify(tmp_path / "x").files) == set(FILES)


KILLED = r"""
import os, signal, sys
from pathlib import Path
from camelid import artifact
directory, moment = Path(sys.argv[1]), sys.argv[2]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if moment == "before hashing":
    artifact._describe = die
if moment == "before the manifest":
    artifact.write_text_durably = die
if moment == "before the rename":
    artifact._sync_tree = die
with artifact.publish(directory, kind="flour", settings={}, inputs={}, is_resumable="resumable" in sys.argv) as draft:
    (draft.path / "a.txt").write_bytes(b"first")
    (draft.path / "stale.partial").mkdir(exist_ok=True)
    (draft.path / "stale.partial" / "half").write_bytes(b"of an inner product")
    (draft.path / "stale.lock").touch()
    if "resumable" not in sys.argv:
        (draft.path / "stale.txt").touch()
    if moment == "while writing":
        (draft.path / "a.txt").write_bytes(b"fi")
        die()
"""
MOMENTS = ["while writing", "before hashing", "before the manifest", "before the rename"]


@pytest.mark.parametrize("resumable", [[], ["resumable"]], ids=["fresh", "resumable"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment(tmp_path: Path, moment: str, resumable: list[str]) -> None:
    directory = tmp_path / "x"
    child = subprocess.run([sys.executable, "-c", KILLED, str(directory), moment, *resumable], check=False, timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert not directory.exists()
    with pytest.raises(UserError, match="begun and not finished"):
        read_manifest(directory)
    with publish(directory, kind="flour", settings={}, inputs={}, is_resumable=bool(resumable)) as draft:
        (draft.path / "a.txt").write_bytes(b"first")
    manifest = verify(directory)
    assert set(manifest.files) == {"a.txt"}
    assert not manifest.logs
    assert manifest.digest == build(tmp_path / "undisturbed", {"a.txt": b"first"})
    assert {path.name for path in tmp_path.iterdir()} == {"x", "undisturbed"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_damage_is_found(tmp_path: Path, name: str) -> None:
    build(tmp_path / "x")
    path = tmp_path / "x" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    read_manifest(tmp_path / "x")
    with pytest.raises(UserError, match=f"{name} has SHA-256 [0-9a-f]{{12}}, but its manifest says"):
        verify(tmp_path / "x")
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{name} holds .* bytes, but its manifest says"):
        read_manifest(tmp_path / "x")
    path.unlink()
    with pytest.raises(UserError, match=f"{name} is missing, though manifest.json lists it"):
        read_manifest(tmp_path / "x")


def test_other_kind_missing_product_and_file_in_its_place(tmp_path: Path) -> None:
    build(tmp_path / "x")
    with pytest.raises(UserError, match="holds a flour, not a corpus"):
        read_manifest(tmp_path / "x", "corpus")
    with pytest.raises(UserError, match="holds no finished product; build it first"):
        read_manifest(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read: Not a directory"):
        read_manifest(tmp_path / "x" / "a.txt")
    with pytest.raises(UserError, match=r"cannot be made \(.*a\.txt"):
        build(tmp_path / "x" / "a.txt" / "y")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret", "a/../../b", "", ".", "a\0b", "x" * 5000, "\ud800", "deep"]
)
def test_a_manifest_lists_only_files_of_its_folder(tmp_path: Path, name: str) -> None:
    build(tmp_path / "x")
    path = tmp_path / "x" / MANIFEST_NAME
    tree = json.loads(path.read_text())
    tree["files"][name] = {"num_bytes": 1, "sha256": "0" * 64}
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"no file below its folder|is missing"):
        verify(tmp_path / "x")


def test_a_later_format_is_named(tmp_path: Path) -> None:
    build(tmp_path / "x")
    path = tmp_path / "x" / MANIFEST_NAME
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(UserError, match="is of format 2, and this Camelid reads format 1"):
        read_manifest(tmp_path / "x")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("fuzz") / "x"
    build(directory)
    return directory, (directory / MANIFEST_NAME).read_text()


@given(data=st.data())
def test_damaged_manifests_are_refused_or_right(product: tuple[Path, str], data: st.DataObject) -> None:
    directory, text = product
    tree = json.loads(text)
    kind = data.draw(st.sampled_from(["bytes", "json", "truncated", "flipped", "field", "stored file"]))
    content = text.encode()
    if kind == "bytes":
        content = data.draw(st.binary(max_size=50))
    elif kind == "json":
        content = json.dumps(data.draw(_json)).encode()
    elif kind == "truncated":
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    elif kind == "flipped":
        flipped = bytearray(content)
        flipped[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        content = bytes(flipped)
    else:
        node = tree["files"]["a.txt"] if kind == "stored file" else tree
        node[data.draw(st.sampled_from(sorted(node)))] = data.draw(_json)
        content = json.dumps(tree).encode()
    (directory / MANIFEST_NAME).write_bytes(content)
    with contextlib.suppress(UserError):
        verify(directory)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format_version": ' + "9" * 5000 + "}", "null", "{}"])
def test_hostile_manifests_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(tmp_path)


def _fail_like_python(path: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def _fail_like_numpy(path: Path) -> None:
    raise OSError("1000000 requested and 12500 written")


def _fail_like_safetensors(path: Path) -> None:
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def _fail_wrapped(path: Path) -> None:
    try:
        _fail_like_python(path)
    except OSError as error:
        raise RuntimeError("cannot write") from error


@pytest.mark.parametrize("fail", [_fail_like_python, _fail_like_numpy, _fail_like_safetensors, _fail_wrapped])
@pytest.mark.parametrize("is_resumable", [False, True])
def test_a_full_disk_is_one_sentence(tmp_path: Path, fail: Callable[[Path], None], is_resumable: bool) -> None:
    directory = tmp_path / "x"

    def attempt() -> None:
        with publish(directory, kind="flour", settings={}, inputs={}, is_resumable=is_resumable) as draft:
            (draft.path / "half").write_bytes(b"x" * 2000)
            fail(draft.path)

    with pytest.raises(
        UserError, match=r"x could not be written: no space left on device after 2 kB \(.*B free\); make"
    ):
        attempt()
    assert not directory.exists()
    assert partial_path(directory).exists() == is_resumable


def test_a_full_disk_in_earnest(tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    code = """
import sys
import numpy as np
from pathlib import Path
from camelid.artifact import publish
from camelid.errors import UserError
try:
    with publish(Path(sys.argv[1]), kind="flour", settings={}, inputs={}) as draft:
        path = draft.path / "big"
        np.zeros(1 << 20).tofile(path) if "numpy" in sys.argv else path.write_bytes(bytes(1 << 23))
except UserError as error:
    print(error)
"""
    for writer in ("python", "numpy"):
        arguments = [sys.executable, "-c", code, str(tmp_path / "x"), writer]
        child = subprocess.run(arguments, preexec_fn=limit, capture_output=True, text=True, check=True, timeout=60)
        assert "x could not be written: " in child.stdout
        assert "after 65.5 kB" in child.stdout
        assert child.stdout.count("\n") == 1
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "inputs", "expected"),
    [
        (Mill(), {"field": "f" * 64}, ""),
        (Mill(stones=3), {"field": "f" * 64}, "stones was 2 and is now 3"),
        (Mill(wind=4.5), {"field": "f" * 64}, "wind was none and is now 4.5"),
        (Mill(grain=("rye", "spelt")), {"field": "f" * 64}, 'grain.1 was "oats" and is now "spelt"'),
        (Mill(grain=("rye",)), {"field": "f" * 64}, 'grain.1 was "oats" and is now absent'),
        (Mill(grain=("x" * 900, "oats")), {"field": "f" * 64}, 'grain.0 was "rye" and is now "' + "x" * 56 + "..."),
        ({**Mill().model_dump(), "sails": 4}, {"field": "f" * 64}, "sails was absent and is now 4"),
        (Mill(), {"field": "0" * 64}, "its input 'field' has changed"),
        (Mill(), {"field": "f" * 64, "river": "0"}, "it was made without the input 'river'"),
        (Mill(), {}, "it was made with the input 'field', which is no longer one"),
    ],
)
def test_difference_in_words(tmp_path: Path, settings: Any, inputs: dict[str, str], expected: str) -> None:
    build(tmp_path / "x")
    assert find_difference(read_manifest(tmp_path / "x"), settings, inputs) == expected


def test_difference_of_seeds(tmp_path: Path) -> None:
    build(tmp_path / "x", seed=1)
    manifest = read_manifest(tmp_path / "x")
    assert find_difference(manifest, Mill(), {"field": "f" * 64}, 1) == ""
    assert find_difference(manifest, Mill(), {"field": "f" * 64}, 2) == "the seed was 1 and is now 2"


def test_numbers_that_json_cannot_hold_are_refused_before_publication(tmp_path: Path) -> None:
    with pytest.raises(TypeError), publish(tmp_path / "x", kind="flour", settings={}, inputs={}) as draft:
        draft.facts["loss"] = np.float32(1)
    assert not list(tmp_path.iterdir())
