"""Modified Kneser-Ney n-gram models, interpolated, estimated by external sort in bounded memory (Chen and Goodman 1998;
Heafield et al. 2013), written as ARPA. The probabilities are those of lmplz with `--discount_fallback`.

Tables, one for each order n, hold the distinct n-grams with their adjusted counts: below the highest order the number
of distinct words on the left, for n-grams that begin a sentence and for the highest order how often they occur. Tables
are in suffix order: by the last word, then the one before it. Sentences are padded with begin marks, so that each table
follows from the next higher one; n-grams with more than one mark are carried along and not part of the model.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from camelid.corpus.ngram_sort import Rows, Sorter, key_columns
from camelid.errors import UserError

UNKNOWN, BEGIN, END = range(3)
SPECIAL_WORDS = ("<unk>", "<s>", "</s>")
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)

_ROWS_PER_CHUNK = 1 << 18
_SENTENCES_PER_BATCH = 4096
_ROW_BYTES = 128


@dataclass
class _Table:
    """The n-grams of one order on disk; arrays beside one another, in suffix order."""

    order: int
    folder: Path
    num_rows: int = 0
    num_ngrams: int = 0
    """Rows that are part of the model."""
    counts_of_counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(5, np.int64))
    """How many n-grams have the adjusted count 1, 2, 3, 4 at these places."""
    discounts: tuple[float, float, float] = (0.0, 0.0, 0.0)
    is_fallback: bool = False

    def path(self, name: str) -> Path:
        return self.folder / f"{self.order}.{name}"

    def open(self, name: str, dtype: npt.DTypeLike, columns: int = 0) -> npt.NDArray[Any]:
        path = self.path(name)
        # An empty file cannot be mapped.
        mapped = np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)
        return mapped.reshape(-1, columns) if columns else mapped

    def chunks(self) -> Iterator[slice]:
        for start in range(0, self.num_rows, _ROWS_PER_CHUNK):
            yield slice(start, min(start + _ROWS_PER_CHUNK, self.num_rows))


@dataclass(frozen=True)
class NgramFacts:
    """What was estimated."""

    num_ngrams: list[int]
    """By order."""
    discounts: list[tuple[float, float, float]]
    """For the adjusted counts 1, 2, and 3 and more, by order."""
    fallback_orders: list[int]
    """Orders for which the text is too small or too odd to compute discounts."""


def estimate(
    sentences: Iterable[Sequence[str]], path: Path, *, order: int, memory_bytes: int, folder: Path
) -> NgramFacts:
    """Writes the model of some sentences as an ARPA file.

    Args:
        sentences: the words of each; begin and end marks are added, and words that look like marks are left out.
        memory_bytes: bound on what sorting holds; the distinct words and their numbers come on top.
        folder: for intermediate files, about 100 bytes for each distinct n-gram of the highest order; it is made and
            deleted.

    Raises:
        UserError: there are no words, or more distinct ones than can be numbered.
    """
    if order < 2:
        raise UserError(f"an n-gram model of order {order} has no context; choose an order of at least 2")
    folder.mkdir(parents=True)
    words: dict[str, int] = {word: number for number, word in enumerate(SPECIAL_WORDS)}
    # Ids are given as words come, so the width of the packed keys is not known before: 32 bits sort the same.
    counted = _count(sentences, words, order, memory_bytes, folder)
    tables = _derive(counted, order, folder)
    if not tables[0].num_rows:
        raise UserError("the text has no words; an n-gram model needs some")
    for table in tables:
        _set_discounts(table)
    bits = max(len(words) - 1, 1).bit_length()
    with path.open("w", encoding="utf-8") as file:
        _write_model(tables, list(words), bits, memory_bytes, file)
    facts = NgramFacts(
        [tables[0].num_ngrams + 2, *(table.num_ngrams for table in tables[1:])],
        [table.discounts for table in tables],
        [table.order for table in tables if table.is_fallback],
    )
    shutil.rmtree(folder)
    return facts


def _count(
    sentences: Iterable[Sequence[str]], words: dict[str, int], order: int, memory_bytes: int, folder: Path
) -> Iterator[Rows]:
    """The distinct n-grams of the highest order with their counts, in suffix order."""
    dtype = np.dtype([("words", "<u4", (order,)), ("count", "<u8")])
    columns = list(range(order - 1, -1, -1))

    def combine(rows: Rows, is_first: npt.NDArray[np.bool_]) -> Rows:
        combined = rows[is_first]
        combined["count"] = np.add.reduceat(rows["count"], np.flatnonzero(is_first))
        return combined

    sorter = Sorter(folder / "counting", key_columns(columns, order - 1, 32), memory_bytes, combine)
    most = max(memory_bytes // _ROW_BYTES // 4, 1024)
    iterator = iter(sentences)
    while batch := list(islice(iterator, _SENTENCES_PER_BATCH)):
        flat = _number(batch, words, order)
        for start in range(0, len(flat), most):
            windows = np.lib.stride_tricks.sliding_window_view(flat[max(start - order + 1, 0) : start + most], order)
            windows = windows[windows[:, -1] != BEGIN]
            rows = np.empty(len(windows), dtype)
            rows["words"], rows["count"] = windows, 1
            sorter.add(rows)
    yield from sorter.chunks()


def _number(batch: Iterable[Sequence[str]], words: dict[str, int], order: int) -> npt.NDArray[np.uint32]:
    """Ids of sentences one after another, each after order - 1 begin marks and before an end mark."""
    flat: list[int] = []
    for sentence in batch:
        flat += [BEGIN] * (order - 1)
        flat += [number for word in sentence if (number := words.setdefault(word, len(words))) > END]
        flat.append(END)
    if len(words) >= 2**32:
        raise UserError("the text has more than four thousand million distinct words; split it into pieces first")
    return np.array(flat, np.uint32)


def _derive(counted: Iterator[Rows], order: int, folder: Path) -> list[_Table]:
    """Writes the tables of all orders, each from the next higher one, in one go."""
    tables = [_Table(number, folder) for number in range(1, order + 1)]
    chunks: Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]] = (
        (rows["words"], rows["count"]) for rows in counted
    )
    for table in reversed(tables):
        chunks = _store(table, chunks)
    for _ in chunks:
        pass
    return tables


def _store(
    table: _Table, chunks: Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]]
) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]]:
    """Writes the rows of one order and yields those of the order below: their distinct suffixes."""
    num_suffixes = 0
    open_words: npt.NDArray[np.uint32] | None = None
    """The last suffix, to which the next chunk may add."""
    open_count = 0
    with (
        table.path("words").open("wb") as words_file,
        table.path("counts").open("wb") as counts_file,
        table.path("suffixes").open("wb") as suffixes_file,
    ):
        for words, counts in chunks:
            if not len(words):
                continue
            words.tofile(words_file)
            counts.tofile(counts_file)
            _add_statistics(table, words, counts)
            if table.order == 1:
                continue
            suffixes = words[:, 1:]
            is_first = np.ones(len(words), np.bool_)
            is_first[1:] = (suffixes[1:] != suffixes[:-1]).any(axis=1)
            goes_on = open_words is not None and bool((suffixes[0] == open_words).all())
            starts = np.flatnonzero(is_first)
            sizes = np.diff(np.append(starts, len(words))).astype(np.uint64)
            # A sentence's beginning has one row above it, whose count is its own.
            group_counts = np.where(suffixes[starts, 0] == BEGIN, counts[starts], sizes)
            group_words = suffixes[starts]
            first_number = num_suffixes - 1 if goes_on else num_suffixes
            (first_number + np.cumsum(is_first) - 1).astype("<u8").tofile(suffixes_file)
            num_suffixes = first_number + len(starts)
            if goes_on:
                group_counts[0] += open_count
            elif open_words is not None:
                yield open_words[None], np.array([open_count], np.uint64)
            open_words, open_count = group_words[-1].copy(), group_counts[-1]
            yield group_words[:-1], group_counts[:-1]
    if open_words is not None:
        yield open_words[None], np.array([open_count], np.uint64)


def _is_ngram(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Whether rows are part of the model: at most their first word is a begin mark."""
    return words[:, 1] != BEGIN if words.shape[1] > 1 else np.ones(len(words), np.bool_)


def _add_statistics(table: _Table, words: npt.NDArray[np.uint32], counts: npt.NDArray[np.uint64]) -> None:
    chosen = counts[_is_ngram(words)]
    table.num_rows += len(words)
    table.num_ngrams += len(chosen)
    table.counts_of_counts += np.bincount(chosen[chosen < 5].astype(np.int64), minlength=5)


def _set_discounts(table: _Table) -> None:
    """Chen and Goodman's equation 26, or the fallback where it has no answer."""
    found = table.counts_of_counts
    if (found[1:4] > 0).all():
        share = found[1] / (found[1] + 2 * found[2])
        discounts = [count - (count + 1) * share * found[count + 1] / found[count] for count in (1, 2, 3)]
        if all(0 <= discount <= count for count, discount in enumerate(discounts, start=1)):
            table.discounts = (float(discounts[0]), float(discounts[1]), float(discounts[2]))
            return
    table.discounts = FALLBACK_DISCOUNTS
    table.is_fallback = True


def _write_model(tables: Sequence[_Table], words: Sequence[str], bits: int, memory_bytes: int, file: Any) -> None:
    """Interpolates order by order and writes each as soon as the next higher one has given its backoffs."""
    file.write("\\data\\\n")
    num_ngrams = [tables[0].num_ngrams + 2, *(table.num_ngrams for table in tables[1:])]
    file.writelines(f"ngram {order}={count}\n" for order, count in enumerate(num_ngrams, start=1))
    uniform = 1.0 / (tables[0].num_ngrams + 1)  # all words and <unk>, not <s>
    unknown = _interpolate_unigrams(tables[0], uniform)
    for table, lower in zip(tables[1:], tables[:-1], strict=True):
        _normalise(table, bits, memory_bytes)
        _interpolate(table, lower)
        _write_order(lower, table, words, file, unknown)
    _write_order(tables[-1], None, words, file, unknown)
    file.write("\n\\end\\\n")


def _discount(table: _Table, counts: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    return np.array([0.0, *table.discounts])[np.minimum(counts, 3).astype(np.int64)]


def _interpolate_unigrams(table: _Table, uniform: float) -> float:
    """Writes the probabilities of words, and returns that of an unknown one."""
    counts = table.open("counts", "<u8")
    discounts = _discount(table, counts)
    total = float(counts.sum())
    left = float(discounts.sum()) / total
    ((counts - discounts) / total + left * uniform).tofile(table.path("probabilities"))
    return left * uniform


def _normalise(table: _Table, bits: int, memory_bytes: int) -> None:
    """Writes, beside the rows, their discounted shares of their context and what the context leaves; and what is left
    for each context, in the order of the table below."""
    order = table.order
    words, counts = table.open("words", "<u4", order), table.open("counts", "<u8")
    by_context = np.dtype([("words", "<u4", (order,)), ("count", "<u8"), ("row", "<u8")])
    columns = [*range(order - 2, -1, -1), order - 1]
    share = memory_bytes // 2
    sorter = Sorter(table.path("by-context"), key_columns(columns, order - 1, bits), share)
    for chunk in table.chunks():
        chosen = np.flatnonzero(_is_ngram(words[chunk]))
        rows = np.empty(len(chosen), by_context)
        rows["words"], rows["count"] = words[chunk][chosen], counts[chunk][chosen]
        rows["row"] = chosen + chunk.start
        sorter.add(rows)
    dtype = np.dtype([("row", "<u8"), ("share", "<f8"), ("left", "<f8")])
    back = Sorter(table.path("back"), lambda rows: [rows["row"]], share)
    with table.path("left").open("wb") as left_file:
        for rows in sorter.chunks():
            contexts = rows["words"][:, :-1]
            is_first = np.ones(len(rows), np.bool_)
            is_first[1:] = (contexts[1:] != contexts[:-1]).any(axis=1)
            starts = np.flatnonzero(is_first)
            discounts = _discount(table, rows["count"])
            totals = np.add.reduceat(rows["count"].astype(np.float64), starts)
            lefts = np.add.reduceat(discounts, starts) / totals
            lefts.tofile(left_file)
            group = np.cumsum(is_first) - 1
            result = np.empty(len(rows), dtype)
            result["row"] = rows["row"]
            result["share"] = (rows["count"] - discounts) / totals[group]
            result["left"] = lefts[group]
            back.add(result)
    with table.path("shares").open("wb") as shares_file:
        for rows in back.chunks():
            rows[["row", "share", "left"]].tofile(shares_file)


def _interpolate(table: _Table, lower: _Table) -> None:
    """Writes the probabilities of all rows; those of begin marks alone have none."""
    suffixes = table.open("suffixes", "<u8")
    below = lower.open("probabilities", "<f8")
    dtype = np.dtype([("row", "<u8"), ("share", "<f8"), ("left", "<f8")])
    shares: Rows = table.open("shares", dtype)
    at = 0
    with table.path("probabilities").open("wb") as file:
        for chunk in table.chunks():
            end = int(np.searchsorted(shares["row"], np.uint64(chunk.stop), side="left"))
            found = shares[at:end]
            at = end
            probabilities = np.full(chunk.stop - chunk.start, np.nan)
            places = (found["row"] - np.uint64(chunk.start)).astype(np.int64)
            probabilities[places] = found["share"] + found["left"] * below[suffixes[chunk][places]]
            probabilities.tofile(file)


def _write_order(table: _Table, higher: _Table | None, words: Sequence[str], file: Any, unknown: float) -> None:
    """The section of one order; contexts come in the same order in which the table above met them."""
    file.write(f"\n\\{table.order}-grams:\n")
    lefts = higher.open("left", "<f8") if higher is not None else None
    at = 0
    if table.order == 1:
        assert lefts is not None
        # Contexts are sorted by word, and the begin mark is the first that can be one.
        file.write(f"{_log10(np.array([unknown]))[0]:.7f}\t<unk>\t0\n0\t<s>\t{_log10(lefts[:1])[0]:.7f}\n")
        at = 1
    stored, probabilities = table.open("words", "<u4", table.order), table.open("probabilities", "<f8")
    for chunk in table.chunks():
        rows = stored[chunk]
        is_ngram = _is_ngram(rows)
        logs = _log10(probabilities[chunk][is_ngram])
        rows = rows[is_ngram]
        texts = [" ".join([words[number] for number in row]) for row in rows.tolist()]
        if lefts is None:
            file.writelines(f"{log:.7f}\t{text}\n" for log, text in zip(logs.tolist(), texts, strict=True))
            continue
        is_context = rows[:, -1] != END
        num_contexts = int(is_context.sum())
        backoffs = np.zeros(len(rows))
        backoffs[is_context] = _log10(lefts[at : at + num_contexts])
        at += num_contexts
        lines = zip(logs.tolist(), texts, backoffs.tolist(), strict=True)
        file.writelines(f"{log:.7f}\t{text}\t{backoff:.7f}\n" for log, text, backoff in lines)
    assert lefts is None or at == len(lefts), f"{at} contexts were written of {len(lefts)}"


def _log10(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        logs: npt.NDArray[np.float64] = np.minimum(np.log10(values), 0.0)
    return np.maximum(logs, -99.0)
