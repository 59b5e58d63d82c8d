"""From the factors in a file back to the parameters that they came from, for any that Llama 3 may have."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from camelid.checkpoint.rope_factors import recover_scaling, rope_factors
from camelid.model.config import ModelConfig, RopeScaling
from camelid.model.operations import rotary_frequencies


def llama_cpp_factors(scaling: RopeScaling, theta: float, head_dim: int) -> NDArray[np.float32]:
    """As llama.cpp's converter computes them: wavelength by wavelength, from float32 frequencies."""
    factors = []
    for frequency in 1 / np.float32(theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)):
        wavelength = 2 * math.pi / float(frequency)
        if wavelength < scaling.original_max_sequence_length / scaling.high_frequency_factor:
            factors.append(1.0)
        elif wavelength > scaling.original_max_sequence_length / scaling.low_frequency_factor:
            factors.append(scaling.factor)
        else:
            smooth = scaling.original_max_sequence_length / wavelength - scaling.low_frequency_factor
            smooth /= scaling.high_frequency_factor - scaling.low_frequency_factor
            factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(factors, np.float32)


def llama3(factor: float, low: float = 1, high: float = 4, length: int = 8192) -> RopeScaling:
    return RopeScaling(
        factor=factor, low_frequency_factor=low, high_frequency_factor=high, original_max_sequence_length=length
    )


@pytest.mark.parametrize("head_dim", [8, 16, 48, 64, 128])
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_comes_back_from_any_number_of_channels(head_dim: int, factor: float) -> None:
    factors = llama_cpp_factors(llama3(factor), 500000.0, head_dim)
    assert recover_scaling(factors.astype(np.float64), 500000.0, head_dim, None) == llama3(factor)


@given(
    factor=st.floats(1.5, 64, width=32),
    low=st.sampled_from([1, 1, 0.5, 2, 3]),
    ratio=st.sampled_from([1.5, 2, 4, 8, 16]),
    length=st.integers(128, 1 << 17),
    theta=st.sampled_from([10000.0, 500000.0, 1e6]),
    head_dim=st.sampled_from([8, 16, 32, 64, 128]),
    says_length=st.booleans(),
)
def test_other_parameters_come_back_as_others_of_equal_effect(
    factor: float, low: float, ratio: float, length: int, theta: float, head_dim: int, says_length: bool
) -> None:
    scaling = llama3(factor, low, low * ratio, length)
    written = rope_factors(scaling, theta, head_dim).astype(np.float32)
    if (written == 1).all() or written[-1] != np.float32(factor):
        return  # a head so small that no wavelength is stretched in full
    recovered = recover_scaling(written.astype(np.float64), theta, head_dim, length if says_length else None)
    assert recovered is not None
    np.testing.assert_allclose(rope_factors(recovered, theta, head_dim), written, rtol=4e-6 * factor)


def test_factors_are_those_of_the_converter_and_of_the_model() -> None:
    scaling = llama3(32.0)
    factors = rope_factors(scaling, 500000.0, 64)
    np.testing.assert_allclose(factors, llama_cpp_factors(scaling, 500000.0, 64), rtol=1e-5)
    config = ModelConfig(
        dim=128, num_layers=1, num_heads=2, num_kv_heads=1, ffn_hidden_dim=32, vocab_size=32, rope_theta=500000.0
    )
    stretched = config.model_copy(update={"rope_scaling": scaling})
    torch.testing.assert_close(
        rotary_frequencies(config) / torch.tensor(factors, dtype=torch.float32), rotary_frequencies(stretched)
    )


@pytest.mark.parametrize(
    "factors",
    [
        [1.0, 1.0, 0.5, 8.0],
        [1.0, 8.0, 1.0, 8.0],
        [1.0, 1.5, 2.0, 2.5],
        [1.0, 1.0, math.nan, 8.0],
        [1.0, 1.0, math.inf, 8.0],
        [1.0, 1.0, -1.0, 8.0],
        [0.0, 1.0, 1.0, 8.0],
        [8.0, 1.0, 1.0, 1.0],
        [0.5, 0.5, 0.5, 0.5],
    ],
)
def test_what_llama_3_does_not_do_has_no_parameters(factors: list[float]) -> None:
    assert recover_scaling(np.array(factors), 500000.0, 8, None) is None
