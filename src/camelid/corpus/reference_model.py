"""Trains the classifier "pages that Wikipedia cites against random pages" from a dump and crawled archives."""

import bz2
import hashlib
import html
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from camelid import artifact
from camelid.artifact import Manifest
from camelid.corpus.engine import Engine
from camelid.corpus.model_settings import ReferenceModelSettings
from camelid.corpus.sources import list_files, read_file
from camelid.corpus.sources.record import RawRecord
from camelid.corpus.steps.language import find_language_model, load_fasttext, predict
from camelid.corpus.steps.references import MODEL_NAME, RANDOM_LABEL, REFERENCE_LABEL, join_lines
from camelid.corpus.web_settings import CommonCrawlSource
from camelid.errors import UserError
from camelid.progress import progress

KIND = "reference_model"
_CHUNK_BYTES = 1 << 20
_MAX_PAGE_BYTES = 64 << 20
_REFERENCE = re.compile(r"<ref(?:\s[^<>]*)?(?<!/)>(.*?)</ref\s*>", re.DOTALL | re.IGNORECASE)
_LINK = re.compile(r"(?<![\w/])(?:https?:)?//[^\s<>\[\]|{}\"]+", re.IGNORECASE)
_SCHEME = re.compile(r"(?:https?:)?//(?:www\d?\.)?", re.IGNORECASE)

_BLANKS = re.compile(r"[ \n\r\t\v\f\0]+")
_LABEL = "__label__"
_FIRST_VECTORS = 1024

Keys = npt.NDArray[np.uint64]


def address_key(url: str) -> int:
    """A hash of an address that is blind to scheme, `www.`, case of the host, fragment and a slash at the end."""
    rest = _SCHEME.sub("", url, count=1).partition("#")[0]
    host, slash, path = rest.partition("/")
    plain = (host.lower().removesuffix(":80").removesuffix(":443") + slash + path).rstrip("/")
    return int.from_bytes(hashlib.blake2b(plain.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def extract_links(dump: Path, is_only_references: bool) -> Iterator[str]:
    """External links of the articles of a Wikipedia dump, plain or bzip2, in their order and as often as they occur.

    A reference may run over several lines, and a line may hold several.

    Raises:
        UserError: the dump cannot be read.
    """
    for page in _read_pages(dump):
        if b"<ns>0</ns>" not in page:
            continue
        text = html.unescape(page.decode("utf-8", "replace"))
        for part in _REFERENCE.findall(text) if is_only_references else [text]:
            for link in _LINK.findall(part):
                yield link.rstrip(".,;:!?'")


def _read_pages(dump: Path) -> Iterator[bytes]:
    window = b""
    try:
        with bz2.open(dump) if dump.suffix == ".bz2" else dump.open("rb") as opened:
            file = cast(IO[bytes], opened)
            while chunk := file.read(_CHUNK_BYTES):
                *pages, window = (window + chunk).split(b"</page>")
                yield from (page[page.find(b"<page>") :] for page in pages)
                window = window[-_MAX_PAGE_BYTES:]
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{dump} cannot be read ({error}); fetch it again") from error


def train_reference_model(
    settings: ReferenceModelSettings,
    dumps: Sequence[Path],
    archives: Path,
    directory: Path,
    *,
    seed: int,
    num_workers: int,
) -> Manifest:
    """Publishes a fastText classifier; one thread trains, so that the same pages give the same bytes.

    Args:
        archives: a WARC or WET file, or a folder of them, in which cited and random pages are found.

    Raises:
        UserError: a file cannot be read, or the archives hold too few pages of either kind.
    """
    for path in (*dumps, archives):
        if not path.exists():
            raise UserError(f"{path} does not exist; name Wikipedia dumps, and with --pages the archives of a crawl")
    source = CommonCrawlSource(kind="common_crawl", name="pages", path=str(archives.absolute()))
    files = list_files(source, Path())
    inputs = {str(dump.name): artifact.hash_file(dump) for dump in dumps}
    inputs["archives"] = _fingerprint(source, files)
    with (
        artifact.publish(directory, kind=KIND, settings=settings, inputs=inputs, seed=seed) as draft,
        Engine(num_workers) as engine,
    ):
        cited = _collect_keys(settings, dumps)
        np.save(draft.path / "cited.npy", cited)
        chosen = _choose(settings, source, files, draft.path / "cited.npy", engine, seed)
        numbers = _write_examples(settings, source, files, chosen, draft.path, seed)
        model = _train(settings, draft.path / "train.txt", seed)
        model.save_model(str(draft.path / MODEL_NAME))
        draft.facts |= {"cited_addresses": len(cited), **numbers, **_measure(model, draft.path / "held_out.txt")}
        for name in ("cited.npy", "train.txt", "held_out.txt"):
            (draft.path / name).unlink()
    return artifact.read_manifest(directory)


def _fingerprint(source: CommonCrawlSource, files: Sequence[str]) -> str:
    listing = hashlib.sha256()
    root = _root(source)
    for path in files:
        listing.update(f"{path}\0{(root / path).stat().st_size}\n".encode())
    return listing.hexdigest()


def _root(source: CommonCrawlSource) -> Path:
    path = Path(source.path)
    return path.parent if path.is_file() else path


def _collect_keys(settings: ReferenceModelSettings, dumps: Sequence[Path]) -> Keys:
    keys = np.zeros(0, np.uint64)
    pending: list[int] = []
    for dump in dumps:
        with progress(f"links of {dump.name}", None, "links") as advance:
            for link in extract_links(dump, settings.is_only_references):
                pending.append(address_key(link))
                if len(pending) == 1 << 20:
                    keys = np.union1d(keys, np.array(pending, np.uint64))
                    advance(len(pending))
                    pending = []
            advance(len(pending))
    keys = np.union1d(keys, np.array(pending, np.uint64))
    if not len(keys):
        raise UserError(f"{', '.join(map(str, dumps))}: no external links found; is it a pages-articles dump?")
    return keys


def _usable_pages(
    settings: ReferenceModelSettings, source: CommonCrawlSource, path: str, cited: Keys
) -> Iterator[tuple[RawRecord, bool]]:
    """The pages of an archive that may become examples, and whether each is cited."""
    model = load_fasttext(find_language_model(None, Path())) if settings.language else None
    for found in read_file(source, _root(source), path):
        if not isinstance(found, RawRecord):
            continue
        place = np.searchsorted(cited, np.uint64(address_key(found.url)))
        is_cited = bool(place < len(cited) and cited[place] == address_key(found.url))
        if len(found.text) < (settings.min_reference_characters if is_cited else settings.min_random_characters):
            continue
        if model is not None:
            language, score = predict(model, found.text)
            if language != settings.language or score < 0.5:
                continue
        yield found, is_cited


def _choose(
    settings: ReferenceModelSettings,
    source: CommonCrawlSource,
    files: Sequence[str],
    cited_path: Path,
    engine: Engine,
    seed: int,
) -> dict[bytes, bool]:
    """Hashes of the texts of the chosen pages, and whether each is cited: those with the lowest seeded hash."""
    found: dict[bool, set[bytes]] = {True: set(), False: set()}
    task = partial(_hash_pages, settings, source, cited_path, seed)
    with progress("pages", len(files), "files") as advance:
        for hashes in engine.run(task, files):
            for content, is_cited in hashes:
                found[is_cited].add(content)
            for kind, contents in found.items():
                if len(contents) > 2 * settings.max_pages:
                    found[kind] = set(sorted(contents)[: settings.max_pages])
            advance(1)
    number = min(len(found[True]), len(found[False] - found[True]), settings.max_pages)
    if number < 2:
        raise UserError(
            f"{source.path} holds {len(found[True])} usable pages that are cited and {len(found[False])} that are "
            "not, and two of each are needed; give more archives, or a dump that cites them"
        )
    chosen = dict.fromkeys(sorted(found[True])[:number], True)
    return chosen | dict.fromkeys(sorted(found[False] - found[True])[:number], False)


def _hash_pages(
    settings: ReferenceModelSettings, source: CommonCrawlSource, cited_path: Path, seed: int, path: str
) -> list[tuple[bytes, bool]]:
    cited = np.load(cited_path, mmap_mode="r")
    return [(_hash_text(page.text, seed), is_cited) for page, is_cited in _usable_pages(settings, source, path, cited)]


def _hash_text(text: str, seed: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16, salt=seed.to_bytes(16, "little")).digest()


def _write_examples(
    settings: ReferenceModelSettings,
    source: CommonCrawlSource,
    files: Sequence[str],
    chosen: dict[bytes, bool],
    folder: Path,
    seed: int,
) -> dict[str, int]:
    """Writes the chosen pages, each text once, and returns how many there are of each kind."""
    left = dict(chosen)
    numbers = {"train_pages": 0, "held_out_pages": 0, "reference_pages": sum(chosen.values())}
    with (
        (folder / "train.txt").open("w", encoding="utf-8") as train,
        (folder / "held_out.txt").open("w", encoding="utf-8") as held_out,
    ):
        for path in files:
            for found in read_file(source, _root(source), path):
                if not isinstance(found, RawRecord):
                    continue
                content = _hash_text(found.text, seed)
                is_cited = left.pop(content, None)
                if is_cited is None:
                    continue
                is_held_out = int.from_bytes(content[-8:], "big") < settings.held_out_share * 2**64
                line = f"{REFERENCE_LABEL if is_cited else RANDOM_LABEL} {join_lines(found.text)}\n"
                (held_out if is_held_out else train).write(line)
                numbers["held_out_pages" if is_held_out else "train_pages"] += 1
    return numbers


def _train(settings: ReferenceModelSettings, examples: Path, seed: int) -> Any:
    """A fastText classifier whose bytes depend on the examples and the settings alone.

    With one thread fastText fills a tenth of its input vectors and leaves the rest as memory happens to be, which shows
    in other weights on every run or in NaN. It is therefore given a first vector for each word.
    """
    import fasttext

    vectors = examples.with_name("first.vec")
    _write_first_vectors(settings, examples, vectors, seed)
    try:
        return fasttext.train_supervised(
            input=str(examples),
            pretrainedVectors=str(vectors),
            dim=settings.dimension,
            epoch=settings.epochs,
            lr=settings.learning_rate,
            minCount=settings.min_word_count,
            wordNgrams=1,
            thread=1,
            seed=seed,
            verbose=0,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the classifier cannot be trained ({error}); give more pages, or lower learning_rate"
        ) from error
    finally:
        vectors.unlink()


def _write_first_vectors(settings: ReferenceModelSettings, examples: Path, path: Path, seed: int) -> None:
    counts: Counter[str] = Counter()
    with examples.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            # fastText's words end at these blanks and no others.
            counts.update(word for word in _BLANKS.split(line) if word and not word.startswith(_LABEL))
            counts["</s>"] += 1
    words = sorted(word for word, count in counts.items() if count >= settings.min_word_count)
    rng = random.Random(seed)
    bound = 1 / settings.dimension
    rows = [
        " ".join(f"{rng.uniform(-bound, bound):.5f}" for _ in range(settings.dimension)) for _ in range(_FIRST_VECTORS)
    ]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{len(words)} {settings.dimension}\n")
        file.writelines(f"{word} {rows[zlib.crc32(word.encode()) % _FIRST_VECTORS]}\n" for word in words)


def _measure(model: Any, held_out: Path) -> dict[str, float]:
    """How often the classifier is right on pages that it has not seen, at the threshold of one half."""
    right = total = 0
    with held_out.open(encoding="utf-8") as file:
        for line in file:
            label, _, text = line.partition(" ")
            ((_, found),) = model.f.predict(text, 1, 0.0, "strict") or [(0.0, "")]
            right += found == label
            total += 1
    return {"held_out_accuracy": round(right / total, 4)} if total else {}
