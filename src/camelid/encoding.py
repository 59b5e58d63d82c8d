"""How the bytes of a stored tensor mean numbers: plain types, and blocks of quantised values with their scales.

The layouts are those of ggml (GGUF files), and values are computed as its reference code does, to the last bit; plain
types are little-endian, as in every format that Camelid reads.

Shapes: N blocks, V values of a block, G groups of a block that have a scale of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camelid.errors import UserError

Bytes = NDArray[np.uint8]
Values = NDArray[np.float32]


@dataclass(frozen=True)
class Encoding:
    """A block layout: `block_values` neighbouring values of a row are stored in `block_bytes` bytes."""

    name: str
    block_values: int
    block_bytes: int
    scale_offsets: tuple[int, ...] = ()
    """Where in a block its half-precision scales and minima stand."""

    @property
    def is_plain(self) -> bool:
        """Whether each value stands for itself, without a scale that it shares with others."""
        return self.block_values == 1

    @property
    def bits_per_value(self) -> float:
        """Bits that a value takes, its share of the scales included."""
        return 8 * self.block_bytes / self.block_values

    def row_bytes(self, num_values: int) -> int:
        """Bytes of one row.

        Raises:
            ValueError: the row does not divide into blocks.
        """
        if num_values % self.block_values:
            raise ValueError(f"a row of {num_values:,} values does not divide into {self.name}'s {self.block_values}")
        return num_values // self.block_values * self.block_bytes

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a whole tensor, whose rows run along its last axis.

        Raises:
            ValueError: the rows do not divide into blocks.
        """
        return prod(shape[:-1]) * self.row_bytes(shape[-1]) if shape else self.block_bytes


ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        Encoding("f32", 1, 4),
        Encoding("f16", 1, 2),
        Encoding("bf16", 1, 2),
        Encoding("q8_0", 32, 34, (0,)),
        Encoding("q4_0", 32, 18, (0,)),
        Encoding("q4_1", 32, 20, (0, 2)),
        Encoding("q5_0", 32, 22, (0,)),
        Encoding("q5_1", 32, 24, (0, 2)),
        Encoding("q2_k", 256, 84, (80, 82)),
        Encoding("q3_k", 256, 110, (108,)),
        Encoding("q4_k", 256, 144, (0, 2)),
        Encoding("q5_k", 256, 176, (0, 2)),
        Encoding("q6_k", 256, 210, (208,)),
        Encoding("iq4_nl", 32, 18, (0,)),
        Encoding("iq4_xs", 256, 136, (0,)),
    )
}
"""Every encoding by name."""

# Pieces of this size and what is made of them on the way stay in a processor's second-level cache.
_PIECE_VALUES = 1 << 15

# Bits of the exponent of a plain value: all of them are set in a NaN or an infinity, and only there.
_EXPONENTS = {"f32": ("<u4", 0x7F800000), "f16": ("<u2", 0x7C00), "bf16": ("<u2", 0x7F80)}

_IQ4_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)  # [16]


def decode(data: Bytes, encoding: Encoding, shape: tuple[int, ...]) -> Values:
    """The values of a stored tensor; besides the result, memory holds no more than a small piece of it.

    Args:
        data: its bytes, flat and in row order.

    Returns:
        An array of `shape`: for f32 a view of `data` where that can be, else a new array.

    Raises:
        ValueError: `data` has not the length that `shape` asks for.
    """
    num_bytes = encoding.num_bytes(shape)
    if data.size != num_bytes:
        raise ValueError(f"{data.size:,} bytes for a tensor of {encoding.name} that has {num_bytes:,}")
    data = np.ascontiguousarray(data).reshape(-1)
    if encoding.name == "f32":
        return np.require(data.view("<f4"), np.float32, "A").reshape(shape)
    values = np.empty(prod(shape), np.float32)
    decode_blocks = _DECODERS[encoding.name]
    blocks = data.reshape(-1, encoding.block_bytes)
    piece = _PIECE_VALUES // encoding.block_values
    with np.errstate(all="ignore"):  # NaN and infinity go through as they are
        for start in range(0, len(blocks), piece):
            decoded = decode_blocks(blocks[start : start + piece])
            values[start * encoding.block_values :][: decoded.size] = decoded.reshape(-1)
    return values.reshape(shape)


def encode(values: Values, encoding: Encoding) -> Bytes:
    """The bytes of a tensor, flat and in row order; quantised blocks are rounded as ggml's reference code rounds.

    A value beyond the range of half precision becomes an infinity, as a block's scale does; `check_finite` finds it.

    Args:
        values: [..., row], float32.

    Raises:
        ValueError: the encoding can only be decoded, the rows do not divide into blocks, or a value to be quantised is
            not finite.
    """
    if encoding.name not in _ENCODERS:
        raise ValueError(f"{encoding.name} can be read and not written; choose one of {', '.join(WRITTEN_ENCODINGS)}")
    num_bytes = encoding.num_bytes(values.shape)
    blocks = np.ascontiguousarray(values, "<f4").reshape(-1, encoding.block_values)
    if encoding.name == "f32":
        return blocks.reshape(-1).view(np.uint8)
    data = np.empty(num_bytes, np.uint8)
    piece = _PIECE_VALUES // encoding.block_values
    with np.errstate(all="ignore"):
        for start in range(0, len(blocks), piece):
            block = blocks[start : start + piece]
            if not encoding.is_plain and not np.isfinite(block).all():
                raise ValueError(f"a NaN or an infinity has no place in a block of {encoding.name}")
            encoded = _ENCODERS[encoding.name](block)
            data[start * encoding.block_bytes :][: encoded.size] = encoded.reshape(-1)
    return data


def check_finite(data: Bytes, encoding: Encoding, where: str) -> None:
    """Refuses a tensor with a value, or a block with a scale, that is a NaN or an infinity.

    Args:
        data: its bytes, flat and in row order.
        where: the file and the tensor, for the message.

    Raises:
        UserError: there is one.
    """
    data = np.ascontiguousarray(data).reshape(-1)
    for offset in encoding.scale_offsets or (0,):
        word, exponent = _EXPONENTS[encoding.name] if encoding.is_plain else _EXPONENTS["f16"]
        words: NDArray[Any] = np.ndarray(
            data.size // encoding.block_bytes, word, data.data, offset, (encoding.block_bytes,)
        )
        for start in range(0, words.size, _PIECE_VALUES):
            is_wrong = (words[start : start + _PIECE_VALUES] & exponent) == exponent
            if is_wrong.any():
                what = "value" if encoding.is_plain else "scale of block"
                place = start + int(is_wrong.argmax())
                raise UserError(
                    f"{where}: the {what} {place:,} ({encoding.name}) is a NaN or an infinity; the file is damaged or "
                    "the model diverged, get it again or take an earlier one"
                )


def _halves(blocks: Bytes, offset: int) -> Values:
    """The half-precision number at a place of every block, [N, 1]."""
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view("<f2").astype(np.float32)


def _unpack(data: Bytes, width: int, shifts: tuple[int, ...], mask: int) -> Bytes:
    """Small numbers that share bytes: each run of `width` bytes holds that many numbers at each shift.

    Args:
        data: [N, bytes]

    Returns:
        [N, bytes * shifts]
    """
    runs = data.reshape(len(data), -1, 1, width)
    return ((runs >> np.array(shifts, np.uint8)[:, None]) & np.uint8(mask)).reshape(len(data), -1)


def _join(low: Bytes, high: Bytes, shift: int) -> Bytes:
    return low | (high << np.uint8(shift))


def _grouped(scales: Values, quants: NDArray[Any]) -> Values:
    """Each group of a block times its scale.

    Args:
        scales: [N, G]
        quants: [N, V]

    Returns:
        [N, G, V / G]
    """
    grouped: Values = quants.astype(np.float32).reshape(*scales.shape, -1)
    grouped *= scales[:, :, None]
    return grouped


def _signed(quants: Bytes, offset: int) -> NDArray[np.int8]:
    return quants.view(np.int8) - np.int8(offset)


def _five_bits(blocks: Bytes, offset: int) -> Bytes:
    """Numbers [N, 32] of five bits, the fifth bits first."""
    high = np.unpackbits(blocks[:, offset : offset + 4], axis=-1, bitorder="little")
    return _join(_unpack(blocks[:, offset + 4 :], 16, (0, 4), 15), high, 4)


def _decode_f16(blocks: Bytes) -> Values:
    return blocks.view("<f2").astype(np.float32)


def _decode_bf16(blocks: Bytes) -> Values:
    return (blocks.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _decode_q8_0(blocks: Bytes) -> Values:
    return _grouped(_halves(blocks, 0), np.ascontiguousarray(blocks[:, 2:]).view(np.int8))


def _decode_q4_0(blocks: Bytes) -> Values:
    return _grouped(_halves(blocks, 0), _signed(_unpack(blocks[:, 2:], 16, (0, 4), 15), 8))


def _decode_q4_1(blocks: Bytes) -> Values:
    scaled = _grouped(_halves(blocks, 0), _unpack(blocks[:, 4:], 16, (0, 4), 15))
    return scaled + _halves(blocks, 2)[:, :, None]


def _decode_q5_0(blocks: Bytes) -> Values:
    return _grouped(_halves(blocks, 0), _signed(_five_bits(blocks, 2), 16))


def _decode_q5_1(blocks: Bytes) -> Values:
    return _grouped(_halves(blocks, 0), _five_bits(blocks, 4)) + _halves(blocks, 2)[:, :, None]


def _decode_q2_k(blocks: Bytes) -> Values:
    scales, quants = blocks[:, :16], _unpack(blocks[:, 16:80], 32, (0, 2, 4, 6), 3)
    minima = _halves(blocks, 82) * (scales >> 4).astype(np.float32)
    return _grouped(_halves(blocks, 80) * (scales & 15).astype(np.float32), quants) - minima[:, :, None]


def _decode_q3_k(blocks: Bytes) -> Values:
    scales = _join(_unpack(blocks[:, 96:104], 8, (0, 4), 15), _unpack(blocks[:, 104:108], 4, (0, 2, 4, 6), 3), 4)
    high = _unpack(blocks[:, :32], 32, tuple(range(8)), 1)
    quants = _join(_unpack(blocks[:, 32:96], 32, (0, 2, 4, 6), 3), high, 2)
    return _grouped(_halves(blocks, 108) * _signed(scales, 32).astype(np.float32), _signed(quants, 4))


def _decode_q4_k(blocks: Bytes) -> Values:
    scales, minima = _scales_and_minima(blocks)
    return _grouped(scales, _unpack(blocks[:, 16:], 32, (0, 4), 15)) - minima[:, :, None]


def _decode_q5_k(blocks: Bytes) -> Values:
    scales, minima = _scales_and_minima(blocks)
    high = _unpack(blocks[:, 16:48], 32, tuple(range(8)), 1)
    return _grouped(scales, _join(_unpack(blocks[:, 48:], 32, (0, 4), 15), high, 4)) - minima[:, :, None]


def _scales_and_minima(blocks: Bytes) -> tuple[Values, Values]:
    """Scales and minima [N, 8] of q4_k and q5_k: six bits each, in twelve bytes."""
    first, second, third = (blocks[:, start : start + 4] for start in (4, 8, 12))
    scales = np.concatenate((first & 63, (third & 15) | (first >> 6) << 4), axis=-1).astype(np.float32)
    minima = np.concatenate((second & 63, (third >> 4) | (second >> 6) << 4), axis=-1).astype(np.float32)
    return _halves(blocks, 0) * scales, _halves(blocks, 2) * minima


def _decode_q6_k(blocks: Bytes) -> Values:
    high = _unpack(blocks[:, 128:192], 32, (0, 2, 4, 6), 3)
    quants = _join(_unpack(blocks[:, :128], 64, (0, 4), 15), high, 4)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return _grouped(_halves(blocks, 208) * scales, _signed(quants, 32))


def _decode_iq4_nl(blocks: Bytes) -> Values:
    return _grouped(_halves(blocks, 0), _IQ4_LEVELS[_unpack(blocks[:, 2:], 16, (0, 4), 15)])


def _decode_iq4_xs(blocks: Bytes) -> Values:
    high = np.unpackbits(blocks[:, 2:4], axis=-1, bitorder="little").reshape(-1, 8, 2) @ np.array([1, 2], np.uint8)
    low = (blocks[:, 4:8, None] >> np.array([0, 4], np.uint8)).reshape(-1, 8) & np.uint8(15)
    scales = _halves(blocks, 0) * _signed(_join(low, high, 4), 32).astype(np.float32)
    return _grouped(scales, _IQ4_LEVELS[_unpack(blocks[:, 8:], 16, (0, 4), 15)])


_DECODERS: dict[str, Callable[[Bytes], Values]] = {
    "f16": _decode_f16,
    "bf16": _decode_bf16,
    "q8_0": _decode_q8_0,
    "q4_0": _decode_q4_0,
    "q4_1": _decode_q4_1,
    "q5_0": _decode_q5_0,
    "q5_1": _decode_q5_1,
    "q2_k": _decode_q2_k,
    "q3_k": _decode_q3_k,
    "q4_k": _decode_q4_k,
    "q5_k": _decode_q5_k,
    "q6_k": _decode_q6_k,
    "iq4_nl": _decode_iq4_nl,
    "iq4_xs": _decode_iq4_xs,
}


def _encode_f32(values: Values) -> Bytes:
    return values.view(np.uint8)


def _encode_f16(values: Values) -> Bytes:
    return values.astype("<f2").view(np.uint8)


def _encode_bf16(values: Values) -> Bytes:
    """Rounds to nearest, ties to even; a NaN keeps its sign and upper bits and becomes quiet."""
    words = values.view("<u4")
    rounded = (words + (np.uint32(0x7FFF) + ((words >> 16) & 1))) >> 16
    is_nan = (words & 0x7FFFFFFF) > 0x7F800000
    return np.where(is_nan, words >> 16 | 64, rounded).astype("<u2").view(np.uint8)


def _inverse(scales: Values) -> Values:
    """1 / scale, and 0 where that is no number: such a block is all zeros in half precision too."""
    inverse = 1 / scales
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _round_away(values: Values) -> Values:
    """Rounds to nearest, ties away from zero, as C's roundf."""
    whole = np.trunc(values)
    return whole + np.trunc(2 * (values - whole))


def _encode_q8_0(values: Values) -> Bytes:
    scales = np.abs(values).max(axis=-1, keepdims=True) / np.float32(127)
    quants = _round_away(values * _inverse(scales)).astype(np.int8)
    return np.concatenate((_as_halves(scales), quants.view(np.uint8)), axis=-1)


def _encode_q4_0(values: Values) -> Bytes:
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=-1, keepdims=True), axis=-1)
    scales = largest / np.float32(-8)
    quants = (values * _inverse(scales) + np.float32(8.5)).astype(np.uint8)
    return np.concatenate((_as_halves(scales), _pack_nibbles(quants)), axis=-1)


def _encode_q4_1(values: Values) -> Bytes:
    minima = values.min(axis=-1, keepdims=True)
    scales = (values.max(axis=-1, keepdims=True) - minima) / np.float32(15)
    quants = ((values - minima) * _inverse(scales) + np.float32(0.5)).astype(np.uint8)
    return np.concatenate((_as_halves(scales), _as_halves(minima), _pack_nibbles(quants)), axis=-1)


def _as_halves(scales: Values) -> Bytes:
    return scales.astype("<f2").view(np.uint8)


def _pack_nibbles(quants: Bytes) -> Bytes:
    quants = quants.clip(0, 15)
    return _join(quants[:, :16], quants[:, 16:], 4)


_ENCODERS: dict[str, Callable[[Values], Bytes]] = {
    "f32": _encode_f32,
    "f16": _encode_f16,
    "bf16": _encode_bf16,
    "q8_0": _encode_q8_0,
    "q4_0": _encode_q4_0,
    "q4_1": _encode_q4_1,
}

WRITTEN_ENCODINGS = tuple(_ENCODERS)
"""Names of those that `encode` writes."""
