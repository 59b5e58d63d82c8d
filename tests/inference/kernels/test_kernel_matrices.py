"""Packed matrices against their plain torch twins."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_models import Floats
from twins import quantise_activations, quantised_linear

from camelid.encoding import ENCODINGS, decode, encode
from camelid.inference.kernels.library import KINDS, Matrix, Pool, load_kernels, make_matrix

QUANTISED = ("q4_0", "q4_1", "q8_0")
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 17, 31, 97, 300)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool(load_kernels(), 2)


def draw(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pack(pool: Pool, encoding: str, data: NDArray[np.uint8], num_rows: int, num_columns: int) -> Matrix:
    return make_matrix(pool, encoding, num_rows, num_columns).pack(encoding, data, 0, num_rows)


def draw_blocks(encoding: str, num_rows: int, num_columns: int, scale: float) -> NDArray[np.uint8]:
    """Blocks of any bits at all, but for their scales and minima."""
    blocks = np.random.default_rng(1).integers(
        0, 256, (num_rows, num_columns // 32, ENCODINGS[encoding].block_bytes), np.uint8
    )
    for offset in ENCODINGS[encoding].scale_offsets:
        blocks[..., offset : offset + 2] = np.array([scale], np.float16).view(np.uint8)
    return blocks.reshape(-1)


@pytest.mark.parametrize("encoding", KINDS)
@pytest.mark.parametrize(("num_rows", "num_columns"), [(32, 64), (1, 32), (199, 96), (50, 2048)])
def test_rows_are_decoded_to_the_values_of_the_file(pool: Pool, encoding: str, num_rows: int, num_columns: int) -> None:
    data = encode(draw(num_rows, num_columns), ENCODINGS[encoding])
    expected = decode(data, ENCODINGS[encoding], (num_rows, num_columns))
    matrix = pack(pool, encoding, data, num_rows, num_columns)
    for row in {0, num_rows // 2, num_rows - 1}:
        np.testing.assert_array_equal(matrix.decode_row(row), expected[row])


@pytest.mark.parametrize("encoding", QUANTISED)
def test_products_of_integers_are_exact(pool: Pool, encoding: str) -> None:
    # Scales are one and the largest activation of each group is 127: every float on the way is an integer.
    num_rows, num_columns = 48, 128
    data = draw_blocks(encoding, num_rows, num_columns, 1.0)
    for extreme in (False, True):
        x = np.random.default_rng(2).integers(-127, 128, (19, num_columns)).astype(np.float32)
        if extreme:
            data[:] = np.where(np.arange(data.size) % ENCODINGS[encoding].block_bytes >= 4, 255, data)
            x = np.where(x < 0, -127, 127).astype(np.float32)
        x[:, ::32] = 127
        weights = decode(data, ENCODINGS[encoding], (num_rows, num_columns)).astype(np.int64)
        expected = x.astype(np.int64) @ weights.T
        assert np.abs(expected).max() < 1 << 24
        np.testing.assert_array_equal(pack(pool, encoding, data, num_rows, num_columns).multiply(x), expected)


@pytest.mark.parametrize("encoding", QUANTISED)
@pytest.mark.parametrize(("num_rows", "num_columns"), [(16, 32), (199, 96), (50, 1536), (1000, 288)])
def test_quantised_layers_equal_their_twin(pool: Pool, encoding: str, num_rows: int, num_columns: int) -> None:
    data = draw_blocks(encoding, num_rows, num_columns, 0.01)
    x = draw(23, num_columns)
    x[3, 32:64] = 0  # a group without a scale
    x[4] *= 1e-4
    results = pack(pool, encoding, data, num_rows, num_columns).multiply(x)
    expected = quantised_linear(torch.from_numpy(x), torch.from_numpy(data), encoding, num_rows).numpy()
    np.testing.assert_allclose(results, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("encoding", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("num_rows", "num_columns"), [(16, 1), (199, 97), (50, 1536), (1000, 45)])
def test_plain_layers_equal_torch(pool: Pool, encoding: str, num_rows: int, num_columns: int) -> None:
    data = encode(draw(num_rows, num_columns), ENCODINGS[encoding])
    x = draw(23, num_columns, seed=1)
    weights = torch.from_numpy(decode(data, ENCODINGS[encoding], (num_rows, num_columns)).copy())
    expected = (torch.from_numpy(x).double() @ weights.double().T).numpy()
    results = pack(pool, encoding, data, num_rows, num_columns).multiply(x)
    np.testing.assert_allclose(results, expected, rtol=0, atol=1e-6 * num_columns**0.5 * np.abs(expected).max())


@pytest.mark.parametrize("encoding", KINDS)
def test_a_token_gives_the_same_bits_in_any_number(pool: Pool, encoding: str) -> None:
    num_rows, num_columns = 80, 320
    matrix = pack(pool, encoding, encode(draw(num_rows, num_columns), ENCODINGS[encoding]), num_rows, num_columns)
    x = draw(max(WIDTHS), num_columns, seed=1)
    expected = np.concatenate([matrix.multiply(x[i : i + 1]) for i in range(len(x))])
    for width in WIDTHS:
        np.testing.assert_array_equal(matrix.multiply(x[-width:]), expected[-width:])


def test_activations_are_rounded_as_the_twin_rounds(pool: Pool) -> None:
    # An identity shows each quantised activation times its scale.
    weights = encode(np.eye(64, dtype=np.float32) * 127, ENCODINGS["q8_0"])
    x = draw(200, 64, seed=3)
    x[0, :32] = np.linspace(-1, 1, 32)
    x[1, :32] = np.arange(32) * 1.5 - 20
    values, scales = quantise_activations(torch.from_numpy(x))
    expected = (values * scales[..., None]).view(200, 64).numpy() * 127
    np.testing.assert_allclose(pack(pool, "q8_0", weights, 64, 64).multiply(x), expected, rtol=3e-7)


def test_float_rows_become_int8_as_near_as_a_scale_in_half_precision_allows(pool: Pool) -> None:
    values = draw(40, 96)
    values[7, :32] = 0
    matrix = make_matrix(pool, "q8_0", 40, 96)
    matrix.pack("f32", values[:32].view(np.uint8), 0, 32).pack("f32", values[32:].view(np.uint8), 32, 8)
    decoded = np.stack([matrix.decode_row(row) for row in range(40)])
    steps = np.abs(values).reshape(40, 3, 32).max(-1) / 127
    assert (np.abs(decoded - values).reshape(40, 3, 32) <= steps[..., None] * 0.55).all()


def test_what_was_decoded_from_int8_is_found_again(pool: Pool) -> None:
    data = encode(draw(32, 96), ENCODINGS["q8_0"])
    expected = decode(data, ENCODINGS["q8_0"], (32, 96))
    matrix = make_matrix(pool, "q8_0", 32, 96).pack("f32", np.ascontiguousarray(expected).view(np.uint8), 0, 32)
    np.testing.assert_array_equal(np.stack([matrix.decode_row(row) for row in range(32)]), expected)


def test_many_small_loops_in_many_threads_come_to_an_end() -> None:
    kernels = load_kernels()
    data = encode(draw(64, 32), ENCODINGS["q8_0"])
    x = draw(3, 32)
    expected = pack(Pool(kernels, 1), "q8_0", data, 64, 32).multiply(x)
    for num_threads in (2, 3, 7):
        matrix = pack(Pool(kernels, num_threads), "q8_0", data, 64, 32)
        for _ in range(100):
            np.testing.assert_array_equal(matrix.multiply(x), expected)
