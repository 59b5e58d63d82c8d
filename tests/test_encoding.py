"""Encodings against the `gguf` package's own arithmetic, bit for bit, and against blocks written by hand."""

import tracemalloc

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from camelid.encoding import ENCODINGS, check_finite, decode, encode
from camelid.errors import UserError

WRITTEN = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")
QUANTISED = tuple(name for name, encoding in ENCODINGS.items() if not encoding.is_plain)


def random_blocks(name: str, num_blocks: int, seed: int) -> NDArray[np.uint8]:
    """Bytes of any content, scales of NaN and infinity included."""
    shape = (num_blocks, ENCODINGS[name].block_bytes)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def random_values(rows: int, columns: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.integers(-6, 3, size=(rows, 1))
    return np.asarray(rng.normal(size=(rows, columns)) * sizes, dtype=np.float32)


def assert_equal_bits(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    is_equal = (found.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(found) & np.isnan(wanted))
    assert is_equal.all()


@pytest.mark.parametrize("name", ENCODINGS)
def test_layouts_are_those_of_ggml(name: str) -> None:
    encoding = ENCODINGS[name]
    assert (encoding.block_values, encoding.block_bytes) == GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]]


@pytest.mark.parametrize("name", ENCODINGS)
def test_decoding_equals_gguf(name: str) -> None:
    encoding = ENCODINGS[name]
    # More than one piece, and no whole number of them.
    blocks = random_blocks(name, 3 * (70_000 // encoding.block_values // 3), seed=1)
    shape = (3, len(blocks) // 3 * encoding.block_values)
    with np.errstate(all="ignore"):
        wanted = quants.dequantize(blocks.reshape(3, -1), GGMLQuantizationType[name.upper()])
    assert_equal_bits(decode(blocks.reshape(-1), encoding, shape), wanted)


@pytest.mark.parametrize("name", WRITTEN)
def test_encoding_equals_gguf(name: str) -> None:
    values = random_values(300, 256, seed=2)
    values[0] = 0
    values[1, :32] = np.arange(-16, 16)  # scale 1 or 2 after division: ties
    values[2, ::2] = 0
    wanted = quants.quantize(values, GGMLQuantizationType[name.upper()])
    assert np.array_equal(encode(values, ENCODINGS[name]), wanted.reshape(-1).view(np.uint8))


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_1"])
@given(
    hnp.arrays(
        np.float32,
        (2, 32),
        elements=st.floats(-1e5, 1e5, width=32, allow_subnormal=False) | st.sampled_from([0.5, -0.5, 63.5, 127.0]),
    )
)
def test_any_values_are_quantised_as_by_gguf(name: str, values: NDArray[np.float32]) -> None:
    # Below this a block is all zeros in half precision, and the package divides by zero on the way there.
    values[np.abs(values) < 1e-30] = 0
    with np.errstate(all="ignore"):
        wanted = quants.quantize(values, GGMLQuantizationType[name.upper()])
    assert np.array_equal(encode(values, ENCODINGS[name]), wanted.reshape(-1))


def test_every_half_precision_number_comes_back() -> None:
    data = np.arange(1 << 16, dtype="<u2").view(np.uint8)
    for name, exponent, mantissa in (("f16", 0x7C00, 0x03FF), ("bf16", 0x7F80, 0x007F)):
        encoding = ENCODINGS[name]
        again = encode(decode(data, encoding, (1 << 16,)), encoding).view("<u2")
        words = data.view("<u2")
        is_nan = ((words & exponent) == exponent) & ((words & mantissa) != 0)
        assert np.array_equal(again[~is_nan], words[~is_nan])
        assert np.isnan(decode(again.view(np.uint8), encoding, (1 << 16,))[is_nan]).all()


def test_blocks_written_by_hand() -> None:
    half = np.array([0.5], "<f2").tobytes()
    minimum = np.array([-2.0], "<f2").tobytes()
    nibbles = bytes(low | (15 - low) << 4 for low in range(16))  # 0..15, then 15..0
    up_and_down = [*range(16), *reversed(range(16))]
    signed = bytes(value % 256 for value in range(-16, 16))
    for name, data, wanted in (
        ("q8_0", half + signed, [0.5 * value for value in range(-16, 16)]),
        ("q4_0", half + nibbles, [0.5 * (value - 8) for value in up_and_down]),
        ("q4_1", half + minimum + nibbles, [0.5 * value - 2 for value in up_and_down]),
        ("bf16", bytes([0x80, 0x3F, 0x00, 0xC0]), [1.0, -2.0]),
    ):
        assert decode(np.frombuffer(data, np.uint8), ENCODINGS[name], (len(wanted),)).tolist() == wanted


def test_ties_round_away_from_zero_in_blocks_and_to_even_in_bf16() -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, :4] = [127, 2.5, -2.5, 0.49999997]
    assert encode(values, ENCODINGS["q8_0"]).view(np.int8)[2:6].tolist() == [127, 3, -3, 0]
    ties = np.array([0x3F808000, 0x3F818000, 0x7F800001], np.uint32).view(np.float32)
    assert encode(ties, ENCODINGS["bf16"]).view("<u2").tolist() == [0x3F80, 0x3F82, 0x7FC0]


def test_rounding_errors_stay_within_half_a_step() -> None:
    values = np.random.default_rng(3).normal(size=(50, 64)).astype(np.float32)
    blocks = values.reshape(-1, 32)
    steps = {
        "q8_0": np.abs(blocks).max(axis=1) / 127,
        "q4_0": np.abs(blocks).max(axis=1) / 8,
        "q4_1": (blocks.max(axis=1) - blocks.min(axis=1)) / 15,
    }
    for name, step in steps.items():
        decoded = decode(encode(values, ENCODINGS[name]), ENCODINGS[name], values.shape).reshape(-1, 32)
        # The largest of the other sign may lie a whole step of q4_0 off; scales round to half precision.
        allowed = step * (1.01 if name == "q4_0" else 0.51) + np.abs(blocks).max(axis=1) * 2e-3 + 1e-6
        assert (np.abs(decoded - blocks).max(axis=1) <= allowed).all()


@pytest.mark.parametrize("name", ENCODINGS)
def test_bytes_at_odd_addresses_are_read(name: str) -> None:
    blocks = random_blocks(name, 4, seed=4).reshape(-1)
    shifted = np.concatenate((np.zeros(1, np.uint8), blocks))[1:]
    shape = (2, 2 * ENCODINGS[name].block_values)
    values = decode(shifted, ENCODINGS[name], shape)
    assert values.flags.aligned
    assert_equal_bits(values, decode(blocks, ENCODINGS[name], shape))


def test_plain_values_are_mapped_and_not_copied() -> None:
    values = random_values(4, 8, seed=5)
    data = values.reshape(-1).view(np.uint8)
    data.flags.writeable = False
    assert np.shares_memory(decode(data, ENCODINGS["f32"], (4, 8)), values)


@pytest.mark.parametrize("name", [*QUANTISED, "f16", "bf16"])
def test_memory_stays_within_the_result_and_a_piece(name: str) -> None:
    encoding = ENCODINGS[name]
    num_values = 1 << 21
    data = random_blocks(name, num_values // encoding.block_values, seed=6).reshape(-1)
    tracemalloc.start()
    decode(data, encoding, (num_values,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * num_values + (1 << 20)


def test_what_does_not_fit_is_refused() -> None:
    blocks = random_blocks("q4_0", 2, seed=7).reshape(-1)
    with pytest.raises(ValueError, match=r"36 bytes for a tensor of q4_0 that has 54"):
        decode(blocks, ENCODINGS["q4_0"], (3, 32))
    with pytest.raises(ValueError, match="does not divide"):
        decode(blocks, ENCODINGS["q4_0"], (1, 33))
    with pytest.raises(ValueError, match="does not divide"):
        encode(np.zeros((1, 48), np.float32), ENCODINGS["q8_0"])
    with pytest.raises(ValueError, match="q6_k can be read and not written"):
        encode(np.zeros((1, 256), np.float32), ENCODINGS["q6_k"])
    with pytest.raises(ValueError, match="no place in a block of q8_0"):
        encode(np.full((1, 32), np.nan, np.float32), ENCODINGS["q8_0"])


@pytest.mark.parametrize("name", ENCODINGS)
def test_numbers_that_are_none_are_found_where_they_are(name: str) -> None:
    encoding = ENCODINGS[name]
    sound = np.zeros((70_000 // encoding.block_bytes, encoding.block_bytes), np.uint8)
    for other in range(encoding.block_bytes):
        if not encoding.is_plain and not any(offset <= other <= offset + 1 for offset in encoding.scale_offsets):
            sound[:, other] = 0xFF  # quantised numbers may have any bits
    check_finite(sound.reshape(-1), encoding, "sound")
    word = {"f32": (0x7F800001, "<u4"), "bf16": (0xFF80, "<u2")}.get(name, (0x7C00, "<u2"))
    for offset in encoding.scale_offsets or (0,):
        damaged = sound.copy()
        pattern = np.array([word[0]], word[1]).view(np.uint8)
        damaged[-3, offset : offset + pattern.size] = pattern
        row = (encoding.block_values,)
        assert np.isfinite(decode(sound[-3], encoding, row)).all()
        assert not np.isfinite(decode(damaged[-3], encoding, row)).all()
        with pytest.raises(UserError, match=rf"^here: the .* {len(sound) - 3:,} \({name}\) is a NaN or an infinity"):
            check_finite(damaged.reshape(-1), encoding, "here")
