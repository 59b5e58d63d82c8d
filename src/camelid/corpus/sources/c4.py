"""C4: the JSON lines that were published, or the archives that it can be made from."""

import gzip
import json
import zlib
from pathlib import Path
from typing import IO, cast

from camelid.corpus.sources.listing import list_all
from camelid.corpus.sources.record import Found, RawRecord, Unreadable
from camelid.corpus.web_settings import C4Source

_SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz")


def list_files(source: C4Source, root: Path) -> list[str]:
    """All files of JSON lines, or all archives where rules are given, by relative path, sorted."""
    if source.rules is not None:
        from camelid.corpus.sources import common_crawl

        return common_crawl.list_files(source, root)
    return [path for path in list_all(root) if path.endswith(_SUFFIXES)]


def read_file(source: C4Source, root: Path, path: str) -> Found:
    """The pages of one file, as published, or the pages that the rules are to be applied to."""
    if source.rules is not None:
        from camelid.corpus.sources import common_crawl

        yield from common_crawl.read_file(source, root, path)
        return
    with (root / path).open("rb") as file:
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if path.endswith(".gz") else file
        offset = -1
        try:
            for offset, line in enumerate(stream):
                yield _parse(line, path, offset)
        except (OSError, EOFError, zlib.error) as error:
            yield Unreadable(path, offset + 1, "damaged", f"{error} after line {offset + 1:,}, which was kept")


def _parse(line: bytes, path: str, offset: int) -> RawRecord | Unreadable:
    try:
        record = json.loads(line)
        text, url = record["text"], record.get("url")
        text.encode()
    except (ValueError, RecursionError) as error:
        return Unreadable(path, offset, "not JSON", f"line {offset + 1}: {error}")
    except (KeyError, TypeError, AttributeError):
        return Unreadable(path, offset, "no text", f"line {offset + 1} has no string 'text'")
    return RawRecord(path, offset, text, url=url if isinstance(url, str) else path, num_raw_bytes=len(line))
