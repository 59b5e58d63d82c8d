"""Between ModelConfig and the `llama.*` keys of a GGUF file; what Camelid cannot compute is refused by its key.

The keys are llama.cpp's (llama-arch.cpp).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camelid.checkpoint.bounded import show
from camelid.checkpoint.rope_factors import recover_scaling
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.settings import validate

ARCHITECTURE = "llama"
FILE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "q2_k": 10,
    "q3_k_s": 11,
    "q3_k_m": 12,
    "q3_k_l": 13,
    "q4_k_s": 14,
    "q4_k_m": 15,
    "q5_k_s": 16,
    "q5_k_m": 17,
    "q6_k": 18,
    "iq4_nl": 25,
    "iq4_xs": 30,
    "bf16": 32,
}
"""llama.cpp's number (llama_ftype) of what most of the weights are stored as; k-quants come in several mixtures."""

_DEFAULT_THETA = 10000.0
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

_READ = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.original_context_length",
    "vocab_size",
}
# Keys that change the computation unless they have these values, and those that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "rope.scale_linear": (0, 1),
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0, 1),
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.finetuned": (False,),
    "use_parallel_residual": (False,),
}
_IGNORED = {"tensor_data_layout", "expert_feed_forward_length"}


def read_config(
    metadata: Mapping[str, Any], *, vocab_size: int, is_head_tied: bool, rope_factors: NDArray[Any] | None, path: Path
) -> ModelConfig:
    """The configuration that a file's metadata describes.

    Args:
        vocab_size: rows of the embedding, where the metadata does not say.
        rope_factors: [E / 2], how much each wavelength is stretched, where the file has such a tensor.

    Raises:
        UserError: the architecture is not LLaMA's, a key is missing, of a wrong type, or asks for something that
            Camelid does not compute.
    """
    architecture = metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise UserError(
            f"{path} holds a model of the architecture {show(architecture)}; Camelid runs {ARCHITECTURE!r} only"
        )
    keys = _LlamaKeys(metadata, path)
    keys.refuse_unknown()
    num_heads = keys.integer("attention.head_count")
    tree = {
        "dim": keys.integer("embedding_length"),
        "num_layers": keys.integer("block_count"),
        "num_heads": num_heads,
        "num_kv_heads": keys.integer("attention.head_count_kv", num_heads),
        "ffn_hidden_dim": keys.integer("feed_forward_length"),
        "vocab_size": keys.integer("vocab_size", vocab_size),
        "max_sequence_length": keys.integer("context_length"),
        "norm_eps": keys.real("attention.layer_norm_rms_epsilon"),
        "rope_theta": keys.real("rope.freq_base", _DEFAULT_THETA),
        "is_head_tied": is_head_tied,
    }
    config = validate(ModelConfig, tree, str(path))
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        if keys.integer(key, config.head_dim) != config.head_dim:
            raise UserError(
                f"{path} wants {ARCHITECTURE}.{key} = {keys.integer(key):,}, and Camelid computes heads of "
                f"embedding_length / head_count = {config.head_dim} only; take another model"
            )
    if rope_factors is None:
        return config
    return _with_scaling(config, rope_factors, keys.integer("rope.scaling.original_context_length", 0), path)


def _with_scaling(config: ModelConfig, factors: NDArray[Any], original_length: int, path: Path) -> ModelConfig:
    if factors.shape != (config.head_dim // 2,):
        raise UserError(
            f"{path} is damaged: it has {factors.size:,} rope factors for heads of {config.head_dim}; get it again"
        )
    if (factors == 1).all():
        return config
    scaling = recover_scaling(factors.astype(np.float64), config.rope_theta, config.head_dim, original_length or None)
    if scaling is None:
        raise UserError(
            f"{path}: its rope_freqs.weight stretches the rotary wavelengths in another way than Llama 3, which is the "
            "only one that Camelid computes; take another model"
        )
    return config.model_copy(update={"rope_scaling": scaling})


def write_config(config: ModelConfig) -> dict[str, int | float]:
    """The `llama.*` keys of a model; the factors of its rope scaling are a tensor of their own."""
    keys: dict[str, int | float] = {
        "block_count": config.num_layers,
        "context_length": config.max_sequence_length,
        "embedding_length": config.dim,
        "feed_forward_length": config.ffn_hidden_dim,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
        "vocab_size": config.vocab_size,
    }
    if config.rope_scaling:
        keys["rope.scaling.original_context_length"] = config.rope_scaling.original_max_sequence_length
    return {f"{ARCHITECTURE}.{key}": value for key, value in keys.items()}


class _LlamaKeys:
    """Typed access to the `llama.*` keys of one file."""

    def __init__(self, metadata: Mapping[str, Any], path: Path):
        prefix = f"{ARCHITECTURE}."
        self._values = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
        self._path = path

    def refuse_unknown(self) -> None:
        for key, value in self._values.items():
            is_neutral = isinstance(value, bool | int | float | str) and value in _NEUTRAL.get(key, ())
            if not (key in _READ or key in _IGNORED or is_neutral):
                raise UserError(
                    f"{self._path} sets {show(f'{ARCHITECTURE}.{key}')} to {show(value)}, which Camelid does not "
                    "compute; take another model"
                )

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._single(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise UserError(f"{self._path} is damaged: {ARCHITECTURE}.{key} is no whole number; get the file again")

    def real(self, key: str, default: float | None = None) -> float:
        value = self._single(key, default)
        if isinstance(value, float) and abs(value) <= _LARGEST_FLOAT32:
            # The shortest decimal that gives this float32: 1e-05 and not 9.999999747378752e-06.
            return float(str(np.float32(value)))
        raise UserError(f"{self._path} is damaged: {ARCHITECTURE}.{key} is no finite number; get the file again")

    def _single(self, key: str, default: Any) -> Any:
        """A value that may be given once or for each layer."""
        value = self._values.get(key, default)
        if value is None:
            raise UserError(
                f"{self._path} does not say {ARCHITECTURE}.{key}; get the file again or convert the model anew"
            )
        if isinstance(value, np.ndarray) and value.size:
            if (value != value[0]).any():
                raise UserError(
                    f"{self._path}: {ARCHITECTURE}.{key} differs from layer to layer, which Camelid does not compute; "
                    "take another model"
                )
            return value[0].item()
        return value
