"""Keys of lines that are alike after folding, thousands of lines at a time.

The folded characters c of a line, blanks around them apart, are hashed as the sum of T[c] p^i modulo 2^64 over their
places i, with a random number T[c] for each character, and mixed. CCNet takes the first 64 bits of SHA-1, and asks of
them only whether two are equal; hashing line by line costs more than everything else that is done to a page.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from camelid.corpus.hashing import Hashes, Places, mix

_SEGMENT_CHARACTERS = 1 << 16  # eight bytes each: what is worked on stays in the processor's cache
_LONG_LINE = 1 << 18
_MOST_STEPS = 4
_MOST_FOLDED = 4  # characters that one becomes
_NUM_CODES = 0x110000
_MULTIPLIER = 0x5851F42D4C957F2D
# Values of characters that are none of the line; all below the first are looked into.
_UNKNOWN, _SEVERAL, _DELETED, _BREAK = (np.uint64(value) for value in range(4))


class LineKeys:
    """Gives the key of each line."""

    def __init__(self, fold: Callable[[str], str], *, is_number_one: bool) -> None:
        """
        Args:
            fold: the text that stands for a character, at most four, which fold to themselves; a line feed stays one.
            is_number_one: whether a run of digits counts as a single one.
        """
        self._fold = fold
        self._is_number_one = is_number_one
        # Filled where characters are met; pages of zeros that none is in take no memory.
        self._values = np.zeros(_NUM_CODES, np.uint64)
        self._powers = _powers(_MULTIPLIER, _MOST_FOLDED * _LONG_LINE + 2)
        self._inverses = _powers(pow(_MULTIPLIER, -1, 1 << 64), _MOST_FOLDED * _LONG_LINE + 2)
        self._digit, self._blank = self._look_up("0 ")

    def __call__(self, texts: Sequence[str]) -> tuple[Hashes, NDArray[np.bool_]]:
        """Keys of all lines of the texts, one text after the other, and which of the lines are blank; [lines]."""
        found = [self._hash_segment(segment) for segment in _segments("\n".join(texts))] if texts else []
        if not found:
            return np.zeros(0, np.uint64), np.zeros(0, np.bool_)
        return np.concatenate([keys for keys, _ in found]), np.concatenate([blank for _, blank in found])

    def _hash_segment(self, segment: str) -> tuple[Hashes, NDArray[np.bool_]]:
        if len(segment) > _LONG_LINE:
            parts = [self._sum_up(line) for line in segment.split("\n")]
            sums, is_blank = (np.concatenate(column) for column in zip(*parts, strict=True))
        else:
            sums, is_blank = self._sum_up(segment)
        return mix(sums), is_blank

    def _sum_up(self, text: str) -> tuple[Hashes, NDArray[np.bool_]]:
        """Sums of the lines of a text that is not long, or of a single line."""
        if len(text) > _LONG_LINE:
            return self._sum_up_long(text)
        values = self._folded(text + "\n")
        ends = np.flatnonzero(values == _BREAK)
        starts = np.concatenate([[0], ends[:-1] + 1])
        self._pass_blanks(values, starts, ends)
        is_blank = starts == ends
        edges = np.stack([starts, ends], axis=1).ravel()
        # Every other sum is of what lies between two lines, and that of nothing is its first value.
        values *= self._powers[: len(values)]
        sums = np.add.reduceat(values, edges)[::2]
        sums[is_blank] = 0
        return sums * self._inverses[starts], is_blank

    def _pass_blanks(self, values: Hashes, starts: Places, ends: Places) -> None:
        """Moves the places where lines start and end past the blanks there; a line feed stands behind each line."""
        for _ in range(_MOST_STEPS):
            moving = np.flatnonzero(values[starts] == self._blank)
            if not len(moving):
                break
            starts[moving] += 1
        else:
            solid = np.flatnonzero(values != self._blank)
            starts[:] = solid[np.searchsorted(solid, starts)]
        for _ in range(_MOST_STEPS):
            moving = np.flatnonzero((values[ends - 1] == self._blank) & (ends > starts))
            if not len(moving):
                break
            ends[moving] -= 1
        else:
            solid = np.flatnonzero(values != self._blank)
            last = np.searchsorted(solid, ends) - 1
            # Nothing stands before the end of an empty first line.
            np.maximum(np.where(last >= 0, solid[last] + 1, 0), starts, out=ends)

    def _sum_up_long(self, line: str) -> tuple[Hashes, NDArray[np.bool_]]:
        """The same for one line of any length, in bounded memory."""
        total, factor = np.zeros(1, np.uint64), 1
        was_digit = has_begun = False
        blanks = 0
        for start in range(0, len(line), _SEGMENT_CHARACTERS):
            values = self._folded(line[start : start + _SEGMENT_CHARACTERS])
            if was_digit and self._is_number_one and len(values) and values[0] == self._digit:
                values = values[1:]
            if not len(values):
                continue
            was_digit = bool(values[-1] == self._digit)
            solid = np.flatnonzero(values != self._blank)
            if not len(solid):
                blanks += len(values)
                continue
            # Blanks in front of the line do not count, and those behind it only when something follows.
            head = 0 if has_begun else int(solid[0])
            gap = blanks if has_begun else 0
            blanks = len(values) - 1 - int(solid[-1])
            has_begun = True
            blank_run = np.full(gap % _SEGMENT_CHARACTERS, self._blank)
            for run in (*[np.full(_SEGMENT_CHARACTERS, self._blank)] * (gap // _SEGMENT_CHARACTERS), blank_run):
                total, factor = self._add(total, factor, run)
            total, factor = self._add(total, factor, values[head : int(solid[-1]) + 1])
        return total, np.array([not has_begun])

    def _add(self, total: Hashes, factor: int, values: Hashes) -> tuple[Hashes, int]:
        """Goes on with a sum; the factor is the multiplier to the power of the characters so far."""
        part = (values * self._powers[: len(values)]).sum(dtype=np.uint64)
        total = total + np.array([part], np.uint64) * np.uint64(factor)
        return total, factor * pow(_MULTIPLIER, len(values), 1 << 64) % (1 << 64)

    def _folded(self, text: str) -> Hashes:
        """The values of the characters that are left after folding."""
        values: Hashes = self._look_up(text)
        values = values[values != _DELETED]
        if self._is_number_one:
            is_digit = values == self._digit
            again = is_digit[1:] & is_digit[:-1]
            if again.any():
                values = values[np.concatenate([[True], ~again])]
        return values

    def _look_up(self, text: str) -> Hashes:
        # numpy keeps text as code points, and makes them sooner than an encoder does; of no text it makes one.
        codes = np.array([text]).view(np.uint32)[: len(text)]
        # Nothing is beyond the table; what is asked to clip is spared a look at each place.
        values = self._values.take(codes, mode="clip")
        if len(values) and values.min() <= _SEVERAL:
            characters = set(text)
            for character in characters:
                if self._values[ord(character)] == _UNKNOWN:
                    self._values[ord(character)] = self._make_value(self._fold(character))
            for character in characters:
                if self._values[ord(character)] == _SEVERAL:
                    text = text.replace(character, self._fold(character))
            return self._look_up(text)
        return values

    @staticmethod
    def _make_value(folded: str) -> np.uint64:
        if len(folded) != 1:
            return _SEVERAL if folded else _DELETED
        value = mix(np.array([ord(folded)], np.uint64))[0]
        assert value > _BREAK
        return _BREAK if folded == "\n" else np.uint64(value)


def _powers(base: int, number: int) -> Hashes:
    powers = np.full(number, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _segments(text: str) -> Iterator[str]:
    """The text cut at line feeds, which are left out, into pieces of about so many characters as fit the cache."""
    start = 0
    while True:
        end = text.find("\n", start + _SEGMENT_CHARACTERS)
        if end < 0:
            yield text[start:]
            return
        yield text[start:end]
        start = end + 1
