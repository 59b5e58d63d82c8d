"""The forward pass against transformers' LlamaForCausalLM on the same random weights."""

from typing import Any

import pytest
import torch
from parity_configs import CONFIGS
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from camelid.model.config import ModelConfig
from camelid.model.initialize import initialize
from camelid.model.llama import Transformer

_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "output": "lm_head",
}


def _rename(name: str) -> str:
    if name == "norm.weight":
        return "model.norm.weight"
    for ours, theirs in _NAMES.items():
        name = name.replace(ours, theirs)
    return f"model.{name}" if name.startswith("layers.") else name


def _make_pair(config: ModelConfig) -> tuple[Transformer, Any]:
    ours = Transformer(config)
    initialize(ours, seed=3)
    with torch.no_grad():
        for parameter in ours.parameters():
            # Larger than at the start of training, and gains that are not one: otherwise errors would hide.
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)) * 0.2)
    scaling = config.rope_scaling
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_max_sequence_length,
        }
    theirs: Any = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=config.dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            intermediate_size=config.ffn_hidden_dim,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.norm_eps,
            rope_parameters=rope,
            tie_word_embeddings=config.is_head_tied,
            max_position_embeddings=config.max_sequence_length,
        )
    )
    missing, unexpected = theirs.load_state_dict(
        {_rename(name): weight for name, weight in ours.weights().items()}, strict=False
    )
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    theirs.tie_weights()
    return ours.eval(), theirs.eval()


def _tokens(config: ModelConfig) -> Tensor:
    return torch.randint(0, config.vocab_size, (2, 83), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_logits_equal_transformers(name: str) -> None:
    ours, theirs = _make_pair(CONFIGS[name])
    tokens = _tokens(ours.config)
    expected = theirs(input_ids=tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(ours(tokens), expected, rtol=1e-5, atol=1e-5)


def test_gradients_equal_transformers() -> None:
    ours, theirs = _make_pair(CONFIGS["grouped"])
    tokens = _tokens(ours.config)
    torch.nn.functional.cross_entropy(ours(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
    theirs(input_ids=tokens, labels=tokens).loss.backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        wanted = expected[_rename(name)]
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-6, msg=name)
