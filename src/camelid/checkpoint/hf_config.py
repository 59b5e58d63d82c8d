"""Hugging Face's config.json of a LLaMA model, and ours.

transformers 4 writes `rope_theta` and `rope_scaling`; transformers 5 writes both into `rope_parameters` and reads the
older form too, so that is the one written here.
"""

from typing import Any

from camelid.checkpoint.bounded import Fields, show
from camelid.errors import UserError
from camelid.model.config import ModelConfig, RopeScaling
from camelid.settings import validate

ARCHITECTURE = "LlamaForCausalLM"
TORCH_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}

_METADATA = ("_name_or_path", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version")


def is_huggingface(tree: dict[str, Any]) -> bool:
    """Whether an object is a config.json of transformers, of whatever model."""
    return "model_type" in tree or "architectures" in tree


def from_huggingface_config(tree: dict[str, Any], where: str) -> ModelConfig:
    """Our configuration; `where` names the file in messages.

    Raises:
        UserError: it is not of a LLaMA model, or asks for what Camelid does not compute.
    """
    fields = Fields(tree, where)
    _refuse_other_models(fields)
    dim, num_heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    head_dim = fields.whole("head_dim", None)
    if head_dim is not None and head_dim * num_heads != dim:
        raise UserError(
            f"{where}: head_dim is {head_dim}, and hidden_size {dim} / num_attention_heads {num_heads} gives "
            f"{dim / num_heads:g}; Camelid's heads divide the width of the model"
        )
    theta, scaling = _read_rope(fields)
    values = {
        "dim": dim,
        "num_layers": fields.whole("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": fields.whole("num_key_value_heads", num_heads),
        "ffn_hidden_dim": fields.whole("intermediate_size"),
        "vocab_size": fields.whole("vocab_size"),
        "max_sequence_length": fields.whole("max_position_embeddings", 2048),
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "is_head_tied": fields.flag("tie_word_embeddings", False),
    }
    return validate(ModelConfig, values, where)


def _refuse_other_models(fields: Fields) -> None:
    where = fields.where
    model_type = fields.text("model_type", "llama")
    if model_type != "llama":
        raise UserError(
            f"{where}: this is a model of type {show(model_type)}, and Camelid runs those of type 'llama'; "
            "what another architecture computes differs in places that its weights do not show"
        )
    architectures = fields.tree.get("architectures") or [ARCHITECTURE]
    if not isinstance(architectures, list) or ARCHITECTURE not in architectures:
        found = show(architectures[0]) if isinstance(architectures, list) else show(architectures)
        raise UserError(f"{where}: its architecture is {found}, and Camelid runs {ARCHITECTURE}; get the base model")
    if isinstance(quantization := fields.tree.get("quantization_config"), dict):
        method = show(quantization.get("quant_method", "unknown"))
        raise UserError(f"{where}: its weights are quantised by method {method}; get the model in float16 or bfloat16")
    for name in ("attention_bias", "mlp_bias", "rope_interleaved"):
        if fields.flag(name, False):
            raise UserError(
                f"{where}: {name} is true, and a LLaMA model has no such thing; Camelid cannot run this one"
            )
    if (activation := fields.text("hidden_act", "silu")) not in ("silu", "swish"):
        raise UserError(f"{where}: hidden_act is {show(activation)}, and Camelid computes 'silu'")


def _read_rope(fields: Fields) -> tuple[float, dict[str, Any] | None]:
    """Base of the wavelengths, and the values of a `RopeScaling` or none."""
    new, old = fields.table("rope_parameters", None), fields.table("rope_scaling", None)
    if new and old and new.tree != old.tree:
        raise UserError(f"{fields.where}: rope_parameters and rope_scaling contradict each other; keep the right one")
    rope = new or old or Fields({}, fields.where)
    given = [table.number("rope_theta", None) for table in (rope, fields)]
    thetas = {theta for theta in given if theta is not None} or {10000.0}
    if len(thetas) > 1:
        raise UserError(
            f"{fields.where}: rope_theta is given twice, as {given[0]:g} and {given[1]:g}; keep the right one"
        )
    if rope.number("partial_rotary_factor", 1.0) != 1.0 or fields.number("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{fields.where}: partial_rotary_factor is not 1, and a LLaMA model turns whole heads")
    kind = rope.text("rope_type", None) or rope.text("type", "default")
    if kind == "default":
        return thetas.pop(), None
    if kind != "llama3":
        raise UserError(
            f"{rope.where}: rotary scaling of type {show(kind)} is not computed by Camelid, only 'llama3' is"
        )
    scaling = {
        "factor": rope.number("factor"),
        "low_frequency_factor": rope.number("low_freq_factor"),
        "high_frequency_factor": rope.number("high_freq_factor"),
        "original_max_sequence_length": rope.whole("original_max_position_embeddings"),
    }
    return thetas.pop(), scaling


def to_huggingface_config(config: ModelConfig, dtype: str, token_ids: dict[str, Any]) -> dict[str, Any]:
    """The tree of a config.json.

    Args:
        dtype: name of the encoding of most weights.
        token_ids: bos_token_id and the like, as far as they are known.
    """
    return {
        "architectures": [ARCHITECTURE],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        **token_ids,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "initializer_range": 0.02,
        "intermediate_size": config.ffn_hidden_dim,
        "max_position_embeddings": config.max_sequence_length,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": _write_scaling(config.rope_scaling),
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.is_head_tied,
        "torch_dtype": TORCH_DTYPES[dtype],
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def _write_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_max_sequence_length,
    }


def describe_huggingface(tree: dict[str, Any]) -> dict[str, Any]:
    """What the file says besides the configuration, for people."""
    found = {name: tree[name] for name in _METADATA if tree.get(name) not in (None, "")}
    dtype = tree.get("dtype") or tree.get("torch_dtype")
    return {**found, "dtype": dtype} if isinstance(dtype, str) else found
