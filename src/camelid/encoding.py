"""How the bytes of a stored tensor mean numbers: plain types, and blocks of quantised values with their scales.

The layouts are those of ggml (GGUF files); plain types are little-endian, as in every format that Camelid reads.
"""

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Encoding:
    """A block layout: `block_values` neighbouring values of a row are stored in `block_bytes` bytes."""

    name: str
    block_values: int
    block_bytes: int

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
        Encoding("q8_0", 32, 34),
        Encoding("q4_0", 32, 18),
        Encoding("q4_1", 32, 20),
        Encoding("q5_0", 32, 22),
        Encoding("q5_1", 32, 24),
        Encoding("q4_k", 256, 144),
        Encoding("q5_k", 256, 176),
        Encoding("q6_k", 256, 210),
    )
}
"""Every encoding by name."""
