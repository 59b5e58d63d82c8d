"""Exact duplicates: of equal texts the first in the order of the sources is kept. Only hashes are compared."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from camelid.corpus.document import Document
from camelid.corpus.shuffle import write_keys
from camelid.corpus.task import Work

NAME = "exact"
_CONTENTS = "contents"
_SIZES = "sizes.npy"


def write_contents(documents: Iterator[Document], work: Work) -> Iterator[Document]:
    """Yields all documents, and stores a hash of each one's text and its size."""
    digests: list[bytes] = []
    sizes: list[int] = []
    for document in documents:
        text = document.text.encode()
        digests.append(hashlib.sha256(text).digest()[:16])
        sizes.append(len(text))
        yield document
    contents = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)
    np.save(work.path(_SIZES), np.array(sizes, np.int64))
    np.save(work.path(f"{_CONTENTS}.all.npy"), contents)
    write_keys(contents_path(work.task.folder), contents)


def contents_path(folder: Path) -> Path:
    """Where the hashes of a task's documents lie, for the shuffle."""
    return folder / _CONTENTS


def read_contents(folder: Path) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The hashes [documents, 2] and the sizes in bytes [documents] of a task's documents."""
    return np.load(folder / f"{_CONTENTS}.all.npy"), np.load(folder / _SIZES)
