"""What a LLaMA model is, in numbers. No torch here: planners and readers of other formats import it too."""

from typing import Self

from pydantic import Field, model_validator

from camelid.errors import UserError
from camelid.model.presets import PRESETS, nearest_preset
from camelid.settings import Settings

FFN_MULTIPLE = 256


def ffn_hidden_dim_rule(dim: int, multiple: int = FFN_MULTIPLE) -> int:
    """Width of the feed-forward layer: 2/3 of 4 dim, rounded up to a multiple (paper section 2.2, released code)."""
    hidden = 8 * dim // 3
    return -(-hidden // multiple) * multiple


class RopeScaling(Settings):
    """Llama 3.1's stretching of the rotary wavelengths to a longer context."""

    factor: float = Field(gt=0)
    """Wavelengths longer than the original context allows are stretched by this factor."""
    low_frequency_factor: float = Field(1.0, gt=0)
    """Wavelengths above original_max_sequence_length / low_frequency_factor are stretched in full."""
    high_frequency_factor: float = Field(4.0, gt=0)
    """Wavelengths below original_max_sequence_length / high_frequency_factor are left as they are."""
    original_max_sequence_length: int = Field(gt=0)
    """Context length in tokens of the model before stretching."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError("low_frequency_factor must be below high_frequency_factor")
        return self


class ModelConfig(Settings):
    """Everything that a forward pass needs to know besides the weights."""

    dim: int = Field(gt=0)
    """Width of the residual stream."""
    num_layers: int = Field(gt=0)
    """Number of transformer layers."""
    num_heads: int = Field(gt=0)
    """Number of query heads."""
    num_kv_heads: int = Field(gt=0)
    """Number of key and value heads; each serves num_heads / num_kv_heads query heads."""
    ffn_hidden_dim: int = Field(gt=0)
    """Width between the feed-forward layer's matrices."""
    vocab_size: int = Field(gt=0)
    """Number of token ids."""
    max_sequence_length: int = Field(2048, gt=0)
    """Longest context in tokens."""
    norm_eps: float = Field(1e-6, gt=0)
    """Added to the mean square in RMSNorm."""
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """Stretching of the rotary wavelengths, or none."""
    is_head_tied: bool = False
    """Whether the output matrix is the embedding matrix."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} does not divide into {self.num_heads} heads")
        if self.head_dim % 2:
            raise ValueError(f"head size {self.head_dim} (dim / num_heads) is odd, and rotary positions turn pairs")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} query heads do not divide into {self.num_kv_heads} key/value heads")
        return self

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.dim // self.num_heads


class ModelSettings(Settings):
    """The shape of the model to train: a preset, single values on top of it, or all of them."""

    preset: str | None = None
    """Name of a shape, llama-7b for example; values given beside it take precedence."""
    dim: int | None = Field(None, gt=0)
    """Width of the residual stream."""
    num_layers: int | None = Field(None, gt=0)
    """Number of transformer layers."""
    num_heads: int | None = Field(None, gt=0)
    """Number of query heads."""
    num_kv_heads: int | None = Field(None, gt=0)
    """Number of key and value heads; as many as query heads unless given."""
    ffn_hidden_dim: int | None = Field(None, gt=0)
    """Width of the feed-forward layer; 2/3 of 4 dim rounded up to a multiple of 256 unless given."""
    max_sequence_length: int | None = Field(None, gt=0)
    """Longest context in tokens; 2048 unless given."""
    norm_eps: float = Field(1e-6, gt=0)
    """Added to the mean square in RMSNorm."""
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """Stretching of the rotary wavelengths, or none."""
    is_head_tied: bool | None = None
    """Whether the output matrix is the embedding matrix; no unless given, as in the paper."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"there is no preset {self.preset!r}; did you mean {nearest_preset(self.preset)!r}?")
        self.resolve(vocab_size=1)
        return self

    def resolve(self, vocab_size: int) -> ModelConfig:
        """The complete configuration for a vocabulary.

        Raises:
            UserError: neither the preset nor the settings say a needed value.
        """
        values = {**PRESETS[self.preset]} if self.preset else {}
        values |= {name: value for name, value in self if value is not None and name != "preset"}
        missing = [name for name in ("dim", "num_layers", "num_heads") if name not in values]
        if missing:
            raise UserError(f"the model's {missing[0]} is not given; set it, or name a preset such as llama-7b")
        values.setdefault("num_kv_heads", values["num_heads"])
        values.setdefault("ffn_hidden_dim", ffn_hidden_dim_rule(values["dim"]))
        return ModelConfig(vocab_size=vocab_size, **values)
