"""Damaged and hostile GGUF files: refused in a sentence or read, in memory of a small multiple of their size."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf_files import CONFIG, entry, general_metadata, pair, random_weights, raw_gguf, text, write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camelid.checkpoint import gguf
from camelid.checkpoint.gguf_header import open_file
from camelid.encoding import check_finite, decode
from camelid.errors import UserError

MAX_FACTOR = 16
ROOM_BYTES = 100_000
"""What the objects of an empty model and an exception take."""

SMALL = CONFIG.model_copy(update={"dim": 32, "num_layers": 1, "ffn_hidden_dim": 32})
NUMBERS = (0, 1, 2, 8, 9, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)

Damage = Callable[[bytes], bytes]


def flip(place: int, bit: int) -> Damage:
    def damage(data: bytes) -> bytes:
        at = place % len(data)
        return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]

    return damage


def overwrite(place: int, number: int, width: int) -> Damage:
    def damage(data: bytes) -> bytes:
        at = place % len(data)
        return (data[:at] + number.to_bytes(8, "little")[:width] + data[at + width :])[: len(data)]

    return damage


def cut(place: int) -> Damage:
    return lambda data: data[: 1 + place % len(data)]


def swap(first: int, second: int, length: int) -> Damage:
    def damage(data: bytes) -> bytes:
        a, b = sorted((first % len(data), second % len(data)))
        if b < a + length:
            return data
        return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]

    return damage


def remove(place: int, length: int) -> Damage:
    return lambda data: data[: 1 + place % len(data)] + data[1 + place % len(data) + length :]


# Most of a file is weights, whose damage nobody can see: the header gets most of it.
PLACES = st.integers(0, 4000) | st.integers(0, 1 << 17)
DAMAGES = st.lists(
    st.builds(flip, PLACES, st.integers(0, 7))
    | st.builds(overwrite, PLACES, st.sampled_from(NUMBERS), st.sampled_from([1, 4, 8]))
    | st.builds(cut, PLACES)
    | st.builds(swap, PLACES, PLACES, st.sampled_from([1, 4, 8, 16, 100]))
    | st.builds(remove, PLACES, st.integers(1, 40)),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("sound")
    weights = random_weights(SMALL)
    factors = np.array([1, 1, 1.5, 8], np.float32)  # two wavelengths kept, one between, one stretched
    return [
        write_gguf(folder / f"{kind}.gguf", {**more, **weights}, general_metadata(SMALL), kind).read_bytes()
        for kind, more in (("f32", {}), ("q4_1", {}), ("f16", {"rope_freqs.weight": factors}))
    ]


def read_everything(path: Path) -> bool:
    """Whether a file is accepted; whatever is wrong with it must be a UserError."""
    try:
        model = gguf.read(path)
        for tensor in model.tensors.values():
            check_finite(tensor.read(), tensor.encoding, tensor.name)
            assert np.isfinite(decode(tensor.read(), tensor.encoding, tensor.shape)).all()
    except UserError as error:
        is_sentence = "\n" not in str(error)
    else:
        return True
    assert is_sentence
    return False


def check_bounds(path: Path) -> None:
    read_everything(path)  # what is imported or compiled on the way does not count
    tracemalloc.start()
    try:
        read_everything(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MAX_FACTOR * path.stat().st_size + ROOM_BYTES


def fuzz(sound: list[bytes], path: Path, which: int, damages: list[Damage]) -> None:
    data = sound[which]
    for damage in damages:
        data = damage(data)
    path.write_bytes(data)
    check_bounds(path)


def test_sound_files_are_accepted(sound: list[bytes], tmp_path: Path) -> None:
    for data in sound:
        (tmp_path / "model.gguf").write_bytes(data)
        assert read_everything(tmp_path / "model.gguf")
        check_bounds(tmp_path / "model.gguf")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2), DAMAGES)
def test_damage_is_survived(sound: list[bytes], tmp_path: Path, which: int, damages: list[Damage]) -> None:
    fuzz(sound, tmp_path / "model.gguf", which, damages)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2), DAMAGES)
def test_much_damage_is_survived(sound: list[bytes], tmp_path: Path, which: int, damages: list[Damage]) -> None:
    fuzz(sound, tmp_path / "model.gguf", which, damages)


def test_every_byte_of_a_small_header(tmp_path: Path) -> None:
    entries = [entry("token_embd.weight", (32, 2)), entry("b", (4,), offset=256)]
    keys = [pair("general.architecture", 8, text("llama")), pair("n", 9, struct.pack("<IQIQ", 9, 1, 4, 1) + bytes(4))]
    data = raw_gguf(keys, entries, data=bytes(512))
    for place in range(len(data) - 512):
        for bit in (0, 7):
            (tmp_path / "model.gguf").write_bytes(flip(place, bit)(data))
            read_everything(tmp_path / "model.gguf")


@settings(max_examples=300)
@given(data=st.binary(max_size=400))
def test_noise_behind_the_magic(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "model.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + data)
    assert not read_everything(path)


def layers(count: int) -> bytes:
    """As many layers as can be named, each with one tensor."""
    names = ["token_embd.weight", *(f"blk.{layer}.attn_norm.weight" for layer in range(count))]
    table = [entry(name, (1,), offset=32 * number) for number, name in enumerate(names)]
    numbers = {"embedding_length": 2, "feed_forward_length": 2, "context_length": 2, "attention.head_count": 1}
    keys = [pair(f"llama.{key}", 4, struct.pack("<I", number)) for key, number in numbers.items()]
    keys.append(pair("llama.block_count", 4, struct.pack("<I", count)))
    keys.append(pair("general.architecture", 8, text("llama")))
    keys.append(pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)))
    return raw_gguf(keys, table, data=bytes(32 * len(names)))


@pytest.mark.parametrize(
    "data",
    [
        raw_gguf([pair("texts", 9, struct.pack("<IQ", 8, 50_000) + bytes(8 * 50_000))]),
        raw_gguf([pair("texts", 9, struct.pack("<IQ", 8, 50_000) + text("ł") * 50_000)]),
        raw_gguf([pair("arrays", 9, struct.pack("<IQ", 9, 50_000) + struct.pack("<IQ", 0, 0) * 50_000)]),
        raw_gguf([pair("flags", 9, struct.pack("<IQ", 7, 500_000) + b"\1" * 500_000)]),
        raw_gguf([pair(f"{key:04x}", 0, b"\0") for key in range(30_000)]),
        raw_gguf(entries=[entry(f"{name:04x}", (1,), offset=32 * name) for name in range(10_000)], data=bytes(320_000)),
        layers(5_000),
    ],
    ids=["empty texts", "short texts", "empty arrays", "flags", "keys", "tensors", "layers"],
)
def test_what_swells_most_stays_within_the_factor(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    open_file(path)
    check_bounds(path)
