"""What a person can set about quantisation."""

from typing import Literal

from pydantic import Field

from camelid.settings import Settings


class QuantisationSettings(Settings):
    """How a model's matrices become small."""

    encoding: Literal["q8_0", "q4_0", "q4_1"]
    """Block format of the matrices."""
    head_encoding: Literal["same", "q8_0", "f16"] = "q8_0"
    """Block format of embedding and output matrix, whose errors cost the most."""
    calibration_tokens: int = Field(16_384, ge=256)
    """Most tokens of the calibration text to read; memory holds their hidden states."""
    window: int = Field(512, ge=8)
    """Tokens of the calibration text that are read at once, each window from its own beginning."""
