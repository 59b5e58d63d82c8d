"""Exact duplicates: of equal texts the first in the order of the sources is kept. Only hashes are held in memory."""

import hashlib

NAME = "exact"
HASH_BYTES = 16


def content_hash(text: str) -> bytes:
    """The first 16 bytes of SHA-256 over a document's UTF-8 text."""
    return hashlib.sha256(text.encode()).digest()[:HASH_BYTES]


class ExactDuplicates:
    """Remembers what it has seen."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def is_first(self, content: bytes) -> bool:
        """Whether a text with this hash comes for the first time."""
        if content in self._seen:
            return False
        self._seen.add(content)
        return True
