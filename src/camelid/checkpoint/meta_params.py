"""Meta's params.json, and ours.

It says neither the context length nor whether the head is tied, and of the feed-forward width only the rule. What is
missing is taken from the weights and from what Meta has published (LLaMA 1, 2, Code Llama, 3, 3.1, 3.2).
"""

from typing import Any

from camelid.checkpoint.bounded import Fields
from camelid.errors import UserError
from camelid.model.config import FFN_MULTIPLE, ModelConfig, RopeScaling
from camelid.settings import validate

LLAMA3_THETA = 500000.0

_DEFAULT_THETA = 10000.0
_SCALING = RopeScaling(
    factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_max_sequence_length=8192
)
# Llama 3.2's 1B and 3B, the published models with a tied head, say no more than `use_scaled_rope` either.
_TIED_SCALING = RopeScaling(**{**_SCALING.model_dump(), "factor": 32.0})
_LLAMA2_EPS = 1e-5


def from_meta_params(fields: Fields, *, vocab_size: int, ffn_hidden_dim: int, is_head_tied: bool) -> ModelConfig:
    """Our configuration.

    Args:
        vocab_size, ffn_hidden_dim, is_head_tied: what the weights say.

    Raises:
        UserError: the file is damaged, or contradicts the weights.
    """
    where = fields.where
    dim, num_heads = fields.whole("dim"), fields.whole("n_heads")
    # -1 is Meta's own way to say "as many as the tokenizer has".
    if fields.tree.get("vocab_size") != -1 and (announced := fields.whole("vocab_size", vocab_size)) != vocab_size:
        raise UserError(
            f"{where}: vocab_size is {announced:,}, and the weights have {vocab_size:,} rows; get both again"
        )
    multiple, multiplier = fields.whole("multiple_of", None), fields.number("ffn_dim_multiplier", None)
    if multiple is not None and (width := ffn_hidden_dim_of(dim, multiple, multiplier)) != ffn_hidden_dim:
        raise UserError(
            f"{where}: dim, multiple_of and ffn_dim_multiplier give a feed-forward width of {width:,}, and the weights "
            f"have {ffn_hidden_dim:,}; use the params.json that belongs to the weights"
        )
    if any(fields.tree.get(name) for name in ("quantization_args", "lora_args", "vision_model", "moe_args")):
        raise UserError(
            f"{where}: this is a quantised, adapted or other model than LLaMA; get the plain bfloat16 weights"
        )
    theta, is_scaled = fields.number("rope_theta", _DEFAULT_THETA), fields.flag("use_scaled_rope", False)
    scaling = (_TIED_SCALING if is_head_tied else _SCALING) if is_scaled else None
    norm_eps = fields.number("norm_eps", _LLAMA2_EPS)
    values = {
        "dim": dim,
        "num_layers": fields.whole("n_layers"),
        "num_heads": num_heads,
        "num_kv_heads": fields.whole("n_kv_heads", num_heads),
        "ffn_hidden_dim": ffn_hidden_dim,
        "vocab_size": vocab_size,
        "max_sequence_length": _published_context(theta, norm_eps, is_scaled),
        "norm_eps": norm_eps,
        "rope_theta": theta,
        "rope_scaling": scaling.model_dump() if scaling else None,
        "is_head_tied": is_head_tied,
    }
    return validate(ModelConfig, values, where)


def _published_context(theta: float, norm_eps: float, is_scaled: bool) -> int:
    """Context length of the published model that these values belong to: LLaMA 3.1, 3, Code Llama, 2 or 1."""
    if is_scaled:
        return 131072
    if theta == LLAMA3_THETA:
        return 8192
    if theta != _DEFAULT_THETA:
        return 16384
    return 4096 if norm_eps == _LLAMA2_EPS else 2048


def ffn_hidden_dim_of(dim: int, multiple: int, multiplier: float | None) -> int:
    """Meta's rule: 2/3 of 4 dim, times a factor, rounded up to a multiple."""
    hidden = 8 * dim // 3
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return -(-hidden // multiple) * multiple


def to_meta_params(config: ModelConfig, where: str) -> dict[str, Any]:
    """The tree of a params.json; only keys that the program of the model's generation knows.

    Raises:
        UserError: the format has no way to say how the rotary wavelengths are stretched.
    """
    params: dict[str, Any] = {"dim": config.dim, "n_layers": config.num_layers, "n_heads": config.num_heads}
    if config.num_kv_heads != config.num_heads:
        params["n_kv_heads"] = config.num_kv_heads
    params |= {"vocab_size": config.vocab_size, "norm_eps": config.norm_eps, **_feed_forward_params(config)}
    if config.rope_theta != _DEFAULT_THETA:
        params["rope_theta"] = config.rope_theta
    if config.rope_scaling is not None:
        known, head = (_TIED_SCALING, "tied") if config.is_head_tied else (_SCALING, "separate")
        if config.rope_scaling != known:
            raise UserError(
                f"{where}: its rotary wavelengths are stretched by {_say(config.rope_scaling)}, and Meta's format "
                f"knows only {_say(known)} for a {head} head; choose another format"
            )
        params["use_scaled_rope"] = True
    return params


def _say(scaling: RopeScaling) -> str:
    return (
        f"{scaling.factor:g} ({scaling.low_frequency_factor:g} to {scaling.high_frequency_factor:g} of "
        f"{scaling.original_max_sequence_length:,})"
    )


def _feed_forward_params(config: ModelConfig) -> dict[str, Any]:
    """`multiple_of`, and `ffn_dim_multiplier` where the rule alone gives another width."""
    width = config.ffn_hidden_dim
    if ffn_hidden_dim_of(config.dim, FFN_MULTIPLE, None) == width:
        return {"multiple_of": FFN_MULTIPLE}
    multiple = next(size for size in (256, 128, 64, 32, 16, 8, 4, 2, 1) if width % size == 0)
    # The middle of what is rounded up to the width, so that no rounding of the product leads elsewhere.
    multiplier = (width - multiple // 2 + 0.5 * (multiple == 1)) / (8 * config.dim // 3)
    assert ffn_hidden_dim_of(config.dim, multiple, multiplier) == width
    return {"multiple_of": multiple, "ffn_dim_multiplier": multiplier}
