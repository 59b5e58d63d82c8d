"""WET files made of given pages."""

import gzip
from collections.abc import Sequence
from pathlib import Path


def write_wet(path: Path, pages: Sequence[tuple[str, str]]) -> None:
    """Writes pages, each an address and a text, as one gzip member per record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    members = []
    for url, text in pages:
        block = text.encode()
        head = f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: {url}\r\nContent-Length: {len(block)}\r\n\r\n"
        members.append(gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0))
    path.write_bytes(b"".join(members))
