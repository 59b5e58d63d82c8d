"""bzip2 streams: as Python's bz2 unpacks them, by either decoder, whole and damaged."""

import bz2
import io
import random
from itertools import groupby

import pytest

from camelid.corpus.sources import bzip2

Stream = tuple[int, bytes, tuple[str, ...]]


def _read(packed: bytes, start: int = 0) -> list[Stream]:
    """Place, bytes and problems of each stream."""
    found = []
    for place, pieces in groupby(bzip2.iterate_streams(io.BytesIO(packed), start), key=lambda piece: piece.place):
        together = list(pieces)
        problems = tuple(piece.problem for piece in together if piece.problem)
        found.append((place, b"".join(piece.data for piece in together), problems))
    return found


def _read_by_bz2(packed: bytes) -> list[Stream]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bzip2, "_unpack", lambda *_: None)
        return _read(packed)


def _words(rng: random.Random, count: int) -> bytes:
    return b" ".join(rng.choices([b"camel", b"llama", b"guanaco", b"alpaca", b"\n"], k=count))


def test_streams_come_with_their_places() -> None:
    rng = random.Random(1)
    texts = [_words(rng, count) for count in (1, 500, 400_000, 3)]
    packed = [bz2.compress(text, level) for text, level in zip(texts, (1, 5, 9, 9), strict=True)]
    places = [sum(map(len, packed[:index])) for index in range(len(packed))]
    expected: list[Stream] = [(place, text, ()) for place, text in zip(places, texts, strict=True)]
    assert _read(b"".join(packed)) == _read_by_bz2(b"".join(packed)) == expected
    assert _read(b"".join(packed), places[2]) == expected[2:]
    assert _read(b"") == []


def test_damaged_streams_give_the_same_by_either_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pieces smaller than a block: what comes out before the decoder finds the damage must not be given out.
    monkeypatch.setattr(bzip2, "_PIECE_BYTES", 1 << 12)
    rng = random.Random(7)
    num_told = 0
    for _ in range(150):
        packed = bytearray().join(bz2.compress(_words(rng, rng.choice([0, 5, 3000])), rng.randint(1, 9)) for _ in "abc")
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(packed))
            match rng.randrange(4):
                case 0:
                    packed[place] ^= 1 << rng.randrange(8)
                case 1:
                    del packed[place : place + rng.randint(1, 30)]
                case 2:
                    packed[place:place] = rng.randbytes(rng.randint(1, 30))
                case _:
                    packed += rng.choice([b"\x00", b"BZh9", b"BZh91AY&SY", bz2.compress(b"")])
        expected = _read_by_bz2(bytes(packed))
        num_told += any(problems for _, _, problems in expected)
        # An empty stream is told of only by the slower one.
        assert [s for s in _read(bytes(packed)) if s[1] or s[2]] == [s for s in expected if s[1] or s[2]]
    assert num_told > 100


def test_streams_of_any_size_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bzip2, "_MAX_PACKED_BYTES", 3_000)
    monkeypatch.setattr(bzip2, "_MAX_BYTES", 2 << 20)
    rng = random.Random(3)
    texts = [_words(rng, 300), _words(rng, 50_000), b"\x00" * (9 << 20), _words(rng, 20)]
    packed = b"".join(map(bz2.compress, texts))
    assert [text for _, text, _ in _read(packed)] == texts


def test_a_stream_that_nobody_wants_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = []
    unpack = bzip2._unpack

    def note(file: io.BytesIO, place: int, end: int) -> list[bytes] | None:
        unpacked.append(place)
        return unpack(file, place, end)

    monkeypatch.setattr(bzip2, "_unpack", note)
    first = bz2.compress(b"a")
    for piece in bzip2.iterate_streams(io.BytesIO(first + bz2.compress(b"b")), 0):
        if piece.place:
            break
    assert unpacked == [0]
